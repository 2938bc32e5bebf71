"""The closed form, and DeepSpeed's WarmupDecayLR set upon it."""

import math

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

from layoutner.errors import SettingsError
from layoutner.planning.schedule import Schedule, plan_schedule
from layoutner.settings.schedule import ScheduleSettings

CASES = [(0, 10), (1, 10), (2, 10), (4, 10), (10, 10), (0, 1), (1, 1), (3, 1000)]


# The decay from step 4 to step 12, by the published formulas.
CURVES = {
    "linear": [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8],
    "cosine": [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)],
    "polynomial": [(1 - k / 8) ** 3 for k in range(8)],
    "constant": [1] * 8,
    "1-sqrt": [1, 1, 1, 1, 1, 1 - 0.5, 1 - math.sqrt(2) / 2, 1 - math.sqrt(3) / 2],
}


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


@pytest.mark.parametrize("shape", CURVES)
def test_every_shape_follows_its_formula_after_the_same_warm_up(shape: str) -> None:
    own = {"polynomial": {"power": 3.0}, "1-sqrt": {"decay_ratio": 1 / 3}}.get(shape, {})
    settings = ScheduleSettings(max_steps=12, warmup_steps=4, shape=shape, **own)  # type: ignore[arg-type]
    plan = plan_schedule(settings, 16, None)
    assert [plan.factor(step) for step in range(4)] == [0, 0.25, 0.5, 0.75]
    assert [plan.factor(step) for step in range(4, 12)] == pytest.approx(CURVES[shape], rel=1e-12, abs=1e-15)
    assert plan.in_deepspeed == (shape == "linear")
    assert (shape in str(plan)) == (shape != "linear")


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("shape", ["cosine", "polynomial"])
def test_the_other_decays_are_those_of_transformers(shape: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    curve = (
        get_cosine_schedule_with_warmup(optimizer, warmup, 20)
        if shape == "cosine"
        else get_polynomial_decay_schedule_with_warmup(optimizer, warmup, 20, lr_end=0.0, power=2.0)
    )
    plan = plan_schedule(ScheduleSettings(max_steps=20, warmup_steps=warmup, shape=shape), 16, None)  # type: ignore[arg-type]
    for step in range(20):
        assert plan.factor(step) == pytest.approx(curve.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        curve.step()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"power": 2.0}, "shape = linear has none; only polynomial has"),
        ({"shape": "cosine", "decay_ratio": 0.1}, "shape = cosine has none; only 1-sqrt has"),
    ],
)
def test_a_key_of_another_shape_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ScheduleSettings(max_steps=10, **settings)  # type: ignore[arg-type]


def test_a_decay_that_does_not_fit_beside_the_warm_up_is_refused() -> None:
    with pytest.raises(
        SettingsError, match="8 steps of warm-up and 5 of decay .* are more than the 10 optimizer steps"
    ):
        plan_schedule(ScheduleSettings(max_steps=10, warmup_steps=8, shape="1-sqrt", decay_ratio=0.5), 16, None)
