"""The outside world: the Hub, and untrusted models.

You do not need this to understand training.
"""
