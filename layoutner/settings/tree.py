"""Settings. Sources in increasing priority: the recipe or TOML file, the environment, the command line."""

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource

from layoutner.errors import SettingsError, did_you_mean, raise_gathered
from layoutner.settings.data import DataSettings
from layoutner.settings.ocr import OcrSettings
from layoutner.settings.optimizer import BY_NAME, AdamW, AnyOptimizer, OptimizerSettings
from layoutner.settings.recipes import read_config
from layoutner.settings.schedule import ScheduleSettings
from layoutner.settings.section import Section, split_pairs
from layoutner.settings.tracking import TensorBoardSettings, WandbSettings

ENV_PREFIX = "LAYOUTNER_"

# Alternative settings: if a source sets one of them, values of the others from earlier sources are dropped.
ALTERNATIVES = (
    ("schedule", ("epochs", "max_steps", "max_windows")),
    ("schedule", ("warmup_steps", "warmup_ratio")),
    ("deepspeed", ("preset", "zero_stage")),
)

FamilyName = Literal[
    "bert", "roberta", "xlm-roberta", "layoutlm", "layoutlmv2", "layoutlmv3", "lilt", "bros", "modernbert"
]
DeviceName = Literal["auto", "cpu", "cuda"]
Attention = Literal["auto", "sdpa", "flash", "eager"]


class ModelSettings(Section):
    """[model]: the pretrained model that training starts from."""

    name_or_path: str | None = Field(None, description="hub name or local folder of the checkpoint to start from")
    family: FamilyName | None = Field(None, description="network to build; default: the checkpoint's own")
    images: Literal["use", "ignore"] = Field(
        "use", description="whether layoutlmv3 uses page images; ignore = text and layout only"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout probability in the whole network; default: the checkpoint's own"
    )
    attention: Attention = Field(
        "auto",
        description="sdpa = torch's kernels, flash = one kernel for all windows of a micro-batch, eager = plain matrix "
        "products; auto = the fastest of them that the network, the device and dropout allow",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="compute the activations of a layer again in the backward pass instead of keeping them: less "
        "memory, about a third more time, the same gradient",
    )
    dropout_masks: Literal["rank-free", "torch"] = Field(
        "rank-free",
        description="rank-free = dropout masks depend on seed, step and window, and are the same on any number of "
        "ranks; torch = torch's own masks, which depend on rank and micro-batch",
    )


StepsDone = Annotated[int, Field(ge=0, strict=True)]
GlobalBatchSize = Annotated[int, Field(ge=1, strict=True)]


class BatchSettings(Section):
    """[batch]: windows per optimizer step and per micro-batch."""

    global_batch_size: int = Field(16, ge=1, description="windows per optimizer step, all ranks together")
    ramp: Annotated[tuple[tuple[StepsDone, GlobalBatchSize], ...] | None, NoDecode, BeforeValidator(split_pairs)] = (
        Field(
            None,
            description="global batch that changes during the run: pairs of optimizer steps done and windows per step "
            "from then on, the last of which is global_batch_size; as text 0:16,200:32,600:64",
        )
    )
    reference_batch_size: int | None = Field(
        None,
        ge=1,
        description="global batch that optimizer.lr was chosen for; optimizer.scale_lr and scale_betas scale from it",
    )
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        8,
        description="largest micro-batch: windows of one forward and backward pass on one rank; the actual one may be "
        "smaller. auto = as many as fit into memory, found out before the run",
    )
    micro_batch_tokens: int | None = Field(
        None,
        ge=8,
        description="largest micro-batch in tokens, with padding; default: no limit but micro_batch_size",
    )

    @model_validator(mode="after")
    def _ramp_leads_to_the_global_batch(self) -> Self:
        if self.ramp is None:
            return self
        steps = [step for step, _ in self.ramp]
        text = ",".join(f"{step}:{size}" for step, size in self.ramp)
        if steps[:1] != [0]:
            raise ValueError(f"ramp = {text}: the first pair says with how many windows the run begins, as in 0:16")
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"ramp = {text}: every pair must begin after more optimizer steps than the one before it")
        if (last := self.ramp[-1][1]) != self.global_batch_size:
            raise ValueError(
                f"ramp = {text} ends with {last} windows per step, and global_batch_size = {self.global_batch_size}: "
                f"give global_batch_size = {last}, or a ramp that ends with {self.global_batch_size}"
            )
        return self


class LossSettings(Section):
    """[loss]: cross-entropy over the labelled words."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all tags; 0 = off")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="class weights in the loss; balanced = the rarer the tag in training, the larger its weight"
    )


class PrecisionSettings(Section):
    """[precision]"""

    dtype: Literal["fp16", "bf16", "fp32"] = Field("bf16", description="number format of weights and activations")
    loss_scale: float = Field(0.0, ge=0, description="fp16: fixed loss scale; 0 = dynamic")
    initial_scale_power: int = Field(16, ge=0, le=32, description="fp16: the dynamic loss scale starts at 2 ** this")
    loss_scale_window: int = Field(
        1000, ge=1, description="fp16: optimizer steps without overflow before the scale doubles"
    )
    hysteresis: int = Field(2, ge=1, description="fp16: overflows tolerated before the scale halves")
    min_loss_scale: int = Field(1, ge=1, description="fp16: floor of the dynamic loss scale")


class DeepSpeedSettings(Section):
    """[deepspeed]: engine policy."""

    preset: str | None = Field(
        None, description="name or path of a JSON under ds_configs/; default: that of zero_stage"
    )
    zero_stage: Literal[0, 1, 2, 3] | None = Field(None, description="ZeRO stage; default: the preset's, else 0")

    @model_validator(mode="before")
    @classmethod
    def _stage_from_text(cls, data: Any) -> Any:
        # A Literal of ints does not accept text, which the environment and the command line provide.
        if isinstance(data, dict) and isinstance(stage := data.get("zero_stage"), str) and stage.isdigit():
            return {**data, "zero_stage": int(stage)}
        return data


class RunSettings(Section):
    """[run]: the run folder, and intervals of logging, evaluation and saving. Steps are optimizer steps."""

    output_dir: Path = Field(Path("runs/train"), description="the run folder")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="seed of everything that is random")
    log_every: int = Field(10, ge=0, description="optimizer steps between logged lines; 0 = none")
    gradient_statistics_every: int = Field(
        0,
        ge=0,
        description="optimizer steps between statistics of the gradient: its noise scale, and its norm and the size of "
        "the update by layer; 0 = off",
    )
    eval_every: int = Field(100, ge=0, description="optimizer steps between scores on data.eval; 0 = only at the end")
    patience: int = Field(
        0,
        ge=0,
        description="evaluations in a row without a better score (F1; at the same F1, loss) after which the run ends; "
        "0 = off",
    )
    save_every: int = Field(500, ge=0, description="optimizer steps between checkpoints; 0 = only best and last")
    keep_checkpoints: int = Field(
        2, ge=0, description="number of newest checkpoints to keep, besides the best one; 0 = keep all"
    )
    resume: str = Field(
        "never", description="never | auto (newest complete checkpoint, if any) | must | path of a checkpoint"
    )
    overwrite: bool = Field(
        False, description="remove what an earlier run left in output_dir, instead of stopping with an error"
    )
    predictions: Literal["none", "jsonl", "unilm"] = Field(
        "none",
        description="labels of the data.test documents by the chosen checkpoint: jsonl = test_predictions.jsonl; "
        "unilm = test_predictions.txt and test_results.txt as run_seq_labeling.py writes them",
    )
    device: DeviceName = Field("auto", description="auto = GPUs where there are any; cuda = an error without one")
    rank_timeout: float = Field(
        45.0,
        ge=0,
        description="seconds until the job is stopped because one rank does not answer, or reads data while the "
        "others wait; 0 = off",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.overwrite and self.resume != "never":
            raise ValueError(f"overwrite = true and resume = {self.resume}: remove the earlier run, or resume it?")
        if self.patience and not self.eval_every:
            raise ValueError(f"patience = {self.patience} counts evaluations, and eval_every = 0 has one, at the end")
        return self


class Settings(BaseSettings):
    """All settings of a run. `load` creates it by merging the sources."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)  # type: ignore[assignment]

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    ocr: OcrSettings = OcrSettings()
    batch: BatchSettings = BatchSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = AdamW()
    schedule: ScheduleSettings = ScheduleSettings()
    precision: PrecisionSettings = PrecisionSettings()
    deepspeed: DeepSpeedSettings = DeepSpeedSettings()
    run: RunSettings = RunSettings()
    wandb: WandbSettings = WandbSettings()
    tensorboard: TensorBoardSettings = TensorBoardSettings()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load` merges the sources itself, so that messages can name the source of a value.
        return (init_settings,)

    def to_toml(self) -> str:
        """The settings as TOML. Keys that are None are omitted; this does not change the meaning."""
        return as_toml(self.model_dump(mode="json", exclude_none=True))


def as_toml(tree: Mapping[str, Mapping[str, Any]]) -> str:
    """Sections of settings as TOML."""
    return tomli_w.dumps(tree)


def sections() -> dict[str, type[Section]]:
    """Section name -> its class, in order. That of [optimizer] has the keys of all optimizers."""
    classes = {name: field.annotation for name, field in Settings.model_fields.items()}
    return classes | {"optimizer": AnyOptimizer}  # type: ignore[return-value]


def load(
    config: str | None,
    overrides: Mapping[str, Mapping[str, Any]],
    said: str = "the command line",
    shared: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Merge recipe or TOML file, environment and command line into validated Settings.

    Args:
        config: name of a shipped recipe, or path of a TOML file, or None.
        overrides: section -> key -> value, or the value as text.
        said: source of the overrides, for messages.
        shared: settings that the runs of a sweep share; they come after the config, before the environment.

    Raises:
        SettingsError: every problem of all sources at once: unreadable file, unknown key with the nearest
            known name, wrong type or range, contradiction.
    """
    sources: list[tuple[str, Mapping[str, Any]]] = [("the config file", read_config(config))]
    sources += [("[settings]", shared or {})]
    sources += [("the environment", _read_environment()), (said, overrides)]
    problems: list[str] = []
    merged: dict[str, dict[str, Any]] = {}
    said_by: dict[tuple[str, str], str] = {}
    for source, tree in sources:
        for section, alternatives in ALTERNATIVES:
            given = tree.get(section, {})
            if isinstance(given, Mapping) and any(key in given for key in alternatives):
                for key in alternatives:
                    merged.get(section, {}).pop(key, None)
        _drop_keys_of_another_optimizer(merged.get("optimizer", {}), tree.get("optimizer", {}))
        for section, values in tree.items():
            if not isinstance(values, Mapping):
                homes = [name for name, model in sections().items() if section in model.model_fields]
                hint = f"it belongs to [{homes[0]}]" if homes else did_you_mean(section, list(sections()))
                problems.append(f"{source}: {section} = {values!r} is outside any section; {hint}")
                continue
            merged.setdefault(section, {}).update(values)
            said_by.update({(section, key): source for key in values})
    if "output_dir" in (run := merged.get("run", {})):
        try:
            run["output_dir"] = _with_wandb_id(str(run["output_dir"]))
        except SettingsError as error:
            problems.append(f"{said_by['run', 'output_dir']}: {error}")
    try:
        settings = Settings(**merged)  # type: ignore[arg-type]
    except ValidationError as error:
        problems.extend(_explain(error, said_by))
    raise_gathered(SettingsError, "settings cannot be used", problems)
    return settings.model_copy(update={"data": settings.data.with_ocr(settings.ocr)})


def _with_wandb_id(path: str) -> str:
    """A run folder with the id that `wandb agent` gives the run in place of {wandb_id}, so that each trial has its own.

    Raises:
        SettingsError: another name in braces, or no agent has started this process.
    """
    for name in re.findall(r"\{(\w*)\}", path):
        if name != "wandb_id":
            raise SettingsError(f"run.output_dir = {path}: {{{name}}} is unknown; only {{wandb_id}} is filled in")
        if not os.environ.get("WANDB_RUN_ID"):
            raise SettingsError(
                f"run.output_dir = {path}: WANDB_RUN_ID is not set, which `wandb agent` does; give a folder"
            )
    return path.replace("{wandb_id}", os.environ.get("WANDB_RUN_ID", ""))


def _drop_keys_of_another_optimizer(before: dict[str, Any], given: Any) -> None:
    """If a source names another optimizer, keys from earlier sources that it does not have are dropped."""
    name = given.get("name") if isinstance(given, Mapping) else None
    if isinstance(name, str) and name in BY_NAME and name != before.get("name", "adamw"):
        for key in [key for key in before if key not in BY_NAME[name].model_fields]:
            del before[key]


def _read_environment() -> dict[str, Any]:
    known = list(sections())
    names = [name for name in os.environ if name.startswith(ENV_PREFIX) and "__" in name]
    strangers = [name for name in names if name.removeprefix(ENV_PREFIX).split("__")[0].lower() not in known]
    raise_gathered(
        SettingsError,
        "environment variables with an unknown section",
        [f"{name}: {did_you_mean(name.removeprefix(ENV_PREFIX).split('__')[0].lower(), known)}" for name in strangers],
    )
    if whole := [
        name for name in os.environ if name.upper() in {f"{ENV_PREFIX}{section.upper()}" for section in known}
    ]:
        raise SettingsError(
            f"environment variable {', '.join(whole)}: a whole section cannot be set this way; "
            f"name the key too, as in {ENV_PREFIX}OPTIMIZER__LR"
        )
    return EnvSettingsSource(Settings, env_prefix=ENV_PREFIX, env_nested_delimiter="__", case_sensitive=False)()


def _explain(error: ValidationError, said_by: dict[tuple[str, str], str]) -> list[str]:
    """One line per problem: source, key, value, and what to do."""
    lines = []
    models = sections()
    for detail in error.errors():
        section, *rest = [str(part) for part in detail["loc"]]
        optimizer = rest.pop(0) if section == "optimizer" and rest else None
        key = rest[0] if rest else None
        source = said_by.get((section, key or ""), "settings")
        where = f"{source}: {section}.{key}" if key else f"settings: [{section}]"
        if detail["type"] == "extra_forbidden":
            known = list(models[section].model_fields) if key else list(models)
            elsewhere = [name for name, model in models.items() if key in model.model_fields]
            if optimizer is not None and key in known:
                lines.append(f"{where} = {detail['input']!r}: optimizer.name = {optimizer} has no {key}; remove it")
                continue
            hint = f"it belongs to [{elsewhere[0]}]" if key and elsewhere else did_you_mean(key or section, known)
            lines.append(f"{where}: unknown; {hint}")
        elif detail["type"] == "union_tag_invalid":
            source = said_by.get((section, "name"), "settings")
            lines.append(
                f"{source}: optimizer.name = {detail['ctx']['tag']!r}: must be one of {detail['ctx']['expected_tags']}"
            )
        elif detail["type"] == "value_error":
            lines.append(f"{where}: {detail['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{where} = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}")
    return list(dict.fromkeys(lines))
