"""The ranks of a run and their collective operations."""

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import distributed

from layoutner.distributed.machine import cpus_per_rank, peak_memory_bytes
from layoutner.distributed.watchdog import Kind, Watchdog, connection_broke
from layoutner.errors import LayoutnerError, Preempted, RanksDisagree, SettingsError, first_line
from layoutner.settings.tree import DeviceName

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
MAX_PREFETCH_THREADS = 8  # the GIL limits what more would bring

# How long a failed rank waits for other ranks to fail too. Rank 0 waits less than the watchdog's GRACE, after which the
# healthy ranks report rank 0 as lost: it has already reported its error itself. The other ranks wait longer than GRACE.
FAILS_WITHIN_S = {True: 4.0, False: 10.0}  # key: whether this is rank 0
REPORTS_WITHIN_S = 60.0  # upper limit of the whole wait, including that for failed ranks to report


@dataclass(frozen=True)
class Ranks:
    """This process as one rank of the run.

    Every method except `is_rank_zero`, `device_name`, `prefetch_threads`, `activity` and `part` is a collective: all
    ranks must call it. As a context manager it leaves the process group on success, and otherwise tells the other ranks
    why this rank ends. An exception that means that another rank is gone becomes `RanksDisagree`.
    """

    rank: int
    size: int
    device: torch.device
    store: Any = None  # the TCPStore of the ranks; None for a single process
    watchdog: Watchdog | None = None  # None for a single process, or if it is off
    owns_group: bool = False  # whether `join` created torch's process group, which `close` then destroys

    @classmethod
    def alone(cls, device: DeviceName = "auto") -> "Ranks":
        """A single process without DeepSpeed: no process group, and the environment is not changed.

        Raises:
            SettingsError: device = cuda without a CUDA device.
        """
        on_gpu = _has_gpu(device, 0)
        return cls(0, 1, torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu"))

    @classmethod
    def join(cls, rank_timeout: float = 0.0, device: DeviceName = "auto") -> "Ranks":
        """Join the process group that the launcher describes in the environment; without a launcher, a group of one.

        `deepspeed`, torchrun and srun wrappers set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

        Args:
            rank_timeout: seconds until the job ends because a rank does not answer or keeps the others waiting; 0 =
                never.
            device: device to compute on. DeepSpeed reads it from the environment at import, so call this before
                importing DeepSpeed.

        Raises:
            SettingsError: device = cuda without a CUDA device, or fewer devices than processes.
            RanksDisagree: a rank did not join in time, or the rendezvous address cannot be reached.
        """
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        on_gpu = _has_gpu(device, local_rank)
        _tell_deepspeed(device, on_gpu)
        if on_gpu:
            torch.cuda.set_device(local_rank)
        elif "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(cpus_per_rank(size))
        store, watchdog = None, None
        owns_group = not distributed.is_initialized()
        if owns_group:
            backend = "nccl" if on_gpu else "gloo"
            if size == 1:
                # A single process opens no port, but DeepSpeed still requires these variables.
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
                try:
                    store, _, _ = next(distributed.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
                    watchdog = Watchdog(store, rank, size, rank_timeout) if rank_timeout else None
                    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
                    if watchdog is not None:
                        # Ranks may start at different times: watch them only after all of them have arrived.
                        store.wait([f"layoutner/beat/{other}" for other in range(size)], TIMEOUT)
                except distributed.DistError as error:
                    raise RanksDisagree(f"the {size} ranks could not join: {first_line(error)}") from error
                if watchdog is not None:
                    watchdog.start()
        chosen = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
        return cls(rank, size, chosen, store, watchdog, owns_group)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if error is None or isinstance(error, Preempted):
            self.close()
            return
        if self.size == 1:
            self.close()  # no other rank to tell
        if self.store is not None:
            with suppress(RuntimeError):  # the store is gone: nobody to tell
                self.store.set(f"layoutner/fails/{self.rank}", "")
        if self.watchdog is not None:
            kind = "" if isinstance(error, LayoutnerError) else f"{type(error).__name__}: "
            self.watchdog.failed(error, kind + first_line(error))
        if self.size > 1 and connection_broke(error):
            raise RanksDisagree(f"lost the connection to another rank: {first_line(error)}") from error

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, the only rank that writes and prints."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """Name of the device that this rank computes on."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def prefetch_threads(self) -> int:
        """Number of threads in which this rank reads data while it computes."""
        return min(MAX_PREFETCH_THREADS, max(1, cpus_per_rank(self.size) - 1))

    @contextmanager
    def activity(self, kind: Kind, what: str) -> Iterator[None]:
        """Tell the other ranks what this rank does inside the block. `kind`: see `Kind`; `what`: such as "saving"."""
        if self.watchdog is None:
            yield
            return
        before = self.watchdog.state
        self.watchdog.state = (kind, what)
        try:
            yield
        finally:
            self.watchdog.state = (before[0], before[1])  # a new tuple, so that its time starts at 0

    def close(self) -> None:
        """Leave the process group after all work is done. Do not call it after an exception: other ranks may be gone.

        All ranks leave together: no rank closes its connections while another may still read from them. Rank 0, which
        may host the store, leaves last.
        """
        if self.store is not None:
            ranks = range(self.size)
            if self.watchdog is not None:
                self.watchdog.leaving()
            self.store.set(f"layoutner/done/{self.rank}", "")
            self.store.wait([f"layoutner/done/{rank}" for rank in ranks], TIMEOUT)
            if self.watchdog is not None:
                self.watchdog.stop()
            distributed.destroy_process_group()
            self.store.set(f"layoutner/left/{self.rank}", "")
            if self.is_rank_zero:
                self.store.wait([f"layoutner/left/{rank}" for rank in ranks], TIMEOUT)
        elif self.owns_group:
            distributed.destroy_process_group()

    def part(self) -> None:
        """After this rank has reported an error, wait until the other failed ranks have reported theirs.

        Launchers kill all ranks when the first one exits, and only rank 0 prints the whole message. So the other ranks
        wait until rank 0 has reported. Rank 0, which may host the store, waits until the others have reported or have
        read why it ends. A rank that has not announced a failure, such as a dead one, is waited for `FAILS_WITHIN_S`.
        """
        if self.store is not None:
            # In a thread, because the process that hosts the store may be frozen.
            waiting = threading.Thread(target=self._wait_for_reports, daemon=True)
            waiting.start()
            waiting.join(REPORTS_WITHIN_S)

    def _wait_for_reports(self) -> None:
        others = [rank for rank in range(self.size) if rank != self.rank] if self.is_rank_zero else [0]
        begun = time.monotonic()
        with suppress(RuntimeError):  # the store is gone, and so is the process that hosted it
            self.store.set(f"layoutner/reported/{self.rank}", "")
            while silent := [rank for rank in others if not self.store.check([f"layoutner/reported/{rank}"])]:
                fails = all(self.store.check([f"layoutner/fails/{rank}"]) for rank in silent)
                if not fails and time.monotonic() - begun > FAILS_WITHIN_S[self.is_rank_zero]:
                    return
                time.sleep(0.05)

    def all_reduce_sum(self, value: float) -> float:
        """Sum of a number over all ranks, computed in fp64; the same on every rank."""
        return self._reduce(value, distributed.ReduceOp.SUM)

    def all_reduce_max(self, value: float) -> float:
        """Maximum of a number over all ranks."""
        return self._reduce(value, distributed.ReduceOp.MAX)

    def _reduce(self, value: float, operation: Any) -> float:
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        with self.activity("shared", "adding up"):
            distributed.all_reduce(tensor, operation)
        return float(tensor)

    def all_reduce_tensor(self, tensor: torch.Tensor) -> None:
        """Sum of a tensor over all ranks, in place. It may be on another device than the rank."""
        if self.size > 1:
            shared = tensor.to(self.device)
            distributed.all_reduce(shared)
            if shared is not tensor:
                tensor.copy_(shared)

    def broadcast_tensor(self, tensor: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
        """Rank 0's tensor, as fp32 on the device of every rank."""
        shared = torch.empty(shape, dtype=torch.float32, device=self.device)
        if tensor is not None:
            shared.copy_(tensor)
        if self.size > 1:
            with self.activity("shared", "taking a tensor from rank 0"):
                distributed.broadcast(shared, 0)
        return shared

    def gather_object(self, value: Any) -> list[Any] | None:
        """Every rank's value, in rank order, on rank 0; None elsewhere."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_rank_zero else None
        with self.activity("shared", "gathering"):
            distributed.gather_object(value, values)
        return values

    def all_gather_object(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on every rank."""
        values: list[T] = [value] * self.size
        if self.size > 1:
            with self.activity("shared", "gathering"):
                distributed.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with self.activity("shared", "waiting for rank 0"):
            distributed.broadcast_object_list(box)
        return box[0]

    def run_on_rank_zero(self, work: Callable[[], Any]) -> Any:
        """Run `work` on rank 0 and return its result on every rank. If it raises, every rank raises.

        Raises:
            Exception: the exception of rank 0. On other ranks, an Exception with its name and text if it cannot be
                pickled.
        """
        result: Any = None
        failure: Exception | None = None
        if self.is_rank_zero:
            try:
                with self.activity("main", "working while the others wait"):
                    result = work()
            except Exception as error:  # raised below, on all ranks
                failure = error
        result, found = self.broadcast_object((result, _portable(failure)))
        if found is not None:
            raise found if failure is None else failure  # on rank 0 the original, which has the traceback
        return result

    def run_on_all_ranks(self, work: Callable[[], T]) -> T:
        """Run `work` on every rank and return its result. If it raises on any rank, every rank raises.

        Raises:
            Exception: the exception of the lowest rank that failed. On other ranks, an Exception with its name and text
                if it cannot be pickled. The message of a LayoutnerError names the rank, unless it is rank 0.
        """
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # raised below, on all ranks
            failure = error
        for rank, found in enumerate(self.all_gather_object(_portable(failure))):
            if found is not None:
                if rank and isinstance(found, LayoutnerError):
                    raise type(found)(f"rank {rank}: {found}")
                raise failure if failure is not None and rank == self.rank else found
        return result  # type: ignore[return-value]

    def peak_memory_gib(self) -> float:
        """Peak memory of the rank that used the most, in GiB: allocated GPU memory, or on a CPU process memory."""
        on_gpu = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else peak_memory_bytes()
        return self.all_reduce_max(peak / 2**30)


def _portable(failure: Exception | None) -> Exception | None:
    """The exception itself if it survives pickling, else an Exception with its name and text."""
    try:
        copy = pickle.loads(pickle.dumps(failure))
        if type(copy) is type(failure) and str(copy) == str(failure):
            return failure
    except Exception:  # a third-party exception class may raise anything when it is unpickled without its arguments
        pass
    # Not a RuntimeError: `connection_broke` might take its text for a broken connection.
    return Exception(f"{type(failure).__name__}: {failure}")


def _has_gpu(device: DeviceName, local_rank: int) -> bool:
    """Whether to compute on a GPU.

    Raises:
        SettingsError: device = cuda without a CUDA device, or fewer devices than processes.
    """
    if device == "cpu":
        return False
    if device == "auto" and not (torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"):
        return False
    there = torch.cuda.device_count()
    if not there:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        where = "" if hidden is None else f" with CUDA_VISIBLE_DEVICES = {hidden!r}"
        raise SettingsError(
            f"device = cuda: torch {torch.__version__} sees no CUDA device{where}; use device = cpu to run without "
            "one, or device = auto to use a GPU only if there is one"
        )
    if local_rank >= there:
        raise SettingsError(
            f"device = {device}: {there} CUDA device(s) for at least {local_rank + 1} processes: start one per device"
        )
    return True


def _tell_deepspeed(device: DeviceName, on_gpu: bool) -> None:
    """Set the environment variables that select DeepSpeed's device."""
    if device == "cpu":
        # Hide all GPUs from everything that runs in this process from here on.
        os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
    elif device == "cuda":
        os.environ["DS_ACCELERATOR"] = "cuda"
    elif not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it finds no accelerator
