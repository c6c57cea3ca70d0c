"""Network topologies, built from a recipe and started from weights of others."""
