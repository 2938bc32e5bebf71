"""layoutner's own optimizers: LAMB and LARS, whose trust ratios are exact at every ZeRO stage, and Lion.

From ZeRO 1, a rank has a slice of a flat tensor, in which parameters lie end to end. It holds some of them whole, some
in part and some not at all. LAMB and LARS need norms of whole parameters. `bind` tells them which parameter lies where.
Every rank sums its squares per parameter, and one all_reduce per flat tensor adds the sums up. Padding between and
after parameters is left out: at ZeRO 3 it is uninitialised memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layoutner.settings.optimizer import Lamb, Lars, Lion, OptimizerSettings

State = dict[str, Any]

PIECE = 2**20  # elements that are converted to float64 at a time


@dataclass(frozen=True)
class Fragment:
    """The part of a parameter that lies in this rank's slice of a flat tensor."""

    parameter: int  # its number among the parameters of the flat tensor, on all ranks
    start: int  # first element in the slice
    size: int  # elements


@dataclass(frozen=True)
class Placement:
    """Which parameters lie where in a tensor of the optimizer."""

    parameters: int  # of the whole flat tensor, so that all ranks reduce sums of one length
    fragments: tuple[Fragment, ...]
    reduce: Callable[[Tensor], None] | None  # adds up a float64 tensor over all ranks, in place; None: it is whole

    @classmethod
    def whole(cls, tensor: Tensor) -> "Placement":
        """The placement of a tensor that is one whole parameter."""
        return cls(1, (Fragment(0, 0, tensor.numel()),), None)


class OwnOptimizer(torch.optim.Optimizer):
    """Base of the optimizers. Until `bind` has been called, `step` only creates the state."""

    def __init__(self, groups: list[dict[str, Any]], state: tuple[str, ...]) -> None:
        super().__init__(groups, {"lr": 0.0})
        self._tensors = state
        self._placements: Mapping[int, Placement] | None = None  # by id of the tensor

    def bind(self, placements: Mapping[int, Placement]) -> None:
        """Tell the optimizer where the parameters lie, by id of its tensors."""
        self._placements = placements

    def new_state(self, tensor: Tensor) -> State:
        """The state of a tensor before its first step."""
        return {"step": 0, **{name: torch.zeros_like(tensor) for name in self._tensors}}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure that is called
        """Update every tensor that has a gradient. All ranks call it."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                state = self.state[tensor]
                if not state:
                    state.update(self.new_state(tensor))
                if self._placements is not None:
                    state["step"] += 1
                    self._update(tensor, tensor.grad, state, group, self._placements[id(tensor)])

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        raise NotImplementedError


class LambOptimizer(OwnOptimizer):
    """LAMB (arXiv:1904.00962, algorithm 2), with bias correction and without limits unless they are set."""

    def __init__(self, groups: list[dict[str, Any]], state: tuple[str, ...], settings: Lamb) -> None:
        super().__init__(groups, state)
        self._settings = settings

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        settings = self._settings
        first, second = settings.betas
        state["exp_avg"].lerp_(grad, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(grad, grad, value=1 - second)
        update = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt_().add_(settings.eps)
        torch.div(state["exp_avg"], update, out=update)
        update.div_(1 - first ** state["step"]).add_(weights, alpha=group["weight_decay"])
        if group["has_trust_ratio"] or settings.variant == "nvlamb":
            of_weights, of_update = norms(placement, weights, update)
            ratios = (of_weights / of_update).clamp(settings.min_trust_ratio, settings.max_trust_ratio)
            scale(placement, update, torch.where((of_weights > 0) & (of_update > 0), ratios, 1.0))
        weights.add_(update, alpha=-group["lr"])


class LarsOptimizer(OwnOptimizer):
    """LARS (arXiv:1708.03888, algorithm 1): momentum of learning rate x trust ratio x (gradient + decay x weights)."""

    def __init__(self, groups: list[dict[str, Any]], state: tuple[str, ...], settings: Lars) -> None:
        super().__init__(groups, state)
        self._settings = settings

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        settings, decay = self._settings, group["weight_decay"]
        update = grad.add(weights, alpha=decay).mul_(group["lr"])
        if group["has_trust_ratio"]:
            of_weights, of_grad = norms(placement, weights, grad)
            ratios = settings.trust_coefficient * of_weights / (of_grad + decay * of_weights)
            scale(placement, update, torch.where((of_weights > 0) & (of_grad > 0), ratios, 1.0))
        weights.sub_(state["momentum_buffer"].mul_(settings.momentum).add_(update))


class LionOptimizer(OwnOptimizer):
    """Lion (arXiv:2302.06675, algorithm 2). It is elementwise, so it does not need to know where parameters lie."""

    def __init__(self, groups: list[dict[str, Any]], state: tuple[str, ...], settings: Lion) -> None:
        super().__init__(groups, state)
        self._settings = settings

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        first, second = self._settings.betas
        update = state["exp_avg"].lerp(grad, 1 - first).sign_()
        weights.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
        state["exp_avg"].lerp_(grad, 1 - second)


def norms(placement: Placement, *tensors: Tensor) -> Tensor:
    """2-norms of whole parameters, one row per tensor, in float64. All ranks call it if the placement has `reduce`."""
    squares = torch.zeros(len(tensors), placement.parameters, dtype=torch.float64, device=tensors[0].device)
    for row, tensor in enumerate(tensors):
        flat = tensor.view(-1)
        for part in placement.fragments:
            for piece in flat.narrow(0, part.start, part.size).split(PIECE):  # type: ignore[no-untyped-call]
                squares[row, part.parameter] += torch.linalg.vector_norm(piece, dtype=torch.float64).square()
    if placement.reduce is not None:
        placement.reduce(squares)
    return squares.sqrt_()


def scale(placement: Placement, tensor: Tensor, factors: Tensor) -> None:
    """Multiply every parameter's part of a tensor by the factor of the parameter, in place."""
    flat, factors = tensor.view(-1), factors.to(tensor.dtype)
    for part in placement.fragments:
        flat.narrow(0, part.start, part.size).mul_(factors[part.parameter])


def own_optimizer(settings: OptimizerSettings, groups: list[dict[str, Any]], state: tuple[str, ...]) -> OwnOptimizer:
    """The optimizer of these settings, for groups from `models.parameters.decay_groups`."""
    match settings:
        case Lamb():
            return LambOptimizer(groups, state, settings)
        case Lars():
            return LarsOptimizer(groups, state, settings)
        case Lion():
            return LionOptimizer(groups, state, settings)
        case _:
            raise AssertionError(f"{settings.name}: DeepSpeed builds it")
