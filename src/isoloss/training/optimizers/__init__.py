"""Optimizers: each a file with one update of a stack's flat parameters by their gradients."""
