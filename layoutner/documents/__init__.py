"""The documents of a run: checks, splits and duplicates."""
