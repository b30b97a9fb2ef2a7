"""The machine and the terminal. You do not need this to understand training."""
