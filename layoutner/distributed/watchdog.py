"""Watchdog: detect ranks that are lost or hang, and end the job.

Each rank runs two daemon threads that exchange heartbeats through the TCPStore. They do not use collectives, because a
lost rank blocks those. The first rank that misses another one ends the job. Time is measured in a rank's own beats, so
suspending and resuming the whole job causes no false alarm.
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
# Number of beats to wait after a rank has failed, before it is reported as lost. If the others fail with the same error
# in this time, they report it themselves.
GRACE = 5

# local: works on its own. shared: in a collective or in DeepSpeed, where it may wait for others. main: rank 0 works
# while the others wait. failed, left: it does nothing more.
Kind = Literal["local", "shared", "main", "failed", "left"]

# Matches the messages of a lost connection: gloo raises a RuntimeError that names its source file; NCCL and the store
# raise a DistError, which may be wrapped. Match whole words only, so that "restored" does not match "store".
_CONNECTION = re.compile(r"\b(gloo|nccl|connection|broken pipe|socket|TCPStore)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Beat:
    """The last heartbeat of a rank."""

    count: int
    kind: Kind
    what: str
    seconds: float  # since it began this activity
    host: str
    machine: str  # identifies the system and pid namespace of `pid`; "" = unknown
    pid: int

    @property
    def ended(self) -> bool:
        """Whether its process is known to have ended. Only ranks on the same machine can know this."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            # The process name may contain any bytes; the state is after it.
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
            return stat.rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True


class Watchdog:
    """Sends heartbeats for this rank and watches those of the others, between `start` and `stop`."""

    def __init__(self, store: Any, rank: int, size: int, limit: float) -> None:
        """Publish the first heartbeat of this rank.

        Args:
            store: the TCPStore. It is cloned, because a blocking wait on the same connection would delay heartbeats.
            limit: seconds after which a rank counts as lost or hanging.
        """
        # Set by the training thread through `Ranks.activity`. Work outside of it, such as imports, has no time limit.
        self.state: tuple[Kind, str] = ("main", "working by itself")
        self._store = store.clone()
        self._rank, self._limit = rank, limit
        self._keys = [f"layoutner/beat/{other}" for other in range(size)]
        # Rank 0 judges first, because people read its log first.
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
        """Start both threads. Call it after every rank has published its first heartbeat."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop both threads."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * BEAT_S)

    def leaving(self) -> None:
        """Announce that this rank is done, so that the others no longer expect heartbeats from it."""
        self.state = ("left", "")
        self._publish()

    def failed(self, error: BaseException, text: str) -> None:
        """Tell the others why this rank ends.

        If only the connection to another rank broke, first give the watching thread time to find that rank: it then
        reports it and ends this process. If it finds none, this returns.
        """
        if connection_broke(error):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher terminates this rank too; report first
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
                    self._end()  # another rank has already reported the reason
                before, self._beats = self._beats, self._read()
                for rank, beat in enumerate(self._beats):
                    self._silent[rank] = 0.0 if beat.count != before[rank].count else self._silent[rank] + passed
                if self.state[0] != "failed":
                    self._judge()
        except RuntimeError:  # its connection broke: the process that keeps the store has ended
            if not self._stopped.is_set() and self.state[0] != "failed":
                self._say(f"lost {self._keeper}, which hosts the ranks' TCPStore: it ended without an error message")
                self._end()

    def _time_the_store(self) -> None:
        """Report a store that does not answer; the other thread would block in it forever."""
        seen, waited = 0, 0.0
        while not self._stopped.wait(BEAT_S):
            waited = waited + BEAT_S if self._count == seen else 0.0
            seen = self._count
            if waited > self._limit:
                self._say(f"{self._keeper}, which hosts the ranks' TCPStore, has not answered for {waited:.0f} s")
                if self._beats and self._keeper == "rank 0":
                    self._kill(self._beats[0])
                self._end()

    def _judge(self) -> None:
        """End the job if another rank has failed, has ended, sends no heartbeats or hangs."""
        for rank, beat in enumerate(self._beats):
            if rank == self._rank or beat.kind == "left":
                continue
            who, silent = f"rank {rank} on host {beat.host}", self._silent[rank] - self._late
            if beat.kind == "failed":
                if silent > (0 if self._lost_connection else GRACE * BEAT_S):
                    self._conclude(f"lost {who}: {beat.what}")
            elif silent > 0 and beat.ended:
                self._conclude(f"lost {who}: it ended without an error message while {beat.what}")
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
        """End all ranks. Only the first rank that calls this prints the reason."""
        if self._store.add("layoutner/verdicts", 1) == 1:
            self._store.set("layoutner/verdict", "")
            self._say(text)
        self._end()

    def _say(self, text: str) -> None:
        self._stopped.set()  # the other thread has nothing to add
        # Write to the file descriptor: the training thread may hold the lock of sys.stderr.
        line = f"layoutner: error: rank {self._rank}: {text}\n"
        os.write(2, line.encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace"))

    def _end(self) -> NoReturn:
        # Wait until the others have read the verdict and end by themselves. If rank 0 exited at once, the store would
        # be gone; and launchers would wait for ranks that hang.
        time.sleep(3 * BEAT_S)
        os._exit(1)

    @staticmethod
    def _kill(beat: Beat) -> None:
        """Kill a frozen process on this machine. Launchers would send SIGTERM first and wait half a minute."""
        if beat.machine and beat.machine == _machine():
            os.kill(beat.pid, signal.SIGKILL)


def connection_broke(error: BaseException) -> bool:
    """Whether this is an error that gloo, NCCL or the store raise when another process is gone."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and _CONNECTION.search(str(error)) is not None


def _machine() -> str:
    """Identifies the booted system and the pid namespace; "" if unknown (not Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() + os.readlink(
            "/proc/self/ns/pid"
        )
    except OSError:
        return ""
