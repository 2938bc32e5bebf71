"""Where ZeRO keeps the fp32 weights of each parameter, and the state of its optimizer."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from torch import nn

from layoutner.engine.optimizers import Fragment, OwnOptimizer, Placement
from layoutner.planning.optimizers import AVERAGE

# Attributes of DeepSpeed's optimizers from ZeRO 1: this rank's slices of the flat fp32 weights, and the parameters in
# each. Of ZeRO 3, of ZeRO 1 and 2, and of ZeRO 1 in bf16.
FLAT = (
    ("fp32_partitioned_groups_flat", "fp16_groups"),
    ("single_partition_of_fp32_groups", "bit16_groups"),
    ("fp32_groups_flat_partition", "bf16_groups"),
)


class Partitions:
    """Reads and writes whole parameters, although a rank may hold only slices of them."""

    def __init__(self, engine: Any, stage: int, state: dict[int, tuple[str, ...]], averages: bool = False) -> None:
        """Look up the partitions of a DeepSpeed engine.

        Args:
            state: names of the optimizer's tensors of a parameter, by its id.
            averages: whether the state also holds an average of the weights, which the optimizer knows nothing of.
        """
        self._engine, self._stage, self._state, self._averages = engine, stage, state, averages
        # At ZeRO 0 in bf16 or fp16: id of a parameter -> the parameter and its fp32 copy.
        halves, wholes = (getattr(engine.optimizer, f"{name}_groups", ()) for name in ("fp16", "fp32"))
        self._masters = (
            {
                id(half): (half, whole)
                for one, other in zip(halves, wholes, strict=True)
                for half, whole in zip(one, other, strict=True)
            }
            if stage == 0
            else {}
        )

    def kinds(self, parameter: nn.Parameter) -> tuple[str, ...]:
        """What there is of a parameter: "master", its fp32 weights, and the tensors of its optimizer state."""
        return "master", *self._state[id(parameter)], *((AVERAGE,) if self._averages else ())

    def _tensors(self) -> list[tuple[torch.Tensor, list[Any]]]:
        """The tensors that the optimizer updates, in fp32, and the parameters in each.

        From ZeRO 1 they are this rank's slices of flat tensors; at ZeRO 0 parameters, or their fp32 copies.
        """
        optimizer = self._engine.optimizer
        for masters, parameters in FLAT:
            if hasattr(optimizer, masters):
                return list(zip(getattr(optimizer, masters), getattr(optimizer, parameters), strict=True))
        groups = self._engine.basic_optimizer.param_groups
        halves = {id(whole): half for half, whole in self._masters.values()}
        return [(one, [halves.get(id(one), one)]) for group in groups for one in group["params"] if one.requires_grad]

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
            fragments, start, shapes = [], 0, tuple(map(shape_of, parameters))
            for number, parameter in enumerate(parameters):
                if self._stage == 3:
                    # Slices of the parameters lie end to end. On the last ranks they end in padding, or are padding.
                    before, size = self._slice(parameter)
                    fragments.append(Fragment(number, start, max(0, min(size, parameter.ds_numel - before)), before))
                    start += size
                elif parameter._hp_mapping is not None:  # otherwise this rank holds nothing of it
                    address = parameter._hp_mapping.get_hp_fragment_address()
                    before = parameter._hp_mapping.lp_fragment_address.start
                    fragments.append(Fragment(number, address.start, address.numel, before))
            held = tuple(fragment for fragment in fragments if fragment.size)
            placements[id(tensor)] = Placement(shapes, held, reduce, self._engine.device)
        return placements

    def names(self) -> dict[int, list[str]]:
        """Names of the parameters in each tensor of the optimizer, by its id, in the order of `placements`."""
        names = {id(one): name for name, one in self._engine.module.named_parameters()}
        return {id(tensor): [names[id(one)] for one in parameters] for tensor, parameters in self._tensors()}

    def fill(self, updates: int | None = None) -> None:
        """Create the optimizer state that the first step would create, and set its step count to `updates`."""
        optimizer, inner = self._engine.optimizer, self._engine.basic_optimizer
        for tensor, parameters in self._tensors():
            # A tensor holds parameters of one group.
            state, names = inner.state[tensor], self._state[id(parameters[0])]
            if names[0] not in state:
                if isinstance(inner, OwnOptimizer):
                    state.update(inner.new_state(tensor, names))
                else:
                    state["step"] = torch.zeros((), device=tensor.device)
                    state.update({kind: torch.zeros_like(tensor) for kind in names})
            if self._averages and AVERAGE not in state:
                state[AVERAGE] = tensor.detach().clone()
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
            _, master = self._masters.get(id(parameter), (parameter, parameter))
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

    def averages(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The average of each tensor that the optimizer updates, and the tensor itself."""
        state = self._engine.basic_optimizer.state
        return [(state[tensor][AVERAGE], tensor) for tensor, _ in self._tensors()]

    @contextmanager
    def shown(self, kind: str) -> Iterator[None]:
        """Put a tensor of the optimizer's state in the place of the weights that the network computes with.

        Afterwards the network has its weights again, bit for bit. They are copied to the host meanwhile, not cast from
        the fp32 weights: DeepSpeed may keep both in one tensor. All ranks call it. After an error nothing is put back,
        as that takes all ranks.
        """
        trained = [parameter for parameter in self._engine.module.parameters() if parameter.requires_grad]
        kept = [self._computed_with(parameter).to("cpu", copy=True) for parameter in trained]
        if self._stage == 3:
            self._compute_with(trained, (self._engine.optimizer.get_local_fp32_param(one, kind) for one in trained))
        else:
            self._compute_with(trained, (self.whole(one, kind) for one in trained))
        yield
        self._compute_with(trained, kept)

    def _computed_with(self, parameter: Any) -> torch.Tensor:
        """What the network computes with: a parameter, or at ZeRO 3 this rank's slice, from which it is gathered."""
        tensor = parameter.ds_tensor if self._stage == 3 else parameter
        return tensor.detach()  # type: ignore[no-any-return]

    def _compute_with(self, parameters: list[nn.Parameter], tensors: Iterable[torch.Tensor]) -> None:
        """Write what the network computes with, as DeepSpeed's optimizers do after an update."""
        optimizer = self._engine.optimizer
        if self._stage == 3:
            optimizer._partition_all_parameters()  # drops the parameters that have been gathered
        for parameter, tensor in zip(parameters, tensors, strict=True):
            self._computed_with(parameter).copy_(tensor)
        if self._stage == 3:
            optimizer.invalidate_secondary_tensor()  # copies within a machine (zero_hpz_partition_size)
            # Small parameters stay gathered between steps.
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def shape_of(parameter: Any) -> torch.Size:
    """The whole shape of a parameter, which at ZeRO 3 is empty between forward passes."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape
