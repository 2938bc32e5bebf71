"""CPUs and memory of this process, on Linux and macOS. Does not import torch."""

import os
import resource
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def available_cpus() -> int:
    """Number of CPUs that this process may use; on systems without this information (macOS), the number of CPUs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpus_per_rank(ranks: int) -> int:
    """A rank's share of the CPUs, at least 1.

    Args:
        ranks: number of ranks on this machine, if the launcher does not say it in the environment.
    """
    return max(1, available_cpus() // _local_ranks(ranks))


def _local_ranks(ranks: int) -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", str(ranks))))


def free_memory_bytes(ranks: int) -> int:
    """A rank's share of the memory that is free, in bytes: that of the machine, or of its cgroup if this is less.

    Args:
        ranks: see `cpus_per_rank`.
    """
    if MEMINFO.exists():
        lines = dict(line.split(":") for line in MEMINFO.read_text(encoding="ascii").splitlines())
        free = int(lines["MemAvailable"].removesuffix("kB")) * 1024
    else:  # macOS does not say what is free
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most, used = (
        (CGROUP / name).read_text(encoding="ascii").strip() if (CGROUP / name).exists() else "max"
        for name in ("memory.max", "memory.current")
    )
    if "max" not in (most, used):
        free = min(free, int(most) - int(used))
    return free // _local_ranks(ranks)


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB on Linux
