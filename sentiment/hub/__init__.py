"""The outside world: the Hub, and untrusted models."""
