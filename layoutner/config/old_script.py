"""run_seq_labeling.py and preprocess.py: their options, and how a shell line that calls them is read."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from layoutner.config.errors import UserError, did_you_mean

Value = str | int | float | bool
TRAIN, PREPROCESS = "run_seq_labeling.py", "preprocess.py"
LAUNCHERS = ("torch.distributed.launch", "torch.distributed.run", "torchrun")


class Option(NamedTuple):
    """One option of the old scripts: a row of the guide, and what the parser goes by."""

    name: str
    default: Value | None  # its type is the option's, and False is a switch; None = required text
    did: str  # Markdown
    here: str  # Markdown: kept, replaced or dropped, and how


# fmt: off
OPTIONS: dict[str, tuple[Option, ...]] = {
    TRAIN: (
        Option("data_dir", None, "folder with `{train,dev,test}.txt`, `_box.txt` and `_image.txt`",
               "kept: `data.format = \"unilm\"`, `data.train`, `data.test`; the folder is read as it stands"),
        Option("model_type", None, "`bert`, `roberta` or `layoutlm`", "kept: `model.family`"),
        Option("model_name_or_path", None, "hub name or folder to start from; `.ckpt` in it means TensorFlow",
               "kept: `model.name_or_path`; dropped for a `.ckpt`, which has to be converted first"),
        Option("output_dir", None, "model, checkpoints and results; TensorBoard files in `runs/` and its last part",
               "kept: `run.output_dir`, `tensorboard.dir`; the trained model is in `export/` below it"),
        Option("labels", "", "file with a label a line; without it the script fails",
               "kept: `data.labels`, and `data.scheme` from what the file holds"),
        Option("config_name", "", "another checkpoint's configuration", "dropped: the checkpoint's own is taken"),
        Option("tokenizer_name", "", "another checkpoint's tokenizer",
               "dropped: the checkpoint's own; other tokenizer files go into a copy of its folder"),
        Option("cache_dir", "", "folder for downloads", "replaced by the environment variable `HF_HUB_CACHE`"),
        Option("max_seq_length", 512, "every piece is padded to it, and truncated at it",
               "kept: `data.max_length`, with `data.stride = 0`; longer pages become several windows"),
        Option("do_train", False, "train", "replaced by `layoutner train`, and `data.train`"),
        Option("do_eval", False, "score the `test` files (not the dev files, as its help says)",
               "kept: `data.test`; alone: replaced by `layoutner evaluate`"),
        Option("do_predict", False, "write `test_predictions.txt` and `test_results.txt`",
               "kept: `run.predictions = \"unilm\"`; alone: replaced by `layoutner predict`"),
        Option("evaluate_during_training", False, "score the dev files at each logging step, on one process",
               "kept: `data.eval` and `run.eval_every`; here it also chooses the checkpoint"),
        Option("do_lower_case", False, "lower-case the text; to be repeated for each prediction",
               "replaced by the checkpoint's tokenizer, which travels with the model"),
        Option("per_gpu_train_batch_size", 8, "pieces a forward on one GPU",
               "kept: `batch.micro_windows`; times GPUs, processes and accumulation: `batch.global_windows`"),
        Option("per_gpu_eval_batch_size", 8, "the same, for scores and predictions",
               "replaced by `batch.micro_windows` in a run, by `--batch` of `evaluate` and `predict`"),
        Option("gradient_accumulation_steps", 1, "forwards a step",
               "kept: in `batch.global_windows`, from which it follows again"),
        Option("learning_rate", 5e-5, "peak learning rate", "kept: `optimizer.lr`"),
        Option("weight_decay", 0.0, "none on biases and LayerNorm weights", "kept: `optimizer.weight_decay`"),
        Option("adam_epsilon", 1e-8, "of AdamW", "kept: `optimizer.eps`"),
        Option("max_grad_norm", 1.0, "clips the gradient; 0 makes it 0, so nothing is learnt",
               "kept: `optimizer.max_grad_norm`; 0 = no clipping"),
        Option("num_train_epochs", 3.0, "a fraction, of which the loop takes the whole part",
               "kept: `schedule.epochs`, the whole part"),
        Option("max_steps", -1, "above 0: instead of epochs; the loop makes one step more, at learning rate 0",
               "kept: `schedule.max_steps`, where it is above 0"),
        Option("warmup_steps", 0, "steps of linear warm-up, before linear decay to 0", "kept: `schedule.warmup_steps`"),
        Option("logging_steps", 50, "steps between logged values; 0 or less = never", "kept: `run.log_every`"),
        Option("save_steps", 50, "steps between checkpoints, all of which stay; 0 or less = never",
               "kept: `run.save_every`, with `run.keep_checkpoints = 0`"),
        Option("eval_all_checkpoints", False, "with `--do_eval`: score every checkpoint of the output folder",
               "replaced by `layoutner evaluate --checkpoints`"),
        Option("no_cuda", False, "train on the CPU", "kept: `run.device = \"cpu\"`"),
        Option("overwrite_output_dir", False, "remove the output folder, whatever it holds",
               "kept: `run.overwrite`, which removes what a run has written"),
        Option("overwrite_cache", False, "build the cached features anew; their key lacks tokenizer, case and labels",
               "dropped: the key of `data.cache` has all that changes the windows"),
        Option("seed", 42, "of Python, NumPy and torch", "kept: `run.seed`"),
        Option("fp16", False, "mixed precision by NVIDIA apex",
               "kept: `precision.dtype = \"fp16\"`; without it `\"fp32\"`"),
        Option("fp16_opt_level", "O1", "apex's level: `O0`, `O1`, `O2` or `O3`",
               "replaced by what DeepSpeed does, which is as `O2`; `O0` is `precision.dtype = \"fp32\"`"),
        Option("local_rank", -1, "number of the process on its machine, from the launcher",
               "replaced by the launcher's environment"),
        Option("server_ip", "", "address that a ptvsd debugger is waited for at", "replaced by `python -m debugpy`"),
        Option("server_port", "", "and its port", "replaced by `python -m debugpy`"),
    ),
    PREPROCESS: (
        Option("data_dir", "data/training_data/annotations", "FUNSD's annotations",
               "dropped: `--data.format funsd --data.train` reads them without preprocessing"),
        Option("data_split", "train", "first part of the names of the files it writes",
               "dropped: `data.train` and `data.test` say which is which"),
        Option("output_dir", "data", "where it writes them", "dropped: nothing is written"),
        Option("model_name_or_path", "bert-base-uncased", "tokenizer that pages are cut by, whatever is trained",
               "dropped: the model's own tokenizer cuts"),
        Option("max_len", 510, "sub-words a piece", "replaced by `data.max_length`, which counts special tokens too"),
    ),
}
# fmt: on


def table(script: str) -> str:
    """The options of a script as the rows of a Markdown table."""
    rows = []
    for name, default, did, here in OPTIONS[script]:
        shown = (
            "required"
            if default is None
            else "off"
            if default is False
            else f"`{default}`"
            if default != ""
            else "none"
        )
        rows.append(f"| `--{name}` | {shown} | {did} | {here} |\n")
    return "".join(rows)


@dataclass
class Command:
    """One call of an old script. Options that were not given have their defaults."""

    script: str
    words: tuple[str, ...]  # as a shell would start it, assignments included
    values: dict[str, Value] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    environment: dict[str, str] = field(default_factory=dict)
    launcher: dict[str, str] = field(default_factory=dict)  # options of the launcher, with _; "name" is its own name

    def shown(self, option: str) -> str:
        """An option with its value, as a report names it."""
        value, given = self.values[option], option in self.given
        bare = isinstance(value, bool) or value == ""
        text = f"--{option}" if bare else f"--{option} {shlex.quote(str(value))}"
        return text if given else f"{text} ({'not given' if bare else 'the default'})"

    def text(self, option: str) -> str:
        return str(self.values[option])

    def number(self, option: str) -> int:
        return int(self.values[option])


@dataclass
class OldLine:
    """What a shell line calls."""

    commands: list[Command] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_line(arguments: Sequence[str]) -> OldLine:
    """Read a shell line that calls the old scripts, in words or as one text.

    Args:
        arguments: the words of one command, or one text: quoted, with backslash-newlines and comments, and with
            several commands parted by `&&`, `;` or newlines.

    Returns:
        The commands, and what is wrong with them: unknown options, values of the wrong type.

    Raises:
        UserError: no old script is called; a quotation without an end.
    """
    line, environment = OldLine(), dict[str, str]()
    whole = len(arguments) == 1 and re.search(r"\s", arguments[0])
    for words in _split(arguments[0]) if whole else [list(arguments)]:
        _read_command(words[1:] if words[0] in ("!", "$", "%") else words, bool(whole), environment, line)
    if not line.commands and not line.problems:
        raise UserError(
            f"no command of {TRAIN} or {PREPROCESS} in it ({'; '.join(line.notes) or 'nothing to read'}); give the old "
            "command line behind --, the options alone where the script has another name, as in "
            f"`layoutner config migrate -- python {TRAIN} --data_dir data ...`"
        )
    return line


_WORD = r"""(?:[^\s'"\\;&|<>]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")"""
_TOKEN = re.compile(
    rf"""(?P<blank>[ \t\r]+) | (?P<comment>\#[^\n]*)
      | (?P<redirect>(?:\d|&)?(?:>>?|<)&?[ \t]*{_WORD}*)
      | (?P<end>\n|;|&&?|\|\|?)
      | (?P<word>{_WORD}+)""",
    re.VERBOSE | re.DOTALL,
)


def _split(text: str) -> list[list[str]]:
    """The commands of a text, in words that are still quoted."""
    text = re.sub(r"\\[ \t]*(\r?\n|$)", "", text)  # blanks behind the backslash are what copying leaves
    commands: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise UserError(f"the command line has a quotation without an end: {text[position : position + 40]}")
        if token.lastgroup == "word":
            commands[-1].append(token.group())
        elif token.lastgroup == "end":
            commands.append([])
        position = token.end()
    return [words for words in commands if words]


def _unquote(word: str, environment: dict[str, str], line: OldLine) -> str:
    """A word as the shell hands it on, its variables put in."""

    def put(variable: re.Match[str]) -> str:
        name = variable.group(1) or variable.group(2)
        if name is None or name not in environment:
            line.problems.append(f"{word}: what {variable.group()} stands for is not in the line; write its value")
        return shlex.quote(environment.get(name, "")) if name else ""

    if "'" not in word:
        word = re.sub(r"\$(?:(\w+)|\{(\w+)\}|\()|`", put, word)
    return "".join(shlex.split(word))


def _read_command(words: list[str], quoted: bool, environment: dict[str, str], line: OldLine) -> None:
    """Read one command; `environment` is what earlier ones have set, and gets what this one sets for later ones."""
    own = dict(environment)
    rest: list[str] = []
    for word in words:
        plain = _unquote(word, own, line) if quoted else word
        name, equals, value = plain.partition("=")
        if equals and name.isidentifier() and all(before in ("export", "env", "nohup", "time") for before in rest):
            own[name] = value
        else:
            rest.append(plain.removeprefix("!") if not rest else plain)
    if not rest or rest[0] == "export":
        environment.update(own)
        return
    at = next((i for i, word in enumerate(rest) if _script(word)), None)
    if at is not None:
        script, options = _script(rest[at]), rest[at + 1 :]
    elif rest[0].startswith("-"):
        names = {word.partition("=")[0] for word in rest}
        script, options, at = PREPROCESS if names & {"--data_split", "--max_len"} else TRAIN, rest, 0
    else:
        line.notes.append(f"not read: {shlex.join(rest)}")
        return
    set_here = [f"{name}={value}" for name, value in own.items() if environment.get(name) != value]
    command = Command(script, (*set_here, *rest), environment=own)
    _read_launcher(rest[:at], command, line)
    _read_options(options, command, line)
    line.commands.append(command)


def _script(word: str) -> str:
    """The old script that a path or a module names; "" for none."""
    name = PurePath(word.replace("\\", "/")).name
    if name in OPTIONS:
        return name
    return TRAIN if word.rpartition(".")[2] == TRAIN.removesuffix(".py") else ""


def _read_launcher(words: list[str], command: Command, line: OldLine) -> None:
    """What stands before the script."""
    waiting = iter(words)
    for word in waiting:
        name, equals, value = word.partition("=")
        key = name.lstrip("-").replace("-", "_")
        if PurePath(word).name in LAUNCHERS:
            command.launcher["name"] = PurePath(word).name
        elif "name" in command.launcher and word.startswith("-"):
            switch = key in ("use_env", "standalone", "m", "module", "no_python")
            command.launcher[key] = value if equals else "" if switch else next(waiting, "")
        elif not word.startswith("-") and not re.fullmatch(r"i?python[\d.]*|env|nohup|time", PurePath(word).name):
            line.notes.append(f"not read: {word} before {command.script}")
    for key in ("nproc_per_node", "nnodes"):
        count = command.launcher.setdefault(key, "1")
        if not count.isdigit() or int(count) < 1:
            line.problems.append(f"--{key} {count}: write the number that it stood for, such as --{key} 4")
            command.launcher[key] = "1"


def _read_options(words: list[str], command: Command, line: OldLine) -> None:
    """As argparse reads them: `--name value`, `--name=value`, abbreviations, the last of two counts."""
    known = {option.name: option for option in OPTIONS[command.script]}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        start, equals, text = word.partition("=")
        name = start.removeprefix("--")
        fitting = [name] if name in known else [its for its in known if start[:2] == "--" and its.startswith(name)]
        if len(fitting) != 1 or not start.startswith("--"):
            names = [f"--{its}" for its in known]
            what = f"stands for several: {', '.join(f'--{its}' for its in fitting)}; write one of them out"
            if not word.startswith("-"):
                what = "a value without an option; quote a value that has blanks"
            elif len(fitting) < 2:
                near = did_you_mean(f"--{start.lstrip('-').replace('-', '_')}", names)
                what = f"unknown option of {command.script}; {near}"
            line.problems.append(f"{start}: {what}")
            if word.startswith("-") and not equals and waiting and not _is_option(waiting[0]):
                waiting.pop(0)  # its value, which is no problem of its own
            continue
        option = known[fitting[0]]
        if option.name in command.given and option.default is not False:
            line.notes.append(f"--{option.name} stands twice: the last one counts, as it did")
        command.given.add(option.name)
        if option.default is False:
            command.values[option.name] = True
            if equals:
                line.problems.append(f"{word}: --{option.name} is a switch and takes no value; leave {text!r} out")
        elif not equals and (not waiting or _is_option(waiting[0])):
            line.problems.append(f"--{option.name}: needs a value behind it")
        else:
            text = text if equals else waiting.pop(0)
            kind = str if option.default is None else type(option.default)
            try:
                command.values[option.name] = kind(text)
            except ValueError:
                wanted = "a whole number, such as 10" if kind is int else "a number, such as 0.1"
                line.problems.append(f"--{option.name} {text}: give {wanted}")
    for option in known.values():
        if option.default is None and option.name not in command.given:
            line.problems.append(f"--{option.name}: is missing, and {command.script} requires it")
        command.values.setdefault(option.name, "" if option.default is None else option.default)


def _is_option(word: str) -> bool:
    """What argparse takes for an option and not for a value: a negative number is a value."""
    return word.startswith("-") and len(word) > 1 and " " not in word and not re.fullmatch(r"-(\d+|\d*\.\d+)", word)
