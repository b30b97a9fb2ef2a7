"""Room 2, the outside world: the Hub, and models that nobody vouches for.

You do not need this to understand training.
"""
