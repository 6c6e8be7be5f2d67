"""What is a finished model worth, and what does it see? Evaluate, compare, predict and submit, on a cluster."""
