"""Readers of isoloss under coverage-guided fuzzing: a typed error, or a value that holds together."""
