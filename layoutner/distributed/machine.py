"""CPUs and memory of this process, on Linux and macOS. Does not import torch."""

import os
import resource
import sys


def available_cpus() -> int:
    """Number of CPUs that this process may use; on systems without this information (macOS), the number of CPUs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB on Linux
