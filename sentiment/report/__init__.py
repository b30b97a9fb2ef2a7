"""Room 3, what evaluate.py adds to the numbers. You do not need this to understand training."""
