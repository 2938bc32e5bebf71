"""The largest micro-batch that fits into the memory of every rank: batch.micro_batch_size = auto."""

import logging

import torch

from layoutner.distributed.machine import free_memory_bytes
from layoutner.distributed.ranks import Ranks
from layoutner.errors import SettingsError
from layoutner.models.parameters import DTYPES
from layoutner.models.sizes import count_network
from layoutner.planning.batch_plan import plan_settings, with_micro_batch
from layoutner.planning.memory import show
from layoutner.planning.memory_plan import Case, advice
from layoutner.planning.schedule import plan_schedule
from layoutner.runs.measurement import micro_batch_of, untrained_network
from layoutner.settings.schedule import ScheduleSettings
from layoutner.settings.tree import Settings

logger = logging.getLogger(__name__)

SHARE = 0.9  # of the free memory that a run may take: allocators cannot use every gap
LABELS = 13  # tags of the network that is measured; a few more do not matter


def measured_micro_batch(settings: Settings, ranks: Ranks) -> Settings:
    """The settings with a number for batch.micro_batch_size = auto, the same on every rank. All ranks call it.

    Each rank estimates what a micro-batch of full windows takes (planning/memory.py). On a GPU it also runs a forward
    and a backward pass of it, beside as much memory as the states of the model will take, and less until that fits.
    The smallest result of all ranks is used. The gradient does not depend on it.

    Raises:
        SettingsError: on every rank: not even one window fits; the message says what to change.
    """
    if settings.batch.micro_batch_size != "auto":
        return settings
    with ranks.activity("local", "measuring the largest micro-batch"):
        own = ranks.run_on_all_ranks(lambda: _largest(settings, ranks))
    found = -int(ranks.all_reduce_max(-own))
    logger.info(
        "batch.micro_batch_size = auto: %d windows of %d tokens fit on every rank", found, settings.data.max_length
    )
    return with_micro_batch(settings, found)


def _largest(settings: Settings, ranks: Ranks) -> int:
    """The largest micro-batch of this rank."""
    on_gpu = ranks.device.type == "cuda"
    free = torch.cuda.mem_get_info(ranks.device)[0] if on_gpu else free_memory_bytes(ranks.size)
    limit = int(SHARE * free)
    one = with_micro_batch(settings, 1)
    network = count_network(settings, LABELS, "cuda" if on_gpu else "cpu")
    schedule = plan_schedule(ScheduleSettings(max_steps=1), settings.batch.global_batch_size, None)
    batch = plan_settings(one, ranks.size)
    case = Case(one, batch, schedule, network, settings.data.max_length, "cuda" if on_gpu else "cpu")
    size = case.largest(limit)
    while on_gpu and size and not _runs(case.on(ranks.size, size), free - limit, ranks.device):
        size = case.on(ranks.size, size - 1).batch.micro_batch_size if size > 1 else None
    if not size:
        raise SettingsError(
            "\n".join(["batch.micro_batch_size = auto: not even one window fits", *advice(case, limit)])
        )
    memory = case.on(ranks.size, size).memory()
    logger.info(
        "memory: a micro-batch of %d windows takes %s, of %s that are free: %s of states and %s of activations",
        size,
        show(memory.total),
        show(free),
        show(memory.model_states),
        show(memory.activations),
    )
    return size


def _runs(case: Case, spare: int, device: torch.device) -> bool:
    """Whether a forward and a backward pass fit on the GPU, beside the states of the model and `spare` bytes."""
    settings = case.settings
    try:
        # Their memory is taken at once; the network's own weights and gradients are a part of it.
        weights = case.network.parameters * DTYPES[settings.precision.dtype].itemsize
        rest = max(0, case.memory().model_states - 2 * weights) + spare
        taken = torch.empty(rest, dtype=torch.uint8, device=device)
        model = untrained_network(settings, LABELS, device)
        with micro_batch_of(model, settings, case.batch.micro_batch_size, device) as sample:
            sample.loss(model).backward()  # type: ignore[no-untyped-call]
        del taken
        return True
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
