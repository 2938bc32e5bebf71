"""Signals that ask a run to stop. They are recorded on arrival; all ranks act on them together after the step."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType

# Signals that batch systems send before they kill a job, and those of Ctrl-C and of a terminal that is closed.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)

# Launchers forward a signal, some of them twice. Signals within this many seconds count as one request.
SAME_REQUEST_S = 3.0


class PreemptionGuard:
    """Records whether this process was asked to stop. Does nothing outside the main thread, where signals arrive."""

    def __init__(self) -> None:
        self.signal = 0  # number of the first signal; 0 = none came
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "PreemptionGuard":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: the run goes on without its terminal
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            # None: the handler was not installed from Python, and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > SAME_REQUEST_S:  # asked again: end at once
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
