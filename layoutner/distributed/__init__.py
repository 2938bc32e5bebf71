"""The ranks of a run: collectives, watchdog and preemption."""
