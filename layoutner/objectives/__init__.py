"""Loss, evaluation and metrics."""
