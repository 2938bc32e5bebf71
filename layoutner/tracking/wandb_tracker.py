"""Weights & Biases: the account, the run, and what happens when its server or service cannot be reached.

A run never ends and never waits because of Weights & Biases: what fails is said once, and from then on it gets nothing
more. metrics.jsonl has everything.
"""

import logging
import os
import queue
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from layoutner.errors import SettingsError, first_line
from layoutner.files.atomic import write_text
from layoutner.objectives.errors import Errors
from layoutner.settings.tree import Settings
from layoutner.tracking.wandb_tables import error_tables

WANDB_ID_FILE = "wandb_run_id"
RUN_ID_VARIABLE = "WANDB_RUN_ID"  # the id that `wandb agent` gives a run
STEP = "optimizer_step"  # the axis of all charts
BEST = {"eval/f1": "max", "eval/loss": "min"}  # what the summary has of them

CONNECTS_S = 5.0  # how long a connection to the server may take, else the run is offline
ACCOUNT_S = 10  # how long a question about the account waits for an answer
INIT_S = 30  # how long the start of a run waits for an answer; after that it is offline
FINISH_S = 120.0  # how long the end of a run waits for what is still to be sent; it stays on the disk
MODEL_S = 1800.0  # the same, if the model is sent too
WAITING = 10_000  # how many calls may wait for Weights & Biases
TEARDOWN_S = 5.0

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")

About = Callable[[], dict[str, Any]]
Mode = Literal["online", "offline", "disabled"]

logger = logging.getLogger("layoutner")


def require_account(settings: Settings) -> None:
    """Refuse a run for Weights & Biases without a usable account, before anything else of it starts.

    Raises:
        SettingsError: wandb.mode = online, and no API key is found, or a malformed one, or the server refuses it, or
            wandb.entity is none of the account's. A server that does not answer is no error here.
    """
    if _mode(settings.wandb.mode) != "online":
        return
    wandb = _wandb()
    service = os.environ.get("WANDB_SERVICE")
    try:
        answers = _answers()
        known = wandb.login(prompt=False, verify=answers)
        if known and answers and settings.wandb.entity is not None:
            _require_entity(wandb, settings)
    except (wandb.Error, ValueError) as error:  # ValueError: of one of its environment variables
        if isinstance(error, wandb.errors.CommError) and not _is_refusal(error):
            return  # said when the run starts
        raise _refused(settings, first_line(error)) from None
    finally:
        if service is None:
            _teardown(wandb)  # its service process must not be passed on to the runs of a sweep
    if not known:
        raise _refused(settings, "no API key is found")


def _require_entity(wandb: Any, settings: Settings) -> None:
    try:
        viewer = wandb.Api(timeout=ACCOUNT_S).viewer
    except Exception:  # wandb has no base class for the failures of a query
        return  # said when the run starts
    own = {name for name in (viewer.username, viewer.entity, *viewer.teams) if name}
    if settings.wandb.entity not in own and not viewer.admin:
        raise SettingsError(
            f"wandb.entity = {settings.wandb.entity}: the account of this API key has {', '.join(sorted(own))}; give "
            "one of these, or log in as a member of that team"
        )


def _refused(settings: Settings, why: str) -> SettingsError:
    return SettingsError(
        f"wandb.mode = {settings.wandb.mode}: {why}; log in with `wandb login`, or set wandb.mode = offline"
    )


def _is_refusal(error: Exception) -> bool:
    """Whether Weights & Biases failed because of the key or the names it was given, not because nobody answered."""
    silence = ("timed out", "timeout", "deadline exceeded", "did not respond", "connect", "no such host", "unreachable")
    return not any(word in str(error).lower() for word in silence)


class _Calls:
    """Calls Weights & Biases in a thread of its own, in order, so that the run never waits for it.

    The first call that fails, or that finds `WAITING` others before it, is one warning; from then on none is made.
    """

    def __init__(self, wandb: Any) -> None:
        self._wandb = wandb
        self._todo: queue.Queue[Callable[[], object] | None] = queue.Queue(WAITING)
        self._off = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="layoutner-wandb", daemon=True)
        self._thread.start()

    def add(self, call: Callable[[], object]) -> None:
        """Make this call after those before it. Returns at once."""
        if self._off.is_set():
            return
        try:
            self._todo.put_nowait(call)
        except queue.Full:
            self.give_up(f"{WAITING} calls wait for it")

    def finish(self, seconds: float) -> None:
        """Wait until all calls are made, at most so long."""
        if self._off.is_set():
            return
        with suppress(queue.Full):
            self._todo.put_nowait(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.give_up(f"it has not finished within {seconds:g} s")

    def _work(self) -> None:
        while not self._off.is_set():
            call = self._todo.get()
            if call is None:
                return
            try:
                call()
            except Exception as error:
                self.give_up(f"{type(error).__name__}: {first_line(error)}")

    def give_up(self, why: str) -> None:
        """Warn once, and leave Weights & Biases alone from now on."""
        with self._lock:
            if self._off.is_set():
                return
            self._off.set()
        logger.warning(
            "warning: Weights & Biases gets nothing more of this run: %s; the run goes on, and metrics.jsonl has "
            "all of it",
            why,
        )
        _teardown(self._wandb)


def _teardown(wandb: Any) -> None:
    """End the service process of wandb, so that the exit of this process does not wait for it or print its errors."""

    def end() -> None:
        with suppress(Exception):
            wandb.teardown()

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(TEARDOWN_S)


class Wandb:
    """Logs to a Weights & Biases run. Its id is stored in the run folder, so that a resumed run continues it."""

    def __init__(
        self, settings: Settings, folder: Path, resumed_step: int, about: Callable[[], dict[str, Any]]
    ) -> None:
        """Start a Weights & Biases run, or continue the one of a resumed run. It is offline if no server answers.

        Args:
            about: gives what the configuration has beside the settings.

        Raises:
            SettingsError: Weights & Biases refuses.
        """
        wandb = _wandb()
        self._settings, self._folder = settings, folder
        id_file = folder / WANDB_ID_FILE
        if not id_file.exists() or not resumed_step:  # W&B ignores steps that do not increase: use a new id
            write_text(id_file, _new_id(settings))
        own = settings.wandb
        given: dict[str, Any] = {
            "project": own.project,
            "entity": own.entity,
            "name": own.name or folder.name,
            "group": own.group or _array_group(),
            "job_type": own.job_type or _job_type(settings),
            "tags": list(own.tags),
            "id": id_file.read_text(encoding="utf-8").strip(),
            "resume": "allow",
            "dir": folder,
            "config": settings.model_dump(mode="json") | about() | _slurm(),
            "settings": wandb.Settings(init_timeout=INIT_S, finish_timeout=self._finish_s),
        }
        mode = _mode(own.mode)
        try:
            if mode == "online" and not _answers():
                mode = self._offline("its server cannot be connected to")
            try:
                self._run = wandb.init(mode=mode, **given)
            except wandb.errors.CommError as error:
                if mode != "online" or _is_refusal(error):
                    raise
                _teardown(wandb)  # its service holds the id of the run that did not start
                self._run = wandb.init(mode=self._offline(first_line(error)), **given)
        except (wandb.Error, ValueError) as error:
            raise _refused(settings, f"Weights & Biases did not start: {first_line(error)}") from None
        write_text(id_file, self._run.id)  # the one that it really has
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        for metric, best in BEST.items():
            self._run.define_metric(metric, summary=best, step_metric=STEP)
        self._calls = _Calls(wandb)

    @property
    def _finish_s(self) -> float:
        return FINISH_S if self._settings.wandb.log_model == "none" else MODEL_S

    def _offline(self, why: str) -> Mode:
        logger.warning(
            "warning: Weights & Biases: %s; this run is written offline, and `wandb sync %s` sends it later",
            why,
            self._folder / "wandb" / "offline-run-*",
        )
        return "offline"

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Send the metrics."""
        self._calls.add(partial(self._run.log, {**metrics, STEP: step}, step=step))

    def log_scores(self, step: int, metrics: dict[str, Any]) -> None:
        """Send the scores, and set them in the summary: W&B ignores steps that it has, of a run started again."""
        self.log(step, metrics)
        self._calls.add(lambda: self._run.summary.update(metrics))

    def log_errors(self, step: int, errors: Errors) -> None:
        """Send the kinds of errors, the confused types and, if wandb.log_pages asks for them, the worst pages."""
        pages, limit = self._settings.wandb.log_pages, self._settings.data.max_image_mib
        self._calls.add(lambda: self._run.log({**error_tables(errors, pages, limit), STEP: step}, step=step))

    def log_model(self, folder: Path) -> None:
        """With wandb.log_model = export, send the exported model as an artifact named after the run."""
        if self._settings.wandb.log_model == "export":
            self._calls.add(lambda: self._run.log_artifact(str(folder), name=f"model-{self._run.id}", type="model"))

    def close(self) -> None:
        """Finish the run."""
        self._calls.add(self._run.finish)
        self._calls.finish(self._finish_s)

    def preempt(self) -> None:
        """Finish the run as preempted: W&B shows a run as such that was marked and has an exit code other than 0."""
        self._calls.add(self._run.mark_preempting)
        self._calls.add(partial(self._run.finish, exit_code=1))
        self._calls.finish(self._finish_s)

    def abandon(self) -> None:
        """Pass on what was logged: at process exit, wandb itself marks the run as failed, which may take FINISH_S."""
        self._calls.finish(TEARDOWN_S)


def _mode(mode: Mode) -> Mode:
    """The mode to use: WANDB_MODE=offline, often set on compute nodes without network, forces offline mode."""
    return "offline" if mode == "online" and os.environ.get("WANDB_MODE") == "offline" else mode


def _new_id(settings: Settings) -> str:
    """The id of a new run: the one that an agent or the user has given, else a random one."""
    given, fold = os.environ.get(RUN_ID_VARIABLE), settings.data.fold
    if not given:
        return uuid.uuid4().hex[:8]
    return given if fold is None else f"{given}-fold-{fold}"


def _job_type(settings: Settings) -> str:
    if settings.data.fold is not None:
        return "fold"
    return "sweep" if os.environ.get("WANDB_SWEEP_ID") else "train"


def _array_group() -> str | None:
    """The group of the tasks of a Slurm array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"slurm-{array}" if array else None


def _slurm() -> dict[str, Any]:
    """The name and number of the Slurm job, for the configuration; {} outside Slurm."""
    names = {"job_name": "SLURM_JOB_NAME", "job_id": "SLURM_JOB_ID", "array_task": "SLURM_ARRAY_TASK_ID"}
    found = {key: os.environ[name] for key, name in names.items() if name in os.environ}
    return {"slurm": found} if found else {}


def _wandb() -> Any:
    """The package. Its reports of its own errors are off, unless the user has turned them on: at the end of the process
    they wait for a server that does not answer, 20 seconds with wandb 0.31."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def _answers() -> bool:
    """Whether the server can be connected to. Behind a proxy that is not tried."""
    wandb = _wandb()
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES):
        return True
    parts = urlsplit(wandb.setup().settings.base_url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECTS_S).close()
    except OSError:
        return False
    return True
