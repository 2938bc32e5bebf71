"""Translate command lines and outputs of run_seq_labeling.py, and any DeepSpeed JSON, into settings."""
