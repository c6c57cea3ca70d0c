"""Channel pruning: whole channels are cut out, and what remains is an ordinary, smaller network."""
