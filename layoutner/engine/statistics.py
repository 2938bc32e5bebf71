"""Statistics of one step's gradient and update: how much of the gradient is noise, and how large both are by layer.

The gradient noise scale of arXiv:1812.06162, with the window as its unit, from micro-batches of unequal sizes. A step
takes N windows in M micro-batches of n_i windows, on all ranks together. g is its gradient, and g_i the mean gradient
of micro-batch i, so that g = sum (n_i/N) g_i. If the windows of each micro-batch are a random sample, whose gradients
have the mean G and a covariance of trace S, then E|g_i|^2 = |G|^2 + S/n_i and E|g|^2 = |G|^2 + S/N. So

    S     = (sum (n_i/N) |g_i|^2 - |g|^2) N / (M - 1)
    |G|^2 = |g|^2 - S/N

have no bias. With equal n_i these are the estimators of the paper. The noise scale is S / |G|^2, in windows. Both are
averaged over steps before they are divided: the mean of the ratios is another number.

`corpus.batches.deal_at_random` makes such micro-batches; those of `assign_to_ranks` are sorted by length.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from layoutner.distributed.ranks import Ranks
from layoutner.engine.optimizers import norm
from layoutner.engine.partitions import Partitions
from layoutner.models.parameters import HEAD, LAYER

MEMORY = 0.95  # weight of the earlier steps in the averages: about 20 measured steps count

GRADIENT, WEIGHTS, UPDATE = range(3)  # rows of the sums by layer


class GradientNoise(NamedTuple):
    """How much of the gradient of a step is noise."""

    window_variance: float  # S, the trace of the covariance of the windows' gradients
    squared_norm: float  # |G|^2, the squared norm of the mean gradient; at or below 0 if it is lost in the noise


def gradient_noise(windows: int, micro_batches: int, scattered: float, squared_norm: float) -> GradientNoise:
    """The noise in the gradient of a step.

    Args:
        windows: N.
        micro_batches: M, at least 2, without empty ones.
        scattered: sum of |c_i|^2 / n_i, with c_i = (n_i/N) g_i, what micro-batch i contributes to g.
        squared_norm: |g|^2.
    """
    variance = (windows * scattered - squared_norm) * windows / (micro_batches - 1)
    return GradientNoise(variance, squared_norm - variance / windows)


class GradientStatistics:
    """Measures the steps that `begin` announces; the others cost nothing. All ranks call every method."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        partitions: Partitions,
        reduce: Callable[[Tensor], None],
        ranks: Ranks,
    ) -> None:
        """Begin without averages.

        Args:
            optimizer: whose `step` updates the tensors of `partitions`, one after the other or all at once.
            reduce: adds up a tensor over all ranks, in place.
        """
        self.averages = [0.0, 0.0]  # exponential averages of S and |G|^2 over the measured steps
        self._module, self._optimizer, self._partitions = module, optimizer, partitions
        self._reduce, self._ranks = reduce, ranks
        self._hooks: list[Any] = []  # while a step is measured

    def begin(self) -> None:
        """Measure the step that begins."""
        trained = {name: one for name, one in self._module.named_parameters() if one.requires_grad}
        # Autograd calls a hook once per backward with the whole gradient, also of a parameter that is used twice.
        # From ZeRO 1 this is the only place where this rank's own gradient can be seen.
        self._hooks = [one.register_hook(self._see) for one in trained.values()]  # type: ignore[no-untyped-call]
        self._hooks.append(self._optimizer.register_step_pre_hook(self._before_update))
        self._hooks.append(self._optimizer.register_step_post_hook(self._after_update))
        self._norms: list[Tensor] = []  # of the micro-batch whose backward is under way, by parameter
        self._contributions: list[Tensor] = []  # squared norm / windows, by micro-batch
        self._windows = 0

        self._layers = list(dict.fromkeys(map(layer_of, trained)))
        self._placements = self._partitions.placements(self._reduce)
        # By id of the optimizer's tensor: the rows of the layers of its parameters.
        self._layers_of = {
            tensor: [self._layers.index(layer_of(name)) for name in names]
            for tensor, names in self._partitions.names().items()
        }
        self._old: list[tuple[Tensor, Tensor]] = []  # tensors that are being updated, and copies from before
        self._sums = torch.zeros(3, len(self._layers), dtype=torch.float64, device=self._ranks.device)

    def add(self, windows: int) -> None:
        """Count the micro-batch whose backward has ended.

        Args:
            windows: their number in it; an empty one is left out.
        """
        if self._hooks and windows:
            self._contributions.append(torch.stack(self._norms).double().square().sum() / windows)
            self._windows += windows
        if self._hooks:
            self._norms = []

    def end(self, applied: bool, grad_norm: float, loss_scale: float) -> dict[str, float]:
        """The statistics of the step, by name; empty if it is not measured, or was skipped.

        Args:
            applied: whether the update was applied.
            grad_norm: |g|, before clipping, without loss scale.
            loss_scale: that of the backward passes.
        """
        hooks, self._hooks = self._hooks, []
        for hook in hooks:
            hook.remove()
        if not (hooks and applied):
            return {}
        return self._by_layer(grad_norm) | self._noise(grad_norm, loss_scale)

    def _noise(self, grad_norm: float, loss_scale: float) -> dict[str, float]:
        own = torch.zeros(3, dtype=torch.float64, device=self._ranks.device)
        if self._contributions:
            own[0] = torch.stack(self._contributions).sum()
        own[1], own[2] = len(self._contributions), self._windows
        self._reduce(own)
        scattered, micro_batches, windows = own.tolist()
        if micro_batches < 2:
            return {}
        # The loss of a backward pass was multiplied by the loss scale, and by the number of ranks, whose mean is taken.
        scattered /= (loss_scale * self._ranks.size) ** 2
        found = gradient_noise(int(windows), int(micro_batches), scattered, grad_norm**2)
        self.averages = [MEMORY * old + (1 - MEMORY) * new for old, new in zip(self.averages, found, strict=True)]
        variance, squared_norm = self.averages
        scale = {"gradient/noise_scale_windows": variance / squared_norm} if squared_norm > 0 else {}
        return {f"gradient/{name}": value for name, value in found._asdict().items()} | scale

    def _by_layer(self, grad_norm: float) -> dict[str, float]:
        if any(placement.reduce is not None for placement in self._placements.values()):
            self._reduce(self._sums)
        norms = self._sums.sqrt()
        # The optimizer has seen the gradient after clipping, which multiplied all layers by one factor.
        clipped = max(float(torch.linalg.vector_norm(norms[GRADIENT])), sys.float_info.min)
        gradients = (norms[GRADIENT] * (grad_norm / clipped)).tolist()
        ratios = (norms[UPDATE] / norms[WEIGHTS]).tolist()
        return {f"gradient_norm/{layer}": norm for layer, norm in zip(self._layers, gradients, strict=True)} | {
            f"update_ratio/{layer}": ratio for layer, ratio in zip(self._layers, ratios, strict=True)
        }

    def _see(self, grad: Tensor) -> None:
        """Keep the norm of a parameter's gradient on its device, so that nothing waits for the device."""
        self._norms.append(norm(grad))

    def _before_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Sum up gradients and weights. DeepSpeed calls `step` once for all tensors, or once for each."""
        for tensor in (one for group in optimizer.param_groups for one in group["params"] if one.grad is not None):
            self._add_up(tensor, GRADIENT, tensor.grad)
            self._add_up(tensor, WEIGHTS, tensor)
            self._old.append((tensor, tensor.detach().clone()))

    @torch.no_grad()
    def _after_update(self, *_: Any) -> None:
        for tensor, old in self._old:
            self._add_up(tensor, UPDATE, old.sub_(tensor))
        self._old.clear()

    def _add_up(self, tensor: Tensor, row: int, values: Tensor) -> None:
        """Add this rank's squares of values of an optimizer's tensor to the sums of the layers."""
        layers, flat = self._layers_of[id(tensor)], values.detach().view(-1)
        for part in self._placements[id(tensor)].fragments:
            found = norm(flat.narrow(0, part.start, part.size))
            self._sums[row, layers[part.parameter]] += found.double().square()


def layer_of(name: str) -> str:
    """The layer of a parameter, by its name: "layer.3", "head", or "embeddings" for everything else."""
    if match := LAYER.search(f".{name}"):
        return f"layer.{match[1]}"
    return "head" if HEAD.search(name) else "embeddings"
