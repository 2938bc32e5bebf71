"""A page: as read from a file (Page), and checked and normalised (Document)."""
