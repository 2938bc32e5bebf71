"""The predicted time of a step: its arithmetic, and its place in `config plan`."""

import re
from pathlib import Path

import pytest

from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.memory import Curve, Network
from layoutner.planning.time_plan import Measurement, predict_step
from tests.builders.processes import call

NETWORK = Network(1100, 1000, 2, 16, (600, 400), Curve(0, 1, 0), Curve(0, 1, 0))
MEASURED = Measurement(window=0.5, update=0.3)


@pytest.mark.parametrize(
    ("ranks", "stage", "computing", "sent", "update"),
    [
        (1, 0, 16 * 0.5, 0, 0.3),
        (1, 3, 16 * 0.5, 0, 0.3),
        # 2 windows a micro-batch and 4 micro-batches on each of 2 ranks; 4,000 bytes of fp32 weights.
        (2, 0, 8 * 0.5, 2 * 4000 / 2, 0.3),
        (2, 1, 8 * 0.5, 3 * 4000 / 2, 0.15),
        (2, 2, 8 * 0.5, 9 * 4000 / 2, 0.15),
        (2, 3, 8 * 0.5, 12 * 4000 / 2, 0.15),
        # One rank has 6 of 16 windows.
        (3, 1, 6 * 0.5, 3 * 4000 * 2 / 3, 0.1),
    ],
)
def test_a_step_is_computing_communication_and_update(
    ranks: int, stage: int, computing: float, sent: float, update: float
) -> None:
    found = predict_step(MEASURED, NETWORK, plan_batch(16, 2, ranks), dtype="fp32", stage=stage, link=1000)
    assert found.computing == pytest.approx(computing)
    assert found.communication == pytest.approx(sent / 1000)
    assert found.update == pytest.approx(update)
    assert found.total == pytest.approx(computing + sent / 1000 + update)
    half = predict_step(MEASURED, NETWORK, plan_batch(16, 2, ranks), dtype="bf16", stage=stage, link=1000)
    assert half.communication == pytest.approx(sent / 2000)


def test_the_network_is_timed_here_and_steps_are_predicted(
    capsys: pytest.CaptureFixture[str], checkpoints: dict[str, Path]
) -> None:
    plan = ["config", "plan", "--world-size", "3", "--windows", "40", "--precision.dtype", "fp32", "--measure"]
    plan += ["--model.name_or_path", str(checkpoints["lilt"]), "--data.max_length", "64", "--data.stride", "0"]
    plan += ["--schedule.epochs", "1", "--run.device", "cpu"]
    code, out, err = call(capsys, *plan)
    assert (code, out) == (2, "")
    assert "--measure needs --link" in err
    code, out, err = call(capsys, *plan, "--link", "24 apples")
    assert (code, "is no rate: give bytes a second" in err) == (2, True)
    code, out, err = call(capsys, *(part for part in plan if part != "--measure"), "--link", "1GB")
    assert (code, "--link needs --measure" in err) == (2, True)
    code, out, err = call(capsys, *plan, "--link", "1GB")
    assert code == 0, err
    (measured,) = [line for line in out.splitlines() if line.startswith("measured on cpu in fp32, for 3 ranks: ")]
    window, update = map(float, re.findall(r"([\d.e-]+) s for", measured))
    assert min(window, update) > 0
    (this,) = [line for line in out.splitlines() if line.startswith("this run: ")]
    pattern = (
        r"this run: (\S+) s a step of 16 full windows = (\S+) computing \+ (\S+) communication .* \+ (\S+) update;"
    )
    match = re.match(pattern, this)
    assert match, this
    total, computing, communication, own_update = map(float, match.groups())
    assert total == pytest.approx(computing + communication + own_update, rel=0.02)
    assert computing == pytest.approx(window * 6, rel=0.02)  # a rank has at most 6 of 16 windows
    assert communication > 0
    rows = [line.split()[0] for line in out.partition("by ranks and ZeRO stage:")[2].splitlines() if line]
    assert rows == ["ranks", "1", "2", "3"]
