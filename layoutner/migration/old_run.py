"""The run that an old command line made: its processes and GPUs, its data folder, its optimizer steps."""

import math
import os
import re
import shlex
import stat
from itertools import takewhile
from pathlib import PurePosixPath
from typing import NamedTuple

from layoutner.migration.old_script import CUDA, Command

# Share of the pages of data.eval that may be in data.test too: as in layoutner.documents.splits, which a test compares.
ACCIDENT = 0.1
# Splits of preprocess.py, with the role that layoutner reads each for, and FUNSD's folder for it.
SPLITS = {"train": ("train", "training_data"), "dev": ("eval", ""), "test": ("test", "testing_data")}


class Split(NamedTuple):
    """One file of the old data folder."""

    pieces: int  # blocks of words between empty lines: the examples of the old script
    scheme: str  # "BIOES" where a label begins with E- or S-, else "BIO"


class OldRun:
    """Processes, GPUs and data of one call of run_seq_labeling.py.

    Args:
        gpus_given: GPUs that a process without a launcher saw; None = by the line, else 1.
        problems: gets what is wrong.
        notes: gets what was counted and found.
    """

    def __init__(self, old: Command, gpus_given: int | None, problems: list[str], notes: list[str]) -> None:
        self.old, self.problems, self.notes = old, problems, notes
        self.micro = max(1, old.number("per_gpu_train_batch_size"))
        self.accumulation = max(1, old.number("gradient_accumulation_steps"))
        self._count_gpus(gpus_given)
        self.world = self.nodes * self.processes
        self.ranks = self.world * self.gpus  # of the new run: one a GPU
        self.windows = self.micro * self.ranks * self.accumulation  # the global batch
        self.max_steps = max(0, old.number("max_steps"))
        epochs = float(old.values["num_train_epochs"])
        self.epochs = int(epochs) if math.isfinite(epochs) else 0  # of the old loop: the whole part
        self._look_at_data()

    def _count_gpus(self, given: int | None) -> None:
        launcher, environment, ranked = self.old.launcher, self.old.environment, self.old.number("local_rank") >= 0
        self.nodes, self.processes = int(launcher["nnodes"]), int(launcher["nproc_per_node"])
        # The old script joins processes only by --local_rank, which torchrun and --use_env do not give.
        tells = launcher.get("name") == "torch.distributed.launch" and "use_env" not in launcher
        self.apart = "name" in launcher and not (tells or ranked)
        self.launched = ranked or tells or (self.apart and self.nodes * self.processes > 1)
        if ranked and "name" not in launcher:  # the variables that a launcher sets, set by hand
            world = environment.get("WORLD_SIZE", "1")
            self.processes = int(world) if re.fullmatch("[1-9][0-9]{0,5}", world) else 1
        visible = environment.get(CUDA)
        self.devices = _visible(visible or "")
        seen = None if visible is None else len(self.devices)
        self.no_gpu = bool(self.old.values["no_cuda"]) or seen == 0 or given == 0
        self.gpus = 1  # a process
        count = "1 is assumed; if the old process saw more, it used them all: put --gpus N before the --"
        if given is not None and given < 0:
            self.problems.append(f"--gpus {given}: 0 or more")
        elif given is not None and self.launched:
            self.problems.append(f"--gpus {given}: under a launcher each process has one; leave it out")
        elif given is not None and seen not in (None, given):
            self.problems.append(f"--gpus {given}: {CUDA}={visible} in the line is {seen}; leave one of the two out")
        self.fed = self.gpus  # by an old process at once
        if self.no_gpu:
            count = "none"
        elif self.launched and self.apart:
            self.fed = seen or 1
            count = f"{self.fed}, of {CUDA}={visible}" if seen else "1 is assumed"
            count = f"each of the old processes used all that it saw ({count}); here each has one"
        elif self.launched:
            count = "1 a process, as under a launcher"
        elif seen is not None or given is not None:
            self.gpus = self.fed = max(1, seen or given or 1)
            count = f"{self.gpus}, of {'--gpus' if seen is None else f'{CUDA}={visible}'}"
        if self.gpus > 1:
            here = "each has a process of its own" if self.old.values["do_train"] else "the commands use one of them"
            count += f"; one process fed them (DataParallel), here {here}"
        self.notes.append(f"GPUs: {count}")
        if self.launched and self.apart:
            self.notes.append(
                "processes: the old script joins them only by --local_rank, which torchrun and --use_env do not give: "
                "each trained on its own. The settings join them, as was meant"
            )
        if seen and not self.no_gpu and seen < self.processes and self.old.values["do_train"]:
            fits = max(n for n in range(1, seen + 1) if self.processes * self.accumulation % n == 0)
            self.notes.append(
                f"processes: {self.processes} a machine, but {CUDA}={visible} is {seen} GPU(s), and layoutner refuses "
                f"more processes than GPUs: name {self.processes} GPUs, or give --nproc-per-node {fits} in the command"
            )

    def _look_at_data(self) -> None:
        folder = self.old.text("data_dir")
        self.data_there = os.path.isdir(folder)
        self.splits = {name: look(self.lines("data_dir", self._file(name))) for name in SPLITS}  # None: not there
        self.dev_is_test, self.dev_in_test = False, ""  # all pages, both ways; so many that layoutner refuses
        if self.splits["dev"] and self.splits["test"]:
            self._compare_pages()
        if self.data_there:
            found = [f"{n}.txt has {its.pieces} pieces" if its else f"no {n}.txt" for n, its in self.splits.items()]
            self.notes.append(f"data: {folder}: {', '.join(found)}")
        else:
            self.notes.append(f"data: {folder} is not here, so nothing in it was counted or looked for")
        self.notes.append(
            f"data: `layoutner data check {shlex.quote(folder)} --data.format unilm` lists boxes off the page: "
            "the old script let them through, here they stop a run unless data.invalid_boxes mends them"
        )

    def _file(self, name: str) -> str:
        return os.path.join(self.old.text("data_dir"), f"{name}.txt")

    def lines(self, option: str, file: str) -> list[str] | None:
        """The lines of a file that an option names; None where it is not there, or cannot be read, which is said."""
        try:
            if not stat.S_ISREG(os.stat(file).st_mode):
                return None
            with open(file, encoding="utf-8-sig", errors="replace") as opened:
                return opened.readlines()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
            return None
        except OSError as error:
            said = f"{file} cannot be read ({error.strerror}); make it readable, as layoutner reads it too"
            self.problems.append(f"--{option} {self.old.text(option)}: {said}")
            return None

    def _compare_pages(self) -> None:
        """Which pages of dev.txt are pages of test.txt: those with the same words in the same boxes, as layoutner."""
        dev, test = (self._pages(name) for name in ("dev", "test"))
        shared = set(dev) & set(test)
        self.dev_is_test = bool(shared) and set(dev) == set(test)
        ours, theirs = (sum(page in shared for page in pages) for pages in (dev, test))
        if ours > max(1, ACCIDENT * len(dev)) or theirs > max(1, ACCIDENT * len(test)):
            self.dev_in_test = f"{ours} of {len(dev)} pages of dev.txt are pages of test.txt"

    def _pages(self, split: str) -> list[tuple[str, ...]]:
        """Words and boxes of each page: pieces of one image and size that follow each other are one page."""
        files = [self.lines("data_dir", self._file(f"{split}_{kind}")) or [] for kind in ("box", "image")]
        pages: list[list[str]] = []
        before: list[str] | None = None
        for box, its_image in zip(*files, strict=False):
            if its_image.strip():
                image = its_image.rstrip().split("\t")[-2:]
                pages += [[]] if image != before else []
                pages[-1].append(box.rstrip())
                before = image
        return [tuple(page) for page in pages]

    def start(self) -> str:
        """How `layoutner` is started on as many ranks."""
        launcher = {name: shlex.quote(value) for name, value in self.old.launcher.items()}
        port = f" --master_port {launcher['master_port']}" if "master_port" in launcher else ""
        torchrun = f"torchrun --nproc-per-node {self.ranks // self.nodes}{port.replace('_', '-', 1)}"
        if self.nodes > 1:
            nodes = f"--nnodes {self.nodes} --node-rank {launcher.get('node_rank', '0')}"
            return f"{torchrun} {nodes} --master-addr {launcher.get('master_addr', 'ADDRESS')} -m layoutner"
        if self.ranks == 1:
            return "layoutner"
        # The deepspeed launcher does not heed CUDA_VISIBLE_DEVICES beside --num_gpus.
        own = self.devices or self.no_gpu
        return f"{torchrun} -m layoutner" if own else f"deepspeed --num_gpus {self.ranks}{port} --module layoutner"

    def steps(self, held_out: bool) -> list[str]:
        """The optimizer steps of the old script and of layoutner, where the pieces can be counted.

        Args:
            held_out: a tenth of the training pages becomes data.eval.
        """
        pieces = train.pieces if (train := self.splits["train"]) else 0
        if not pieces:
            return []
        left = pieces - round(pieces / 10) if held_out else pieces
        at_once, new = self.micro * self.fed, -(-left // self.windows)
        # DistributedSampler rounds up, and repeats some pieces for it.
        share = pieces if self.apart else -(-pieces // self.world)
        batches = -(-share // at_once)
        old, rest = divmod(batches, self.accumulation)
        mine = f"{pieces} pieces"
        if self.world > 1:
            mine += " in each process" if self.apart else f", ceil({pieces} / {self.world}) = {share} a process"
        total = f"x {self.epochs} epochs = {old * self.epochs} steps"
        if not old:
            when = "before the first epoch" if self.max_steps else "after the last epoch, before the model was saved"
            total = f"none at all, and a division by zero {when}"
        elif self.max_steps:
            total = f"max_steps + 1 = {self.max_steps + 1} steps"
        if rest and old:
            total += f"; the gradient of an epoch's last {rest} forward(s) went into the next epoch's first step"
        here = f"{self.max_steps} steps" if self.max_steps else f"x {self.epochs} epochs = {new * self.epochs} steps"
        less = f"{pieces} pieces less the tenth that is data.eval: " if held_out else ""
        lines = [
            f"steps of the old script: {mine}, ceil({share} / {at_once}) = {batches} forwards, "
            f"{batches} // {self.accumulation} = {old} steps an epoch; {total}",
            f"steps here: {less}ceil({left} / {self.windows}) = {new} steps an epoch; {here}, if the pages make as "
            "many windows as they had pieces: `layoutner train` counts them",
        ]
        warmup = self.old.number("warmup_steps")
        if not self.max_steps and warmup > new * self.epochs:
            lines.append(f"steps here: --warmup_steps {warmup} is more, which layoutner refuses: lower it")
        return lines


def look(lines: list[str] | None) -> Split | None:
    """What a file of the data folder holds; None where it is not there."""
    if lines is None:
        return None
    pieces, inside, scheme = 0, False, "BIO"
    for line in lines:
        blank = line == "\n" or line.startswith("-DOCSTART-")  # the old reader's idea of it
        pieces += inside and blank
        inside = not blank
        scheme = "BIOES" if line.rpartition("\t")[2].startswith(("E-", "S-")) else scheme
    return Split(pieces + inside, scheme)


def scheme_of(labels: list[str] | None) -> str | None:
    """The tagging scheme of the lines of a file of labels; None where it is not there or does not say."""
    prefixes = {line[:2] for line in labels or []}
    return "BIOES" if prefixes & {"E-", "S-"} else "BIO" if prefixes & {"B-", "I-"} else None


def funsd_settings(commands: list[Command]) -> dict[str, str]:
    """What data.format = funsd reads instead of what commands of preprocess.py made: keys of [data] -> values."""
    folders = {command.text("data_split"): PurePosixPath(command.text("data_dir")) for command in commands}
    halves = {split: path.parent if path.name == "annotations" else path for split, path in folders.items()}
    settings = {}
    for split, (role, own) in SPLITS.items():
        if (half := halves.get(split)) is not None:
            # Of the folder above both halves layoutner takes the role's. The other half has to be named.
            settings[role] = str(half.parent if half.name == own else half)
    if "dev" in halves and halves["dev"] == halves.get("test"):
        del settings["eval"]
        settings["selection_split"] = "test"
    return settings


def _visible(devices: str) -> list[str]:
    """The GPUs that CUDA sees of CUDA_VISIBLE_DEVICES: those before the first name of none."""
    named = (part.strip() for part in devices.split(","))
    return list(takewhile(re.compile(r"[0-9]+|(GPU|MIG)-.+").fullmatch, named))
