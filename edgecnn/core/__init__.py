"""Values and pure functions that every room shares; opens no file."""
