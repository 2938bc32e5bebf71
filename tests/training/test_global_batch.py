"""The global batches of a run: what they hold does not depend on threads, nor on where the run begins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from layoutner.distributed.ranks import Ranks
from layoutner.settings.tree import load
from layoutner.training.global_batch import MicroBatch, global_batches
from layoutner.training.plan import Plan, make_plan

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def plan(forms: Path, checkpoints: dict[str, Path]) -> Plan:
    settings = {
        "model": {"name_or_path": str(checkpoints["lilt"])},
        "data": {"format": "funsd", "train": str(forms), "max_length": "64", "stride": "16"},
        "batch": {"global_batch_size": "7", "micro_batch_size": "2"},
        "schedule": {"epochs": "2"},
        "precision": {"dtype": "fp32"},
    }
    return make_plan(load(None, settings), 1)


def flat(micro_batch: MicroBatch) -> dict[str, Any]:
    keys = {"windows": micro_batch.keys.windows_B, "tokens": micro_batch.keys.tokens_BT}
    return {**micro_batch.inputs, **micro_batch.targets, **keys}


def all_of(plan: Plan, first: int = 0) -> list[tuple[int, list[int], list[dict[str, Any]]]]:
    batches = global_batches(plan, ALONE, first)
    return [(one.step, one.indices, [flat(each) for each in one.micro_batches]) for one in batches]


def equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    assert [each.keys() for each in one] == [each.keys() for each in other]
    return all(
        torch.equal(values[name], others[name]) for values, others in zip(one, other, strict=True) for name in values
    )


@pytest.mark.parametrize("threads", [2, 8])
def test_the_micro_batches_do_not_depend_on_the_threads(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    assert ALONE.prefetch_threads >= 1
    monkeypatch.setattr(Ranks, "prefetch_threads", property(lambda _: 1))
    expected = all_of(plan)
    monkeypatch.setattr(Ranks, "prefetch_threads", property(lambda _: threads))
    found = all_of(plan)
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    assert [one[0] for one in found] == list(range(plan.schedule.total))
    assert plan.schedule.total == 2 * -(-len(plan.windows["train"]) // 7) > 5
    assert all(equal(one[2], other[2]) for one, other in zip(found, expected, strict=True))
    assert max(len(one[2]) for one in found) > 3
    assert not equal(found[0][2], found[len(found) // 2][2][: len(found[0][2])])


def test_a_run_that_goes_on_takes_the_same(plan: Plan) -> None:
    expected, found = all_of(plan), all_of(plan, first=5)
    assert [one[0] for one in found] == list(range(5, plan.schedule.total))
    for one, other in zip(found, expected[5:], strict=True):
        assert one[:2] == other[:2]
        assert equal(one[2], other[2])


def test_targets_are_the_labelled_tokens_of_the_windows(plan: Plan) -> None:
    windows = plan.windows["train"]
    for batch in global_batches(plan, ALONE, 0):
        for indices, micro_batch in zip(batch.micro_batch_indices, batch.micro_batches, strict=True):
            labels = [int(label) for index in indices for label in windows[index].labels if label != -100]
            assert micro_batch.targets["labels"].tolist() == labels
            assert len(labels) == windows.labelled[indices].sum() > 0
            tokens = micro_batch.inputs["input_ids"].flatten()[micro_batch.targets["places"]]
            expected = [int(i) for n in indices for i in windows[n].input_ids[windows[n].labels != -100]]
            assert tokens.tolist() == expected


def test_a_measured_step_has_the_same_windows_in_random_micro_batches(plan: Plan) -> None:
    run = plan.settings.run.model_copy(update={"gradient_statistics_every": 3})
    measuring = replace(plan, settings=plan.settings.model_copy(update={"run": run}))

    def dealt(one: Plan) -> list[tuple[list[int], float, list[list[int]]]]:
        batches = global_batches(one, ALONE, 0)
        # Every micro-batch has to be taken before the next global batch.
        taken = [(batch, list(batch.micro_batches)) for batch in batches]
        assert all(len(batch.micro_batch_indices) == len(made) for batch, made in taken)
        return [(batch.indices, batch.total_weight, batch.micro_batch_indices) for batch, _ in taken]

    usual, found = dealt(plan), dealt(measuring)
    assert [one[:2] for one in found] == [one[:2] for one in usual]
    for step, (indices, _, micro_batches) in enumerate(found):
        measured = step % 3 == 2
        assert measuring.measures_gradient(step) == measured
        assert (micro_batches == usual[step][2]) == (not measured)
        assert not measured or [index for one in micro_batches for index in one] == indices
