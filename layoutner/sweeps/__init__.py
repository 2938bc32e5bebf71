"""Sweeps: many runs from one file, and what came of them."""
