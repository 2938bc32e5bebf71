"""A model for others: its model card, and its upload to the hub."""
