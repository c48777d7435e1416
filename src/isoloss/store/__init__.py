"""A study directory on disk."""
