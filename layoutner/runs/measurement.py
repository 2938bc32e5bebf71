"""Time a network on this machine, before there are data, weights or other ranks."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from layoutner.distributed.machine import available_cpus, cpus_per_rank
from layoutner.distributed.ranks import Ranks
from layoutner.engine.averages import add_to_average
from layoutner.engine.optimizers import Placement, own_optimizer
from layoutner.models.attention import require_attention
from layoutner.models.dropout import masks_from
from layoutner.models.families import FAMILIES
from layoutner.models.network import new_network, open_config
from layoutner.models.parameters import DTYPES, decay_groups
from layoutner.models.sizes import Sample
from layoutner.planning.batch_plan import plan_settings
from layoutner.planning.optimizers import OPTIMIZERS
from layoutner.planning.time_plan import Measurement
from layoutner.settings.tree import Settings

RUNS = 3  # that are timed, after one that is not


def measure(settings: Settings, ranks: Sequence[int], labels: int) -> dict[int, Measurement]:
    """Time one rank of a run: on its own GPU, or on its share of the CPUs. Nothing else should run meanwhile.

    It computes the forward and backward of a micro-batch of full windows, and an update, with untrained weights.

    Args:
        settings: of the run; its data is not read.
        ranks: numbers of ranks of the run. On a CPU they share this machine.
        labels: number of tags.

    Returns:
        Number of ranks -> what was measured for it. What two of them have in common is measured once.

    Raises:
        SettingsError, ModelError: see `open_config`; device = cuda without a CUDA device.
    """
    device, before = Ranks.alone(settings.run.device).device, torch.get_num_threads()
    on_gpu = device.type == "cuda"
    family, config = open_config(settings.model)
    require_attention(settings, family, config, device)
    model = untrained_network(settings, labels, device)
    # DeepSpeed updates fp32 weights and moments, whatever the network computes in.
    masters = {id(one): one.detach().float().clone() for one in model.parameters() if one.requires_grad}
    for one in masters.values():
        one.requires_grad_().grad = torch.zeros_like(one)
    optimizer: torch.optim.Optimizer
    if (row := OPTIMIZERS[settings.optimizer.name]).deepspeed is None:
        groups = [
            {
                **group,
                "params": [masters[id(one)] for one in group["params"] if one.requires_grad],
                "state": row.state_of(group),
            }
            for group in decay_groups(model, 0.0, matrices=row.matrices is not None)
        ]
        optimizer = own_optimizer(settings.optimizer, groups)
        optimizer.bind({id(one): Placement.whole(one) for one in masters.values()})
    else:
        optimizer = torch.optim.AdamW(masters.values(), lr=0.0, fused=True)
    weights, decay = list(masters.values()), settings.optimizer.average_decay
    averages = [one.detach().clone() for one in weights] if decay else []

    def step() -> None:
        optimizer.step()
        if averages:
            add_to_average(averages, weights, decay)

    @cache
    def window(micro_batch_size: int, _: int) -> float:
        with micro_batch_of(model, settings, micro_batch_size, device) as sample:
            return _seconds(lambda: sample.loss(model).backward(), device) / micro_batch_size  # type: ignore[no-untyped-call]

    @cache
    def update(_: int) -> float:
        return _seconds(step, device)

    found = {}
    try:
        for number in ranks:
            threads = before if on_gpu else cpus_per_rank(number)
            torch.set_num_threads(threads)
            crowded = 1.0 if on_gpu else max(1.0, number / available_cpus())
            each = window(plan_settings(settings, number).micro_batch_size, threads)
            found[number] = Measurement(each * crowded, update(threads) * crowded, str(device))
    finally:
        torch.set_num_threads(before)
    return found


def untrained_network(settings: Settings, labels: int, device: torch.device) -> nn.Module:
    """The network of a run with untrained weights, on a device, in training."""
    own, (family, config) = settings.model, open_config(settings.model)
    tags = [str(label) for label in range(labels)]
    sees_images = _sees_images(settings, family)
    model: nn.Module = new_network(
        family, config, tags, own.dropout, own.dropout_masks, sees_images, own.attention, own.gradient_checkpointing
    )
    return model.to(device, DTYPES[settings.precision.dtype]).train()


@contextmanager
def micro_batch_of(model: nn.Module, settings: Settings, windows: int, device: torch.device) -> Iterator[Sample]:
    """A micro-batch of full windows for `untrained_network`, with the dropout masks of its windows in the block."""
    family, _ = open_config(settings.model)
    sample = Sample.make(model, family, windows, settings.data.max_length, _sees_images(settings, family)).to(device)
    with masks_from(model, sample.keys):
        yield sample


def _sees_images(settings: Settings, family: str) -> bool:
    return FAMILIES[family].image is not None and settings.model.images == "use"


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of a few runs."""
    times = []
    for _ in range(RUNS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[RUNS // 2]
