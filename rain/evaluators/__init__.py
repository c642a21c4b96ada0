"""What scores the texts of a search."""
