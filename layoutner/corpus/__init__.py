"""Split documents into windows, and assign windows to steps and batches."""
