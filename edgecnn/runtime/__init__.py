"""The interpreter, the predictor and the facts about the host that runs them."""
