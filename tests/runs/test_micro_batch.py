"""batch.micro_batch_size = auto takes the largest micro-batch that fits, and computes the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.distributed.ranks import Ranks
from layoutner.errors import SettingsError
from layoutner.planning.batch_plan import plan_settings
from layoutner.runs import micro_batch
from layoutner.runs.micro_batch import measured_micro_batch
from layoutner.settings.tree import Settings, load
from tests.builders.forks import fork

GIB = 2**30


def settings(checkpoint: Path, batch: int = 64, **model: str) -> Settings:
    return load(
        None,
        {
            "model": {"name_or_path": str(checkpoint), **model},
            "data": {"max_length": "128", "stride": "0"},
            "batch": {"global_batch_size": str(batch), "micro_batch_size": "auto"},
            "precision": {"dtype": "fp32"},
        },
    )


def with_free(monkeypatch: pytest.MonkeyPatch, size: int, *arguments: Settings) -> list[int | str]:
    monkeypatch.setattr(micro_batch, "free_memory_bytes", lambda _: size)
    return [measured_micro_batch(one, Ranks.alone("cpu")).batch.micro_batch_size for one in arguments]


def test_more_memory_takes_more_windows_up_to_the_global_batch(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings(checkpoints["layoutlm"])
    sizes = [with_free(monkeypatch, size, own)[0] for size in (GIB // 64, GIB // 16, GIB // 4, 64 * GIB)]
    assert sizes == sorted(sizes)  # type: ignore[type-var]
    assert 1 <= int(sizes[0]) < int(sizes[1]) < int(sizes[-1]) == 64
    few, many = with_free(monkeypatch, GIB // 16, own, settings(checkpoints["layoutlm"], gradient_checkpointing="true"))
    assert int(few) < int(many)


def test_a_network_that_does_not_fit_is_refused_with_what_to_change(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="not even one window fits\n.* per rank is more than .*What to change"):
        with_free(monkeypatch, 2**20, settings(checkpoints["layoutlm"]))


def test_a_number_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    own = load(None, {"batch": {"micro_batch_size": "3"}})
    assert with_free(monkeypatch, 0, own) == [3]
    with pytest.raises(SettingsError, match="auto is found out by `layoutner train`"):
        plan_settings(load(None, {"batch": {"micro_batch_size": "auto"}}), 1)


def test_the_run_is_that_of_the_number(train_arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    losses = []
    for size in ("auto", 2):
        arguments = train_arguments(tmp_path / str(size), batch__micro_batch_size=size, schedule__max_steps=2)
        done = fork(["layoutner", "train", *arguments])
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in (tmp_path / str(size) / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["train/loss"] for line in lines])
        if size == "auto":
            assert "batch.micro_batch_size = auto: 8 windows of " in done.stdout
            assert "micro_batch_size = 8" in (tmp_path / "auto" / "settings.toml").read_text()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
