"""Translate an old command line into settings, commands that use them, and a report on each option."""

import os
import shlex
from collections.abc import Sequence

from pydantic import ValidationError

from layoutner.errors import SettingsError, did_you_mean, raise_gathered
from layoutner.migration.migrated import Migrated, Outcome, outcome_of
from layoutner.migration.old_run import SPLITS, OldRun, funsd_settings, scheme_of
from layoutner.migration.old_script import (
    CUDA,
    OPTIONS,
    PREPROCESS,
    SECRET,
    SET_BY_LAUNCHERS,
    TRAIN,
    Command,
    read_line,
)
from layoutner.settings.tree import sections

FAMILIES = ["bert", "roberta", "layoutlm"]
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
LEVELS = ["O0", "O1", "O2", "O3"]
CONFIG = "--config settings.toml"
# What an option that was not given would become: in a command with --do_train, and in one without. "" = dropped, for
# the reason that the rules below give.
IF_GIVEN = {
    "cache_dir": ("replaced by HF_HUB_CACHE in the environment",) * 2,
    "do_train": ("", "replaced by `layoutner train`"),
    "do_eval": ("kept as data.test", "replaced by `layoutner evaluate`"),
    "do_predict": ("kept as run.predictions", "replaced by `layoutner predict`"),
    "evaluate_during_training": ("kept as data.eval and run.eval_every", ""),
    "do_lower_case": ("replaced by the pretrained model's tokenizer", ""),
    "max_steps": ("kept as schedule.max_steps", ""),
    "eval_all_checkpoints": ("replaced by `layoutner evaluate --checkpoints`, with --do_eval",) * 2,
    "no_cuda": ("kept as run.device = cpu", "replaced by --device cpu"),
    "overwrite_output_dir": ("replaced by `--run.overwrite true` in the command", ""),
    "fp16_opt_level": ("replaced by precision.dtype, with --fp16", ""),
    "local_rank": ("replaced by LOCAL_RANK, which the launcher sets",) * 2,
    "server_ip": ("replaced by `python -m debugpy`",) * 2,
    "server_port": ("replaced by `python -m debugpy`",) * 2,
}


def migrate(arguments: Sequence[str], gpus: int | None = None) -> Migrated:
    """Translate a command line of run_seq_labeling.py, of preprocess.py, or of both.

    Reads the data folder and the labels file, and lists the output folder, if they exist.

    Args:
        arguments: the words of the command, or one text with all commands; see `read_line`.
        gpus: number of GPUs that the old process used, if it ran without a launcher; default: those that the command
            names in CUDA_VISIBLE_DEVICES, else 1.

    Raises:
        SettingsError: the command line has problems. The message lists all of them: option, value and what to do.
    """
    line = read_line(arguments)
    trained = [command for command in line.commands if command.script == TRAIN]
    prepared = [command for command in line.commands if command.script == PREPROCESS]
    if len(trained) > 1:
        line.problems.append(f"{len(trained)} commands of {TRAIN}: migrate them one at a time")
    made = Migrated([command.shown for command in line.commands], notes=line.notes)
    if trained:
        _Migration(OldRun(trained[0], gpus, line.problems, line.notes), made).run()
    _preprocessing(prepared, made, bool(trained), line.problems)
    raise_gathered(SettingsError, "the old command line cannot be migrated", line.problems)
    return made


class _Migration:
    """The rules for run_seq_labeling.py."""

    def __init__(self, run: OldRun, made: Migrated) -> None:
        self.old_run, self.old, self.made = run, run.old, made
        self.train, self.scores, self.predicts = (self.on(f"do_{what}") for what in ("train", "eval", "predict"))
        self.data, self.out = self.old.text("data_dir"), self.old.text("output_dir")
        self.outcomes: dict[str, Outcome] = {}
        self.set_by: dict[tuple[str, str], str] = {}  # section and key -> the option that set it

    def run(self) -> None:
        """Apply all rules, and fill `made`."""
        self.check()
        if self.train:
            self.files()
            self.model()
            self.batch()
            self.intervals()
            self.made.notes += self.old_run.steps(self.made.settings["data"].get("eval") == 0.1)
        else:
            self.inference()
        self.rest()
        self.commands()
        self.validate()
        for option in OPTIONS[TRAIN]:
            if option not in self.outcomes:
                self.say(option)
        self.made.report = [self.outcomes[option] for option in OPTIONS[TRAIN]]

    def on(self, option: str) -> bool:
        """Whether a switch is given, or a text is not empty."""
        return bool(self.old.values[option])

    def problem(self, option: str, what: str) -> None:
        """Record a problem with the value of an option."""
        self.old_run.problems.append(f"--{option} {self.old.values[option]}: {what}")

    def say(self, option: str, became: str = "", why: str = "") -> None:
        """Report an option that becomes no setting."""
        instead = IF_GIVEN.get(option, ("", ""))[not self.train]
        self.outcomes[option] = outcome_of(self.old, option, False, became, why, instead)

    def put(self, option: str, why: str = "", /, **values: object) -> None:
        """Set what an option becomes, as section__key=value, and report it."""
        became = []
        for name, value in values.items():
            section, _, key = name.partition("__")
            self.made.settings.setdefault(section, {})[key] = value
            self.set_by[section, key] = option
            became.append(f"{section}.{key} = {value}")
        self.outcomes[option] = outcome_of(self.old, option, True, ", ".join(became), why)

    def validate(self) -> None:
        """Check the settings. Each problem is reported for the option that set the value."""
        for section, values in self.made.settings.items():
            try:
                sections()[section].model_validate(values)
            except ValidationError as error:
                for detail in error.errors():
                    key = str(detail["loc"][0]) if detail["loc"] else next(iter(values))
                    problem = detail["msg"].removeprefix("Value error, ")
                    problem = f"not valid for {section}.{key}: {problem[0].lower()}{problem[1:]}"
                    self.problem(self.set_by[section, key], problem)

    def check(self) -> None:
        """Find what the old script refused, or should have refused."""
        if not (self.train or self.scores or self.predicts):
            none = "none of --do_train, --do_eval, --do_predict is given, so the old script does nothing; give one"
            self.old_run.problems.append(none)
        for option in ("per_gpu_train_batch_size", "per_gpu_eval_batch_size", "gradient_accumulation_steps"):
            if self.old.number(option) < 1:
                self.problem(option, "must be at least 1")
        for option, known in (("model_type", FAMILIES), ("fp16_opt_level", LEVELS)):
            value = self.old.text(option)
            if value and option in self.old.given and (value.lower() if known is FAMILIES else value) not in known:
                self.problem(option, f"unknown to the old script; {did_you_mean(value, known)}")

    def files(self) -> None:
        """The data folder, the labels, the length of windows, and the output folder."""
        run, out = self.old_run, self.out
        tests = {"data__test": self.data} if self.scores or self.predicts else {}
        why = "read as it is; the pieces of a page are joined again"
        self.put("data_dir", why, data__format="unilm", data__train=self.data, **tests)
        why = "the old script also wrote TensorBoard files; tensorboard.enabled = true writes them to "
        why += f"{os.path.join(out, 'tensorboard')} (pip install 'layoutner[tensorboard]'); metrics.jsonl has the "
        why += "numbers in any case"
        self.put("output_dir", why, run__output_dir=out)
        file, train = self.old.text("labels"), run.splits["train"]
        own = os.path.join(self.data, "labels.txt")
        of_own = run.lines("data_dir", own) if not file else None
        scheme, why = scheme_of(run.lines("labels", file) if file else of_own), "the scheme is that of the file"
        if scheme is None:
            scheme, why = train.scheme if train else "BIOES", "the scheme is that of train.txt, else of preprocess.py"
        if not file:
            source = own if of_own is not None else f"{own} if it exists, else from the training pages"
            why += f"; the labels come from {source}; the old script failed without --labels"
        self.put("labels", why, **({"data__labels": file} if file else {}), data__scheme=scheme)
        length = self.old.number("max_seq_length")
        why = "the old pieces had no overlap; data.stride = 128 would give words near a cut more context"
        why += f"; what it cut off after {length} sub-words becomes another window" if length < 512 else ""
        self.put("max_seq_length", why, data__max_length=length, data__stride=0)

    def model(self) -> None:
        """The network, the pretrained model and its tokenizer."""
        kind, name = self.old.text("model_type").lower(), self.old.text("model_name_or_path")
        why = "layoutner does not add a second </s> at the end" if kind == "roberta" else ""
        self.put("model_type", why, model__family=kind if kind in FAMILIES else "bert")
        if ".ckpt" in name:
            how = "convert them with transformers 4: from_pretrained(..., from_tf=True), then save_pretrained"
            self.say("model_name_or_path", why=f"layoutner does not read TensorFlow weights; {how}")
            self.made.remarks.append("Still needed: model.name_or_path, the folder of the converted model.")
        else:
            self.put("model_name_or_path", model__name_or_path=name)
        for option in ("config_name", "tokenizer_name"):
            self.say(option, why="the pretrained model's own is used; for another, change the file in a copy of it")
        lower, uncased, why = self.on("do_lower_case"), "uncased" in name.lower(), "it is saved with the model"
        if kind != "roberta" and lower and not uncased and "cased" in name.lower():
            why = "the old run lower-cased words although the vocabulary is cased; here words keep their case"
        if odd := kind != "roberta" and not lower and (uncased or "cased" not in name.lower()):
            here = "here words are lower-cased" if uncased else "if this tokenizer lower-cases, sub-words differ"
            why = f"the old run kept capitals, which become [UNK] in an uncased vocabulary; {here}"
        if bare := kind != "roberta" and os.path.isdir(name) and not any(map(self.in_model_folder, TOKENIZER_FILES)):
            file = os.path.join(name, TOKENIZER_FILES[0])
            no_files = f"{name} has no {' and no '.join(TOKENIZER_FILES)}"
            why = f"{no_files}, so the tokenizer lower-cases words (the old run {'did' if lower else 'did not'}); "
            why += f'to keep capitals for a cased vocabulary, write {{"do_lower_case": false}} into {file}'
        self.say("do_lower_case", "the pretrained model's tokenizer" * (lower or odd or bare), why)

    def in_model_folder(self, file: str) -> bool:
        return os.path.isfile(os.path.join(self.old.text("model_name_or_path"), file))

    def batch(self) -> None:
        """Batch sizes, optimizer and schedule."""
        run, values, warmup = self.old_run, self.old.values, self.old.number("warmup_steps")
        why = f"micro-batch of {run.micro} x {run.gpus} GPU(s) per process x {run.world} process(es) x "
        why += f"{run.accumulation} gradient accumulation step(s)"
        sizes = {"batch__micro_batch_size": run.micro, "batch__global_batch_size": run.windows}
        self.put("per_gpu_train_batch_size", why, **sizes)
        self.made.notes.append(f"batch: {run.windows} windows per optimizer step = {why}")
        self.put("gradient_accumulation_steps", "one of its factors", batch__global_batch_size=run.windows)
        why = "evaluation during training uses batch.micro_batch_size; scores do not depend on it"
        self.say("per_gpu_eval_batch_size", why=why)
        for option, key in (("learning_rate", "lr"), ("weight_decay", "weight_decay"), ("adam_epsilon", "eps")):
            self.put(option, **{f"optimizer__{key}": values[option]})
        norm, why = values["max_grad_norm"], "0 made every gradient 0, so nothing was learnt; here 0 turns clipping off"
        self.put("max_grad_norm", "" if norm else why, optimizer__max_grad_norm=norm)
        epochs, why = values["num_train_epochs"], ""
        self.put("warmup_steps", schedule__warmup_steps=warmup)
        if run.max_steps:
            why = "the old script made one more step, at learning rate 0, which changed no weight"
            self.put("max_steps", why, schedule__max_steps=run.max_steps)
            self.say("num_train_epochs", why="--max_steps is used instead, as in the old script")
            if warmup > run.max_steps:
                self.problem("warmup_steps", f"more than --max_steps {run.max_steps}; give at most that many")
            return
        if run.epochs < 1:
            self.problem("num_train_epochs", "the old script trained whole epochs only; give a finite number from 1 up")
        elif epochs != run.epochs:
            why = f"rounded down, as in the old loop; its learning rate would have reached 0 after {epochs} epochs"
        self.put("num_train_epochs", why, schedule__epochs=max(1, run.epochs))
        self.say("max_steps", why="not above 0, so the number of epochs is used")

    def intervals(self) -> None:
        """Logging, saving and evaluation during training; the seed; fp16."""
        run, log, save = self.old_run, self.old.number("logging_steps"), self.old.number("save_steps")
        self.put("logging_steps", "" if log > 0 else "never", run__log_every=max(0, log))
        if save > 0:
            self.put("save_steps", "all checkpoints are kept, as before", run__save_every=save, run__keep_checkpoints=0)
        else:
            best = ", and at every new best score on data.eval" if self.on("evaluate_during_training") else ""
            self.put("save_steps", f"at the end{best or ' only'}", run__save_every=0)
        self.put("seed", run__seed=self.old.values["seed"])
        option = "evaluate_during_training"
        if not self.on(option) or log <= 0:
            self.say(option, why="the old script evaluated at logging steps, and there are none")
        elif run.dev_is_test:
            why = "dev.txt has the same pages as test.txt, so the best checkpoint is selected on the test pages, which "
            why += "makes their score too good (scores.json says so); for a fair score, set data.eval = 0.1 and remove "
            why += "data.selection_split"
            self.put(option, why, data__selection_split="test", data__test=self.data, run__eval_every=log)
        elif run.data_there and not run.splits["dev"]:
            why = "no dev.txt (the old script failed without it): a tenth of the training pages is used"
            self.put(option, why, data__eval=0.1, run__eval_every=log)
        else:
            why = "the best checkpoint is exported, not the last; if there is no dev.txt, set data.eval = 0.1"
            self.put(option, why, data__eval=self.data, run__eval_every=log)
            if run.dev_in_test and (self.scores or self.predicts):
                self.made.remarks += [
                    f"layoutner refuses this, as test pages would select the best checkpoint: {run.dev_in_test}.",
                    "Remove them from dev.txt, or set data.eval = 0.1, a tenth of the training pages. To use test",
                    'pages on purpose, replace data.eval by data.selection_split = "test"; scores.json then says so.',
                ]
        half, level = self.on("fp16"), self.old.text("fp16_opt_level")
        why = "O0 is fp32" if level == "O0" else "apex needs a GPU, and there is none" if run.no_gpu else ""
        dtype = "fp16" if half and not why else "fp32"
        self.put("fp16", why * half, precision__dtype=dtype)
        why = why or "at every level the whole network is cast, with fp32 master weights, as with O2"
        self.say("fp16_opt_level", f"precision.dtype = {dtype}" * half, why if half else "used only with --fp16")

    def inference(self) -> None:
        """Report all options for commands without --do_train, which need no settings."""
        for option in OPTIONS[TRAIN]:
            self.say(option, why="only training uses it")
        for option in ("labels", "max_seq_length", "model_type", "model_name_or_path", "do_lower_case"):
            self.say(option, why="the model that layoutner exported contains it")
        self.say("data_dir", f"--input {shlex.quote(self.data)} --data.format unilm")
        self.say("output_dir", f"--model {self.at('export')}", "where `layoutner train` exports the model")
        self.say("per_gpu_eval_batch_size", f"--batch {self.old.values['per_gpu_eval_batch_size']}")

    def rest(self) -> None:
        """The options that matter with and without --do_train."""
        run, old = self.old_run, self.old
        if self.train:
            self.say("do_train", "`layoutner train`")
        if self.train and self.scores:
            why = "test.txt is scored, as in the old script; scores.json replaces eval_results.txt"
            self.put("do_eval", why, data__test=self.data)
        elif self.scores:
            self.say("do_eval", "`layoutner evaluate`", "scores test.txt and writes eval_results.txt")
        if self.train and self.predicts:
            self.put("do_predict", "writes test_predictions.txt and test_results.txt", run__predictions="unilm")
        elif self.predicts:
            self.say("do_predict", "`layoutner predict`", "`layoutner evaluate` writes test_results.txt")
        every = "`layoutner evaluate --checkpoints`" * (self.scores and self.on("eval_all_checkpoints"))
        why = "writes eval_results.txt" if every else "the old script used it only with --do_eval"
        self.say("eval_all_checkpoints", every, why)
        if run.no_gpu and self.train:
            self.put("no_cuda", "" if self.on("no_cuda") else "the command uses no GPU", run__device="cpu")
        elif run.no_gpu:
            self.say("no_cuda", "--device cpu")
        if self.train and self.on("overwrite_output_dir"):
            why = "removes an earlier run; leave it out to resume a run (--run.resume auto)"
            self.say("overwrite_output_dir", "`--run.overwrite true` in the command", why)
        self.say("overwrite_cache", why="features are not cached; a store of `layoutner data build` is checked")
        cache = shlex.quote(old.text("cache_dir"))
        why = "files that an old transformers stored there are downloaded again"
        self.say("cache_dir", f"HF_HUB_CACHE={cache}" * self.on("cache_dir"), why)
        if run.launched:
            self.outcomes["local_rank"] = Outcome("replaced", "--local_rank", "LOCAL_RANK, which the launcher sets")
        ip, port = old.text("server_ip"), old.text("server_port")
        debugger = f"`python -m debugpy --listen {ip}:{port} --wait-for-client -m layoutner ...`" * bool(ip and port)
        for option in ("server_ip", "server_port"):
            self.say(option, debugger, "" if debugger else "the old script used it only with the other one")

    def commands(self) -> None:
        """Make the new commands, the remarks on them, and warnings about files in the output folder."""
        run, commands, remarks = self.old_run, self.made.commands, self.made.remarks
        before = {name: value for name, value in self.old.environment.items() if name not in (CUDA, *SET_BY_LAUNCHERS)}
        if secrets := [name for name in before if SECRET.match(f"{name}=")]:
            remarks.append(f"Secrets are not copied here. Set them in the environment: {', '.join(secrets)}.")
        before = {name: value for name, value in before.items() if name not in secrets}
        before |= {CUDA: ",".join(run.devices)} if run.devices else {}
        before |= {"HF_HUB_CACHE": self.old.text("cache_dir")} if self.on("cache_dir") else {}
        prefix = "".join(f"{name}={shlex.quote(value)} " for name, value in before.items())
        data = f"--input {shlex.quote(self.data)} --data.format unilm{' --device cpu' * run.no_gpu}"
        if self.train:
            settings = CONFIG + " --run.overwrite true" * self.on("overwrite_output_dir")
            commands.append(f"{prefix}{run.start()} train {settings}")
            if run.nodes > 1:
                shape = f"--nodes={run.nodes} --{'cpus-per-task' if run.no_gpu else 'gpus-per-node'}={run.processes}"
                remarks.append("on every node, each with its own --node-rank. With Slurm, run instead")
                remarks.append(f"  sbatch {shape} slurm/train.sh {settings}")
        else:
            data += f" --batch {self.old.values['per_gpu_eval_batch_size']}"
            remarks.append("layoutner cannot read a model of the old script: migrate its training command first.")
        made = [("evaluate", "eval_results")] * self.scores
        made += [("evaluate", "test_results"), ("predict", "test_predictions")] * self.predicts
        there = self.in_output()
        refusal = "training is refused in a folder with an earlier run, or "
        if self.on("overwrite_output_dir"):
            refusal = "--run.overwrite true removes only an earlier run of layoutner; training is refused in a folder "
        refusal += "with files of another trainer (a model, test_predictions.txt, test_results.txt): give another "
        refusal += "run.output_dir"
        warnings = [refusal] if there and self.train else []
        for what, file in made:
            every = file == "eval_results" and self.on("eval_all_checkpoints")
            model = f"--checkpoints {shlex.quote(self.out)}" if every else f"--model {self.at('export')}"
            if every or not self.train:
                to = f"--output {self.at(f'{file}.txt')}"
                commands.append(f"{prefix}layoutner {what} {data} --output-format unilm {model} {to}")
                if f"{file}.txt" in there:
                    warnings.append(f"`layoutner {what}` overwrites {file}.txt: keep a copy to compare")
        self.made.notes += [f"output: {self.out} is not empty; {warning}" for warning in warnings]

    def in_output(self) -> list[str]:
        """Names of the files in the output folder; empty if it does not exist or cannot be listed."""
        try:
            return os.listdir(self.out) if os.path.isdir(self.out) else []
        except OSError as error:
            advice = "give another run.output_dir, or make it readable"
            self.made.notes.append(f"output: {self.out} cannot be listed ({error.strerror}): {advice}")
            return []

    def at(self, name: str) -> str:
        """Path of a file in the output folder, quoted for a shell."""
        return shlex.quote(os.path.join(self.out, name))


def _preprocessing(commands: list[Command], made: Migrated, trained: bool, problems: list[str]) -> None:
    """Report on the options of preprocess.py. Without a training command, make the settings too."""
    data = funsd_settings(commands) if commands else {"train": "DIR"}
    longest = max((command.number("max_len") for command in commands), default=510) + 2
    reads = " ".join(["--data.format funsd", *(f"--data.{key} {shlex.quote(value)}" for key, value in data.items())])
    for command in commands:
        if command.number("max_len") < 6:
            problems.append(f"--max_len {command.number('max_len')}: must be at least 6")
        if (split := command.text("data_split")) not in SPLITS:
            problem = f"{TRAIN} reads only train, dev and test; give one of these, or leave this command out"
            (made.notes if trained else problems).append(f"--data_split {split}: {problem}")
    if trained and commands:
        made.notes.append(f"data: the files of {PREPROCESS} are used; `{reads}` would read the annotations directly")
    elif commands:
        made.settings = {"data": {"format": "funsd", **data, "scheme": "BIOES", "max_length": longest, "stride": 0}}
        missing = " --data.train DIR" * ("train" not in data) + " --model.name_or_path NAME --schedule.epochs N"
        made.commands.append(f"layoutner train {CONFIG}{missing}")
        made.remarks.append("preprocess.py is no longer needed: layoutner reads the annotations directly.")
    for option, became, why in (
        ("data_dir", reads, "the annotations are read without preprocessing"),
        ("data_split", "", "data.train, data.eval and data.test name the folder of each split"),
        ("output_dir", "", "no preprocessed files are written"),
        ("model_name_or_path", "", "the model's own tokenizer splits the words"),
        ("max_len", f"data.max_length = {longest}", "training cuts the windows, and counts special tokens"),
    ):
        those = [command for command in commands if option in command.given] or commands[:1]
        alone = Outcome(
            "not given",
            f"--{option}",
            why=f"if given, {'replaced by ' + became if became else 'dropped'}: {why}",
        )
        its = [outcome_of(command, option, False, became, why) for command in those] or [alone]
        shown = ", ".join(dict.fromkeys(one.option for one in its))
        made.report.append(its[0]._replace(option=f"{PREPROCESS} {shown}"))
