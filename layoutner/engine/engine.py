"""A small typed wrapper around DeepSpeed's engine, with workarounds. No other room imports DeepSpeed.

Behaviour of DeepSpeed 0.19.8 that is corrected here (read in its source; tested in tests/engine/test_engine.py):

- At ZeRO 0 with fp16, `engine.backward` does not multiply the loss by the loss scale, but the optimizer
  divides the gradient by it.
- At every ZeRO stage, a dynamic loss scale grows before the gradient of the same step is divided by it, so that
  step's gradient is halved. At ZeRO 0, `hysteresis` is also ignored.
- With fp16 or bf16 at ZeRO 0, the optimizer takes a step on zero gradients when it is created. This decays the
  weights once and counts a step, which shifts Adam's bias correction.
- `get_global_grad_norm` is scaled, unscaled or None depending on stage and precision.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.distributed import ProcessGroup, Work

with contextlib.redirect_stdout(None):  # the accelerator's detection prints
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.comm import comm
    from deepspeed.runtime.config import DeepSpeedConfigError
    from deepspeed.runtime.fp16.loss_scaler import CreateLossScaler
    from deepspeed.utils import groups

from layoutner.corpus.batches import to_device
from layoutner.distributed.clock import Clock
from layoutner.distributed.ranks import Ranks
from layoutner.engine.averages import WeightAverage
from layoutner.engine.optimizers import norm, own_optimizer
from layoutner.engine.partitions import Partitions, shape_of
from layoutner.engine.statistics import GradientStatistics
from layoutner.errors import SettingsError, TrainingDiverged, first_line
from layoutner.models.parameters import DTYPES, decay_groups
from layoutner.planning.optimizers import AVERAGE, OPTIMIZERS
from layoutner.settings.optimizer import OptimizerSettings

# Collectives of DeepSpeed's backend that training calls.
COLLECTIVES = (
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_reduce",
    "all_reduce_coalesced",
    "barrier",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
)


@dataclass(frozen=True)
class Step:
    """What happened in one optimizer step."""

    applied: bool  # False if fp16 overflowed and the update was skipped
    lr: float  # learning rate applied
    grad_norm: float  # 2-norm of the gradient of the global batch, before clipping, without loss scale; inf on overflow
    loss_scale: float  # scale that the step was computed with; 1 without fp16
    statistics: dict[str, float]  # see engine/statistics.py; empty unless they were asked for


def require_dtype(dtype: str) -> None:
    """Refuse a dtype that the device does not support.

    Raises:
        SettingsError: fp16 or bf16 on a device that does not support it.
    """
    accelerator = get_accelerator()
    if DTYPES[dtype] not in accelerator.supported_dtypes():
        have = [name for name, kind in DTYPES.items() if kind in accelerator.supported_dtypes()]
        raise SettingsError(
            f"precision.dtype = {dtype}: this device ({accelerator.device_name()}) has no {dtype}; "
            f"it has {', '.join(have)}"
        )


class Engine:
    """The model on all ranks, with its optimizer and learning rate schedule. All ranks must call every method."""

    clock: Clock  # of this rank; the engine enters its collectives, the training loop everything else
    statistics: GradientStatistics

    def __init__(self, model: nn.Module, config: dict[str, Any], optimizer: OptimizerSettings, ranks: Ranks) -> None:
        """Create DeepSpeed's engine around the model.

        Args:
            model: in fp32, the same on every rank; parameters without a gradient must have requires_grad = False.
            config: a DeepSpeed config from `planning.render`.
            optimizer: the settings that it was rendered from.

        Raises:
            SettingsError: DeepSpeed rejects the config.
        """
        if ranks.device.type == "cpu":
            # Do not build this op: an all-reduce for inference that training never calls. It needs a compiler and a
            # minute.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        row = OPTIMIZERS[optimizer.name]
        groups = decay_groups(model, optimizer.weight_decay, optimizer.layer_decay, row.matrices is not None)
        # Learning rate 0 until the schedule sets one, so that DeepSpeed's step at creation changes no weight.
        groups = [{**group, "lr": 0.0, "state": row.state_of(group)} for group in groups]
        state = {id(one): group["state"] for group in groups for one in group["params"]}  # DeepSpeed changes the groups
        own = None if "optimizer" in config else own_optimizer(optimizer, groups)
        _forget_process_groups()
        deepspeed.utils.logger.addFilter(_is_news)
        try:
            self._engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, optimizer=own, config=config)
        except (ValidationError, DeepSpeedConfigError) as error:
            raise SettingsError(f"DeepSpeed rejects the config, so the preset is wrong: {error}") from None
        finally:
            deepspeed.utils.logger.removeFilter(_is_news)
        self.clock = Clock(ranks.device)
        _time_collectives(self.clock)
        self._stage: int = config["zero_optimization"]["stage"]
        self._fp16: bool = self._engine.fp16_enabled()
        self._forget_building_step()
        decay = optimizer.average_decay
        self._partitions = Partitions(self._engine, self._stage, state, averages=decay > 0)
        self._average = WeightAverage(self._partitions, decay) if decay else None
        self._own_scaler: Any = None
        if self._fp16:
            self._take_over_loss_scale()
        reduce = partial(self._all_reduce, ranks)
        if own is not None:
            own.bind(self._partitions.placements(reduce))
        inner = self._engine.basic_optimizer
        self.statistics = GradientStatistics(self.module, inner, self._partitions, reduce, ranks)

    def _all_reduce(self, ranks: Ranks, tensor: torch.Tensor) -> None:
        with self.clock.part("communication"):
            ranks.all_reduce_tensor(tensor)

    def _forget_building_step(self) -> None:
        for state in self._engine.basic_optimizer.state.values():
            if "step" in state:
                state["step"] = torch.zeros_like(state["step"]) if torch.is_tensor(state["step"]) else 0
        for group in self._engine.basic_optimizer.param_groups:
            if "step" in group:
                group["step"] = 0

    def _take_over_loss_scale(self) -> None:
        """Disable DeepSpeed's update of the loss scale: `step` updates it after the gradient was divided by it."""
        self._engine.optimizer._update_scale = lambda overflow: None
        if self._stage == 0:
            # Use the loss scaler of stages 1 to 3, so that all settings of [precision] have the same effect at stage 0.
            self._own_scaler = CreateLossScaler(
                torch.float16,
                self._engine.loss_scale(),
                self._engine.dynamic_loss_scale(),
                self._engine.dynamic_loss_scale_args(),
            )
            self._engine.optimizer.loss_scale_config.cur_scale = self._own_scaler.cur_scale

    @property
    def _scaler(self) -> Any:
        return self._own_scaler if self._stage == 0 else self._engine.optimizer.loss_scaler

    @property
    def module(self) -> nn.Module:
        """The model. At ZeRO 3 its parameters are empty between forward passes."""
        module: nn.Module = self._engine.module
        return module

    @property
    def loss_scale(self) -> float:
        """The fp16 loss scale of the next step; 1 without fp16."""
        return float(self._scaler.cur_scale) if self._fp16 else 1.0

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps skipped because fp16 overflowed."""
        return int(self._engine.skipped_steps)

    def train(self) -> None:
        """Set training mode, with dropout."""
        self._engine.train()

    def eval(self) -> None:
        """Set evaluation mode, without dropout."""
        self._engine.eval()

    def forward(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Logits, B x T x L. At ZeRO 3 all ranks must call it the same number of times.

        Args:
            inputs: from `Collator.collate`, on any device.
        """
        logits: torch.Tensor = self._engine(**to_device(inputs, self._engine.device)).logits
        return logits

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Accumulate the gradient of `loss`.

        Args:
            loss: this micro-batch's part of the global loss, times the number of ranks (see objectives/loss.py).
            last: whether this is the last micro-batch of the step, after which gradients are averaged over ranks.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        if self._own_scaler is not None:
            loss = loss * self._own_scaler.cur_scale
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float, position: int) -> Step:
        """Update the weights with the averaged gradient.

        Args:
            lr: learning rate of this step, if no scheduler of DeepSpeed computes it.
            position: otherwise the scheduler's `last_batch_iteration` for this step. It is set explicitly, so that the
                learning rate of a step does not depend on skipped steps or restarts.
        """
        groups = self._engine.optimizer.param_groups
        if self._engine.lr_scheduler is not None:
            self._engine.lr_scheduler.step(position)
            lr = float(groups[0]["lr"])
        for group in groups:
            group["lr"] = lr * group["lr_scale"]
        loss_scale = self.loss_scale
        grad_norm = self._local_grad_norm() / loss_scale if self._stage == 0 else None
        self._engine.step()
        applied = self._engine.was_step_applied()
        if applied and self._average is not None:
            self._average.update()
        if grad_norm is None:
            grad_norm = float(self._engine.get_global_grad_norm())
        if self._fp16:
            try:
                self._scaler.update_scale(not applied)
            except Exception as error:  # DeepSpeed raises a bare Exception at the minimum scale, on all ranks
                raise TrainingDiverged(
                    f"fp16 overflows although the loss scale is at its minimum of {loss_scale:g}: use "
                    f"precision.dtype = bf16, or try a lower optimizer.lr or more warm-up ({first_line(error)})"
                ) from None
            if self._own_scaler is not None:
                self._engine.optimizer.loss_scale_config.cur_scale = self._own_scaler.cur_scale
        statistics = self.statistics.end(applied, grad_norm, loss_scale)
        return Step(applied, lr, grad_norm if applied else float("inf"), loss_scale, statistics)

    def _local_grad_norm(self) -> float:
        """2-norm of the full gradient. At ZeRO 0 every rank has it after the last backward."""
        norms = [norm(parameter.grad) for parameter in self.module.parameters() if parameter.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model has the averaged weights, in their training dtype, if an average is kept.

        Afterwards it has the weights that are trained again, bit for bit. Inside, do not train, save or restore.
        """
        return contextlib.nullcontext() if self._average is None else self._partitions.shown(AVERAGE)

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights in their training dtype, on the CPU of rank 0; empty on other ranks.

        If an average is kept, these are the averaged weights.
        """
        module = self.module
        main = self._engine.global_rank == 0
        collected = {}
        with self.averaged():
            for name, parameter in module.named_parameters():
                with deepspeed.zero.GatheredParameters(parameter, enabled=self._stage == 3):
                    if main:
                        collected[name] = parameter.detach().cpu().contiguous().clone()
        if main:
            persistent = module.state_dict().keys()
            collected |= {n: b.detach().cpu().clone() for n, b in module.named_buffers() if n in persistent}
        return collected

    def counters(self) -> dict[str, Any]:
        """State besides weights and moments: of optimizer, loss scaler and statistics, as JSON-compatible numbers."""
        steps = [float(state["step"]) for state in self._engine.basic_optimizer.state.values() if "step" in state]
        scaler = vars(self._scaler) if self._fp16 else {}
        return {
            "updates": int(max(steps, default=0)),  # for the bias correction; skipped steps are not counted
            "skipped_steps": self.skipped_steps,
            "loss_scaler": {name: value for name, value in scaler.items() if isinstance(value, int | float)},
            "gradient_noise": self.statistics.averages,
        }

    def moments(self) -> dict[str, torch.Tensor]:
        """The full optimizer state per parameter, in fp32 on the CPU of rank 0; empty on other ranks.

        Names are KIND/PARAMETER. The kinds are "master", the fp32 weights, and those of the optimizer: AdamW and LAMB
        have "exp_avg" and "exp_avg_sq", the averages of the gradient and of its square (planning/optimizers.py). With
        optimizer.average_decay there is also "average", that of the fp32 weights. The tensors are not partitioned, so a
        run with another number of ranks or another ZeRO stage can resume from them.
        """
        self._partitions.fill()
        main = self._engine.global_rank == 0
        collected = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                for kind in self._partitions.kinds(parameter):
                    whole = self._partitions.whole(parameter, kind)
                    if main:
                        collected[f"{kind}/{name}"] = whole.detach().float().cpu().contiguous().clone()
        return collected

    @torch.no_grad()
    def restore(
        self,
        counters: dict[str, Any],
        read: Callable[[str, torch.Size], torch.Tensor],
        has_average: bool = True,
    ) -> None:
        """Load the results of `counters` and `moments`, for the current ranks and ZeRO stage.

        The weights must already have been loaded into the model that the engine was created with.

        Args:
            read: (name as in `moments`, shape) -> the full tensor in fp32. All ranks call it, in the same order.
            has_average: whether there is an average of the weights to read; otherwise it starts at the weights.
        """
        self._partitions.fill(counters["updates"])
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                kinds = self._partitions.kinds(parameter)
                for kind in (kind for kind in kinds if has_average or kind != AVERAGE):
                    self._partitions.set(parameter, kind, read(f"{kind}/{name}", shape_of(parameter)))
        if self._average is not None:
            self._average.updates = counters["updates"]
            if not has_average:
                self._average.start()
        self._engine.skipped_steps = counters["skipped_steps"]
        self.statistics.averages = counters.get("gradient_noise", self.statistics.averages)
        if self._fp16:
            vars(self._scaler).update(counters["loss_scaler"])
            if self._own_scaler is not None:
                self._engine.optimizer.loss_scale_config.cur_scale = self._own_scaler.cur_scale

    def close(self) -> None:
        """Release DeepSpeed's resources."""
        self._engine.destroy()


def _forget_process_groups() -> None:
    """Clear DeepSpeed's cached process groups: those of an earlier run in this process no longer exist."""
    comm.cdb = None
    for name, value in vars(groups).items():
        if isinstance(value, ProcessGroup):
            setattr(groups, name, None)


def _time_collectives(clock: Clock) -> None:
    """Let DeepSpeed's collectives, and the waiting for those that it starts early, count as communication."""

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any, **options: Any) -> Any:
            with clock.part("communication"):
                result = call(*arguments, **options)
            return _TimedWork(result, timed(result.wait)) if isinstance(result, Work) else result

        return inner

    for name in COLLECTIVES:
        setattr(comm.cdb, name, timed(getattr(comm.cdb, name)))


class _TimedWork:
    """A collective that DeepSpeed has started and will wait for."""

    def __init__(self, work: Work, wait: Callable[..., Any]) -> None:
        self._work, self.wait = work, wait

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _is_news(record: logging.LogRecord) -> bool:
    """Logging filter that drops two warnings of DeepSpeed at creation.

    One is of its scheduler, whose position `step` sets each time; the other of optimizers that it does not know, which
    are layoutner's own.
    """
    old = ("learning rate from scheduler before it has started", "using ZeRO with an untested optimizer")
    return not any(text in record.getMessage() for text in old)
