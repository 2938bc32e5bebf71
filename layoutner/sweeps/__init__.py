"""Sweeps: many runs from one file, and which of them is best."""
