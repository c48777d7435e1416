"""Where it is trained."""
