"""An old command line becomes settings, the commands that use them, and a report; see old_script.py for its options."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from layoutner.config.errors import did_you_mean, raise_gathered
from layoutner.config.importing import to_toml
from layoutner.config.old_run import CUDA, OldRun, funsd_folder, scheme_of
from layoutner.config.old_script import OPTIONS, PREPROCESS, TRAIN, Command, read_line
from layoutner.config.settings import sections

KEPT, REPLACED, DROPPED = "kept", "replaced", "dropped"
FAMILIES = ("bert", "roberta", "layoutlm")
CONFIG = "--config settings.toml"
RESULTS = ("eval_results", "test_results", "test_predictions")  # files of the old script
CAST = {  # apex's level -> how DeepSpeed differs
    "O1": "O1 cast single operations; here the whole network is cast, beside fp32 master weights, as O2 did",
    "O2": "the whole network is cast, beside fp32 master weights, as O2 did",
    "O3": "O3 had no fp32 master weights; here they are kept",
}


class Fate(NamedTuple):
    """What became of one option."""

    what: str  # "kept" | "replaced" | "dropped"
    option: str  # with its value, and whether it was given
    became: str  # e.g. "optimizer.lr = 3e-05", "`layoutner train`", ""
    why: str

    def __str__(self) -> str:
        became = f" -> {self.became}" if self.became else ""
        return f"{self.what:9}{self.option}{became}{f': {self.why}' if self.why else ''}"


@dataclass
class Migrated:
    """What became of a command line."""

    made_from: list[str]
    commands: list[str] = field(default_factory=list)  # that do now what it did, with the settings in settings.toml
    remarks: list[str] = field(default_factory=list)  # on the commands
    settings: dict[str, dict[str, object]] = field(default_factory=dict)  # section -> key -> value
    report: list[Fate] = field(default_factory=list)  # in the order of the tables of options
    notes: list[str] = field(default_factory=list)  # the arithmetic, and what was found in the data folder

    def toml(self) -> str:
        """The settings, under comments that say where they come from and how they are used."""
        lines = ["Made by `layoutner config migrate` from", *(f"  {line}" for line in self.made_from)]
        lines += ["Saved as settings.toml, it is used so:", *(f"  {command}" for command in self.commands)]
        # A comment of TOML holds no control characters.
        clean = [re.sub(r"[\x00-\x1f\x7f]", " ", line) for line in [*lines, *self.remarks]]
        return "".join(f"# {line}\n" for line in clean) + to_toml(self.settings)


def migrate(arguments: Sequence[str], gpus: int | None = None) -> Migrated:
    """Translate a command line of run_seq_labeling.py, of preprocess.py, or of both.

    The data folder and the file of labels are looked at where they are there.

    Args:
        arguments: the words of the command, or one text with all commands; see `read_line`.
        gpus: GPUs that the old process saw where it ran without a launcher; default: those of CUDA_VISIBLE_DEVICES in
            the line, else 1.

    Raises:
        UserError: every problem of the line at once, with option, value and what to do.
    """
    line = read_line(arguments)
    trained = [command for command in line.commands if command.script == TRAIN]
    prepared = [command for command in line.commands if command.script == PREPROCESS]
    if len(trained) > 1:
        line.problems.append(f"{len(trained)} commands of {TRAIN}: migrate one after the other")
    made = Migrated([shlex.join(command.words) for command in line.commands], notes=line.notes)
    if trained:
        _Migration(OldRun(trained[0], gpus, line.problems, line.notes), made).run()
    made.report += _preprocessing(prepared, made, bool(trained))
    line.problems += [
        f"--max_len {command.values['max_len']}: at least 6" for command in prepared if command.number("max_len") < 6
    ]
    raise_gathered("the old command line cannot be migrated", line.problems)
    return made


class _Migration:
    """The rules for run_seq_labeling.py."""

    def __init__(self, run: OldRun, made: Migrated) -> None:
        self.past, self.old, self.made = run, run.old, made
        self.train, self.scores, self.predicts = (self.on(f"do_{what}") for what in ("train", "eval", "predict"))
        self.tests = self.scores or self.predicts
        self.data, self.out = self.old.text("data_dir"), self.old.text("output_dir")
        self.fates: dict[str, Fate] = {}
        self.homes: dict[tuple[str, str], str] = {}  # section and key -> the option that said it

    def run(self) -> None:
        if not (self.train or self.tests):
            self.problem("none of --do_train, --do_eval, --do_predict: the old script then ends at once; give one")
        self.files()
        self.model()
        self.roles()
        if self.train:
            self.labels()
            self.batch()
            self.length()
            self.rhythm()
            self.precision()
            self.made.notes += self.past.steps(self.made.settings["data"].get("eval") == 0.1)
        self.rest()
        self.validate()
        self.write_commands()
        self.made.settings = {
            name: {key: said[name][key] for key in model.model_fields if key in said[name]}
            for name, model in sections().items()
            if name in (said := self.made.settings)
        }
        self.made.report = [self.fates[option.name] for option in OPTIONS[TRAIN]]

    def on(self, option: str) -> bool:
        return bool(self.old.values[option])

    def problem(self, what: str) -> None:
        self.past.problems.append(what)

    def say(self, what: str, option: str, became: str = "", why: str = "") -> None:
        self.fates[option] = Fate(what, self.old.shown(option), became, why)

    def put(self, option: str, why: str = "", what: str = KEPT, /, **values: object) -> None:
        """Settings, as section__key=value, that an option becomes."""
        became = []
        for name, value in values.items():
            section, _, key = name.partition("__")
            self.made.settings.setdefault(section, {})[key] = value
            self.homes[section, key] = option
            became.append(f"{section}.{key} = {str(value).lower() if isinstance(value, bool) else value}")
        self.say(what, option, ", ".join(became), why)

    def validate(self) -> None:
        """What the settings refuse, by the option that said it."""
        for section, values in self.made.settings.items():
            try:
                sections()[section].model_validate(values)
            except ValidationError as error:
                for detail in error.errors():
                    key = str(detail["loc"][0]) if detail["loc"] else next(iter(values))
                    option = self.homes[section, key]
                    said = detail["msg"].removeprefix("Value error, ")
                    said = f"{section}.{key} cannot hold it: {said[0].lower()}{said[1:]}"
                    self.problem(f"--{option} {self.old.values[option]}: {said}")

    def files(self) -> None:
        roles = {"train": self.train, "test": self.tests}
        values: dict[str, object] = {f"data__{role}": self.data for role, wanted in roles.items() if wanted}
        why = "read as it stands; the pieces of a page become one page again"
        self.put("data_dir", why, data__format="unilm", **values)
        for role in (role for role, wanted in roles.items() if wanted and not self.past.splits[role]):
            if self.past.data_there:
                self.made.notes.append(f"data: without {role}.txt the command stops, and says so")
        if self.train:
            why = "TensorBoard as always: it needs pip install 'layoutner[tensorboard]', or enabled = false"
            board = {"tensorboard__enabled": True, "tensorboard__dir": f"runs/{os.path.basename(self.out)}"}
            self.put("output_dir", why, run__output_dir=self.out, **board)
            self.put("seed", run__seed=self.old.values["seed"])
        else:
            self.put("output_dir", "the model is looked for in export/ below it", run__output_dir=self.out)
            for option in ("labels", "max_seq_length", "model_type", "model_name_or_path"):
                self.say(DROPPED, option, why="the model that layoutner has exported brings its own")

    def labels(self) -> None:
        file = self.old.text("labels")
        scheme, why = scheme_of(Path(file or f"{self.data}/labels.txt")), "the scheme is that of the file"
        if scheme is None and (split := self.past.splits["train"]):
            scheme, why = "BIOES" if split.bioes else "BIO", "the scheme is that of train.txt"
        if scheme is None:
            scheme, why = "BIOES", "nothing to look at here; BIOES is what preprocess.py writes"
        if file:
            why += "" if Path(file).is_file() else "; the file has to be there when training starts"
            self.put("labels", why, data__labels=file, data__scheme=scheme)
        else:
            why += "; the labels are those of the data folder's labels.txt or train.txt, where the old script stopped"
            self.put("labels", why, REPLACED, data__scheme=scheme)
        length = self.old.number("max_seq_length")
        why = "the old script had no overlap; data.stride = 128 would give the words at cuts more context"
        why += f"; what it cut off behind {length} sub-words becomes more windows" if length < 512 else ""
        why += "; RoBERTa's second </s> is not written" if self.old.text("model_type").lower() == "roberta" else ""
        self.put("max_seq_length", why, data__max_length=length, data__stride=0)

    def model(self) -> None:
        kind, name = self.old.text("model_type").lower(), self.old.text("model_name_or_path")
        if kind not in FAMILIES and "model_type" in self.old.given:
            self.problem(f"--model_type {kind}: not one of the old script's; {did_you_mean(kind, [*FAMILIES])}")
        elif self.train:
            self.put("model_type", model__family=kind or "bert")
        if self.train and ".ckpt" in name:
            how = "transformers 4 makes a folder of it: from_pretrained(..., from_tf=True), then save_pretrained"
            self.say(DROPPED, "model_name_or_path", why=f"TensorFlow weights are not read here; {how}")
            self.made.remarks.append("Still to give: model.name_or_path, the converted checkpoint.")
        elif self.train:
            self.put("model_name_or_path", model__name_or_path=name)
        for option, what in (("config_name", "configuration"), ("tokenizer_name", "tokenizer")):
            other = self.old.text(option)
            why = f"the {what} is the checkpoint's own" if other else ""
            if other not in ("", name):
                why += f"; for another, copy the checkpoint's folder and put the {what} files of {other} into it"
            self.say(DROPPED, option, why=why)
        lower, why = self.on("do_lower_case"), "it travels with the model"
        if kind != "roberta" and lower and re.search("(?<!un)cased", name.lower()):
            why = "the old run lower-cased words for a vocabulary with capitals; here they keep their case"
        elif kind != "roberta" and not lower and "uncased" in name.lower():
            why = "the old run kept capitals, which an uncased vocabulary reads as [UNK]; here words are lower-cased"
        self.say(REPLACED, "do_lower_case", "the checkpoint's tokenizer", why)

    def roles(self) -> None:
        for option in ("do_train", "do_eval", "do_predict"):
            self.say(DROPPED, option)
        if self.train:
            self.say(REPLACED, "do_train", "`layoutner train`")
        if self.scores:
            why = "of test.txt, which the old script scored too; eval_results.txt becomes scores.json"
            if self.train:
                self.say(KEPT, "do_eval", "data.test", why)
            else:
                self.say(REPLACED, "do_eval", "`layoutner evaluate`", "of test.txt, as it was, into eval_results.txt")
        if self.predicts and self.train:
            self.put("do_predict", "test_predictions.txt and test_results.txt", run__predictions="unilm")
        elif self.predicts:
            self.say(REPLACED, "do_predict", "`layoutner predict`", "test_results.txt is `layoutner evaluate`'s")
        if self.on("eval_all_checkpoints") and self.scores:
            self.say(REPLACED, "eval_all_checkpoints", "`layoutner evaluate --checkpoints`", "into eval_results.txt")
        else:
            why = "the old script read it with --do_eval" if self.on("eval_all_checkpoints") else ""
            self.say(DROPPED, "eval_all_checkpoints", why=why)

    def batch(self) -> None:
        past, values = self.past, self.old.values
        for option in ("per_gpu_train_batch_size", "gradient_accumulation_steps"):
            if self.old.number(option) < 1:
                self.problem(f"--{option} {values[option]}: at least 1")
        why = f"{past.micro} a forward x {past.gpus} GPU(s) a process x {past.world} process(es) x {past.accumulation}"
        why += " accumulation"
        sizes = {"batch__micro_windows": past.micro, "batch__global_windows": past.windows}
        self.put("per_gpu_train_batch_size", why, **sizes)
        self.say(KEPT, "gradient_accumulation_steps", f"batch.global_windows = {past.windows}", "a factor of it")
        self.made.notes.append(f"batch: {past.windows} windows a step = {why}")
        why = "scores do not depend on it here; the old loss was a mean of batch means"
        self.say(REPLACED, "per_gpu_eval_batch_size", f"batch.micro_windows = {past.micro}", why)
        self.put("learning_rate", optimizer__lr=values["learning_rate"])
        self.put("weight_decay", optimizer__weight_decay=values["weight_decay"])
        self.put("adam_epsilon", optimizer__eps=values["adam_epsilon"])
        norm, why = values["max_grad_norm"], "0 made every gradient 0, so nothing was learnt; here it is no clipping"
        self.put("max_grad_norm", *(() if norm != 0 else (why, REPLACED)), optimizer__max_grad_norm=norm)

    def length(self) -> None:
        past, warmup = self.past, self.old.number("warmup_steps")
        if past.max_steps:
            why = "the old script made one step more, at learning rate 0, which changed no weight"
            self.put("max_steps", why, schedule__max_steps=past.max_steps)
            self.say(DROPPED, "num_train_epochs", why="--max_steps counts instead, as it did")
            if warmup > past.max_steps:
                self.problem(f"--warmup_steps {warmup}: more than --max_steps {past.max_steps}; give at most as many")
        else:
            self.say(DROPPED, "max_steps", why="not above 0, so epochs count")
            epochs, why = self.old.values["num_train_epochs"], ""
            if past.epochs < 1:
                why = "the old loop took the whole part, trained nothing and divided by zero; give 1 or more"
                self.problem(f"--num_train_epochs {epochs}: {why}")
            elif epochs != past.epochs:
                why = f"the whole part, as the old loop took; its learning rate was on the way to 0 at {epochs} epochs"
            self.put("num_train_epochs", why, schedule__epochs=max(1, past.epochs))
        self.put("warmup_steps", schedule__warmup_steps=warmup)

    def rhythm(self) -> None:
        log, save = self.old.number("logging_steps"), self.old.number("save_steps")
        self.put("logging_steps", "" if log > 0 else "never", run__log_every=max(0, log))
        if save > 0:
            self.put("save_steps", "every checkpoint stays, as it did", run__save_every=save, run__keep_checkpoints=0)
        else:
            self.put("save_steps", "at the end alone", run__save_every=0)
        option = "evaluate_during_training"
        if not self.on(option) or log <= 0:
            self.put(option, "the old script did it at logging steps" if self.on(option) else "", run__eval_every=0)
        elif self.past.data_there and not self.past.splits["dev"]:
            why = "no dev.txt, at which the old script stopped: a tenth of the training pages; the best is exported"
            self.put(option, why, REPLACED, data__eval=0.1, run__eval_every=log)
        else:
            why = "the best checkpoint is exported, not the last; where there is no dev.txt, give data.eval = 0.1"
            self.put(option, why, data__eval=self.data, run__eval_every=log)

    def precision(self) -> None:
        level, half, dtype, why = self.old.text("fp16_opt_level"), self.on("fp16"), "fp32", ""
        if level not in ("O0", *CAST):
            self.problem(f"--fp16_opt_level {level}: apex has {', '.join(('O0', *CAST))}; give one of them")
        if half and level == "O0":
            why = "O0 is fp32"
        elif half and self.past.no_gpu:
            why = "apex needs a GPU, and the line has none"
        elif half:
            dtype = "fp16"
        self.put("fp16", why, REPLACED if why else KEPT, precision__dtype=dtype)
        if half:
            self.say(REPLACED, "fp16_opt_level", f"precision.dtype = {dtype}", why or CAST.get(level, ""))
        else:
            self.say(DROPPED, "fp16_opt_level", why="the old script read it with --fp16")

    def rest(self) -> None:
        """What training and inference share, and what only training reads."""
        old = self.old
        if self.past.no_gpu:
            self.put("no_cuda", run__device="cpu")
        else:
            self.say(DROPPED, "no_cuda", why="GPUs are used where there are any")
        overwrite = self.on("overwrite_output_dir")
        if self.train and overwrite:
            self.put("overwrite_output_dir", "what a run has written; other files stay", run__overwrite=True)
        else:
            why = "the old script read it with --do_train" if overwrite else "an earlier run is not trained over"
            self.say(DROPPED, "overwrite_output_dir", why=why)
        self.say(DROPPED, "overwrite_cache", why="the key of data.cache has all that changes the windows")
        folder = old.text("cache_dir")
        if folder:
            why = "what an old transformers left there is downloaded anew"
            self.say(REPLACED, "cache_dir", f"HF_HUB_CACHE={shlex.quote(folder)}", why)
        else:
            self.say(DROPPED, "cache_dir")
        if "name" in old.launcher or old.number("local_rank") >= 0:
            shown = old.shown("local_rank") if "local_rank" in old.given else "--local_rank (the launcher's)"
            self.fates["local_rank"] = Fate(REPLACED, shown, "LOCAL_RANK in the environment", "")
        else:
            self.say(DROPPED, "local_rank", why="one process")
        ip, port = old.text("server_ip"), old.text("server_port")
        for option in ("server_ip", "server_port"):
            if ip and port:
                self.say(
                    REPLACED, option, f"`python -m debugpy --listen {ip}:{port} --wait-for-client -m layoutner ...`"
                )
            else:
                self.say(DROPPED, option, why="the old script read it with the other one" if ip or port else "")
        batch = old.number("per_gpu_eval_batch_size")
        if not self.train:
            self.say(REPLACED, "per_gpu_eval_batch_size", f"--batch {batch}")
        if batch < 1:
            self.problem(f"--per_gpu_eval_batch_size {batch}: at least 1")
        for option in (option.name for option in OPTIONS[TRAIN] if option.name not in self.fates):
            self.say(DROPPED, option, why="only training reads it")

    def write_commands(self) -> None:
        """What is run now."""
        past, commands, remarks = self.past, self.made.commands, self.made.remarks
        before = {CUDA: ",".join(past.devices), "HF_HUB_CACHE": self.old.text("cache_dir")}
        prefix = "".join(f"{name}={shlex.quote(value)} " for name, value in before.items() if value)
        data = f"--input {shlex.quote(self.data)} --data.format unilm{' --device cpu' * past.no_gpu}"
        if not self.train:
            data += f" --batch {self.old.values['per_gpu_eval_batch_size']}"
        model = f"--model {shlex.quote(os.path.join(self.out, 'export'))}"
        if self.train:
            commands.append(f"{prefix}{past.start()} train {CONFIG}")
        if self.train and past.nodes > 1:
            remarks.append("on every node, with its own --node-rank; or, under Slurm,")
            remarks.append(f"  sbatch --nodes={past.nodes} --gpus-per-node={past.processes} slurm/train.sh {CONFIG}")
        every = self.scores and self.on("eval_all_checkpoints")
        file = {name: shlex.quote(os.path.join(self.out, f"{name}.txt")) for name in RESULTS}
        evaluate, predict = (
            f"{prefix}layoutner {what} {data} --output-format unilm" for what in ("evaluate", "predict")
        )
        if every:
            commands.append(f"{evaluate} --checkpoints {shlex.quote(self.out)} --output {file['eval_results']}")
        elif self.scores and not self.train:
            commands.append(f"{evaluate} {model} --output {file['eval_results']}")
        if self.predicts and not self.train:
            scored = self.scores and not every  # the same model on the same pages
            copy = f"cp {file['eval_results']} {file['test_results']}"
            commands.append(copy if scored else f"{evaluate} {model} --output {file['test_results']}")
            commands.append(f"{predict} {model} --output {file['test_predictions']}")
        if not self.train:
            remarks += [
                "evaluate and predict read no settings; those below are what else the line says.",
                f"{os.path.join(self.out, 'export')} is where `layoutner train` leaves a model. What the old script",
                "trained is not read: train it anew with the line that trained it, migrated.",
            ]


def _preprocessing(commands: list[Command], made: Migrated, trained: bool) -> list[Fate]:
    """The report on preprocess.py's options; without a training command also the settings."""
    folders = {command.text("data_split"): funsd_folder(command.text("data_dir")) for command in commands}
    longest = max((command.number("max_len") for command in commands), default=510) + 2
    alone = bool(commands) and not trained
    if alone:
        roles = {"train": "train", "dev": "eval", "test": "test"}
        read = {roles[split]: folder for split, folder in folders.items() if split in roles}
        made.settings = {"data": {"format": "funsd", **read, "scheme": "BIOES", "max_length": longest, "stride": 0}}
        made.commands.append(f"layoutner train {CONFIG} --model.name_or_path NAME --schedule.epochs N")
        made.remarks.append("preprocess.py has nothing to do any more: the annotations are read as they are.")
    folder = folders.get("train") or next(iter(folders.values()), "DIR")
    reads = f"`--data.format funsd --data.train {shlex.quote(folder)}`"
    if trained and commands:
        made.notes.append(f"data: the files of {PREPROCESS} are kept; {reads} would read the annotations themselves")
    fates = {
        "data_dir": (DROPPED, "", f"{reads} reads the annotations"),
        "data_split": (DROPPED, "", "data.train and data.test say which is which"),
        "output_dir": (DROPPED, "", "nothing is written"),
        "model_name_or_path": (DROPPED, "", "the model's own tokenizer cuts the pages"),
        "max_len": (REPLACED, f"data.max_length{f' = {longest}' if alone else ''}", "with the two special tokens"),
    }
    report = []
    for option, (what, became, why) in fates.items():
        shown = ", ".join(dict.fromkeys(command.shown(option) for command in commands)) or f"--{option} (not run)"
        report.append(Fate(what, f"{PREPROCESS} {shown}", became, why))
    return report
