"""The output of `layoutner config plan`: batch, schedule, memory and time by ZeRO stage, and advice."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from layoutner.planning.batch_plan import BatchPlan, largest_of, plan_batch
from layoutner.planning.batch_plan import describe as describe_batch
from layoutner.planning.memory import COLUMNS, Device, Memory, Network, estimate, largest_micro_batch, show
from layoutner.planning.render import render
from layoutner.planning.scaling import describe as describe_optimizer
from layoutner.planning.schedule import Schedule
from layoutner.planning.time_plan import Measurement, StepTime, predict_step
from layoutner.settings.tree import Settings


@dataclass(frozen=True)
class Case:
    """A run whose memory is estimated; variants for comparison are made with `replace`."""

    settings: Settings
    batch: BatchPlan
    schedule: Schedule
    network: Network
    window_tokens: int
    device: Device = "cuda"
    offload: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The DeepSpeed config of the case."""
        config = deepcopy(render(self.settings, self.batch, self.schedule))
        if self.offload:
            config["zero_optimization"] |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
        return config

    @property
    def stage(self) -> int:
        """ZeRO stage."""
        return int(self.config["zero_optimization"]["stage"])

    def at_stage(self, stage: int) -> "Case":
        """The case at a ZeRO stage: with the run's preset if it has this stage, else with the preset of the stage."""
        if stage == self.stage:
            return self
        policy = self.settings.deepspeed.model_copy(update={"preset": None, "zero_stage": stage})
        return replace(self, settings=self.settings.model_copy(update={"deepspeed": policy}))

    def with_dtype(self, dtype: str) -> "Case":
        """The case in another precision."""
        precision = self.settings.precision.model_copy(update={"dtype": dtype})
        return replace(self, settings=self.settings.model_copy(update={"precision": precision}))

    def on(self, world_size: int, micro: int) -> "Case":
        """The case with the same global batch, split for another number of ranks or another micro-batch size."""
        whole = self.batch.global_batch_size
        return replace(self, batch=plan_batch(whole, micro, world_size))

    def memory(self) -> Memory:
        """Peak memory of one rank, in steps of the size whose micro-batches are largest."""
        return estimate(
            self.network,
            dtype=self.settings.precision.dtype,
            stage=self.stage,
            world_size=self.batch.world_size,
            micro_batch_size=largest_of(self.batch, self.schedule.ramp).micro_batch_size,
            window_tokens=self.window_tokens,
            ds_config=self.config,
            optimizer=self.settings.optimizer.name,
            averages=self.settings.optimizer.average_decay > 0,
            device=self.device,
        )

    def largest(self, limit: int) -> int | None:
        """The largest micro-batch within `limit` bytes."""
        return largest_micro_batch(
            self.network,
            dtype=self.settings.precision.dtype,
            stage=self.stage,
            world_size=self.batch.world_size,
            window_tokens=self.window_tokens,
            global_batch_size=self.batch.global_batch_size,
            ds_config=self.config,
            optimizer=self.settings.optimizer.name,
            averages=self.settings.optimizer.average_decay > 0,
            limit=limit,
            device=self.device,
        )


def advice(case: Case, limit: int) -> list[str]:
    """Advice if the run does not fit: changes, mildest first, with the memory each would need. [] if it fits."""
    need = case.memory().total
    if need <= limit:
        return []
    lines = [f"{show(need)} per rank is more than {show(limit)}. What to change, the cheapest first:"]
    changes: list[tuple[str, Case]] = []
    world_size = case.batch.world_size
    micro = case.largest(limit)
    if case.batch.micro_batch_size > 1:
        smaller = micro or 1
        changes.append((f"batch.micro_batch_size = {smaller} (computes the same)", case.on(world_size, smaller)))
    one = case.on(world_size, 1)
    stages = range(case.stage + 1, 4) if world_size > 1 else ()  # a single rank has nothing to partition
    changes += [(f"deepspeed.zero_stage = {n}, with batch.micro_batch_size = 1", one.at_stage(n)) for n in stages]
    if case.settings.precision.dtype == "fp32":
        changes.append(("precision.dtype = bf16, with batch.micro_batch_size = 1", one.with_dtype("bf16")))
    more = [n for n in range(world_size + 1, case.batch.global_batch_size + 1) if case.batch.global_batch_size % n == 0]
    if more:
        stage = max(2, case.stage)
        text = f"{more[0]} ranks, with deepspeed.zero_stage = {stage} and batch.micro_batch_size = 1"
        changes.append((text, case.on(more[0], 1).at_stage(stage)))
    half = case.window_tokens // 2
    if half >= 8:
        text = f"data.max_length = {half}, with batch.micro_batch_size = 1 (more windows per document)"
        changes.append((text, replace(one, window_tokens=half)))
    text = "deepspeed.preset = zero3-offload, with batch.micro_batch_size = 1 (slow)"
    changes.append((text, replace(one.at_stage(3), offload=True)))
    for text, changed in changes:
        total = changed.memory().total
        lines.append(f"  - {text}: {show(total)}, {'fits' if total <= limit else 'still too much'}")
    return lines


def describe(
    settings: Settings,
    batch: BatchPlan,
    schedule: Schedule,
    network: Network,
    window_tokens: int,
    limit: int | None,
    device: Device = "cuda",
) -> str:
    """The output of `layoutner config plan`.

    Args:
        window_tokens: tokens of a full window, settings.data.max_length.
        limit: memory of a GPU in bytes; None = do not print what fits.
    """
    case = Case(settings, batch, schedule, network, window_tokens, device)
    lines = [*describe_batch(batch, schedule.ramp), f"schedule: {schedule}", *schedule.notes]
    lines.append(f"optimizer: {describe_optimizer(settings)}")
    lines.append(
        f"network: {network.parameters:,} parameters, {network.trainable:,} of them trained; "
        f"{settings.precision.dtype}, windows of {window_tokens} tokens"
    )
    lines += ["", "one rank at its peak, by ZeRO stage (* = this run; CUDA itself takes another 0.5 to 1 GiB):"]
    header = ["ZeRO", *(name.replace("_", " ") for name in COLUMNS)]
    rows = [[*header, *(["largest micro-batch"] if limit else [])]]
    for stage in range(4):
        other = case.at_stage(stage)
        memory = other.memory()
        row = [f"{'*' if stage == case.stage else ''}{stage}", *(show(getattr(memory, name)) for name in COLUMNS)]
        rows.append([*row, *([str(other.largest(limit) or "none fits")] if limit else [])])
    lines += _columns(rows)
    if limit:
        found = advice(case, limit)
        total = case.memory().total
        lines += ["", *(found or [f"{show(total)} per rank: fits into {show(limit)}"])]
    return "\n".join(lines)


def describe_time(case: Case, measured: Mapping[int, Measurement], link: float) -> str:
    """The part of the output that `--measure` adds.

    Args:
        measured: number of ranks -> the measurement for it.
        link: see `predict_step`.
    """
    dtype, own = case.settings.precision.dtype, measured[case.batch.world_size]

    def predicted(ranks: int, stage: int) -> StepTime:
        batch = case.on(ranks, case.batch.limit).batch
        return predict_step(measured[ranks], case.network, batch, dtype=dtype, stage=stage, link=link)

    this = predicted(case.batch.world_size, case.stage)
    lines = [
        "",
        f"measured on {own.device} in {dtype}, for {case.batch.world_size} ranks: {own.window:.3g} s for forward and "
        f"backward of a window of {case.window_tokens} tokens, {own.update:.3g} s for the update of all parameters on "
        "one rank",
        f"this run: {this.total:.3g} s a step of {case.batch.global_batch_size} full windows = "
        f"{this.computing:.3g} computing + {this.communication:.3g} communication at {link / 1e9:g} GB a second + "
        f"{this.update:.3g} update; windows that are shorter take less, and what overlaps is not known here",
        *(
            ["what Muon sends to put its matrices together is not in it"]
            if case.settings.optimizer.name == "muon"
            else []
        ),
        "",
        "seconds a step, and windows a second, by ranks and ZeRO stage:",
    ]
    rows = [["ranks", *(f"ZeRO {stage}" for stage in range(4))]]
    for ranks in measured:
        totals = [predicted(ranks, stage).total for stage in range(4)]
        rows.append([str(ranks), *(f"{total:.3g} ({case.batch.global_batch_size / total:.3g})" for total in totals)])
    return "\n".join([*lines, *_columns(rows)])


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
