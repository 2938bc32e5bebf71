"""The run that an old command line made: its processes and GPUs, its data folder, its optimizer steps."""

import filecmp
import math
import os
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from layoutner.config.old_script import CUDA, Command


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
        self._count_gpus(gpus_given)
        self.world = self.nodes * self.processes
        self.ranks = self.world * self.gpus  # of the new run: one a GPU
        self.micro = max(1, old.number("per_gpu_train_batch_size"))
        self.accumulation = max(1, old.number("gradient_accumulation_steps"))
        self.windows = self.micro * self.ranks * self.accumulation  # the global batch
        self.max_steps = max(0, old.number("max_steps"))
        epochs = float(old.values["num_train_epochs"])
        self.epochs = int(epochs) if math.isfinite(epochs) else 0  # of the old loop: the whole part
        self._look_at_data()

    def _count_gpus(self, given: int | None) -> None:
        launcher, environment = self.old.launcher, self.old.environment
        self.launched = "name" in launcher or self.old.number("local_rank") >= 0
        self.nodes, self.processes = int(launcher["nnodes"]), int(launcher["nproc_per_node"])
        if self.launched and "name" not in launcher:  # the variables that a launcher sets, set by hand
            world = environment.get("WORLD_SIZE", "1")
            self.processes = int(world) if re.fullmatch("[1-9][0-9]{0,5}", world) else 1
        visible = environment.get(CUDA)
        self.devices = [part for part in (visible or "").split(",") if part.strip()]
        self.devices = [] if self.devices[:1] == ["-1"] else self.devices
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
        if self.launched:
            count = "1 a process, as under a launcher"
        elif self.no_gpu:
            count = "none"
        elif seen is not None or given is not None:
            self.gpus = max(1, seen or given or 1)
            count = f"{self.gpus}, of {'--gpus' if seen is None else f'{CUDA}={visible}'}"
        if self.gpus > 1:
            count += "; one process fed them (DataParallel), here each has a process of its own"
        self.notes.append(f"GPUs: {count}")
        by_name = launcher.get("name") != "torch.distributed.launch" or "use_env" in launcher
        if self.nodes * self.processes > 1 and self.old.number("local_rank") < 0 and by_name:
            self.notes.append(
                "processes: the old script joins them only by --local_rank, which torchrun and --use_env do not give: "
                "each trained on its own. The settings join them, as was meant"
            )

    def _look_at_data(self) -> None:
        folder = self.old.text("data_dir")
        files = {name: os.path.join(folder, f"{name}.txt") for name in ("train", "dev", "test")}
        self.data_there = os.path.isdir(folder)
        self.splits = {name: look(file) for name, file in files.items()}  # None where it is not there
        self.dev_is_test = bool(self.splits["dev"] and self.splits["test"]) and filecmp.cmp(
            files["dev"], files["test"], shallow=False
        )
        if self.data_there:
            found = [f"{n}.txt has {its.pieces} pieces" if its else f"no {n}.txt" for n, its in self.splits.items()]
            self.notes.append(f"data: {folder}: {', '.join(found)}")
        else:
            self.notes.append(f"data: {folder} is not here, so nothing in it was counted or looked for")
        self.notes.append(
            f"data: `layoutner data check {shlex.quote(folder)} --data.format unilm` lists boxes off the page: "
            "the old script let them through, here they stop a run unless data.fix mends them"
        )

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
        at_once, new = self.micro * self.gpus, -(-left // self.windows)
        share = -(-pieces // self.world)  # DistributedSampler rounds up, and repeats some pieces for it
        batches = -(-share // at_once)
        old, rest = divmod(batches, self.accumulation)
        mine = f"{pieces} pieces"
        if self.world > 1:
            mine += f", ceil({pieces} / {self.world}) = {share} a process"
        total = f"x {self.epochs} epochs = {old * self.epochs} steps"
        if not old:
            total = "none at all, and a division by zero at the end"
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


def look(file: str) -> Split | None:
    """What a file of the data folder holds; None where it is not there."""
    if not os.path.isfile(file):
        return None
    pieces, inside, scheme = 0, False, "BIO"
    for line in _lines(file):
        blank = line == "\n" or line.startswith("-DOCSTART-")  # the old reader's idea of it
        pieces += inside and blank
        inside = not blank
        scheme = "BIOES" if line.rpartition("\t")[2].startswith(("E-", "S-")) else scheme
    return Split(pieces + inside, scheme)


def scheme_of(file: str) -> str | None:
    """The tagging scheme of a file of labels; None where it is not there or does not say."""
    prefixes = {line[:2] for line in _lines(file)} if os.path.isfile(file) else set()
    return "BIOES" if prefixes & {"E-", "S-"} else "BIO" if prefixes & {"B-", "I-"} else None


def _lines(file: str) -> Iterator[str]:
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        yield from lines
