"""Trackers: what receives the metrics of a run."""
