"""CPUs and memory of this process, on Linux and as macOS says them."""

import os
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from layoutner.distributed import machine
from layoutner.distributed.machine import available_cpus, free_memory_bytes, peak_memory_bytes


def test_cpus_are_those_of_the_process_or_all_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert available_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert available_cpus() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


def test_peak_memory_is_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    held = bytearray(50_000_000)
    assert len(held) < peak_memory_bytes() < 1e12
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=7))
    for platform, size in (("linux", 7 * 1024), ("darwin", 7)):
        monkeypatch.setattr(sys, "platform", platform)
        assert peak_memory_bytes() == size


def test_free_memory_is_that_of_the_machine_or_its_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e6 < free_memory_bytes(1) < 1e14
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}[name])
    assert free_memory_bytes(1) == 40960  # macOS
    (tmp_path / "meminfo").write_text("MemTotal:       9000 kB\nMemAvailable:   8000 kB\nHugePages_Total:  0\n")
    assert (free_memory_bytes(1), free_memory_bytes(4)) == (8_192_000, 2_048_000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert free_memory_bytes(8) == 4_096_000
    monkeypatch.delenv("LOCAL_WORLD_SIZE")


@pytest.mark.parametrize(
    ("own", "above", "limit", "usage", "cache"),
    [
        ("0::/slurm/job_7", "slurm", "memory.max", "memory.current", "inactive_file"),
        (
            "4:cpu:/x\n9:memory:/slurm/job_7",
            "memory/slurm",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
    ids=["v2", "v1"],
)
def test_a_cgroup_above_limits_it_too_and_page_cache_is_free(
    own: str, above: str, limit: str, usage: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroups")
    (tmp_path / "own").write_text(own + "\n")
    folder = tmp_path / "cgroups" / above / "job_7"
    folder.mkdir(parents=True)
    unlimited = "max" if limit == "memory.max" else str(2**62)
    for place, most in ((folder, unlimited), (folder.parent, "3000000")):
        (place / limit).write_text(f"{most}\n")
        (place / usage).write_text("2500000\n")
        (place / "memory.stat").write_text(f"anon 5\n{cache} 400000\n")
    assert free_memory_bytes(1) == 3_000_000 - 2_500_000 + 400_000
    (folder / limit).write_text("2000000\n")
    assert free_memory_bytes(1) == 0
