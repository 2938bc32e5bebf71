"""Command lines and outputs of run_seq_labeling.py, and other people's DeepSpeed JSON, as settings."""
