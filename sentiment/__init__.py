"""The core: all that affects results. Read train.py first, then the data flow in README.md."""
