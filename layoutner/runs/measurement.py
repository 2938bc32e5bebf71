"""Time a network on this machine, before there are data, weights or other ranks."""

import time
from collections.abc import Callable

import torch

from layoutner.distributed.machine import available_cpus, cpus_per_rank
from layoutner.distributed.ranks import Ranks
from layoutner.models.attention import require_attention
from layoutner.models.families import FAMILIES
from layoutner.models.network import new_network, open_config
from layoutner.models.parameters import DTYPES
from layoutner.models.sizes import Sample
from layoutner.planning.batch_plan import plan_settings
from layoutner.planning.time_plan import Measurement
from layoutner.settings.tree import Settings

RUNS = 3  # that are timed, after one that is not


def measure(settings: Settings, ranks: int, labels: int) -> Measurement:
    """Time one rank of a run: on its own GPU, or on its share of the CPUs. Nothing else should run meanwhile.

    It computes the forward and backward of a micro-batch of full windows, and an update, with untrained weights.

    Args:
        settings: of the run; its data is not read.
        ranks: number of ranks of the run. On a CPU they share this machine.
        labels: number of tags.

    Raises:
        SettingsError, ModelError: see `open_config`; device = cuda without a CUDA device.
    """
    device, before = Ranks.alone(settings.run.device).device, torch.get_num_threads()
    if device.type == "cuda":
        return _measure(settings, plan_settings(settings, ranks).micro_batch_size, labels, device)
    torch.set_num_threads(cpus_per_rank(ranks))
    try:
        found = _measure(settings, plan_settings(settings, ranks).micro_batch_size, labels, device)
    finally:
        torch.set_num_threads(before)
    crowded = max(1.0, ranks / available_cpus())
    return Measurement(found.window * crowded, found.update * crowded, found.device)


def _measure(settings: Settings, micro_batch_size: int, labels: int, device: torch.device) -> Measurement:
    family, config = open_config(settings.model)
    sees_images = FAMILIES[family].image is not None and settings.model.images == "use"
    tags = [str(label) for label in range(labels)]
    own = settings.model
    require_attention(settings, family, config, device)
    model = new_network(family, config, tags, own.dropout, own.dropout_masks, sees_images, own.attention)
    model = model.to(device, DTYPES[settings.precision.dtype]).train()
    sample = Sample.make(model, family, micro_batch_size, settings.data.max_length, sees_images).to(device)

    def compute() -> None:
        sample.loss(model).backward()  # type: ignore[no-untyped-call]

    window = _seconds(compute, device) / micro_batch_size
    # DeepSpeed updates fp32 weights and moments, whatever the network computes in.
    masters = [one.detach().float().clone().requires_grad_() for one in model.parameters() if one.requires_grad]
    for one in masters:
        one.grad = torch.zeros_like(one)
    return Measurement(window, _seconds(torch.optim.AdamW(masters, lr=0.0, fused=True).step, device), str(device))


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
