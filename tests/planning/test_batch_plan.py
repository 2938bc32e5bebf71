"""global = micro x accumulation x ranks, exactly."""

import re

import pytest

from layoutner.errors import UserError
from layoutner.planning.batch_plan import plan_batch


@pytest.mark.parametrize(
    ("global_batch_size", "micro", "ranks", "accumulation"),
    [(16, 2, 4, 2), (16, 16, 1, 1), (96, 4, 3, 8), (1, 1, 1, 1)],
)
def test_accumulation(global_batch_size: int, micro: int, ranks: int, accumulation: int) -> None:
    plan = plan_batch(global_batch_size, micro, ranks)
    assert plan.accumulation == accumulation
    assert plan.micro_batch_size * plan.accumulation * plan.world_size == plan.global_batch_size


def test_a_batch_that_does_not_divide_names_choices_that_do() -> None:
    with pytest.raises(UserError) as caught:
        plan_batch(16, 3, 2)
    text = str(caught.value)
    assert "3 x 2 = 6 does not divide 16" in text
    choices = re.findall(r"batch\.(\w+) = (\d+) or (\d+)", text)
    assert choices == [("global_batch_size", "12", "18"), ("micro_batch_size", "2", "4")]
    for name, *values in choices:
        for value in map(int, values):
            plan_batch(**{"global_batch_size": 16, "micro_batch_size": 3, "world_size": 2, name: value})


def test_more_ranks_than_windows_names_a_world_that_fits() -> None:
    with pytest.raises(UserError, match=re.escape("batch.global_batch_size = 12; or 2 or 4 rank(s)")):
        plan_batch(8, 2, 6)


def test_no_rank() -> None:
    with pytest.raises(UserError, match="at least one rank"):
        plan_batch(8, 2, 0)
