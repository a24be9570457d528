"""Energy, carbon and cost of a model's calls, through codecarbon."""
