"""Who is told: a durable journal first, and everything else fed from it."""
