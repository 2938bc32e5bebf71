"""The processes of a run, and the few things they tell each other."""

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from layoutner.config.errors import UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """This process among the ranks of the run. Every method but `is_main` is a collective: all ranks call it."""

    rank: int
    size: int
    device: torch.device
    store: Any = None  # the ranks' key-value store; None for a process that is alone

    @classmethod
    def join(cls) -> "World":
        """Join the process group that the launcher described in the environment; alone without a launcher.

        `deepspeed`, torchrun and srun wrappers set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
        """
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        on_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"
        if on_gpu:
            torch.cuda.set_device(local_rank)
        elif "OMP_NUM_THREADS" not in os.environ:
            beside = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", str(size))))
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // beside))
        store = None
        if not distributed.is_initialized():
            backend = "nccl" if on_gpu else "gloo"
            if size == 1:
                # No port is opened for a process that is alone. DeepSpeed still asks for these names.
                for name, value in (
                    ("RANK", 0),
                    ("LOCAL_RANK", 0),
                    ("WORLD_SIZE", 1),
                    ("MASTER_PORT", 29500),
                ):
                    os.environ.setdefault(name, str(value))
                os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
                alone = distributed.HashStore()  # type: ignore[attr-defined]
                distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
            else:
                store, _, _ = next(distributed.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
                distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        return cls(rank, size, torch.device("cuda", local_rank) if on_gpu else torch.device("cpu"), store)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and prints."""
        return self.rank == 0

    def leave(self) -> None:
        """Leave the process group, once everything is done. Not called after an exception: others may be gone.

        All ranks leave together: none closes its connections while another may still read from them, and rank 0,
        which may serve the store, is the last to need it.
        """
        if self.store is not None:
            ranks = range(self.size)
            self.store.set(f"layoutner/done/{self.rank}", "")
            self.store.wait([f"layoutner/done/{rank}" for rank in ranks], TIMEOUT)
            self.store.set(f"layoutner/left/{self.rank}", "")
            if self.is_main:
                self.store.wait([f"layoutner/left/{rank}" for rank in ranks], TIMEOUT)
        distributed.destroy_process_group()

    def sum(self, value: float) -> float:
        """Sum of a number over all ranks, in fp64, the same on every rank."""
        return self._reduce(value, distributed.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """Largest of a number over all ranks."""
        return self._reduce(value, distributed.ReduceOp.MAX)

    def _reduce(self, value: float, operation: Any) -> float:
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor, operation)
        return float(tensor)

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value, in rank order, on rank 0; None elsewhere."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        distributed.gather_object(value, values)
        return values

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Do `work` on rank 0 and give its result to every rank; its exception is raised on every rank."""
        result: Any = None
        failure: Exception | None = None
        if self.is_main:
            try:
                result = work()
            except Exception as error:  # handed on below, to all ranks alike
                failure = error
        result, failure = self.from_main((result, failure))
        if failure is not None:
            raise failure
        return result

    def agree(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank; where it fails on any, the first failure is raised on all of them."""
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # handed on below, to all ranks alike
            failure = error
        failures: list[Exception | None] = [failure]
        if self.size > 1:
            failures = [None] * self.size
            distributed.all_gather_object(failures, failure)
        for rank, found in enumerate(failures):
            if found is not None:
                if rank and isinstance(found, UserError):
                    raise UserError(f"rank {rank}: {found}")
                raise found
        return result  # type: ignore[return-value]

    def peak_memory_gib(self) -> float:
        """Largest peak memory of any rank, in GiB: of the allocator on a GPU, of the process on a CPU."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return self.max(peak / 2**30)
