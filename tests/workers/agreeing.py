"""Started on 2 ranks by test_ranks.py: work that fails, each in turn, and what every rank is told of it."""

import threading
from collections.abc import Callable
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError

from layoutner.distributed.ranks import Ranks
from layoutner.distributed.watchdog import connection_broke


class Changing(Exception):
    """Made again from its text, it says something else."""

    def __init__(self, name: str) -> None:
        super().__init__(f"bad {name}")


def failing(error: Exception, rank: int) -> Callable[[], Any]:
    def work() -> Any:
        if ranks.rank == rank:
            raise error
        return None

    return work


unpicklable = RuntimeError("Cannot restore the tensor: Broken pipe")
unpicklable.lock = threading.Lock()  # type: ignore[attr-defined]
ERRORS = {
    "strict": StrictDataclassFieldValidationError("hidden_size", TypeError("expected int, got str")),
    "lock": unpicklable,
    "changing": Changing("name"),
    "plain": KeyError("x"),
}

with Ranks.join() as ranks:
    for name, error in ERRORS.items():
        for how, rank in ((ranks.run_on_rank_zero, 0), (ranks.run_on_all_ranks, 0), (ranks.run_on_all_ranks, 1)):
            try:
                how(failing(error, rank))
            except Exception as found:
                text = " ".join(str(found).split())
                own = found is error and found.__traceback__ is not None
                broke = connection_broke(found)
                print(name, how.__name__, rank, type(found).__name__, own, broke, text, sep="|", flush=True)
