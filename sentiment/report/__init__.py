"""What evaluate.py adds to the metrics. You do not need this to understand training."""
