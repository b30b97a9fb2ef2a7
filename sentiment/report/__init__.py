"""What evaluate.py adds to the metrics."""
