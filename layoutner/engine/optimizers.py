"""layoutner's own optimizers: LAMB, LARS and Muon, which are exact at every ZeRO stage, and Lion.

From ZeRO 1, a rank has a slice of a flat tensor, in which parameters lie end to end. It holds some of them whole, some
in part and some not at all. `bind` tells the optimizer which parameter lies where.

LAMB and LARS need norms of whole parameters. Every rank sums its squares per parameter, and one all_reduce per flat
tensor adds the sums up. Muon needs whole matrices. One all_reduce per matrix puts the parts together. Padding between
and after parameters is left out: at ZeRO 3 it is uninitialised memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from layoutner.settings.optimizer import Lamb, Lars, Lion, Muon, OptimizerSettings

State = dict[str, Any]
S = TypeVar("S", bound=OptimizerSettings)

ROW = 4096  # elements whose squares are summed in fp32 on a CPU, before float64

# Newton and Schulz's iteration as Muon's author tuned it: number of iterations, and coefficients of x, x^3 and x^5.
ITERATIONS, QUINTIC = 5, (3.4445, -4.7750, 2.0315)
MATCHED_RMS = 0.2  # root mean square of AdamW's updates (arXiv:2502.16982, section 2.2)


@dataclass(frozen=True)
class Fragment:
    """The part of a parameter that lies in this rank's slice of a flat tensor."""

    parameter: int  # its number among the parameters of the flat tensor, on all ranks
    start: int  # first element in the slice
    size: int  # elements
    offset: int  # first element in the parameter


@dataclass(frozen=True)
class Placement:
    """Which parameters lie where in a tensor of the optimizer."""

    shapes: tuple[torch.Size, ...]  # of all parameters of the whole flat tensor, the same on all ranks
    fragments: tuple[Fragment, ...]
    reduce: Callable[[Tensor], None] | None  # adds up a tensor over all ranks, in place; None: it is whole
    device: torch.device  # of the rank; with CPU offload, the tensor is on another

    @classmethod
    def whole(cls, tensor: Tensor) -> "Placement":
        """The placement of a tensor that is one whole parameter."""
        return cls((tensor.shape,), (Fragment(0, 0, tensor.numel(), 0),), None, tensor.device)


class OwnOptimizer(torch.optim.Optimizer, Generic[S]):
    """Base of the optimizers. Until `bind` has been called, `step` only creates the state."""

    def __init__(self, groups: list[dict[str, Any]], settings: S) -> None:
        super().__init__(groups, {"lr": 0.0})
        self._settings = settings
        self._placements: Mapping[int, Placement] | None = None  # by id of the tensor

    def bind(self, placements: Mapping[int, Placement]) -> None:
        """Tell the optimizer where the parameters lie, by id of its tensors."""
        self._placements = placements

    @staticmethod
    def new_state(tensor: Tensor, names: tuple[str, ...]) -> State:
        """The state of a tensor before its first step."""
        return {"step": 0, **{name: torch.zeros_like(tensor) for name in names}}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure that is called
        """Update every tensor that has a gradient. All ranks call it."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                state = self.state[tensor]
                if not state:
                    state.update(self.new_state(tensor, group["state"]))
                if self._placements is not None:
                    state["step"] += 1
                    self._update(tensor, tensor.grad, state, group, self._placements[id(tensor)])

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        raise NotImplementedError


class LambOptimizer(OwnOptimizer[Lamb]):
    """LAMB (arXiv:1904.00962, algorithm 2), with bias correction and without limits unless they are set."""

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        settings = self._settings
        update = adam(state, grad, settings.betas, settings.eps).add_(weights, alpha=group["weight_decay"])
        if group["has_trust_ratio"] or settings.variant == "nvlamb":
            of_weights, of_update = norms(placement, weights, update)
            ratios = (of_weights / of_update).clamp(settings.min_trust_ratio, settings.max_trust_ratio)
            scale(placement, update, torch.where((of_weights > 0) & (of_update > 0), ratios, 1.0))
        weights.add_(update, alpha=-group["lr"])


class LarsOptimizer(OwnOptimizer[Lars]):
    """LARS (arXiv:1708.03888, algorithm 1): momentum of learning rate x trust ratio x (gradient + decay x weights)."""

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        settings, decay = self._settings, group["weight_decay"]
        update = grad.add(weights, alpha=decay).mul_(group["lr"])
        if group["has_trust_ratio"]:
            of_weights, of_grad = norms(placement, weights, grad)
            ratios = settings.trust_coefficient * of_weights / (of_grad + decay * of_weights)
            scale(placement, update, torch.where((of_weights > 0) & (of_grad > 0), ratios, 1.0))
        weights.sub_(state["momentum_buffer"].mul_(settings.momentum).add_(update))


class LionOptimizer(OwnOptimizer[Lion]):
    """Lion (arXiv:2302.06675, algorithm 2). It is elementwise, so it does not need to know where parameters lie."""

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        first, second = self._settings.betas
        update = state["exp_avg"].lerp(grad, 1 - first).sign_()
        weights.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
        state["exp_avg"].lerp_(grad, 1 - second)


class MuonOptimizer(OwnOptimizer[Muon]):
    """Muon for the matrices of the layers (arXiv:2502.16982, algorithm 1, with Nesterov's momentum), else AdamW."""

    def _update(self, weights: Tensor, grad: Tensor, state: State, group: dict[str, Any], placement: Placement) -> None:
        settings = self._settings
        if group["is_matrix"]:
            state["momentum_buffer"].mul_(settings.momentum).add_(grad)
            update = grad.add(state["momentum_buffer"], alpha=settings.momentum)
            replace_by_orthogonal(placement, update)
        else:
            update = adam(state, grad, settings.betas, settings.eps)
        weights.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def adam(state: State, grad: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """Adam's update with bias correction (arXiv:1412.6980, algorithm 1), before the learning rate and weight decay."""
    first, second = betas
    state["exp_avg"].lerp_(grad, 1 - first)
    state["exp_avg_sq"].mul_(second).addcmul_(grad, grad, value=1 - second)
    update: Tensor = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt_().add_(eps)
    torch.div(state["exp_avg"], update, out=update)
    return update.div_(1 - first ** state["step"])


def norm(tensor: Tensor) -> Tensor:
    """2-norm of a tensor. On a CPU, torch sums a long one from end to end: fp32 loses digits, float64 takes long."""
    if tensor.device.type != "cpu":
        return torch.linalg.vector_norm(tensor, dtype=torch.float32)  # type: ignore[no-any-return]
    flat = tensor.flatten()
    rest = flat.numel() % ROW
    rows = flat[: flat.numel() - rest].view(-1, ROW)
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).double()
    tail = torch.linalg.vector_norm(flat[flat.numel() - rest :], dtype=torch.float64)
    return torch.linalg.vector_norm(torch.cat([norms, tail[None]]))  # type: ignore[no-any-return]


def norms(placement: Placement, *tensors: Tensor) -> Tensor:
    """2-norms of whole parameters, one row per tensor, in float64. All ranks call it if the placement has `reduce`."""
    squares = torch.zeros(len(tensors), len(placement.shapes), dtype=torch.float64, device=tensors[0].device)
    for row, tensor in enumerate(tensors):
        flat = tensor.view(-1)
        for part in placement.fragments:
            squares[row, part.parameter] += norm(flat.narrow(0, part.start, part.size)).double().square()
    if placement.reduce is not None:
        placement.reduce(squares)
    return squares.sqrt_()


def scale(placement: Placement, tensor: Tensor, factors: Tensor) -> None:
    """Multiply every parameter's part of a tensor by the factor of the parameter, in place."""
    flat, factors = tensor.view(-1), factors.to(tensor.dtype)
    for part in placement.fragments:
        flat.narrow(0, part.start, part.size).mul_(factors[part.parameter])


def replace_by_orthogonal(placement: Placement, tensor: Tensor) -> None:
    """Replace every parameter's part of a tensor by that of the `orthogonal` matrix, in place.

    All ranks call it if the placement has `reduce`. The sums are exact, as all but one of their terms are 0. So every
    rank computes the same matrices, whatever the ZeRO stage.
    """
    flat = tensor.view(-1)
    for number, shape in enumerate(placement.shapes):
        parts = [part for part in placement.fragments if part.parameter == number]
        whole = torch.zeros(shape.numel(), dtype=flat.dtype, device=placement.device)
        for part in parts:
            whole.narrow(0, part.offset, part.size).copy_(flat.narrow(0, part.start, part.size))
        if placement.reduce is not None:
            placement.reduce(whole)
        if parts:
            whole = orthogonal(whole.view(shape)).view(-1)
        for part in parts:
            flat.narrow(0, part.start, part.size).copy_(whole.narrow(0, part.offset, part.size))


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T, times MATCHED_RMS x sqrt(its longer side), so that AdamW's learning rate fits.

    The singular values of the result, before this factor, lie between about 0.7 and 1.2. In bf16 on a GPU, else in
    fp32. The result is contiguous and in the dtype of the matrix.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    turned = matrix.mT if tall else matrix
    found = turned / (torch.linalg.vector_norm(turned) + 1e-7)
    found = found.to(torch.bfloat16) if matrix.is_cuda else found
    first, third, fifth = QUINTIC
    for _ in range(ITERATIONS):
        square = found @ found.mT
        found = first * found + (third * square + fifth * square @ square) @ found
    scaled: Tensor = found.to(matrix.dtype) * (MATCHED_RMS * max(matrix.shape) ** 0.5)
    return (scaled.mT if tall else scaled).contiguous()


def own_optimizer(settings: OptimizerSettings, groups: list[dict[str, Any]]) -> OwnOptimizer[Any]:
    """The optimizer of these settings, for groups from `models.parameters.decay_groups` that also have their `state`.

    A group's `state` are the names of the tensors that it keeps per parameter (planning/optimizers.py).
    """
    match settings:
        case Lamb():
            return LambOptimizer(groups, settings)
        case Lars():
            return LarsOptimizer(groups, settings)
        case Lion():
            return LionOptimizer(groups, settings)
        case Muon():
            return MuonOptimizer(groups, settings)
        case _:
            raise AssertionError(f"{settings.name}: DeepSpeed builds it")
