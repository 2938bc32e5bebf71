"""The documents of a run: checked, parted into splits, searched for duplicates."""
