"""CPUs and memory of this process, on Linux and macOS. Does not import torch."""

import os
import resource
import sys


def available_cpus() -> int:
    """Number of CPUs that this process may use; on systems without this information (macOS), the number of CPUs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpus_per_rank(ranks: int) -> int:
    """A rank's share of the CPUs, at least 1.

    Args:
        ranks: number of ranks on this machine, if the launcher does not say it in the environment.
    """
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", str(ranks))))
    return max(1, available_cpus() // beside)


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB on Linux
