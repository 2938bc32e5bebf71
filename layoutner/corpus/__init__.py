"""Documents become windows, steps and batches."""
