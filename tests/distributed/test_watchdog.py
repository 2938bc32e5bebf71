"""What counts as a lost rank: what gloo and the store really say of one, and nothing else."""

import pytest
from torch import distributed

from layoutner.distributed.watchdog import connection_broke
from tests.builders.forks import fork_apart

GONE = """
import os, sys, time
from datetime import timedelta
import torch
from torch import distributed
from layoutner.distributed.watchdog import connection_broke

victim = sys.argv[1]
rank = int(os.environ["RANK"])
store, _, _ = next(distributed.rendezvous("env://", timeout=timedelta(seconds=60)))
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
distributed.barrier()
if rank == int(victim):
    os._exit(0)
works = [lambda: distributed.all_reduce(torch.ones(3)), lambda: distributed.all_gather_object([None] * 2, 1)]
if rank:  # the store was rank 0's
    works += [lambda: store.set("a", "b"), lambda: store.wait(["a"]), lambda: store.check(["a"])]
for work in works:
    try:
        for _ in range(3):
            work()
            time.sleep(0.5)
    except Exception as error:
        print(connection_broke(error), type(error).__name__, error, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_what_is_raised_when_a_rank_is_gone(victim: int) -> None:
    code, out, err = fork_apart(["-c", GONE, victim])[1 - victim]
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == (2 if victim else 5), out
    assert all(line.startswith("True ") for line in lines), out


@pytest.mark.parametrize(
    "error",
    [
        distributed.DistBackendError("ncclRemoteError: remote process exited"),
        distributed.DistNetworkError("Failed to recv, got 0 bytes"),
        distributed.DistStoreError("wait timeout after 1800000ms"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv"),
        RuntimeError("NCCL communicator was aborted on rank 0"),
        RuntimeError("Connection reset by peer"),
        RuntimeError("Broken pipe"),
    ],
)
def test_a_broken_connection(error: Exception) -> None:
    assert connection_broke(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Cannot restore the tensor"),
        RuntimeError("expected tensor stored in row-major order"),
        RuntimeError("CUDA error: peer mapping resources exhausted"),
        RuntimeError("found two disconnected graphs"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("gloo"),
        KeyError("socket"),
    ],
)
def test_an_ordinary_error(error: Exception) -> None:
    assert not connection_broke(error)
