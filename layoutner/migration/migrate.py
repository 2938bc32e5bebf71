"""An old command line becomes settings, the commands that use them, and a report; see old_script.py for its options."""

import os
import shlex
from collections.abc import Sequence

from pydantic import ValidationError

from layoutner.errors import SettingsError, did_you_mean, raise_gathered
from layoutner.migration.migrated import Fate, Migrated, fate_of
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
# What becomes of an option that was not given, where a line gives it: one that trains, one that does not. "" = dropped,
# for the reason that the rules below say.
ELSE = {
    "cache_dir": ("replaced by HF_HUB_CACHE in the environment",) * 2,
    "do_train": ("", "replaced by `layoutner train`"),
    "do_eval": ("kept as data.test", "replaced by `layoutner evaluate`"),
    "do_predict": ("kept as run.predictions", "replaced by `layoutner predict`"),
    "evaluate_during_training": ("kept as data.eval and run.eval_every", ""),
    "do_lower_case": ("replaced by the checkpoint's tokenizer", ""),
    "max_steps": ("kept as schedule.max_steps", ""),
    "eval_all_checkpoints": ("replaced by `layoutner evaluate --checkpoints`, beside --do_eval",) * 2,
    "no_cuda": ("kept as run.device = cpu", "replaced by --device cpu"),
    "overwrite_output_dir": ("replaced by `--run.overwrite true` in the command", ""),
    "fp16_opt_level": ("replaced by precision.dtype, beside --fp16", ""),
    "local_rank": ("replaced by LOCAL_RANK, which the launcher sets",) * 2,
    "server_ip": ("replaced by `python -m debugpy`",) * 2,
    "server_port": ("replaced by `python -m debugpy`",) * 2,
}


def migrate(arguments: Sequence[str], gpus: int | None = None) -> Migrated:
    """Translate a command line of run_seq_labeling.py, of preprocess.py, or of both.

    The data folder, the file of labels and the output folder are looked at where they are there.

    Args:
        arguments: the words of the command, or one text with all commands; see `read_line`.
        gpus: GPUs that the old process saw where it ran without a launcher; default: those of CUDA_VISIBLE_DEVICES in
            the line, else 1.

    Raises:
        SettingsError: every problem of the line at once, with option, value and what to do.
    """
    line = read_line(arguments)
    trained = [command for command in line.commands if command.script == TRAIN]
    prepared = [command for command in line.commands if command.script == PREPROCESS]
    if len(trained) > 1:
        line.problems.append(f"{len(trained)} commands of {TRAIN}: migrate one after the other")
    made = Migrated([command.shown for command in line.commands], notes=line.notes)
    if trained:
        _Migration(OldRun(trained[0], gpus, line.problems, line.notes), made).run()
    _preprocessing(prepared, made, bool(trained), line.problems)
    raise_gathered(SettingsError, "the old command line cannot be migrated", line.problems)
    return made


class _Migration:
    """The rules for run_seq_labeling.py."""

    def __init__(self, run: OldRun, made: Migrated) -> None:
        self.past, self.old, self.made = run, run.old, made
        self.train, self.scores, self.predicts = (self.on(f"do_{what}") for what in ("train", "eval", "predict"))
        self.data, self.out = self.old.text("data_dir"), self.old.text("output_dir")
        self.fates: dict[str, Fate] = {}
        self.homes: dict[tuple[str, str], str] = {}  # section and key -> the option that said it

    def run(self) -> None:
        self.check()
        if self.train:
            self.files()
            self.model()
            self.batch()
            self.rhythm()
            self.made.notes += self.past.steps(self.made.settings["data"].get("eval") == 0.1)
        else:
            self.inference()
        self.rest()
        self.commands()
        self.validate()
        for option in OPTIONS[TRAIN]:
            if option not in self.fates:
                self.say(option)
        self.made.report = [self.fates[option] for option in OPTIONS[TRAIN]]

    def on(self, option: str) -> bool:
        return bool(self.old.values[option])

    def problem(self, option: str, what: str) -> None:
        self.past.problems.append(f"--{option} {self.old.values[option]}: {what}")

    def say(self, option: str, became: str = "", why: str = "") -> None:
        """What an option becomes that is no setting."""
        instead = ELSE.get(option, ("", ""))[not self.train]
        self.fates[option] = fate_of(self.old, option, False, became, why, instead)

    def put(self, option: str, why: str = "", /, **values: object) -> None:
        """Settings, as section__key=value, that an option becomes."""
        became = []
        for name, value in values.items():
            section, _, key = name.partition("__")
            self.made.settings.setdefault(section, {})[key] = value
            self.homes[section, key] = option
            became.append(f"{section}.{key} = {value}")
        self.fates[option] = fate_of(self.old, option, True, ", ".join(became), why)

    def validate(self) -> None:
        """What the settings refuse, by the option that said it."""
        for section, values in self.made.settings.items():
            try:
                sections()[section].model_validate(values)
            except ValidationError as error:
                for detail in error.errors():
                    key = str(detail["loc"][0]) if detail["loc"] else next(iter(values))
                    said = detail["msg"].removeprefix("Value error, ")
                    said = f"{section}.{key} cannot hold it: {said[0].lower()}{said[1:]}"
                    self.problem(self.homes[section, key], said)

    def check(self) -> None:
        """What the old script refuses, or should have."""
        if not (self.train or self.scores or self.predicts):
            none = "none of --do_train, --do_eval, --do_predict: the old script then ends at once; give one"
            self.past.problems.append(none)
        for option in ("per_gpu_train_batch_size", "per_gpu_eval_batch_size", "gradient_accumulation_steps"):
            if self.old.number(option) < 1:
                self.problem(option, "at least 1")
        for option, known in (("model_type", FAMILIES), ("fp16_opt_level", LEVELS)):
            value = self.old.text(option)
            if value and option in self.old.given and (value.lower() if known is FAMILIES else value) not in known:
                self.problem(option, f"not one of the old script's; {did_you_mean(value, known)}")

    def files(self) -> None:
        past, out = self.past, self.out
        tests = {"data__test": self.data} if self.scores or self.predicts else {}
        why = "read as it stands; the pieces of a page become one page again"
        self.put("data_dir", why, data__format="unilm", data__train=self.data, **tests)
        why = "the old script always wrote for TensorBoard too: tensorboard.enabled = true does, into "
        why += f"{os.path.join(out, 'tensorboard')}, with pip install 'layoutner[tensorboard]'; metrics.jsonl has the "
        why += "numbers anyway"
        self.put("output_dir", why, run__output_dir=out)
        file, train = self.old.text("labels"), past.splits["train"]
        own = os.path.join(self.data, "labels.txt")
        of_own = past.lines("data_dir", own) if not file else None
        scheme, why = scheme_of(past.lines("labels", file) if file else of_own), "the scheme is that of the file"
        if scheme is None:
            scheme, why = train.scheme if train else "BIOES", "the scheme is that of train.txt, else preprocess.py's"
        if not file:
            those = f"of {own}" if of_own is not None else f"of {own} where it is there, else of the training pages"
            why += f"; the labels are those {those}; the old script stopped here"
        self.put("labels", why, **({"data__labels": file} if file else {}), data__scheme=scheme)
        length = self.old.number("max_seq_length")
        why = "the old script had no overlap; data.stride = 128 would give the words at cuts more context"
        why += f"; what it cut off behind {length} sub-words becomes more windows" if length < 512 else ""
        self.put("max_seq_length", why, data__max_length=length, data__stride=0)

    def model(self) -> None:
        kind, name = self.old.text("model_type").lower(), self.old.text("model_name_or_path")
        why = "its second </s> is not written" if kind == "roberta" else ""
        self.put("model_type", why, model__family=kind if kind in FAMILIES else "bert")
        if ".ckpt" in name:
            how = "transformers 4 makes a folder of it: from_pretrained(..., from_tf=True), then save_pretrained"
            self.say("model_name_or_path", why=f"TensorFlow weights are not read here; {how}")
            self.made.remarks.append("Still to give: model.name_or_path, the converted checkpoint.")
        else:
            self.put("model_name_or_path", model__name_or_path=name)
        for option in ("config_name", "tokenizer_name"):
            self.say(option, why="the checkpoint's own is taken; for another, copy its folder and exchange the files")
        lower, uncased, why = self.on("do_lower_case"), "uncased" in name.lower(), "it travels with the model"
        if kind != "roberta" and lower and not uncased and "cased" in name.lower():
            why = "the old run lower-cased words for a vocabulary with capitals; here they keep their case"
        if odd := kind != "roberta" and not lower and (uncased or "cased" not in name.lower()):
            where = "here words are lower-cased" if uncased else "where this tokenizer lower-cases, sub-words differ"
            why = f"the old run kept capitals, which an uncased vocabulary reads as [UNK]; {where}"
        if bare := kind != "roberta" and os.path.isdir(name) and not any(map(self.in_checkpoint, TOKENIZER_FILES)):
            file = os.path.join(name, TOKENIZER_FILES[0])
            no_files = f"{name} has no {' and no '.join(TOKENIZER_FILES)}"
            why = f"{no_files}, so the tokenizer lower-cases words, as the old run did{'' if lower else ' not'}; "
            why += f'for a vocabulary with capitals write {{"do_lower_case": false}} into {file}, which keeps them'
        self.say("do_lower_case", "the checkpoint's tokenizer" * (lower or odd or bare), why)

    def in_checkpoint(self, file: str) -> bool:
        return os.path.isfile(os.path.join(self.old.text("model_name_or_path"), file))

    def batch(self) -> None:
        past, values, warmup = self.past, self.old.values, self.old.number("warmup_steps")
        why = f"{past.micro} a forward x {past.gpus} GPU(s) a process x {past.world} process(es) x {past.accumulation}"
        why += " accumulation"
        sizes = {"batch__micro_batch_size": past.micro, "batch__global_batch_size": past.windows}
        self.put("per_gpu_train_batch_size", why, **sizes)
        self.made.notes.append(f"batch: {past.windows} windows a step = {why}")
        self.put("gradient_accumulation_steps", "a factor of it", batch__global_batch_size=past.windows)
        why = "evaluation in a run uses batch.micro_batch_size, and scores do not depend on it"
        self.say("per_gpu_eval_batch_size", why=why)
        for option, key in (("learning_rate", "lr"), ("weight_decay", "weight_decay"), ("adam_epsilon", "eps")):
            self.put(option, **{f"optimizer__{key}": values[option]})
        norm, why = values["max_grad_norm"], "0 made every gradient 0, so nothing was learnt; here it is no clipping"
        self.put("max_grad_norm", "" if norm else why, optimizer__max_grad_norm=norm)
        epochs, why = values["num_train_epochs"], ""
        self.put("warmup_steps", schedule__warmup_steps=warmup)
        if past.max_steps:
            why = "the old script made one step more, at learning rate 0, which changed no weight"
            self.put("max_steps", why, schedule__max_steps=past.max_steps)
            self.say("num_train_epochs", why="--max_steps counts instead, as it did")
            if warmup > past.max_steps:
                self.problem("warmup_steps", f"more than --max_steps {past.max_steps}; give at most as many")
            return
        if past.epochs < 1:
            self.problem("num_train_epochs", "the old loop took the whole part, and trained nothing; give 1 or more")
        elif epochs != past.epochs:
            why = f"the whole part, as the old loop took; its learning rate was on the way to 0 at {epochs} epochs"
        self.put("num_train_epochs", why, schedule__epochs=max(1, past.epochs))
        self.say("max_steps", why="not above 0, so epochs count")

    def rhythm(self) -> None:
        past, log, save = self.past, self.old.number("logging_steps"), self.old.number("save_steps")
        self.put("logging_steps", "" if log > 0 else "never", run__log_every=max(0, log))
        if save > 0:
            self.put("save_steps", "every checkpoint stays, as it did", run__save_every=save, run__keep_checkpoints=0)
        else:
            best = ", and at every new best of data.eval" if self.on("evaluate_during_training") else ""
            self.put("save_steps", f"at the end{best or ' alone'}", run__save_every=0)
        self.put("seed", run__seed=self.old.values["seed"])
        option = "evaluate_during_training"
        if not self.on(option) or log <= 0:
            self.say(option, why="the old script did it at logging steps, and the line has none")
        elif past.dev_is_test:
            why = "dev.txt has the pages of test.txt, so the test pages choose the checkpoint, which flatters their "
            why += "score; scores.json says so. An honest score: data.eval = 0.1, without data.selection_split"
            self.put(option, why, data__selection_split="test", data__test=self.data, run__eval_every=log)
        elif past.data_there and not past.splits["dev"]:
            why = "no dev.txt, at which the old script stopped: a tenth of the training pages; the best is exported"
            self.put(option, why, data__eval=0.1, run__eval_every=log)
        else:
            why = "the best checkpoint is exported, not the last; where there is no dev.txt, give data.eval = 0.1"
            self.put(option, why, data__eval=self.data, run__eval_every=log)
            if past.dev_in_test and (self.scores or self.predicts):
                self.made.remarks += [
                    f"Refused as it stands, as the test pages would choose the checkpoint: {past.dev_in_test}.",
                    "Take them out of dev.txt, or set data.eval = 0.1, a tenth of the training pages; or, on purpose,",
                    'data.selection_split = "test" in place of data.eval, and scores.json says so.',
                ]
        half, level = self.on("fp16"), self.old.text("fp16_opt_level")
        why = "O0 is fp32" if level == "O0" else "apex needs a GPU, and the line has none" if past.no_gpu else ""
        dtype = "fp16" if half and not why else "fp32"
        self.put("fp16", why * half, precision__dtype=dtype)
        why = why or "at every level the whole network is cast, beside fp32 master weights, as O2 did"
        self.say("fp16_opt_level", f"precision.dtype = {dtype}" * half, why if half else "read with --fp16 alone")

    def inference(self) -> None:
        """Commands that read no settings."""
        for option in OPTIONS[TRAIN]:
            self.say(option, why="only training reads it")
        for option in ("labels", "max_seq_length", "model_type", "model_name_or_path", "do_lower_case"):
            self.say(option, why="the model that layoutner has exported brings its own")
        self.say("data_dir", f"--input {shlex.quote(self.data)} --data.format unilm")
        self.say("output_dir", f"--model {self.at('export')}", "where `layoutner train` leaves a model")
        self.say("per_gpu_eval_batch_size", f"--batch {self.old.values['per_gpu_eval_batch_size']}")

    def rest(self) -> None:
        """What training and inference share."""
        past, old = self.past, self.old
        if self.train:
            self.say("do_train", "`layoutner train`")
        if self.train and self.scores:
            why = "test.txt is scored, as the old script did; eval_results.txt becomes scores.json"
            self.put("do_eval", why, data__test=self.data)
        elif self.scores:
            self.say("do_eval", "`layoutner evaluate`", "of test.txt, as it was, into eval_results.txt")
        if self.train and self.predicts:
            self.put("do_predict", "test_predictions.txt and test_results.txt", run__predictions="unilm")
        elif self.predicts:
            self.say("do_predict", "`layoutner predict`", "test_results.txt is `layoutner evaluate`'s")
        every = "`layoutner evaluate --checkpoints`" * (self.scores and self.on("eval_all_checkpoints"))
        why = "into eval_results.txt" if every else "the old script read it with --do_eval"
        self.say("eval_all_checkpoints", every, why)
        if past.no_gpu and self.train:
            self.put("no_cuda", "" if self.on("no_cuda") else "the line has no GPU", run__device="cpu")
        elif past.no_gpu:
            self.say("no_cuda", "--device cpu")
        if self.train and self.on("overwrite_output_dir"):
            why = "removes what a run has written; leave it out of a command that goes on (--run.resume auto)"
            self.say("overwrite_output_dir", "`--run.overwrite true` in the command", why)
        self.say("overwrite_cache", why="features are not cached; a store of `layoutner data build` is checked")
        cache = shlex.quote(old.text("cache_dir"))
        why = "what an old transformers left there is downloaded anew"
        self.say("cache_dir", f"HF_HUB_CACHE={cache}" * self.on("cache_dir"), why)
        if past.launched:
            self.fates["local_rank"] = Fate("replaced", "--local_rank", "LOCAL_RANK, which the launcher sets")
        ip, port = old.text("server_ip"), old.text("server_port")
        debugger = f"`python -m debugpy --listen {ip}:{port} --wait-for-client -m layoutner ...`" * bool(ip and port)
        for option in ("server_ip", "server_port"):
            self.say(option, debugger, "" if debugger else "the old script read it with the other one")

    def commands(self) -> None:
        """What is run now."""
        past, commands, remarks = self.past, self.made.commands, self.made.remarks
        before = {name: value for name, value in self.old.environment.items() if name not in (CUDA, *SET_BY_LAUNCHERS)}
        if secrets := [name for name in before if SECRET.match(f"{name}=")]:
            remarks.append(f"No secret is copied here, so it has to stand in the environment: {', '.join(secrets)}.")
        before = {name: value for name, value in before.items() if name not in secrets}
        before |= {CUDA: ",".join(past.devices)} if past.devices else {}
        before |= {"HF_HUB_CACHE": self.old.text("cache_dir")} if self.on("cache_dir") else {}
        prefix = "".join(f"{name}={shlex.quote(value)} " for name, value in before.items())
        data = f"--input {shlex.quote(self.data)} --data.format unilm{' --device cpu' * past.no_gpu}"
        if self.train:
            settings = CONFIG + " --run.overwrite true" * self.on("overwrite_output_dir")
            commands.append(f"{prefix}{past.start()} train {settings}")
            if past.nodes > 1:
                shape = f"--nodes={past.nodes} --{'cpus-per-task' if past.no_gpu else 'gpus-per-node'}={past.processes}"
                remarks.append("on every node, with its own --node-rank; or, under Slurm,")
                remarks.append(f"  sbatch {shape} slurm/train.sh {settings}")
        else:
            data += f" --batch {self.old.values['per_gpu_eval_batch_size']}"
            remarks.append("A model that the old script trained is not read: migrate the line that trained it first.")
        made = [("evaluate", "eval_results")] * self.scores
        made += [("evaluate", "test_results"), ("predict", "test_predictions")] * self.predicts
        there = self.in_output()
        said = "what is in it stays; layoutner refuses to train over an earlier run, or over "
        if self.on("overwrite_output_dir"):
            said = (
                "--run.overwrite true removes an earlier run of layoutner there, and nothing else; layoutner refuses "
            )
            said += "to train over "
        said += "what another trainer left (a model, test_predictions.txt, test_results.txt): give another "
        said += "run.output_dir"
        warnings = [said] if there and self.train else []
        for what, file in made:
            every = file == "eval_results" and self.on("eval_all_checkpoints")
            model = f"--checkpoints {shlex.quote(self.out)}" if every else f"--model {self.at('export')}"
            if every or not self.train:
                to = f"--output {self.at(f'{file}.txt')}"
                commands.append(f"{prefix}layoutner {what} {data} --output-format unilm {model} {to}")
                if f"{file}.txt" in there:
                    warnings.append(f"`layoutner {what}` writes over {file}.txt: keep a copy to compare")
        self.made.notes += [f"output: {self.out} is not empty; {warning}" for warning in warnings]

    def in_output(self) -> list[str]:
        try:
            return os.listdir(self.out) if os.path.isdir(self.out) else []
        except OSError as error:
            said = f"cannot be looked into ({error.strerror}): give another run.output_dir, or make it readable"
            self.made.notes.append(f"output: {self.out} {said}")
            return []

    def at(self, name: str) -> str:
        """A file of the output folder, as a shell takes it."""
        return shlex.quote(os.path.join(self.out, name))


def _preprocessing(commands: list[Command], made: Migrated, trained: bool, problems: list[str]) -> None:
    """Report on preprocess.py's options; without a training command also the settings."""
    data = funsd_settings(commands) if commands else {"train": "DIR"}
    longest = max((command.number("max_len") for command in commands), default=510) + 2
    reads = " ".join(["--data.format funsd", *(f"--data.{key} {shlex.quote(value)}" for key, value in data.items())])
    for command in commands:
        if command.number("max_len") < 6:
            problems.append(f"--max_len {command.number('max_len')}: at least 6")
        if (split := command.text("data_split")) not in SPLITS:
            said = f"{TRAIN} reads train, dev and test alone; give one of these, or leave this command out"
            (made.notes if trained else problems).append(f"--data_split {split}: {said}")
    if trained and commands:
        made.notes.append(f"data: the files of {PREPROCESS} are kept; `{reads}` would read the annotations themselves")
    elif commands:
        made.settings = {"data": {"format": "funsd", **data, "scheme": "BIOES", "max_length": longest, "stride": 0}}
        missing = " --data.train DIR" * ("train" not in data) + " --model.name_or_path NAME --schedule.epochs N"
        made.commands.append(f"layoutner train {CONFIG}{missing}")
        made.remarks.append("preprocess.py has nothing to do any more: the annotations are read as they are.")
    for option, became, why in (
        ("data_dir", reads, "the annotations are read without preprocessing"),
        ("data_split", "", "data.train, data.eval and data.test say which is which"),
        ("output_dir", "", "nothing is written"),
        ("model_name_or_path", "", "the model's own tokenizer cuts the pages"),
        ("max_len", f"data.max_length = {longest}", "windows are cut in training, and counted with special tokens"),
    ):
        those = [command for command in commands if option in command.given] or commands[:1]
        alone = Fate(
            "not given", f"--{option}", why=f"else {'replaced by ' + became if became else 'dropped'}, because {why}"
        )
        its = [fate_of(command, option, False, became, why) for command in those] or [alone]
        shown = ", ".join(dict.fromkeys(one.option for one in its))
        made.report.append(its[0]._replace(option=f"{PREPROCESS} {shown}"))
