"""What a classifier has learned, and what decided a prediction, in log-odds."""
