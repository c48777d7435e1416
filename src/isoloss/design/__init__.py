"""What a design can tell, and what it costs, before anything is trained."""
