"""The core: all that affects results. Read train.py first, then the data flow in README.md.

Four subpackages, which you can skip, hold the rest: fast, hub, report, runtime.
"""
