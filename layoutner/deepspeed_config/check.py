"""Any DeepSpeed JSON -> findings: keys and values (walk.py), then what the keys say of each other."""

import json
from collections.abc import Callable
from typing import Any

from layoutner.deepspeed_config.finding import ERROR, NOTE, WARNING, Finding
from layoutner.deepspeed_config.hints import optimizer_meant, removed_optimizer, scheduler_meant
from layoutner.deepspeed_config.hjson_source import Member, Node, read_source
from layoutner.deepspeed_config.notes.removed import REMOVED
from layoutner.deepspeed_config.notes.schedulers import NOT_FROM_JSON
from layoutner.deepspeed_config.schema import Schema
from layoutner.deepspeed_config.walk import Place, Walk

Rule = Callable[["Config"], None]


class Config:
    """A walked file: values by dotted path, with "auto" and what an error was found at read as absent."""

    def __init__(self, walk: Walk, root: Node, world_size: int | None) -> None:
        self.walk = walk
        self.schema = walk.schema
        self.root = root
        self.world_size = world_size

    def has(self, path: str) -> bool:
        """Whether the file says anything of the key."""
        return path in self.walk.places

    def get(self, path: str, default: Any = None) -> Any:
        """The value of a key; the default where it is absent, left to "auto", or wrong."""
        place = self.walk.places.get(path)
        return default if place is None or place.wrong or place.value == "auto" else place.value

    def number(self, path: str) -> float | None:
        """A number; None where it is absent, "auto" or no number."""
        value = self.get(path)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def is_auto(self, path: str) -> bool:
        """Whether the value is left to somebody else."""
        return self.has(path) and bool(self.walk.places[path].value == "auto")

    @property
    def stage(self) -> int | None:
        """ZeRO stage: 0 without one, None where it is left to somebody else or cannot be used."""
        if isinstance(self.get("zero_optimization"), bool):
            return int(self.get("zero_optimization"))  # the old way to write it
        stage = self.number("zero_optimization.stage")
        if stage is None:
            return None if self.has("zero_optimization.stage") else 0
        return int(stage)

    def node(self, path: str) -> Node | None:
        """The value of a key with its places."""
        found: Node | None = self.root
        for name in path.split("."):
            members: list[Member] = found.members or [] if found is not None else []
            found = next((member.node for member in members if member.key == name), None)
        return found

    def error(self, path: str, message: str, advice: str) -> None:
        """An error at a key."""
        self.walk.add(ERROR, path, message, advice)

    def warn(self, path: str, message: str, advice: str) -> None:
        """A warning at a key."""
        self.walk.add(WARNING, path, message, advice)


def check(
    text: str, world_size: int | None = None, framework: str | None = None, schema: Schema | None = None
) -> list[Finding]:
    """All findings of one DeepSpeed config, in the order of the file.

    Args:
        text: JSON or HJSON.
        world_size: number of ranks, where it is known.
        framework: "hf-trainer" or "accelerate" where one of them fills in "auto".
        schema: the keys of a DeepSpeed release; by default of the one that is installed.

    Raises:
        SourceError: the text is neither JSON nor HJSON, or not an object.
    """
    root = read_source(text)
    walk = Walk(framework, schema)
    if root.members is None:
        walk.findings.append(Finding(ERROR, "", 1, 1, "not an object", root.value(), "a config is { ... }"))
        return walk.findings
    walk.object(root, walk.schema.top)
    config = Config(walk, root, world_size)
    for rule in RULES:
        rule(config)
    start = Place(None, 1, 1)
    if not _is_json(text):
        walk.add(
            NOTE, "", "HJSON, not JSON (comments, commas or quotes)", "DeepSpeed reads it; other tools may not", start
        )
    if unknown := walk.schema.unknown_release:
        walk.add(NOTE, "", unknown, f"checked against DeepSpeed {walk.schema.release}", start)
    return sorted(walk.findings, key=lambda finding: (finding.line, finding.column))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _framework(config: Config) -> None:
    """What accelerate, and so the Trainer, refuses before DeepSpeed sees the config."""
    framework = config.walk.framework
    if framework is None:
        return
    if not config.has("zero_optimization"):
        message = f"no zero_optimization, without which {framework} refuses the config"
        config.error("", message, 'give zero_optimization, {"stage": 0} at least')
    elif isinstance(config.get("zero_optimization"), bool):
        stage = int(config.get("zero_optimization"))
        message = f"true or false is the old way to write it, which {framework} does not take"
        config.error("zero_optimization", message, f'write {{"stage": {stage}}}')
    if config.is_auto("zero_allow_untested_optimizer") and config.has("optimizer"):
        message = f'"auto", but {framework} fills it in only where the script makes the optimizer'
        config.error("zero_allow_untested_optimizer", message, "write the value")


def _batch(config: Config) -> None:
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    given = [name for name in names if config.has(name) and config.walk.places[name].value is not None]
    total, micro, steps = (config.number(name) for name in names)
    ranks, framework = config.world_size, config.walk.framework
    elasticity = config.get("elasticity")
    if isinstance(elasticity, dict) and elasticity.get("enabled"):
        return  # in a release that has it, it decides on all three
    if names[0] not in given and names[1] not in given:
        fills = f' ("auto" lets {framework} fill it in)' if framework else ""
        wanted = names[1] if framework == "accelerate" else f"{names[0]} or {names[1]}"
        config.error("", "no batch size", f"give {wanted}{fills}")
        return
    if framework == "accelerate" and config.is_auto(names[0]) and names[1] not in given:
        message = f'"auto", but accelerate fills it in only beside {names[1]}'
        config.error(names[0], message, f'give {names[1]}, which may be "auto" too')
    if any(config.is_auto(name) for name in names):
        return
    if framework and not config.has(names[2]):
        steps = 1  # written into the config by accelerate; DeepSpeed itself would work it out
    if total is None:
        return
    if micro is not None and steps is not None:
        at_once = int(micro * steps)
        formula = f"{total:g} = {micro:g} a GPU x {steps:g} accumulation x world size"
    elif micro is not None or steps is not None:
        at_once = int(micro or steps or 1)
        parts = f"{micro:g} a GPU x accumulation" if micro is not None else f"so many a GPU x {steps:g} accumulation"
        formula = f"{total:g} = {parts} x world size"
    else:
        at_once, formula = 1, f"{total:g} = so many a GPU x world size"
    if total % at_once:
        below, above = int(total // at_once * at_once), int(-(-total // at_once) * at_once)
        near = f"{below} or {above}" if below else str(above)
        config.error(names[0], f"no world size makes {formula}", f"{names[0]} = {near} would do")
        return
    quotient = int(total // at_once)
    exact = micro is not None and steps is not None
    fits = [quotient] if exact else [n for n in range(1, min(quotient, 10_000) + 1) if quotient % n == 0]
    worlds = ", ".join(map(str, fits[:12])) + (", ..." if len(fits) > 12 else "")
    if ranks is not None and (ranks != quotient if exact else quotient % ranks):
        config.error(names[0], f"{formula} does not hold on {ranks} rank(s)", f"world sizes that would do: {worlds}")
    elif ranks is None and exact and quotient > 1:
        config.walk.add(
            NOTE, names[0], f"{formula} holds on {quotient} ranks and no other number", "check --world-size N"
        )


def _precision(config: Config) -> None:
    bf16 = "bf16" if config.has("bf16") else "bfloat16"
    if config.get("fp16.enabled") is True and config.get(f"{bf16}.enabled") is True:
        config.error(f"{bf16}.enabled", "fp16 and bf16 are both enabled", "enable one of them")
    if config.has("bf16") and config.has("bfloat16"):
        config.warn("bfloat16", "ignored beside bf16", "take it out")
    scale = config.number("fp16.loss_scale")
    if scale:
        for name in (
            "initial_scale_power",
            "loss_scale_window",
            "hysteresis",
            "min_loss_scale",
            "consecutive_hysteresis",
        ):
            if config.has(f"fp16.{name}"):
                message = f"dead: the loss scale is fixed at {scale:g}"
                config.warn(f"fp16.{name}", message, "fp16.loss_scale = 0 makes it dynamic; else take this out")


def _wrapped(config: Config) -> bool:
    """Whether DeepSpeed wraps the optimizer in one of its own."""
    halves = ("fp16.enabled", "bf16.enabled", "bfloat16.enabled")
    return (config.stage or 0) > 0 or any(config.get(path) is True for path in halves)


def _type(config: Config, name: str) -> str:
    """The type of optimizer or scheduler; "" where the file gives none."""
    kind = config.get(f"{name}.type")
    if kind is None and config.has(name) and not config.has(f"{name}.type"):
        config.error(name, f"has no type, so DeepSpeed builds no {name}", f"give {name}.type")
    return kind if isinstance(kind, str) else ""


def _optimizer(config: Config) -> None:
    kind, path = _type(config, "optimizer"), "optimizer.type"
    if not kind:
        return
    # DeepSpeed's own are found in any case, torch's only as spelt.
    own = config.schema.deepspeed_types.get(kind.lower())
    torch_name = config.schema.torch_types.get(kind.lower())
    gone = removed_optimizer(kind)
    if gone is not None:
        release, advice = REMOVED[f"{path}.{gone}"]
        severity = ERROR if own is None else WARNING  # a release before that one has it still
        config.walk.add(severity, path, f"{kind} was removed in DeepSpeed {release}", advice)
        return
    if own is None and kind != torch_name:
        meant, advice = optimizer_meant(config.schema, kind)
        if _untested(config, meant):
            advice += "; with ZeRO, zero_allow_untested_optimizer = true too"
        unknown = "is no optimizer of DeepSpeed or torch.optim"
        found = f"is not found: torch spells it {torch_name!r}" if torch_name else unknown
        config.error(path, f"{kind!r} {found}", advice)
        return
    if own == "Lamb" and (config.stage or 0) > 0:
        message = f"LAMB at ZeRO {config.stage}: it needs the norm of whole layers, and ZeRO flattens them"
        advice = "zero_optimization.stage = 0, or AdamW"
        if config.get("zero_allow_untested_optimizer") is True:
            config.warn(path, message, advice)
        else:
            config.error(path, f"{message}; DeepSpeed refuses to start", advice)
    elif _untested(config, own or kind):
        message = f"{kind} is not tested with ZeRO: DeepSpeed refuses to start"
        config.error(path, message, "zero_allow_untested_optimizer = true, or AdamW")


def _untested(config: Config, kind: str) -> bool:
    """Whether ZeRO refuses this optimizer without zero_allow_untested_optimizer."""
    untested = kind in config.schema.torch_types.values() or kind in ("Lamb", "MuSGD")
    allowed = config.has("zero_allow_untested_optimizer") and config.get("zero_allow_untested_optimizer") is not False
    return untested and (config.stage or 0) > 0 and not allowed


def _scheduler(config: Config) -> None:
    kind = _type(config, "scheduler")
    if not kind:
        return
    if kind in NOT_FROM_JSON:
        config.error("scheduler.type", f"{kind} cannot be made from JSON: {NOT_FROM_JSON[kind]}", "take another")
        return
    if kind not in config.schema.schedulers:
        _, advice = scheduler_meant(config.schema, kind, _wrapped(config))
        message = f"{kind!r} is no scheduler of DeepSpeed or torch.optim.lr_scheduler"
        config.error("scheduler.type", message, advice)
        return
    if kind not in config.schema.deepspeed_schedulers and _wrapped(config):
        message = f"{kind} takes only an optimizer of PyTorch: it fails to start with ZeRO, fp16 or bf16"
        config.error("scheduler.type", message, scheduler_meant(config.schema, kind, wrapped=True)[1])
        return
    block = config.schema.schedulers[kind]
    if not config.has("scheduler.params"):
        wanted = ", ".join(name for name, key in block.keys.items() if key.required) or "{} at least"
        config.error("scheduler", "has no params, without which the engine fails to start", f"give params: {wanted}")
    if not kind.startswith("Warmup"):
        return
    path = "scheduler.params"
    lr, peak = config.number("optimizer.params.lr"), config.number(f"{path}.warmup_max_lr")
    if lr is not None and peak is not None and lr != peak:
        message = f"the peak is {peak:g}, and optimizer.params.lr = {lr:g} is never used"
        config.warn(f"{path}.warmup_max_lr", message, "make them equal")
    elif lr is not None and kind == "WarmupDecayLR" and not config.has(f"{path}.warmup_max_lr") and lr != 0.001:
        message = f"warmup_max_lr is not given: the peak is 0.001, and optimizer.params.lr = {lr:g} is never used"
        config.warn("scheduler", message, f"warmup_max_lr = {lr:g}")
    if not config.has(f"{path}.warmup_type") and "warmup_type" in block.keys and kind != "WarmupCosineLR":
        message = "warmup_type is not given: the warm-up is logarithmic, not linear"
        config.warn("scheduler", message, 'warmup_type = "linear" is what most recipes mean')
    warmup, total = config.number(f"{path}.warmup_num_steps"), config.number(f"{path}.total_num_steps")
    if warmup is not None and total is not None and warmup >= total:
        message = f"{warmup:g} steps of warm-up in a run of {total:g}: the peak is reached at its end or never"
        severity = ERROR if warmup > total else WARNING
        config.walk.add(severity, f"{path}.warmup_num_steps", message, "warm up for less than total_num_steps")


def _zero(config: Config) -> None:
    stage, path = config.stage, "zero_optimization"
    if not config.has(path) or stage is None:
        return
    needs = {"offload_param": 3, "offload_optimizer": 1, "zero_hpz_partition_size": 3, "zero_quantized_weights": 3}
    block = config.schema.top.keys[path].block
    for name in block.keys if block is not None else ():
        if name.startswith("stage3_") or name == "sub_group_size":
            needs[name] = 3
    for name, least in needs.items():
        value = config.get(f"{path}.{name}")
        off = isinstance(value, dict) and value.get("device") in (None, "none")
        if value is None or off or stage >= least:
            continue
        if name.startswith("offload"):
            advice = f"zero_optimization.stage = {least} or more" if least < 3 else "zero_optimization.stage = 3"
            config.warn(f"{path}.{name}", f"ignored at ZeRO {stage}: nothing is offloaded", advice)
        elif not name.startswith("zero_") or value not in (1, False):
            config.walk.add(NOTE, f"{path}.{name}", f"ignored at ZeRO {stage}", "it works at stage 3 alone")
    ratio = config.number(f"{path}.offload_optimizer.ratio")
    if ratio is not None and ratio < 1 and stage != 3:
        config.error(f"{path}.offload_optimizer.ratio", "a part can be offloaded at ZeRO 3 alone", "ratio = 1")
    if config.get(f"{path}.compute_grad_norm") is False and stage not in (1, 2):
        config.error(f"{path}.compute_grad_norm", f"cannot be false at ZeRO {stage}", "take it out")


def _allreduce(config: Config) -> None:
    if str(config.get("gradient_allreduce_op")).lower() != "sum":
        return
    refusing = {
        "at ZeRO 3": config.stage == 3,
        "with ZenFlow": config.get("zero_optimization.zenflow") is not None,
        "with DeepCompile": config.get("compile.deepcompile") is True,
    }
    found = " and ".join(name for name, there in refusing.items() if there)
    if found:
        config.error(
            "gradient_allreduce_op", f"sum is refused {found}", "mean" + ", or a lower stage" * (config.stage == 3)
        )


def _half_masters(config: Config) -> None:
    for path in (
        "fp16.fp16_master_weights_and_grads",
        "bf16.bf16_master_weights_and_grads",
        "bf16.bf16_optimizer_states",
    ):
        if config.get(path) is True and config.stage == 0:
            config.error(path, "needs ZeRO 1, 2 or 3", "zero_optimization.stage = 1 or more")
    if (
        config.get("bf16.bf16_optimizer_states") is True
        and config.get("bf16.bf16_master_weights_and_grads") is not True
    ):
        config.error("bf16.bf16_optimizer_states", "needs bf16_master_weights_and_grads", "enable that too")


def _accumulation_format(config: Config) -> None:
    wanted = config.get("data_types.grad_accum_dtype")
    half = config.get("fp16.enabled") is True or config.get("bf16.enabled") is True
    if half and config.stage == 0 and str(wanted).lower() in ("fp32", "float32", "float"):
        message = "fp32 accumulation of half-precision gradients fails to start at ZeRO 0"
        config.error("data_types.grad_accum_dtype", message, "zero_optimization.stage = 1 or more")


RULES: tuple[Rule, ...] = (
    _framework,
    _batch,
    _precision,
    _optimizer,
    _scheduler,
    _zero,
    _allreduce,
    _half_masters,
    _accumulation_format,
)
