"""Where the time of a rank goes."""

import pytest
import torch

from layoutner.distributed import clock as clock_module
from layoutner.distributed.clock import PARTS, Clock


def test_the_inner_part_takes_its_time_from_the_outer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now[0])
    clock = Clock(torch.device("cpu"))

    def passes(seconds: float) -> None:
        now[0] += seconds

    passes(1)
    with clock.part("evaluation"):
        passes(2)
        with clock.part("communication"):
            passes(4)
        passes(8)
    with clock.part("saving"):
        passes(16)
    passes(32)
    found = clock.seconds()
    assert found == {**dict.fromkeys(PARTS, 0.0), "other": 33, "evaluation": 10, "communication": 4, "saving": 16}
    passes(64)
    assert clock.seconds()["other"] == 97


@pytest.mark.gpu
def test_on_a_gpu_the_time_is_that_of_its_kernels() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    matrix @ matrix
    torch.cuda.synchronize()
    clock = Clock(device)
    with clock.part("forward"):
        for _ in range(20):
            matrix @ matrix
    with clock.part("data"):
        pass
    found = clock.seconds()
    assert found["forward"] > 20 * found["data"]
    assert found["forward"] > 0.5 * sum(found.values())
