"""The training run of an old command line: its processes and GPUs, its data folder, its optimizer steps."""

import math
import os
import re
import shlex
import stat
from itertools import takewhile
from pathlib import PurePosixPath
from typing import NamedTuple

from layoutner.migration.old_script import CUDA, Command

# Largest share of data.eval's pages that may also be in data.test. A test compares it with layoutner.documents.splits.
ACCIDENT = 0.1
# Split of preprocess.py -> (its role in layoutner, FUNSD's folder for that role).
SPLITS = {"train": ("train", "training_data"), "dev": ("eval", ""), "test": ("test", "testing_data")}


class Split(NamedTuple):
    """One split of the old data folder."""

    pieces: int  # blocks of words between empty lines; the old script made one example of each
    scheme: str  # "BIOES" if a label begins with E- or S-, else "BIO"


class OldRun:
    """Processes, GPUs and data of one call of run_seq_labeling.py.

    Args:
        old: the command.
        gpus_given: number of GPUs that the process used, if it ran without a launcher; None: those that the command
            names, else 1.
        problems: list to which errors are added.
        notes: list to which counts and findings are added.
    """

    def __init__(self, old: Command, gpus_given: int | None, problems: list[str], notes: list[str]) -> None:
        self.old, self.problems, self.notes = old, problems, notes
        self.micro = max(1, old.number("per_gpu_train_batch_size"))
        self.accumulation = max(1, old.number("gradient_accumulation_steps"))
        self._count_gpus(gpus_given)
        self.world = self.nodes * self.processes
        self.ranks = self.world * self.gpus  # of the new run: one per GPU
        self.windows = self.micro * self.ranks * self.accumulation  # global batch size
        self.max_steps = max(0, old.number("max_steps"))
        epochs = float(old.values["num_train_epochs"])
        self.epochs = int(epochs) if math.isfinite(epochs) else 0  # rounded down, as in the old loop
        self._look_at_data()

    def _count_gpus(self, given: int | None) -> None:
        """Find nodes, processes and GPUs of the old run. `given`: --gpus of `config migrate`."""
        launcher, environment, ranked = self.old.launcher, self.old.environment, self.old.number("local_rank") >= 0
        self.nodes, self.processes = int(launcher["nnodes"]), int(launcher["nproc_per_node"])
        # The old script makes a process group only with --local_rank, which torchrun and --use_env do not pass.
        passed = launcher.get("name") == "torch.distributed.launch" and "use_env" not in launcher
        self.ungrouped = "name" in launcher and not (passed or ranked)
        self.launched = ranked or passed or (self.ungrouped and self.nodes * self.processes > 1)
        if ranked and "name" not in launcher:  # a launcher's variables, set by hand
            world = environment.get("WORLD_SIZE", "1")
            self.processes = int(world) if re.fullmatch("[1-9][0-9]{0,5}", world) else 1
        visible = environment.get(CUDA)
        self.devices = _visible(visible or "")
        seen = None if visible is None else len(self.devices)
        self.no_gpu = bool(self.old.values["no_cuda"]) or seen == 0 or given == 0
        self.gpus = 1  # per process
        count = "1 is assumed; the old process used all that it saw: if it saw N, put --gpus N before the --"
        if given is not None and given < 0:
            self.problems.append(f"--gpus {given}: must be 0 or more")
        elif given is not None and self.launched:
            self.problems.append(f"--gpus {given}: with a launcher, each process has one GPU; leave --gpus out")
        elif given is not None and seen not in (None, given):
            self.problems.append(f"--gpus {given}: {CUDA}={visible} names {seen}; leave out one of the two")
        self.old_gpus = self.gpus  # GPUs that an old process used
        if self.no_gpu:
            count = "none"
        elif self.launched and self.ungrouped:
            self.old_gpus = seen or 1
            count = f"{self.old_gpus}, from {CUDA}={visible}" if seen else "1 is assumed"
            count = f"each old process used all that it saw ({count}); here each process has one"
        elif self.launched:
            count = "1 per process, chosen by --local_rank"
        elif seen is not None or given is not None:
            self.gpus = self.old_gpus = max(1, seen or given or 1)
            count = f"{self.gpus}, from {'--gpus' if seen is None else f'{CUDA}={visible}'}"
        if self.gpus > 1:
            here = "each has a process of its own" if self.old.values["do_train"] else "the commands use one of them"
            count += f"; one process used all of them (DataParallel), here {here}"
        self.notes.append(f"GPUs: {count}")
        if self.launched and self.ungrouped:
            self.notes.append(
                "processes: the old script makes a process group only with --local_rank, which torchrun and --use_env "
                "do not pass: each process trained its own model. The new command trains one model with all of them"
            )
        if seen and not self.no_gpu and seen < self.processes and self.old.values["do_train"]:
            fits = max(n for n in range(1, seen + 1) if self.processes * self.accumulation % n == 0)
            self.notes.append(
                f"processes: {self.processes} per node, but {CUDA}={visible} is {seen} GPU(s), and layoutner refuses "
                f"more processes than GPUs: name {self.processes} GPUs, or give --nproc-per-node {fits} in the command"
            )

    def _look_at_data(self) -> None:
        """Count the pieces of each split, and compare the pages of dev and test."""
        folder = self.old.text("data_dir")
        self.data_there = os.path.isdir(folder)
        self.splits = {name: look(self.lines("data_dir", self._file(name))) for name in SPLITS}  # None: no such file
        self.dev_is_test, self.dev_in_test = False, ""  # same pages; overlap that layoutner refuses
        if self.splits["dev"] and self.splits["test"]:
            self._compare_pages()
        if self.data_there:
            found = [f"{n}.txt has {its.pieces} pieces" if its else f"no {n}.txt" for n, its in self.splits.items()]
            self.notes.append(f"data: {folder}: {', '.join(found)}")
        else:
            self.notes.append(f"data: {folder} is not a folder here, so nothing in it was counted or compared")
        self.notes.append(
            f"data: `layoutner data check {shlex.quote(folder)} --data.format unilm` lists boxes that leave the page: "
            "the old script accepted them, here they stop a run unless data.invalid_boxes repairs them"
        )

    def _file(self, name: str) -> str:
        return os.path.join(self.old.text("data_dir"), f"{name}.txt")

    def lines(self, option: str, file: str) -> list[str] | None:
        """The lines of a file, or None. If it exists but cannot be read, this is a problem of `option`."""
        try:
            if not stat.S_ISREG(os.stat(file).st_mode):
                return None
            with open(file, encoding="utf-8-sig", errors="replace") as opened:
                return opened.readlines()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: not a valid file name
            return None
        except OSError as error:
            problem = f"{file} cannot be read ({error.strerror}); make it readable, because layoutner reads it too"
            self.problems.append(f"--{option} {self.old.text(option)}: {problem}")
            return None

    def _compare_pages(self) -> None:
        """Find pages that dev.txt and test.txt share: as in layoutner, those with the same words in the same boxes."""
        dev, test = (self._pages(name) for name in ("dev", "test"))
        shared = set(dev) & set(test)
        self.dev_is_test = bool(shared) and set(dev) == set(test)
        ours, theirs = (sum(page in shared for page in pages) for pages in (dev, test))
        if ours > max(1, ACCIDENT * len(dev)) or theirs > max(1, ACCIDENT * len(test)):
            self.dev_in_test = f"{ours} of {len(dev)} pages of dev.txt are pages of test.txt"

    def _pages(self, split: str) -> list[tuple[str, ...]]:
        """Words and boxes of each page. Consecutive pieces with the same image and size are one page."""
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
        """The command that starts `layoutner` on this number of ranks, without its arguments."""
        launcher = {name: shlex.quote(value) for name, value in self.old.launcher.items()}
        port = f" --master_port {launcher['master_port']}" if "master_port" in launcher else ""
        torchrun = f"torchrun --nproc-per-node {self.ranks // self.nodes}{port.replace('_', '-', 1)}"
        if self.nodes > 1:
            nodes = f"--nnodes {self.nodes} --node-rank {launcher.get('node_rank', '0')}"
            return f"{torchrun} {nodes} --master-addr {launcher.get('master_addr', 'ADDRESS')} -m layoutner"
        if self.ranks == 1:
            return "layoutner"
        # With --num_gpus, the deepspeed launcher ignores CUDA_VISIBLE_DEVICES.
        own = self.devices or self.no_gpu
        return f"{torchrun} -m layoutner" if own else f"deepspeed --num_gpus {self.ranks}{port} --module layoutner"

    def steps(self, held_out: bool) -> list[str]:
        """Notes on the optimizer steps of the old script and of layoutner; empty if the pieces cannot be counted.

        Args:
            held_out: whether a tenth of the training pages becomes data.eval.
        """
        pieces = train.pieces if (train := self.splits["train"]) else 0
        if not pieces:
            return []
        left = pieces - round(pieces / 10) if held_out else pieces
        at_once, new = self.micro * self.old_gpus, -(-left // self.windows)
        # DistributedSampler rounds up, and repeats some pieces.
        share = pieces if self.ungrouped else -(-pieces // self.world)
        batches = -(-share // at_once)
        old, rest = divmod(batches, self.accumulation)
        mine = f"{pieces} pieces"
        if self.world > 1:
            mine += " in each process" if self.ungrouped else f", ceil({pieces} / {self.world}) = {share} per process"
        total = f"x {self.epochs} epochs = {old * self.epochs} steps"
        if not old:
            when = "before the first epoch" if self.max_steps else "after the last epoch, before the model was saved"
            total = f"no step at all, and a division by zero {when}"
        elif self.max_steps:
            total = f"max_steps + 1 = {self.max_steps + 1} steps"
        if rest and old:
            total += f"; the gradient of an epoch's last {rest} batch(es) was added to the next epoch's first step"
        here = f"{self.max_steps} steps" if self.max_steps else f"x {self.epochs} epochs = {new * self.epochs} steps"
        less = f"{pieces} pieces without the tenth for data.eval: " if held_out else ""
        lines = [
            f"steps of the old script: {mine}, ceil({share} / {at_once}) = {batches} batches, "
            f"{batches} // {self.accumulation} = {old} steps per epoch; {total}",
            f"steps here: {less}ceil({left} / {self.windows}) = {new} steps per epoch; {here}, if there are as many "
            "windows as pieces; `layoutner train` prints the exact numbers",
        ]
        warmup = self.old.number("warmup_steps")
        if not self.max_steps and warmup > new * self.epochs:
            lines.append(f"steps here: --warmup_steps {warmup} is more than that, which layoutner refuses: lower it")
        return lines


def look(lines: list[str] | None) -> Split | None:
    """Number of pieces and tagging scheme of a split, from the lines of its file; None if there is no file."""
    if lines is None:
        return None
    pieces, inside, scheme = 0, False, "BIO"
    for line in lines:
        blank = line == "\n" or line.startswith("-DOCSTART-")  # what the old reader took for a blank line
        pieces += inside and blank
        inside = not blank
        scheme = "BIOES" if line.rpartition("\t")[2].startswith(("E-", "S-")) else scheme
    return Split(pieces + inside, scheme)


def scheme_of(labels: list[str] | None) -> str | None:
    """The tagging scheme of a labels file, from its lines; None if there is no file or it does not show a scheme."""
    prefixes = {line[:2] for line in labels or []}
    return "BIOES" if prefixes & {"E-", "S-"} else "BIO" if prefixes & {"B-", "I-"} else None


def funsd_settings(commands: list[Command]) -> dict[str, str]:
    """Settings of [data] that read the annotations which the commands of preprocess.py converted."""
    folders = {command.text("data_split"): PurePosixPath(command.text("data_dir")) for command in commands}
    halves = {split: path.parent if path.name == "annotations" else path for split, path in folders.items()}
    settings = {}
    for split, (role, own) in SPLITS.items():
        if (half := halves.get(split)) is not None:
            # In a folder with both halves, layoutner reads the half of the role. For the other half, name its folder.
            settings[role] = str(half.parent if half.name == own else half)
    if "dev" in halves and halves["dev"] == halves.get("test"):
        del settings["eval"]
        settings["selection_split"] = "test"
    return settings


def _visible(devices: str) -> list[str]:
    """The GPUs in CUDA_VISIBLE_DEVICES that CUDA uses: those before the first invalid entry."""
    named = (part.strip() for part in devices.split(","))
    return list(takewhile(re.compile(r"[0-9]+|(GPU|MIG)-.+").fullmatch, named))
