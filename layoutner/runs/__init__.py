"""One run, a cross-validation, and what is measured without training."""
