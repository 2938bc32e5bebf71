"""One page: as a file tells it, and as the rest of the program knows it."""
