"""Ranks that are lost or hang: every rank tells the others what it does, and the first to miss one ends the job.

Two daemon threads a rank speak through the ranks' key-value store, never through a collective, which is what a lost
rank blocks. Time is counted in a rank's own beats, so a job that is suspended as a whole misses nothing.
"""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from torch import distributed

BEAT_S = 1.0
# A rank that failed is given this many beats' time, in which the others fail alike and say so themselves.
GRACE = 5

# local: busy by itself. shared: in a collective or in DeepSpeed, where it may wait for others. main: rank 0 works while
# the others wait. failed, left: it has nothing more to do.
Kind = Literal["local", "shared", "main", "failed", "left"]

# What is said when another process is gone: by gloo in a RuntimeError that names its source file, by NCCL and the store
# in a DistError, which may come to us wrapped in another. In whole words: "restored" and "CUDA peer access" are not it.
_CONNECTION = re.compile(r"\b(gloo|nccl|connection|broken pipe|socket|TCPStore)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Beat:
    """What a rank last said of itself."""

    count: int
    kind: Kind
    what: str
    seconds: float  # since it began that
    host: str
    machine: str  # where its process id means something; "" = unknown
    pid: int

    @property
    def ended(self) -> bool:
        """Whether its process is known to have ended, which only its own machine can tell."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            # A process may be named in any bytes; what is read stands after its name.
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
            return stat.rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True


class Watchdog:
    """Beats for this rank and watches the others, between `start` and `stop`."""

    def __init__(self, store: Any, rank: int, size: int, limit: float) -> None:
        """Say that this rank is there.

        Args:
            store: of torch; a connection of its own is made, for a wait in the other would hold this one up.
            limit: seconds after which a rank is lost or hangs.
        """
        # Set by the training thread. What it does not name, such as importing and exporting, may take its time.
        self.state: tuple[Kind, str] = ("main", "working by itself")
        self._store = store.clone()
        self._rank, self._limit = rank, limit
        self._keys = [f"layoutner/beat/{other}" for other in range(size)]
        # Rank 0, whose log people read first, is also the first to judge.
        self._late = 2 * BEAT_S if rank else 0.0
        self._keeper = "torchrun" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
        self._count, self._seconds = 0, 0.0
        self._counted: tuple[Kind, str] = self.state
        self._beats: list[Beat] = []
        self._silent = [0.0] * size
        self._lost_connection = False
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch, self._time_the_store)]
        self._publish()

    def start(self) -> None:
        """Watch, once every rank has said that it is there."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * BEAT_S)

    def leaving(self) -> None:
        """This rank is done: from now on it is not missed."""
        self.state = ("left", "")
        self._publish()

    def failed(self, error: BaseException, text: str) -> None:
        """Tell the others why this rank ends.

        Where it is only the connection to another rank that broke, the watching thread is given time to find that
        rank, which it names as it ends this process. This returns where there is none.
        """
        if connection_broke(error):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher ends this rank too, but not before it has said
            self._lost_connection = True
            time.sleep(3 * GRACE * BEAT_S)
        self.state = ("failed", text)
        with suppress(RuntimeError):  # the store is gone: nobody to tell
            self._publish()
        self.stop()

    def _publish(self) -> None:
        self._count += 1
        kind, what = self.state
        beat = Beat(self._count, kind, what, self._seconds, socket.gethostname(), _machine(), os.getpid())
        self._store.set(self._keys[self._rank], json.dumps(vars(beat)))

    def _read(self) -> list[Beat]:
        return [Beat(**json.loads(text)) for text in self._store.multi_get(self._keys)]

    def _watch(self) -> None:
        last = time.monotonic()
        try:
            self._beats = self._read()
            while not self._stopped.wait(BEAT_S):
                now = time.monotonic()
                passed, last = min(now - last, 2 * BEAT_S), now
                self._seconds = self._seconds + passed if self.state is self._counted else 0.0
                self._counted = self.state
                self._publish()
                if self._store.check(["layoutner/verdict"]):
                    self._end()  # another rank has said what there is to say, and says it once
                before, self._beats = self._beats, self._read()
                for rank, beat in enumerate(self._beats):
                    self._silent[rank] = 0.0 if beat.count != before[rank].count else self._silent[rank] + passed
                if self.state[0] != "failed":
                    self._judge()
        except RuntimeError:  # its connection broke: the process that keeps the store has ended
            if not self._stopped.is_set() and self.state[0] != "failed":
                self._say(f"lost {self._keeper}, which keeps the ranks together: it ended without a word")
                self._end()

    def _time_the_store(self) -> None:
        """The other thread does not come back from a store that is frozen."""
        seen, waited = 0, 0.0
        while not self._stopped.wait(BEAT_S):
            waited = waited + BEAT_S if self._count == seen else 0.0
            seen = self._count
            if waited > self._limit:
                self._say(f"{self._keeper}, which keeps the ranks together, has not answered for {waited:.0f} s")
                if self._beats and self._keeper == "rank 0":
                    self._kill(self._beats[0])
                self._end()

    def _judge(self) -> None:
        """End the job when a rank has failed, ended, fallen silent or hangs."""
        for rank, beat in enumerate(self._beats):
            if rank == self._rank or beat.kind == "left":
                continue
            who, silent = f"rank {rank} on host {beat.host}", self._silent[rank] - self._late
            if beat.kind == "failed":
                if silent > (0 if self._lost_connection else GRACE * BEAT_S):
                    self._conclude(f"lost {who}: {beat.what}")
            elif silent > 0 and beat.ended:
                self._conclude(f"lost {who}: it ended without a word while {beat.what}")
            elif silent > (3 * BEAT_S if self._lost_connection else self._limit):
                self._kill(beat)
                self._conclude(f"{who} has not answered for {self._silent[rank]:.0f} s; it was last {beat.what}")
            elif (
                self.state[0] == "shared"
                and beat.kind == "local"
                and min(self._seconds, beat.seconds) - self._late > self._limit
            ):
                self._conclude(
                    f"{who} has been {beat.what} for {beat.seconds:.0f} s while rank {self._rank} waits: it hangs, "
                    "or it needs a larger run.rank_timeout"
                )

    def _conclude(self, text: str) -> NoReturn:
        """End all ranks; only the first of them says why."""
        if self._store.add("layoutner/verdicts", 1) == 1:
            self._store.set("layoutner/verdict", "")
            self._say(text)
        self._end()

    def _say(self, text: str) -> None:
        self._stopped.set()  # the other thread has nothing to add
        # Not through sys.stderr, whose lock the training thread may hold.
        line = f"layoutner: error: rank {self._rank}: {text}\n"
        os.write(2, line.encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace"))

    def _end(self) -> NoReturn:
        # The others have read the verdict by then and end by themselves: rank 0 takes the store with it, and launchers
        # would wait for those that hang.
        time.sleep(3 * BEAT_S)
        os._exit(1)

    @staticmethod
    def _kill(beat: Beat) -> None:
        """End a frozen process: launchers first ask it to, and wait half a minute."""
        if beat.machine and beat.machine == _machine():
            os.kill(beat.pid, signal.SIGKILL)


def connection_broke(error: BaseException) -> bool:
    """Whether this is what gloo, NCCL and the store raise when another process is gone."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and _CONNECTION.search(str(error)) is not None


def _machine() -> str:
    """Names the running system and the process id namespace; "" where Linux does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() + os.readlink(
            "/proc/self/ns/pid"
        )
    except OSError:
        return ""
