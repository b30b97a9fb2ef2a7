"""What train.py, evaluate.py and predict.py share. Start reading in train.py."""
