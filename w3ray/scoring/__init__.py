"""How good is a finished model, and what does it predict? Evaluate, compare, predict and submit, on a cluster."""
