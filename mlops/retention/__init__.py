"""What is removed when it is old, and what never is."""
