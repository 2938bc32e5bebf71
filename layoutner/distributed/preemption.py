"""Signals that ask a run to end: noted when they come, acted on by all ranks together at the end of a step."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType

# What batch systems send before they kill, and what Ctrl-C sends.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

# Launchers pass a signal on, some of them twice: what comes within this many seconds is the same request.
SAME_REQUEST_S = 3.0


class PreemptionGuard:
    """Whether this process was asked to end. Only the main thread can find out: Python hands signals to no other."""

    def __init__(self) -> None:
        self.signal = 0  # number of the first signal; 0 = none came
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "PreemptionGuard":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            # None: it was not Python's, and Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > SAME_REQUEST_S:  # asked again: end at once
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
