"""A global batch that changes during the run: which windows each step takes, and what follows from it."""

import json
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from layoutner.errors import SettingsError
from layoutner.planning.batch_plan import BatchPlan, describe, largest_of, plan_batch, plan_settings
from layoutner.planning.ramp import Phase, Portion, Ramp
from layoutner.planning.render import render
from layoutner.planning.scaling import describe as describe_optimizer
from layoutner.planning.scaling import scaled_lr, scaled_optimizer
from layoutner.planning.schedule import Schedule, plan_schedule
from layoutner.settings.schedule import ScheduleSettings
from layoutner.settings.tree import Settings, load
from tests.builders.processes import call

# Neither how long an example takes nor any other of hypothesis's measures of health depends on what is tested here.
drawn = examples(
    deadline=None, derandomize=True, max_examples=200, suppress_health_check=list(HealthCheck), database=None
)

Pairs = list[tuple[int, int]]


@st.composite
def ramps(draw: st.DrawFn) -> Pairs:
    lengths = draw(st.lists(st.integers(1, 12), max_size=5))
    firsts = [0, *accumulate(lengths)]
    return [(first, draw(st.integers(1, 20))) for first in firsts]


def simulated(pairs: Pairs, windows: int, steps: int) -> list[Portion]:
    """Step by step, as one would explain it."""
    portions, epoch, start = [], 0, 0
    for step in range(steps):
        size = [size for first, size in pairs if first <= step][-1]
        portions.append(Portion(epoch, start, min(size, windows - start)))
        start += portions[-1].size
        if start == windows:
            epoch, start = epoch + 1, 0
    return portions


@drawn
@given(ramps(), st.integers(1, 30))
def test_every_step_is_that_of_a_simulation(pairs: Pairs, windows: int) -> None:
    ramp, steps = Ramp.of(pairs[-1][1], pairs, windows), pairs[-1][0] + 70
    expected = simulated(pairs, windows, steps)
    assert [ramp.portion(step) for step in range(steps)] == expected
    assert [ramp.trained(step) for step in range(steps)] == [0, *accumulate(one.size for one in expected[:-1])]
    assert [ramp.phase(step).size for step in range(steps)] == [
        [size for first, size in pairs if first <= step][-1] for step in range(steps)
    ]


@drawn
@given(ramps(), st.integers(1, 30), st.integers(1, 4))
def test_every_epoch_takes_every_window_once_and_then_ends(pairs: Pairs, windows: int, epochs: int) -> None:
    ramp = Ramp.of(pairs[-1][1], pairs, windows)
    total = ramp.steps_until(epochs * windows)
    taken: list[list[int]] = [[] for _ in range(epochs)]
    for step in range(total):
        one = ramp.portion(step)
        taken[one.epoch] += range(one.start, one.start + one.size)
    assert taken == [list(range(windows))] * epochs
    assert ramp.portion(total) == Portion(epochs, 0, ramp.portion(total).size)


@drawn
@given(ramps(), st.integers(1, 30), st.integers(1, 200))
def test_a_budget_is_reached_by_its_last_step_and_not_before(pairs: Pairs, windows: int, budget: int) -> None:
    ramp = Ramp.of(pairs[-1][1], pairs, windows)
    total = ramp.steps_until(budget)
    assert ramp.trained(total) >= budget > ramp.trained(total - 1)


@pytest.mark.parametrize("pairs", [None, [(0, 16)], [(0, 16), (7, 16)]])
def test_a_ramp_that_does_not_change_is_a_constant_batch(pairs: Pairs | None) -> None:
    ramp = Ramp.of(16, pairs, 150)
    assert ramp == Ramp((Phase(0, 16),), 150)
    assert (ramp.changes, ramp.steps_an_epoch) == (False, 10)
    # As it is without ramps: an epoch has 9 steps of 16 windows and one of 6.
    assert [ramp.portion(step) for step in range(8, 12)] == [
        Portion(0, 128, 16), Portion(0, 144, 6), Portion(1, 0, 16), Portion(1, 16, 16),
    ]  # fmt: skip
    schedules = [plan_schedule(ScheduleSettings(epochs=3, warmup_ratio=0.1), 16, 150, one) for one in (None, pairs)]
    assert schedules[0] == schedules[1]


def test_a_long_run_is_computed_from_its_phases_alone() -> None:
    ramp = Ramp.of(4096, [(0, 256), (10**9, 1024), (10**12, 4096)], 10**8 + 1)
    # 390,626 steps of 256 an epoch: the phase of 1,024 begins in epoch 2,559, after 388,066 of them.
    assert ramp.phases[1].trained == 2559 * (10**8 + 1) + (10**9 - 2559 * 390_626) * 256
    assert ramp.portion(10**13).size == 4096
    assert ramp.trained(ramp.steps_until(10**17)) - 10**17 in range(4096)


def settings_of(**sections: dict[str, str]) -> Settings:
    batch = {"global_batch_size": "64", "ramp": "0:16,200:32,600:64", **sections.pop("batch", {})}
    return load(None, {"batch": batch, "schedule": {"max_steps": "1000"}, **sections})


def schedule_of(settings: Settings, windows: int | None = None) -> Schedule:
    return plan_schedule(settings.schedule, settings.batch.global_batch_size, windows, settings.batch.ramp)


def test_a_ramp_is_given_as_lists_or_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = ((0, 16), (200, 32), (600, 64))
    config = tmp_path / "run.toml"
    config.write_text("[batch]\nglobal_batch_size = 64\nramp = [[0, 16], [200, 32], [600, 64]]\n", encoding="utf-8")
    assert load(str(config), {}).batch.ramp == settings_of().batch.ramp == pairs
    assert settings_of(batch={"ramp": " 0:16, 200: 32 ,600:64"}).batch.ramp == pairs
    monkeypatch.setenv("LAYOUTNER_BATCH__RAMP", "0:8,5:64")
    assert load(str(config), {}).batch.ramp == ((0, 8), (5, 64))
    # And as the run writes it.
    monkeypatch.delenv("LAYOUTNER_BATCH__RAMP")
    config.write_text(settings_of().to_toml(), encoding="utf-8")
    assert load(str(config), {}) == settings_of()


@pytest.mark.parametrize(
    ("ramp", "said"),
    [
        ("5:16,200:64", "ramp = 5:16,200:64: the first pair says with how many windows the run begins, as in 0:16"),
        ("", "the first pair says with how many windows the run begins"),
        ("0:16,200:32,200:64", "every pair must begin after more optimizer steps than the one before it"),
        ("0:16,200:32", "ends with 32 windows per step, and global_batch_size = 64: give global_batch_size = 32"),
        ("0:0,200:64", "batch.ramp = 0: input should be greater than or equal to 1"),
        ("[[0, 16], [200, 64]]", "give pairs of whole numbers, as in 0:16,200:32"),
        ("0:16,200", "give pairs of whole numbers, as in 0:16,200:32"),
        ("-1:16,200:64", "give pairs of whole numbers, as in 0:16,200:32"),
        ([[0, True], [200, 64]], "batch.ramp = True: input should be a valid integer"),
        ([[0, 16, 1], [200, 64]], "batch.ramp"),
        ("noise", "give pairs of whole numbers, as in 0:16,200:32"),
    ],
)
def test_a_ramp_that_cannot_be_is_refused(ramp: object, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(None, {"batch": {"global_batch_size": "64", "ramp": ramp}})


@pytest.mark.parametrize(("rule", "peaks"), [("none", [1e-3] * 3), ("linear", [2e-3, 4e-3, 8e-3])])
def test_the_peak_learning_rate_follows_the_batch_of_the_step(rule: str, peaks: list[float]) -> None:
    reference = {"reference_batch_size": "8"} if rule != "none" else {}
    settings = settings_of(batch=reference, optimizer={"lr": "1e-3", "scale_lr": rule})
    assert [scaled_lr(settings, size) for size in (16, 32, 64)] == pytest.approx(peaks)
    config = render(settings, plan_settings(settings, 1), schedule_of(settings))
    assert config["optimizer"]["params"]["lr"] == pytest.approx(peaks[-1])
    # DeepSpeed's scheduler has one peak.
    assert ("scheduler" in config) == (rule == "none")
    constant = settings.model_copy(update={"batch": settings.batch.model_copy(update={"ramp": ((0, 64),)})})
    assert "scheduler" in render(constant, plan_settings(constant, 1), schedule_of(constant))


def test_the_peak_learning_rates_are_shown_with_their_arithmetic() -> None:
    settings = settings_of(
        batch={"reference_batch_size": "16"}, optimizer={"lr": "1e-3", "scale_lr": "sqrt", "name": "lamb"}
    )
    assert describe_optimizer(settings).startswith(
        "lamb, peak learning rate 0.001 = 0.001 x sqrt(16 / 16), after 200 steps 0.00141421 = 0.001 x sqrt(32 / 16), "
        "after 600 steps 0.002 = 0.001 x sqrt(64 / 16); "
    )


def test_betas_that_would_follow_a_ramp_are_refused() -> None:
    rules = {"scale_lr": "sqrt", "scale_betas": "sde"}
    with pytest.raises(SettingsError, match="scale_betas = sde, and batch.ramp changes the global batch"):
        scaled_optimizer(settings_of(batch={"reference_batch_size": "32"}, optimizer=rules))
    scaled_optimizer(settings_of(batch={"reference_batch_size": "32", "ramp": "0:64"}, optimizer=rules))


def test_every_phase_has_a_batch_plan_of_its_own() -> None:
    ramp = Ramp.of(9, [(0, 2), (3, 8), (5, 9)])
    last = plan_batch(9, 8, 1, 512)
    assert [(last.of_size(size).micro_batch_size, last.of_size(size).accumulation) for size in (2, 8, 9)] == [
        (2, 1), (8, 1), (5, 2),
    ]  # fmt: skip
    assert last.of_size(9) == last
    assert last.of_size(2).micro_batch_limit.tokens == 512
    assert largest_of(last, ramp) == BatchPlan(8, 8, 1, 1, 8, 512)  # not that of the last phase
    assert largest_of(last, Ramp.of(9)) is last


def test_the_batch_plans_of_all_phases_are_shown() -> None:
    lines = describe(plan_batch(64, 8, 24), Ramp.of(64, [(0, 16), (200, 32), (600, 64)]))
    rest = "(at most 8), in 1 gradient accumulation step x 24 ranks"
    assert lines[:3] == [
        f"batch: 16 windows per step = 8 micro-batches of 0 + 16 of 1 {rest}",
        f"batch: after 200 steps 32 windows per step = 16 micro-batches of 1 + 8 of 2 {rest}",
        f"batch: after 600 steps 64 windows per step = 8 micro-batches of 2 + 16 of 3 {rest}",
    ]
    assert "24 ranks share 16 windows in the steps of that size, so 8 of them have nothing to do there" in lines[3]
    assert len([line for line in lines if "nothing to do" in line]) == 1
    assert "the DeepSpeed JSON has the numbers of the last size" in lines[4]
    assert lines[5:] == plan_batch(64, 8, 24).notes
    assert describe(plan_batch(16, 8, 2), Ramp.of(16)) == [f"batch: {plan_batch(16, 8, 2)}"]


def test_the_schedule_shows_the_phases_and_what_they_add_up_to() -> None:
    schedule = plan_schedule(ScheduleSettings(epochs=100), 64, 150, [(0, 16), (200, 32), (600, 64)])
    # 200 steps of 10 an epoch: 20 epochs. 400 of 5 an epoch: 80 epochs. So the last phase never begins.
    assert schedule.total == 600
    assert str(schedule) == (
        "600 optimizer steps (100 epochs of 150 windows), 0 of them warm-up; 200 steps of 16 windows, then 400 steps "
        "of 32 windows; 15000 windows = 100 epochs of 150"
    )
    assert schedule.notes == [
        "warning: batch.ramp: 64 windows after 600 steps, but the run has 600 optimizer steps, so it never gets there: "
        "give a longer schedule, or an earlier ramp"
    ]
    longer = plan_schedule(ScheduleSettings(epochs=101), 64, 150, [(0, 16), (200, 32), (600, 64)])
    assert (longer.total, longer.notes) == (603, [])
    # Without the number of windows.
    unknown = plan_schedule(ScheduleSettings(max_steps=300), 64, None, [(0, 16), (200, 32), (600, 64)])
    assert str(unknown).endswith("; 200 steps of 16 windows, then 100 steps of 32 windows")
    assert unknown.steps_an_epoch is None


def test_a_budget_in_windows_ends_with_the_step_that_reaches_it() -> None:
    def steps(max_windows: int, ramp: Pairs | None = None) -> int:
        return plan_schedule(ScheduleSettings(max_windows=max_windows), 16, 150, ramp).total

    # An epoch is 9 steps of 16 and one of 6.
    assert [steps(windows) for windows in (1, 16, 17, 144, 145, 150, 151, 1500)] == [1, 1, 2, 9, 10, 10, 11, 100]
    assert steps(1500) == plan_schedule(ScheduleSettings(epochs=10), 16, 150).total
    # 10 steps of 3, then 7 of 16 for 142 windows in all, and a step of the 8 that the epoch has left.
    assert [steps(windows, [(0, 3), (10, 16)]) for windows in (30, 31, 142, 143, 150, 151)] == [10, 11, 17, 18, 18, 19]
    text = str(plan_schedule(ScheduleSettings(max_windows=1000), 16, 150))
    assert text.startswith("67 optimizer steps (schedule.max_windows = 1000: they train on 1012), 0 of them warm-up; ")
    with pytest.raises(SettingsError, match="schedule.max_windows = 1000 needs the number of training windows"):
        plan_schedule(ScheduleSettings(max_windows=1000), 16, None)


def test_one_length_of_a_run_replaces_another_and_two_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[schedule]\nepochs = 3\n", encoding="utf-8")
    assert load(str(config), {"schedule": {"max_windows": "900"}}).schedule == ScheduleSettings(max_windows=900)
    for one, other in pairwise(("epochs", "max_windows", "max_steps")):
        with pytest.raises(SettingsError, match="give one of the two"):
            load(None, {"schedule": {one: "2", other: "3"}})
    with pytest.raises(SettingsError, match="epochs = 2 and max_steps = 3 and max_windows = 4: give one of the three"):
        load(None, {"schedule": {"epochs": "2", "max_steps": "3", "max_windows": "4"}})


def test_render_and_plan_print_the_phases(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--batch.global_batch_size", "32", "--batch.ramp", "0:8,100:32", "--batch.reference_batch_size", "8"]
    given += ["--optimizer.lr", "1e-4", "--optimizer.scale_lr", "linear", "--schedule.max_windows", "3000"]
    code, out, err = call(capsys, "config", "render", *given, "--world-size", "2", "--windows", "150")
    assert code == 0
    config = json.loads(out)
    assert (config["train_batch_size"], config["gradient_accumulation_steps"]) == (32, 2)
    assert config["optimizer"]["params"]["lr"] == 4e-4
    assert "scheduler" not in config
    # 100 steps of 19 an epoch: 5 epochs and 40 windows. Then 4 steps for the other 110, and 14 epochs of 5.
    assert err.splitlines() == [
        "batch: 8 windows per step = 4 per micro-batch (at most 8) x 1 gradient accumulation step x 2 ranks",
        "batch: after 100 steps 32 windows per step = 8 per micro-batch x 2 gradient accumulation steps x 2 ranks",
        "note: the DeepSpeed JSON has the numbers of the last size; nothing is computed from them",
        "schedule: 174 optimizer steps (schedule.max_windows = 3000), 0 of them warm-up; 100 steps "
        "of 8 windows, then 74 steps of 32 windows; 3000 windows = 20 epochs of 150",
        "optimizer: adamw, peak learning rate 0.0001 = 0.0001 x (8 / 8), after 100 steps 0.0004 = 0.0001 x (32 / 8)",
    ]
    code, _, err = call(capsys, "config", "render", *given, "--world-size", "2")
    assert (code, "schedule.max_windows = 3000 needs the number of training windows" in err) == (2, True)
