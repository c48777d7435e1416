"""What is trained: frozen values, no torch."""
