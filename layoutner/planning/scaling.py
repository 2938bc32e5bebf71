"""The optimizer's settings, scaled from the global batch that they were chosen for to that of the run."""

import math

from layoutner.errors import SettingsError
from layoutner.planning.optimizers import OPTIMIZERS
from layoutner.planning.ramp import Ramp
from layoutner.settings.optimizer import AdamW, Lamb, OptimizerSettings
from layoutner.settings.tree import Settings


def scaled_lr(settings: Settings, global_batch_size: int) -> float:
    """Peak learning rate of steps of this many windows, by optimizer.scale_lr.

    With k = global batch / batch.reference_batch_size: linear = k lr (arXiv:1706.02677), sqrt = sqrt(k) lr.
    """
    optimizer, reference = settings.optimizer, settings.batch.reference_batch_size
    if optimizer.scale_lr == "none":
        return optimizer.lr
    assert reference is not None, "scaled_optimizer refuses it"
    k = global_batch_size / reference
    return optimizer.lr * (k if optimizer.scale_lr == "linear" else math.sqrt(k))


def lr_follows_ramp(settings: Settings) -> bool:
    """Whether the peak learning rate changes during the run, with its global batch."""
    return _ramp(settings).changes and settings.optimizer.scale_lr != "none"


def _ramp(settings: Settings) -> Ramp:
    return Ramp.of(settings.batch.global_batch_size, settings.batch.ramp)


def scaled_optimizer(settings: Settings) -> OptimizerSettings:
    """[optimizer] as the run uses it, with k = batch.global_batch_size / batch.reference_batch_size.

    The learning rate is that of `scaled_lr`; with batch.ramp, of its last phase. The betas: sde = 1 - k (1 - beta) for
    both, with eps / sqrt(k) (arXiv:2205.10287, which goes with sqrt); half-life = beta2^k, which keeps the number of
    windows after which a gradient has half its weight in the second moment (arXiv:2507.07101).

    Raises:
        SettingsError: a rule without a reference batch, or the reverse; a rule for betas, and a ramp; betas that sde
            makes negative.
    """
    optimizer, reference = settings.optimizer, settings.batch.reference_batch_size
    betas_rule = optimizer.scale_betas if isinstance(optimizer, AdamW | Lamb) else "none"
    if (optimizer.scale_lr, betas_rule) == ("none", "none"):
        if reference is not None:
            raise SettingsError(
                f"batch.reference_batch_size = {reference}, but nothing is scaled: give optimizer.scale_lr or "
                "optimizer.scale_betas, or remove it"
            )
        return optimizer
    if reference is None:
        raise SettingsError(
            f"optimizer.scale_lr = {optimizer.scale_lr}, scale_betas = {betas_rule}: scaled from which batch? Give "
            "batch.reference_batch_size, the global batch that optimizer.lr was chosen for"
        )
    if betas_rule != "none" and _ramp(settings).changes:
        raise SettingsError(
            f"optimizer.scale_betas = {betas_rule}, and batch.ramp changes the global batch during the run, but the "
            "betas of an optimizer are set once: use scale_betas = none with betas for the whole run, or no ramp"
        )
    k = settings.batch.global_batch_size / reference
    changed: dict[str, object] = {"lr": scaled_lr(settings, settings.batch.global_batch_size)}
    if isinstance(optimizer, AdamW | Lamb):
        first, second = optimizer.betas
        if betas_rule == "half-life":
            changed["betas"] = (first, second**k)
        elif betas_rule == "sde":
            if optimizer.scale_lr == "linear":
                raise SettingsError(
                    "optimizer.scale_lr = linear, scale_betas = sde: the SDE rule goes with scale_lr = sqrt; use "
                    "that, or scale_betas = half-life or none"
                )
            betas = (1 - k * (1 - first), 1 - k * (1 - second))
            if min(betas) < 0:
                raise SettingsError(
                    f"optimizer.scale_betas = sde: {k:g} times the reference batch makes betas {betas[0]:g} and "
                    f"{betas[1]:g}, below 0: the rule does not reach so far; use half-life, or a smaller global batch"
                )
            changed |= {"betas": betas, "eps": optimizer.eps / math.sqrt(k)}
    return optimizer.model_copy(update=changed)


def unstable_lr_notes(settings: Settings, total: int) -> list[str]:
    """A warning if the peak learning rate of a run of `total` steps exceeds optimizer.largest_stable_lr."""
    limit = settings.optimizer.largest_stable_lr
    highest = max(scaled_lr(settings, phase.size) for phase in _ramp(settings).begun(total))
    if limit is None or highest <= limit:
        return []
    return [
        f"warning: the peak learning rate of {highest:g} is {highest / limit:.3g} times the largest that is known to "
        f"be stable (optimizer.largest_stable_lr = {limit:g}), so the run may collapse; use a smaller batch, or a "
        "lower optimizer.lr"
    ]


def describe(settings: Settings) -> str:
    """The optimizer of a run and what its numbers come from, for its log."""
    given, used = settings.optimizer, scaled_optimizer(settings)
    batches = f"{settings.batch.global_batch_size} / {settings.batch.reference_batch_size}"
    parts = [f"{used.name}, peak learning rate {used.lr:g}"]
    if given.scale_lr != "none":
        root, rates = "sqrt" if given.scale_lr == "sqrt" else "", []
        for phase in _ramp(settings).phases:
            after = f"after {phase.first} steps " if phase.first else ""
            rule = f"{given.lr:g} x {root}({phase.size} / {settings.batch.reference_batch_size})"
            rates.append(f"{after}{scaled_lr(settings, phase.size):g} = {rule}")
        parts = [f"{used.name}, peak learning rate {', '.join(rates)}"]
    if isinstance(given, AdamW | Lamb) and isinstance(used, AdamW | Lamb) and given.scale_betas != "none":
        parts.append(
            f"betas {used.betas[0]:g}, {used.betas[1]:g} and eps {used.eps:g} from {given.betas[0]:g}, "
            f"{given.betas[1]:g} and {given.eps:g} by the {given.scale_betas} rule for {batches}"
        )
    if used.layer_decay < 1:
        parts.append(f"the learning rate of each layer is {used.layer_decay:g} of that of the layer above")
    if used.average_decay:
        parts.append(
            f"the weights are averaged with decay {used.average_decay:g}, in 4 more bytes per parameter, and their "
            "average is scored and exported"
        )
    if OPTIMIZERS[used.name].deepspeed is None:
        parts.append("computed by layoutner, as an object that the DeepSpeed JSON cannot name")
    return "; ".join(parts)
