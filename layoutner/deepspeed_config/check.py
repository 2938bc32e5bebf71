"""Check a DeepSpeed JSON: walk.py checks single keys and values, the rules of this module check combinations."""

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
    """The values of a file after the walk, by dotted path. A value that is "auto" or wrong counts as absent."""

    def __init__(self, walk: Walk, root: Node, world_size: int | None) -> None:
        self.walk = walk
        self.schema = walk.schema
        self.root = root
        self.world_size = world_size

    def has(self, path: str) -> bool:
        """Whether the file has the key."""
        return path in self.walk.places

    def get(self, path: str, default: Any = None) -> Any:
        """The value of a key; the default if it is absent, "auto" or wrong."""
        place = self.walk.places.get(path)
        return default if place is None or place.wrong or place.value == "auto" else place.value

    def number(self, path: str) -> float | None:
        """The value of a key if it is a number; None if it is absent, "auto", wrong or not a number."""
        value = self.get(path)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def is_auto(self, path: str) -> bool:
        """Whether the value of a key is "auto"."""
        return self.has(path) and bool(self.walk.places[path].value == "auto")

    @property
    def stage(self) -> int | None:
        """ZeRO stage: 0 if the file has none, None if it is "auto" or wrong."""
        if isinstance(self.get("zero_optimization"), bool):
            return int(self.get("zero_optimization"))  # the old way to write stage 1 (true) or 0 (false)
        stage = self.number("zero_optimization.stage")
        if stage is None:
            return None if self.has("zero_optimization.stage") else 0
        return int(stage)

    def node(self, path: str) -> Node | None:
        """The value of a key, with lines and columns."""
        found: Node | None = self.root
        for name in path.split("."):
            members: list[Member] = found.members or [] if found is not None else []
            found = next((member.node for member in members if member.key == name), None)
        return found

    def error(self, path: str, message: str, advice: str) -> None:
        """Record an error at a key."""
        self.walk.add(ERROR, path, message, advice)

    def warn(self, path: str, message: str, advice: str) -> None:
        """Record a warning at a key."""
        self.walk.add(WARNING, path, message, advice)


def check(
    text: str, world_size: int | None = None, framework: str | None = None, schema: Schema | None = None
) -> list[Finding]:
    """All findings about a DeepSpeed config, in the order of the file.

    Args:
        text: JSON or HJSON.
        world_size: number of ranks, if known.
        framework: "hf-trainer" or "accelerate", if one of them fills in "auto".
        schema: the keys of a DeepSpeed release; default: the installed release.

    Raises:
        SourceError: the text is neither JSON nor HJSON.
    """
    root = read_source(text)
    walk = Walk(framework, schema)
    if root.members is None:
        walk.findings.append(
            Finding(ERROR, "", 1, 1, "not an object", root.value(), "a config must be an object, { ... }")
        )
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
    """Find what accelerate, which the Trainer uses too, refuses before DeepSpeed gets the config."""
    framework = config.walk.framework
    if framework is None:
        return
    if not config.has("zero_optimization"):
        message = f"no zero_optimization: {framework} refuses a config without it"
        config.error("", message, 'give zero_optimization, at least {"stage": 0}')
    elif isinstance(config.get("zero_optimization"), bool):
        stage = int(config.get("zero_optimization"))
        message = f"true or false is the old way to write it, which {framework} does not accept"
        config.error("zero_optimization", message, f'write {{"stage": {stage}}}')
    if config.is_auto("zero_allow_untested_optimizer") and config.has("optimizer"):
        message = f'"auto", but {framework} fills it in only if the script makes the optimizer'
        config.error("zero_allow_untested_optimizer", message, "write the value")


def _batch(config: Config) -> None:
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    given = [name for name in names if config.has(name) and config.walk.places[name].value is not None]
    total, micro, steps = (config.number(name) for name in names)
    ranks, framework = config.world_size, config.walk.framework
    elasticity = config.get("elasticity")
    if isinstance(elasticity, dict) and elasticity.get("enabled"):
        return  # releases that still have it compute all three from it
    if names[0] not in given and names[1] not in given:
        fills = f' ("auto" lets {framework} fill it in)' if framework else ""
        wanted = names[1] if framework == "accelerate" else f"{names[0]} or {names[1]}"
        config.error("", "no batch size", f"give {wanted}{fills}")
        return
    if framework == "accelerate" and config.is_auto(names[0]) and names[1] not in given:
        message = f'"auto", but accelerate fills it in only together with {names[1]}'
        config.error(names[0], message, f'give {names[1]}, which may be "auto" too')
    if any(config.is_auto(name) for name in names):
        return
    if framework and not config.has(names[2]):
        steps = 1  # accelerate writes it into the config; DeepSpeed itself would compute it
    if total is None:
        return
    if micro is not None and steps is not None:
        at_once = int(micro * steps)
        formula = f"{total:g} = micro-batch of {micro:g} x {steps:g} gradient accumulation step(s) x world size"
    elif micro is not None or steps is not None:
        at_once = int(micro or steps or 1)
        size = "micro-batch" if micro is None else f"micro-batch of {micro:g}"
        count = "gradient accumulation steps" if steps is None else f"{steps:g} gradient accumulation step(s)"
        formula = f"{total:g} = {size} x {count} x world size"
    else:
        at_once, formula = 1, f"{total:g} = micro-batch x gradient accumulation steps x world size"
    if total % at_once:
        below, above = int(total // at_once * at_once), int(-(-total // at_once) * at_once)
        near = f"{below} or {above}" if below else str(above)
        config.error(names[0], f"no world size satisfies {formula}", f"set {names[0]} = {near}")
        return
    quotient = int(total // at_once)
    exact = micro is not None and steps is not None
    fits = [quotient] if exact else [n for n in range(1, min(quotient, 10_000) + 1) if quotient % n == 0]
    worlds = ", ".join(map(str, fits[:12])) + (", ..." if len(fits) > 12 else "")
    if ranks is not None and (ranks != quotient if exact else quotient % ranks):
        config.error(names[0], f"{formula} is impossible on {ranks} rank(s)", f"possible world sizes: {worlds}")
    elif ranks is None and exact and quotient > 1:
        config.walk.add(NOTE, names[0], f"{formula} is possible on {quotient} ranks only", "check with --world-size N")


def _precision(config: Config) -> None:
    bf16 = "bf16" if config.has("bf16") else "bfloat16"
    if config.get("fp16.enabled") is True and config.get(f"{bf16}.enabled") is True:
        config.error(f"{bf16}.enabled", "fp16 and bf16 are both enabled", "enable one of them")
    if config.has("bf16") and config.has("bfloat16"):
        config.warn("bfloat16", "ignored, because the file also has bf16", "remove it")
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
                message = f"no effect: the loss scale is fixed at {scale:g}"
                config.warn(f"fp16.{name}", message, "set fp16.loss_scale = 0 to make it dynamic, or remove this")


def _wrapped(config: Config) -> bool:
    """Whether DeepSpeed wraps the optimizer in one of its own optimizers."""
    halves = ("fp16.enabled", "bf16.enabled", "bfloat16.enabled")
    return (config.stage or 0) > 0 or any(config.get(path) is True for path in halves)


def _type(config: Config, name: str) -> str:
    """The type of the optimizer or scheduler; "" if the file gives none."""
    kind = config.get(f"{name}.type")
    if kind is None and config.has(name) and not config.has(f"{name}.type"):
        config.error(name, f"has no type, so DeepSpeed builds no {name}", f"give {name}.type")
    return kind if isinstance(kind, str) else ""


def _optimizer(config: Config) -> None:
    kind, path = _type(config, "optimizer"), "optimizer.type"
    if not kind:
        return
    # DeepSpeed finds its own types in upper or lower case, those of torch only as torch spells them.
    own = config.schema.deepspeed_types.get(kind.lower())
    torch_name = config.schema.torch_types.get(kind.lower())
    gone = removed_optimizer(kind)
    if gone is not None:
        release, advice = REMOVED[f"{path}.{gone}"]
        severity = ERROR if own is None else WARNING  # an earlier release still has it
        config.walk.add(severity, path, f"{kind} was removed in DeepSpeed {release}", advice)
        return
    if own is None and kind != torch_name:
        meant, advice = optimizer_meant(config.schema, kind)
        if _untested(config, meant):
            advice += "; with ZeRO, also set zero_allow_untested_optimizer = true"
        unknown = "is not an optimizer of DeepSpeed or torch.optim"
        found = f"is not found: torch spells it {torch_name!r}" if torch_name else unknown
        config.error(path, f"{kind!r} {found}", advice)
        return
    if own == "Lamb" and (config.stage or 0) > 0:
        message = f"LAMB at ZeRO {config.stage}: it needs the norm of whole layers, but ZeRO flattens them"
        advice = "set zero_optimization.stage = 0, or use AdamW"
        if config.get("zero_allow_untested_optimizer") is True:
            config.warn(path, message, advice)
        else:
            config.error(path, f"{message}; DeepSpeed refuses to start", advice)
    elif _untested(config, own or kind):
        message = f"{kind} is not tested with ZeRO: DeepSpeed refuses to start"
        config.error(path, message, "set zero_allow_untested_optimizer = true, or use AdamW")


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
        config.error("scheduler.type", f"{kind} cannot be made from JSON: {NOT_FROM_JSON[kind]}", "use another one")
        return
    if kind not in config.schema.schedulers:
        _, advice = scheduler_meant(config.schema, kind, _wrapped(config))
        message = f"{kind!r} is not a scheduler of DeepSpeed or torch.optim.lr_scheduler"
        config.error("scheduler.type", message, advice)
        return
    if kind not in config.schema.deepspeed_schedulers and _wrapped(config):
        message = f"{kind} works only with a plain PyTorch optimizer: with ZeRO, fp16 or bf16 the engine fails to start"
        config.error("scheduler.type", message, scheduler_meant(config.schema, kind, wrapped=True)[1])
        return
    block = config.schema.schedulers[kind]
    if not config.has("scheduler.params"):
        wanted = ", ".join(name for name, key in block.keys.items() if key.required) or "at least {}"
        config.error("scheduler", "has no params: without them the engine fails to start", f"give params: {wanted}")
    if not kind.startswith("Warmup"):
        return
    path = "scheduler.params"
    lr, peak = config.number("optimizer.params.lr"), config.number(f"{path}.warmup_max_lr")
    if lr is not None and peak is not None and lr != peak:
        message = f"the peak is {peak:g}, and optimizer.params.lr = {lr:g} is never used"
        config.warn(f"{path}.warmup_max_lr", message, "make them equal")
    elif lr is not None and kind == "WarmupDecayLR" and not config.has(f"{path}.warmup_max_lr") and lr != 0.001:
        message = f"warmup_max_lr is not given: the peak is 0.001, and optimizer.params.lr = {lr:g} is never used"
        config.warn("scheduler", message, f"set warmup_max_lr = {lr:g}")
    if not config.has(f"{path}.warmup_type") and "warmup_type" in block.keys and kind != "WarmupCosineLR":
        message = "warmup_type is not given: the warm-up is logarithmic, not linear"
        config.warn("scheduler", message, 'set warmup_type = "linear", as most recipes do')
    warmup, total = config.number(f"{path}.warmup_num_steps"), config.number(f"{path}.total_num_steps")
    if warmup is not None and total is not None and warmup >= total:
        message = f"{warmup:g} steps of warm-up in a run of {total:g}: the peak is reached only at the end, or never"
        severity = ERROR if warmup > total else WARNING
        config.walk.add(severity, f"{path}.warmup_num_steps", message, "set warmup_num_steps below total_num_steps")


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
            advice = (
                f"set zero_optimization.stage = {least} or more" if least < 3 else "set zero_optimization.stage = 3"
            )
            config.warn(f"{path}.{name}", f"ignored at ZeRO {stage}: nothing is offloaded", advice)
        elif not name.startswith("zero_") or value not in (1, False):
            config.walk.add(NOTE, f"{path}.{name}", f"ignored at ZeRO {stage}", "it works only at stage 3")
    ratio = config.number(f"{path}.offload_optimizer.ratio")
    if ratio is not None and ratio < 1 and stage != 3:
        config.error(f"{path}.offload_optimizer.ratio", "only ZeRO 3 can offload a part", "set ratio = 1")
    if config.get(f"{path}.compute_grad_norm") is False and stage not in (1, 2):
        config.error(f"{path}.compute_grad_norm", f"cannot be false at ZeRO {stage}", "remove it")


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
            "gradient_allreduce_op", f"sum is refused {found}", "use mean" + ", or a lower stage" * (config.stage == 3)
        )


def _half_masters(config: Config) -> None:
    for path in (
        "fp16.fp16_master_weights_and_grads",
        "bf16.bf16_master_weights_and_grads",
        "bf16.bf16_optimizer_states",
    ):
        if config.get(path) is True and config.stage == 0:
            config.error(path, "needs ZeRO 1, 2 or 3", "set zero_optimization.stage = 1 or more")
    if (
        config.get("bf16.bf16_optimizer_states") is True
        and config.get("bf16.bf16_master_weights_and_grads") is not True
    ):
        config.error("bf16.bf16_optimizer_states", "needs bf16_master_weights_and_grads", "enable that, too")


def _accumulation_format(config: Config) -> None:
    wanted = config.get("data_types.grad_accum_dtype")
    half = config.get("fp16.enabled") is True or config.get("bf16.enabled") is True
    if half and config.stage == 0 and str(wanted).lower() in ("fp32", "float32", "float"):
        message = "fp32 accumulation of half-precision gradients fails to start at ZeRO 0"
        config.error("data_types.grad_accum_dtype", message, "set zero_optimization.stage = 1 or more")


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
