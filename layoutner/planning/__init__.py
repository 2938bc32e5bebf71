"""Quantities derived from the settings: batch split, schedule, DeepSpeed config, memory."""
