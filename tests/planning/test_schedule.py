"""The closed form, and DeepSpeed's WarmupDecayLR set upon it."""

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from layoutner.errors import SettingsError
from layoutner.planning.schedule import Schedule, plan_schedule
from layoutner.settings.tree import ScheduleSettings

CASES = [(0, 10), (1, 10), (2, 10), (4, 10), (10, 10), (0, 1), (1, 1), (3, 1000)]


def schedule(warmup: int, total: int) -> Schedule:
    return plan_schedule(ScheduleSettings(max_steps=total, warmup_steps=warmup), 16, None)


@pytest.mark.parametrize(("warmup", "total"), CASES)
def test_factor_is_that_of_transformers(warmup: int, total: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_linear_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        assert schedule(warmup, total).factor(step) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        reference.step()


@pytest.mark.parametrize(("warmup", "total"), CASES)
def test_warmup_decay_lr_at_its_position_gives_the_factor(warmup: int, total: int) -> None:
    from deepspeed.runtime.lr_schedules import WarmupDecayLR

    plan = schedule(warmup, total)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    curve = WarmupDecayLR(
        optimizer,
        total_num_steps=plan.deepspeed_total_num_steps,
        warmup_num_steps=plan.deepspeed_warmup_num_steps,
        warmup_max_lr=5e-5,
        warmup_type="linear",
    )
    for step in range(total):
        curve.step(plan.deepspeed_position(step))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-5 * plan.factor(step), rel=1e-12, abs=0)


def test_epochs_count_the_last_smaller_step() -> None:
    plan = plan_schedule(ScheduleSettings(epochs=100, warmup_ratio=0.1), 16, 150)
    assert (plan.total, plan.warmup, plan.steps_an_epoch) == (1000, 100, 10)
    assert "10 steps per epoch = 150 windows / 16 per step, rounded up, the last of them with 6 windows" in str(plan)


def test_warmup_ratio_rounds_up() -> None:
    assert plan_schedule(ScheduleSettings(max_steps=11, warmup_ratio=0.1), 4, None).warmup == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no length"),
        ({"epochs": 3}, "give --windows N"),
        ({"max_steps": 5, "warmup_steps": 6}, "more than the 5 optimizer steps"),
    ],
)
def test_a_schedule_that_cannot_be(settings: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan_schedule(ScheduleSettings(**settings), 16, None)  # type: ignore[arg-type]
