"""The Settings tree, its sources and the shipped recipes."""
