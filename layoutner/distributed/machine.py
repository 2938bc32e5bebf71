"""CPUs and memory of this process, on Linux and macOS. Does not import torch."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
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
    """A rank's share of the memory that is free, in bytes: that of the machine, or of its cgroups if this is less.

    Args:
        ranks: see `cpus_per_rank`.
    """
    if MEMINFO.exists():
        lines = dict(line.split(":") for line in MEMINFO.read_text(encoding="ascii").splitlines())
        free = int(lines["MemAvailable"].removesuffix("kB")) * 1024
    else:  # macOS does not say what is free
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(0, min([free, *_free_in_cgroups()])) // _local_ranks(ranks)


def _free_in_cgroups() -> Iterator[int]:
    """What each cgroup of this process, and each above it, still allows, of those that limit memory."""
    lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines() if OWN_CGROUPS.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers:  # version 2
            root, limit, usage, cache = CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (one for one in (own, *own.parents) if one.is_relative_to(root) and (one / limit).exists()):
            most, used, stat = ((folder / name).read_text(encoding="ascii") for name in (limit, usage, "memory.stat"))
            if most.strip() != "max":
                # The page cache is given up when memory is needed.
                given_up = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{cache} ")), 0)
                yield int(most) - int(used) + given_up


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB on Linux
