"""Where ZeRO keeps the fp32 weights of each parameter, and the state of its optimizer."""

from collections.abc import Callable
from typing import Any

import deepspeed
import torch
from torch import nn

from layoutner.engine.optimizers import Fragment, OwnOptimizer, Placement

# Attributes of DeepSpeed's optimizers from ZeRO 1: this rank's slices of the flat fp32 weights, and the parameters in
# each. Of ZeRO 3, of ZeRO 1 and 2, and of ZeRO 1 in bf16.
FLAT = (
    ("fp32_partitioned_groups_flat", "fp16_groups"),
    ("single_partition_of_fp32_groups", "bit16_groups"),
    ("fp32_groups_flat_partition", "bf16_groups"),
)


class Partitions:
    """Reads and writes whole parameters, although a rank may hold only slices of them."""

    def __init__(self, engine: Any, stage: int, state: tuple[str, ...]) -> None:
        """Look up the partitions of a DeepSpeed engine.

        Args:
            state: names of the optimizer's tensors per parameter.
        """
        self.kinds = ("master", *state)  # master = the fp32 weights
        self._engine, self._stage, self._state = engine, stage, state
        # At ZeRO 0 in bf16 or fp16: parameter -> its fp32 copy.
        halves, wholes = (getattr(engine.optimizer, f"{name}_groups", ()) for name in ("fp16", "fp32"))
        self._masters = (
            {
                id(half): whole
                for one, other in zip(halves, wholes, strict=True)
                for half, whole in zip(one, other, strict=True)
            }
            if stage == 0
            else {}
        )

    def _tensors(self) -> list[tuple[torch.Tensor, list[Any]]]:
        """The tensors that the optimizer updates, in fp32, and the parameters in each.

        From ZeRO 1 they are this rank's slices of flat tensors; at ZeRO 0 parameters, or their fp32 copies.
        """
        optimizer = self._engine.optimizer
        for masters, parameters in FLAT:
            if hasattr(optimizer, masters):
                return list(zip(getattr(optimizer, masters), getattr(optimizer, parameters), strict=True))
        groups = self._engine.basic_optimizer.param_groups
        return [(one, [one]) for group in groups for one in group["params"] if one.requires_grad]

    def _slice(self, parameter: Any) -> tuple[int, int]:
        """First element and size, padding included, of this rank's slice of a parameter at ZeRO 3."""
        size = parameter.partition_numel()
        return size * self._engine.optimizer._get_param_partition_rank(parameter), size

    def placements(self, reduce: Callable[[torch.Tensor], None]) -> dict[int, Placement]:
        """Which parameters lie where in the tensors that the optimizer updates, by id of the tensor.

        Args:
            reduce: adds up a tensor over all ranks, in place.
        """
        placements = {}
        for tensor, parameters in self._tensors():
            if self._stage == 0:
                placements[id(tensor)] = Placement.whole(tensor)
                continue
            fragments, start = [], 0
            for number, parameter in enumerate(parameters):
                if self._stage == 3:
                    # Slices of the parameters lie end to end. On the last ranks they end in padding, or are padding.
                    before, size = self._slice(parameter)
                    fragments.append(Fragment(number, start, max(0, min(size, parameter.ds_numel - before))))
                    start += size
                elif parameter._hp_mapping is not None:  # otherwise this rank holds nothing of it
                    address = parameter._hp_mapping.get_hp_fragment_address()
                    fragments.append(Fragment(number, address.start, address.numel))
            held = tuple(fragment for fragment in fragments if fragment.size)
            placements[id(tensor)] = Placement(len(parameters), held, reduce)
        return placements

    def names(self) -> dict[int, list[str]]:
        """Names of the parameters in each tensor of the optimizer, by its id, in the order of `placements`."""
        names = {id(self._masters.get(id(one), one)): name for name, one in self._engine.module.named_parameters()}
        return {id(tensor): [names[id(one)] for one in parameters] for tensor, parameters in self._tensors()}

    def fill(self, updates: int | None = None) -> None:
        """Create the optimizer state that the first step would create, and set its step count to `updates`."""
        optimizer, inner = self._engine.optimizer, self._engine.basic_optimizer
        for tensor, _ in self._tensors():
            state = inner.state[tensor]
            if self._state[0] not in state:
                if isinstance(inner, OwnOptimizer):
                    state.update(inner.new_state(tensor))
                else:
                    state["step"] = torch.zeros((), device=tensor.device)
                    state.update({kind: torch.zeros_like(tensor) for kind in self._state})
            if updates is not None:
                is_tensor = torch.is_tensor(state["step"])
                state["step"] = torch.full_like(state["step"], float(updates)) if is_tensor else updates
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            # Link again: DeepSpeed links after its step on the first group, when the second group has no state yet.
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def whole(self, parameter: nn.Parameter, kind: str) -> torch.Tensor:
        """The fp32 weights of a parameter, or a tensor of its optimizer state, gathered from all ranks."""
        if self._stage == 0:
            master = self._masters.get(id(parameter), parameter)
            whole = master if kind == "master" else self._engine.basic_optimizer.state[master][kind]
        elif kind == "master":
            whole = deepspeed.utils.safe_get_full_fp32_param(parameter)
        else:
            whole = deepspeed.utils.safe_get_full_optimizer_state(parameter, kind)
        return whole  # type: ignore[no-any-return]

    def set(self, parameter: Any, kind: str, whole: torch.Tensor) -> None:
        """Set this rank's slice of a parameter's fp32 weights, or of a tensor of its optimizer state."""
        if self._stage == 0:
            self.whole(parameter, kind).copy_(whole)
        elif self._stage == 3:
            # DeepSpeed's setter for full tensors fails if the size is not divisible by the number of ranks. Set the
            # local partition instead.
            start, size = self._slice(parameter)
            part = torch.zeros(size, dtype=whole.dtype, device=whole.device)
            piece = whole.flatten()[start : start + size]
            part[: piece.numel()] = piece
            self._engine.optimizer.set_local_hp_param(part, parameter, None if kind == "master" else kind)
        elif kind == "master":
            deepspeed.utils.safe_set_full_fp32_param(parameter, whole)
        else:
            deepspeed.utils.safe_set_full_optimizer_state(parameter, whole, kind)


def shape_of(parameter: Any) -> torch.Size:
    """The whole shape of a parameter, which at ZeRO 3 is empty between forward passes."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape
