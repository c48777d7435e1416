"""Updates of a stack's flat parameters by their gradients."""
