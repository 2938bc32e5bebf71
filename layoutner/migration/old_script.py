"""The options of run_seq_labeling.py and preprocess.py, and a parser of shell commands that call these scripts."""

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import NoReturn

from layoutner.errors import SettingsError, did_you_mean

Value = str | int | float | bool
TRAIN, PREPROCESS = "run_seq_labeling.py", "preprocess.py"
CUDA = "CUDA_VISIBLE_DEVICES"
LAUNCHERS = ("torch.distributed.launch", "torch.distributed.run", "torchrun")
SECRET = re.compile(r"\w*(KEY|TOKEN(?!IZE)|SECRET|PASSWORD)\w*=", re.IGNORECASE)  # not TOKENIZERS_PARALLELISM
LARGEST = 2**32 - 1  # largest integer value, as for run.seed; no run has so many steps
SET_BY_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Options of the launchers, in old and current torch.
LAUNCHER_SWITCHES = ("use_env", "standalone", "m", "module", "no_python")
# fmt: off
LAUNCHER_OPTIONS = (
    *LAUNCHER_SWITCHES, "nproc_per_node", "nnodes", "node_rank", "master_addr", "master_port", "local_addr",
    "rdzv_backend", "rdzv_endpoint", "rdzv_id", "rdzv_conf", "max_restarts", "monitor_interval", "start_method", "role",
    "logdir", "log_dir", "redirects", "r", "tee", "t", "local_ranks_filter",
)
# fmt: on

# Option -> default. Its type is the type of the option. False: a switch. None: a required text.
# docs/run_seq_labeling/options.md says what replaces each of them.
# fmt: off
OPTIONS: dict[str, dict[str, Value | None]] = {
    TRAIN: {
        "data_dir": None, "model_type": None, "model_name_or_path": None, "output_dir": None, "labels": "",
        "config_name": "", "tokenizer_name": "", "cache_dir": "", "max_seq_length": 512, "do_train": False,
        "do_eval": False, "do_predict": False, "evaluate_during_training": False, "do_lower_case": False,
        "per_gpu_train_batch_size": 8, "per_gpu_eval_batch_size": 8, "gradient_accumulation_steps": 1,
        "learning_rate": 5e-5, "weight_decay": 0.0, "adam_epsilon": 1e-8, "max_grad_norm": 1.0,
        "num_train_epochs": 3.0, "max_steps": -1, "warmup_steps": 0, "logging_steps": 50, "save_steps": 50,
        "eval_all_checkpoints": False, "no_cuda": False, "overwrite_output_dir": False, "overwrite_cache": False,
        "seed": 42, "fp16": False, "fp16_opt_level": "O1", "local_rank": -1, "server_ip": "", "server_port": "",
    },
    PREPROCESS: {
        "data_dir": "data/training_data/annotations", "data_split": "train", "output_dir": "data",
        "model_name_or_path": "bert-base-uncased", "max_len": 510,
    },
}
# fmt: on


@dataclass
class Command:
    """One call of an old script. Options that were not given have their defaults."""

    script: str
    words: list[str]  # the whole command, with assignments of variables before it
    values: dict[str, Value] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    environment: dict[str, str] = field(default_factory=dict)  # variables assigned before the command
    launcher: dict[str, str] = field(default_factory=dict)  # its options, with _ for -; "name": the launcher itself

    @property
    def shown(self) -> str:
        """The command as text, to print and to write down, without secrets."""
        return show(self.words)

    def text(self, option: str) -> str:
        return str(self.values[option])

    def number(self, option: str) -> int:
        return int(self.values[option])


@dataclass
class OldLine:
    """The commands in a shell line, what is wrong with them, and what was not read."""

    commands: list[Command] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def show(words: Sequence[str]) -> str:
    """Join words into a shell command. A variable that may contain a secret is shown as NAME=..."""
    hidden = (f"{word.partition('=')[0]}=..." if SECRET.match(word) else word for word in words)
    return shlex.join(hidden)


def read_line(arguments: Sequence[str]) -> OldLine:
    """Read a shell line that calls the old scripts, given as words or as one text.

    Args:
        arguments: the words of one command; or one text, which may have quotes, backslash-newlines, comments, and
            several commands separated by `&&`, `;` or newlines.

    Returns:
        The commands, and their problems: unknown options, values of the wrong type.

    Raises:
        SettingsError: no old script is called; a quote is not closed; a `$` that no shell has replaced.
    """
    line = OldLine()
    if any(0xD800 <= ord(sign) <= 0xDFFF for word in arguments for sign in word):
        raise SettingsError("the old command line is not UTF-8; encode the names in it as UTF-8")
    whole = len(arguments) == 1 and re.search(r"\s", arguments[0])
    for words in _split(arguments[0]) if whole else [list(arguments)]:
        at = next((i for i, word in enumerate(words) if _script(word)), None)
        if at is not None:
            script = _script(words[at])
        elif words and words[0].startswith("-"):  # only the options
            names = {word.partition("=")[0] for word in words}
            script, at = PREPROCESS if names & {"--data_split", "--max_len"} else TRAIN, -1
        else:
            line.notes.append(f"not read: {show(words)}")
            if any(word.startswith(f"{CUDA}=") for word in words):
                line.problems.append(f"{show(words)}: write {CUDA}=... before the python command that it was meant for")
            continue
        if whole and (open_ends := [word for word in words if re.search(r"[$`]", show([word]))]):
            raise SettingsError(
                f"{', '.join(open_ends)}: the value is not in the text. Write it, or put `layoutner config migrate --` "
                "before the command in the script, so that the shell replaces it"
            )
        command = Command(script, words)
        _read_front(words[: max(at, 0)], command, line)
        _read_options(words[at + 1 :], command, line)
        line.commands.append(command)
    if not line.commands and not line.problems:
        raise SettingsError(
            f"no command of {TRAIN} or {PREPROCESS} found ({'; '.join(line.notes) or 'nothing to read'}); give the old "
            "command line after --, or only its options if the script has another name, as in "
            f"`layoutner config migrate -- python {TRAIN} --data_dir data ...`"
        )
    return line


def _split(text: str) -> list[list[str]]:
    """Split a text into commands, and each command into words."""
    text = re.sub(r"\\[ \t]*(\r?\n|$)", "", text)  # copying may leave spaces after a backslash
    text = re.sub(r"(?m)^[ \t]*(!|[$%][ \t])", "", text)  # prompts of notebooks and shells
    text = re.sub(r"(?<!\S)[\d&]+>", ">", text)  # shlex splits 2>log into 2 and >
    text = re.sub(r"(?<=[^\s;&|()<>])#", "\0", text)  # shlex also starts a comment inside a word
    text = text.replace("\n", "\n\n")  # shlex drops the first one with a comment
    signs = ";&|()<>\n"
    lexer = shlex.shlex(text, posix=True, punctuation_chars=signs)
    lexer.whitespace, lexer.whitespace_split = " \t\r", True
    commands: list[list[str]] = [[]]
    redirected = False
    try:
        for token in lexer:
            if token and not token.strip(signs):
                redirected = "<" in token or ">" in token
                if not redirected:
                    commands.append([])
            elif redirected:
                redirected = False  # the file of the redirection
            else:
                word = os.path.expanduser(token) if token.startswith("~/") else token
                commands[-1].append(word.replace("\0", "#"))
    except ValueError:
        where = lexer.token.replace("\0", "#")[:40]
        raise SettingsError(f"the command line has a quote that is not closed: {where}") from None
    return [words for words in commands if words]


def _script(word: str) -> str:
    """The old script that a path or module refers to; "" if none."""
    name = PureWindowsPath(word).name  # it splits at / too
    return TRAIN if name.rpartition(".")[2] == TRAIN.removesuffix(".py") else name if name in OPTIONS else ""


def _read_front(words: list[str], command: Command, line: OldLine) -> None:
    """Read the words before the script: assignments, python with its flags, a launcher of torch with its options."""
    waiting = iter(words)
    for word in waiting:
        name, equals, value = word.partition("=")
        key = name.lstrip("-").replace("-", "_")
        if (start := PureWindowsPath(word).name) in LAUNCHERS:
            command.launcher["name"] = start
        elif word.startswith("-") and "name" in command.launcher:
            meant = [option for option in LAUNCHER_OPTIONS if option.startswith(key)]  # argparse accepts abbreviations
            if key not in LAUNCHER_OPTIONS and len(meant) != 1:
                near = did_you_mean(f"--{key}", [f"--{option}" for option in meant or LAUNCHER_OPTIONS])
                line.problems.append(f"{word}: unknown option of {command.launcher['name']}; {near}")
                break
            key = key if key in LAUNCHER_OPTIONS else meant[0]
            command.launcher[key] = value if equals else "" if key in LAUNCHER_SWITCHES else next(waiting, "")
        elif word in ("-W", "-X"):
            next(waiting, "")
        elif equals and name.isidentifier():
            command.environment[name] = value
        elif not word.startswith("-") and not re.fullmatch(r"i?python[\d.]*(\.exe)?|env|nohup|time", start):
            line.problems.append(
                f"{word}: unknown before {command.script}, and it may change the batch size; remove `{word}` and its "
                f"options; for N processes write `torchrun --nproc_per_node=N {command.script} ...`, for one process "
                "with N GPUs give --gpus N before the --"
            )
            break
    for key in ("nproc_per_node", "nnodes"):
        count = command.launcher.setdefault(key, "1")
        if not re.fullmatch("[1-9][0-9]{0,5}", count):
            line.problems.append(f"--{key} {count}: write a number, such as --{key} 4")
            command.launcher[key] = "1"


class _OldParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        problem = message.replace("ignored explicit argument", "a switch takes no value; leave out")
        raise SettingsError(f"the old command line cannot be migrated: {problem}")


def _read_options(words: list[str], command: Command, line: OldLine) -> None:
    """Read options as the scripts do, with argparse: `--name value`, `--name=value`, abbreviations, the last of two."""
    known = OPTIONS[command.script]
    parser = _OldParser(add_help=False, argument_default=argparse.SUPPRESS)
    for name, default in known.items():
        parser.add_argument(f"--{name}", action="store_true" if default is False else "store")
    command.values = {name: "" if default is None else default for name, default in known.items()}
    options, unknown = parser.parse_known_args(words)
    given = vars(options)
    command.given = set(given)
    for before, word in zip(["", *unknown], unknown, strict=False):
        if word.startswith("-"):
            near = did_you_mean(f"--{word.lstrip('-').replace('-', '_')}", [f"--{name}" for name in known])
            line.problems.append(f"{word}: unknown option of {command.script}; {near}")
        elif not before.startswith("-") or "=" in before:
            line.problems.append(f"{word}: a value without an option; quote a value that contains spaces")
    for name, value in given.items():
        default = known[name]
        if default != "" and not str(value).strip():
            empty = "is empty (an unset shell variable?); write the value"
            line.problems.append(f"--{name} {shlex.quote(value)}: {empty}")
            continue
        try:
            read = value if default is None else type(default)(value)
        except ValueError:
            wanted = "a whole number, such as 10" if isinstance(default, int) else "a number, such as 0.1"
            line.problems.append(f"--{name} {value}: give {wanted}")
            continue
        if isinstance(read, int) and read > LARGEST:
            line.problems.append(f"--{name} {value}: give at most {LARGEST}")
        else:
            command.values[name] = read
    missing = [name for name, default in known.items() if default is None and name not in given]
    line.problems += [f"--{name}: is missing, and {command.script} requires it" for name in missing]
