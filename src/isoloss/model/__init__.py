"""Numerics over a member axis."""
