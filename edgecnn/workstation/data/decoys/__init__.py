"""Painters of what only looks like fire or smoke, one function for each kind."""
