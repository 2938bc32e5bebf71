"""The wrapper around DeepSpeed. No other package imports DeepSpeed."""
