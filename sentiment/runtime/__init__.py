"""Room 4, the machine and the terminal. You do not need this to understand training."""
