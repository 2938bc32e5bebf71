"""What Linux and macOS say differently about a process. Loads no torch."""

import os
import resource
import sys


def available_cpus() -> int:
    """CPUs that this process may use; where the system does not tell, as macOS does not, all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB on Linux
