"""The run that an old command line made: its processes and GPUs, its data folder, its optimizer steps."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from layoutner.config.old_script import Command

CUDA = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Split:
    """One file of the old data folder."""

    pieces: int  # blocks of words between empty lines: the examples of the old script
    bioes: bool  # whether a label begins with E- or S-


@dataclass
class OldRun:
    """Processes, GPUs and data of one call of run_seq_labeling.py, with what is to be said of them."""

    old: Command
    gpus_given: int | None  # GPUs that a process without a launcher saw; None = by the line, else 1
    problems: list[str]
    notes: list[str]
    nodes: int = 1
    processes: int = 1  # a node
    gpus: int = 1  # a process, at least 1
    devices: list[str] = field(default_factory=list)  # of CUDA_VISIBLE_DEVICES in the line
    no_gpu: bool = False
    splits: dict[str, Split | None] = field(default_factory=dict)  # train, dev, test; None where it is not there

    def __post_init__(self) -> None:
        self._count_gpus()
        folder = Path(self.old.text("data_dir"))
        self.data_there = folder.is_dir()
        self.splits = {name: look(folder / f"{name}.txt") for name in ("train", "dev", "test")}
        if self.data_there:
            found = [f"{name}.txt has {split.pieces} pieces" for name, split in self.splits.items() if split]
            lacking = [f"no {name}.txt" for name, split in self.splits.items() if not split]
            self.notes.append(f"data: {folder}: {', '.join([*found, *lacking])}")
        else:
            self.notes.append(f"data: {folder} is not here, so nothing in it was counted or looked for")
        self.notes.append(
            f"data: `layoutner data check {shlex.quote(str(folder))} --data.format unilm` lists boxes off the page: "
            "the old script let them through, here they stop a run unless data.fix mends them"
        )

    @property
    def world(self) -> int:
        return self.nodes * self.processes

    @property
    def ranks(self) -> int:
        """Of the new run: one a GPU."""
        return self.world * self.gpus

    @property
    def micro(self) -> int:
        return max(1, self.old.number("per_gpu_train_batch_size"))

    @property
    def accumulation(self) -> int:
        return max(1, self.old.number("gradient_accumulation_steps"))

    @property
    def windows(self) -> int:
        """The global batch."""
        return self.micro * self.ranks * self.accumulation

    @property
    def max_steps(self) -> int:
        return max(0, self.old.number("max_steps"))

    @property
    def epochs(self) -> int:
        """Of the old loop: the whole part."""
        epochs = float(self.old.values["num_train_epochs"])
        return int(epochs) if math.isfinite(epochs) else 0

    def _count_gpus(self) -> None:
        launcher, environment, values = self.old.launcher, self.old.environment, self.old.values
        launched, local_rank = launcher.get("name"), self.old.number("local_rank")
        self.nodes, self.processes = int(launcher["nnodes"]), int(launcher["nproc_per_node"])
        if launched is None and local_rank >= 0:  # the variables that a launcher sets, set by hand
            world = environment.get("WORLD_SIZE", "1")
            self.processes = int(world) if world.isdigit() and int(world) else 1
        visible = environment.get(CUDA)
        self.devices = [part for part in (visible or "").split(",") if part.strip()]
        self.devices = [] if self.devices[:1] == ["-1"] else self.devices
        no_cuda, given = bool(values["no_cuda"]), self.gpus_given
        self.no_gpu = no_cuda or (visible is not None and not self.devices) or given == 0
        count = "1 is assumed; if the old process saw more, it used them all: put --gpus N before the --"
        if given is not None and given < 0:
            self.problems.append(f"--gpus {given}: 0 or more")
        if launched is not None or local_rank >= 0:
            count = "1 a process, as under a launcher"
            if given is not None:
                self.problems.append(f"--gpus {given}: under a launcher each process has one; leave it out")
        elif self.no_gpu:
            count = "none"
        elif given is not None:
            self.gpus, count = max(1, given), f"{given}, of --gpus"
        elif visible is not None:
            self.gpus, count = len(self.devices), f"{len(self.devices)}, of {CUDA}={visible}"
        if self.gpus > 1:
            count += "; one process fed them (DataParallel), here each has a process of its own"
        self.notes.append(f"GPUs: {count}")
        joined = local_rank >= 0 or (launched == "torch.distributed.launch" and "use_env" not in launcher)
        if self.world > 1 and not joined:
            self.notes.append(
                "processes: the old script joins them only by --local_rank, which torchrun and --use_env do not give: "
                f"it trained {self.world} times, each process on its own. The settings join them, as was meant"
            )
        if self.world > 1 and no_cuda:
            self.notes.append("processes: --no_cuda with a launcher stopped the old script; here they train")

    def start(self) -> str:
        """How `layoutner` is started on as many ranks."""
        launcher = self.old.launcher
        port = launcher.get("master_port")
        if self.nodes > 1:
            where = f"--master-addr {shlex.quote(launcher.get('master_addr', 'ADDRESS'))} --master-port {port or 29500}"
            nodes = f"--nnodes {self.nodes} --node-rank {shlex.quote(launcher.get('node_rank', '0'))}"
            return f"torchrun {nodes} --nproc-per-node {self.processes} {where} -m layoutner"
        if self.ranks == 1:
            return "layoutner"
        if self.devices or self.no_gpu:
            # The deepspeed launcher does not heed CUDA_VISIBLE_DEVICES beside --num_gpus.
            return f"torchrun --nproc-per-node {self.ranks}{f' --master-port {port}' if port else ''} -m layoutner"
        return f"deepspeed --num_gpus {self.ranks}{f' --master_port {port}' if port else ''} --module layoutner"

    def steps(self, held_out: bool) -> list[str]:
        """The optimizer steps of the old script and of layoutner, where the pieces can be counted.

        Args:
            held_out: a tenth of the training pages becomes data.eval.
        """
        train = self.splits["train"]
        if train is None or not train.pieces:
            return []
        pieces, at_once = train.pieces, self.micro * self.gpus
        share = -(-pieces // self.world)  # DistributedSampler rounds up, and repeats some pieces for it
        batches = -(-share // at_once)
        old, rest = divmod(batches, self.accumulation)
        new = -(-pieces // self.windows)
        mine = f"{pieces} pieces"
        if self.world > 1:
            mine = f"{pieces} pieces, ceil({pieces} / {self.world}) = {share} a process"
        if not old:
            total = "none at all, and a division by zero at the end"
        elif self.max_steps:
            total = f"max_steps + 1 = {self.max_steps + 1} steps"
        else:
            total = f"x {self.epochs} epochs = {old * self.epochs} steps"
        if rest and old:
            total += f"; the gradient of an epoch's last {rest} forward(s) went into the next epoch's first step"
        less = ", less the tenth that is data.eval" if held_out else ""
        here = f"{self.max_steps} steps" if self.max_steps else f"x {self.epochs} epochs = {new * self.epochs} steps"
        lines = [
            f"steps of the old script: {mine}, ceil({share} / {at_once}) = {batches} forwards, "
            f"{batches} // {self.accumulation} = {old} steps an epoch; {total}",
            f"steps here: ceil({pieces} / {self.windows}) = {new} steps an epoch; {here}, if the pages make as many "
            f"windows as they had pieces{less}: `layoutner train` counts them",
        ]
        warmup = self.old.number("warmup_steps")
        if not self.max_steps and warmup > new * self.epochs:
            lines.append(f"steps here: --warmup_steps {warmup} is more, which layoutner refuses: lower it")
        return lines


def look(file: Path) -> Split | None:
    """What a file of the data folder holds; None where it is not there."""
    if not file.is_file():
        return None
    pieces, inside, bioes = 0, False, False
    for line in _lines(file):
        blank = line == "\n" or line.startswith("-DOCSTART-")  # the old reader's idea of it
        pieces += inside and blank
        inside = not blank
        bioes = bioes or line.rpartition("\t")[2].startswith(("E-", "S-"))
    return Split(pieces + inside, bioes)


def scheme_of(file: Path) -> str | None:
    """The tagging scheme of a file of labels; None where it is not there or does not say."""
    prefixes = {line[:2] for line in _lines(file)} if file.is_file() else set()
    return "BIOES" if prefixes & {"E-", "S-"} else "BIO" if prefixes & {"B-", "I-"} else None


def funsd_folder(annotations: str) -> str:
    """The folder that holds training_data/, of that which holds the annotations."""
    folder = Path(annotations)
    folder = folder.parent if folder.name == "annotations" else folder
    return str(folder.parent if folder.name in ("training_data", "testing_data") else folder)


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        yield from lines
