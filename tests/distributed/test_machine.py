"""CPUs and memory of this process, on Linux and as macOS says them."""

import os
import resource
import sys
from types import SimpleNamespace

import pytest

from layoutner.distributed.machine import available_cpus, peak_memory_bytes


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
