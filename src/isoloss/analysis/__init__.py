"""Tables in, frozen results out."""
