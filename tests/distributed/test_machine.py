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


def test_free_memory_is_that_of_the_machine_or_its_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e6 < free_memory_bytes(1) < 1e14
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}[name])
    assert free_memory_bytes(1) == 40960  # macOS
    (tmp_path / "meminfo").write_text("MemTotal:       9000 kB\nMemAvailable:   8000 kB\nHugePages_Total:  0\n")
    assert (free_memory_bytes(1), free_memory_bytes(4)) == (8_192_000, 2_048_000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert free_memory_bytes(8) == 4_096_000
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    (tmp_path / "memory.current").write_text("1000000\n")
    for most, free in (("max", 8_192_000), ("3000000", 2_000_000)):
        (tmp_path / "memory.max").write_text(f"{most}\n")
        assert free_memory_bytes(1) == free
