"""Room 2, the outside world: the Hugging Face Hub, and models that nobody vouches for.

You do not need this to understand training: it turns what goes wrong outside into one line.
"""
