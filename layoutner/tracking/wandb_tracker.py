"""Weights & Biases: the account, the run, and what happens when the service cannot be reached.

A run never ends and never waits long because of Weights & Biases: what fails is said once, and from then on it gets
nothing more. metrics.jsonl has everything.
"""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
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
BEST = {"eval/f1": "max", "eval/loss": "min"}  # what the summary has of them

CONNECTS_WITHIN_S = 5.0  # to the server, else the run is written offline
STARTS_WITHIN_S = 60  # a run of a server that can be connected to
SENDS_WITHIN_S = 120.0  # what is left at the end of a run

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")

Mode = Literal["online", "offline", "disabled"]

logger = logging.getLogger("layoutner")


def require_account(settings: Settings) -> None:
    """Refuse a run for Weights & Biases without a usable account, before anything else of it starts. Asks no server.

    Raises:
        SettingsError: wandb.mode = online, and no API key is found, or a malformed one.
    """
    if _mode(settings.wandb.mode) != "online":
        return
    import wandb

    try:
        known = wandb.login(prompt=False, verify=False)
    except (wandb.Error, ValueError) as error:  # ValueError: of one of its environment variables
        raise _refused(settings, first_line(error)) from None
    if not known:
        raise _refused(settings, "no API key is found")


def _refused(settings: Settings, why: str) -> SettingsError:
    return SettingsError(
        f"wandb.mode = {settings.wandb.mode}: {why}; log in with `wandb login`, or set wandb.mode = offline"
    )


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
        import wandb

        self._settings, self._folder = settings, folder
        self._failed = False
        id_file = folder / WANDB_ID_FILE
        if not id_file.exists() or not resumed_step:  # W&B ignores steps that do not increase: use a new id
            write_text(id_file, os.environ.get(RUN_ID_VARIABLE) or uuid.uuid4().hex[:8])
        own = settings.wandb
        given: dict[str, Any] = {
            "project": own.project,
            "entity": own.entity,
            "name": own.name or folder.name,
            "group": own.group or _array_group(),
            "job_type": own.job_type or ("train" if settings.data.fold is None else "fold"),
            "tags": list(own.tags),
            "id": id_file.read_text(encoding="utf-8").strip(),
            "resume": "allow",
            "dir": folder,
            "config": settings.model_dump(mode="json") | about(),
            "settings": wandb.Settings(init_timeout=STARTS_WITHIN_S),
        }
        mode = _mode(own.mode)
        if mode == "online" and not _answers():
            mode = self._offline("its server cannot be connected to")
        try:
            try:
                self._run = wandb.init(mode=mode, **given)
            except wandb.errors.CommError as error:
                if isinstance(error, wandb.errors.AuthenticationError) or "timed out" not in str(error).lower():
                    raise
                self._run = wandb.init(mode=self._offline(first_line(error)), **given)
        except wandb.Error as error:
            raise _refused(settings, f"Weights & Biases did not start: {first_line(error)}") from None
        write_text(id_file, self._run.id)  # the one that it really has
        for metric, best in BEST.items():
            self._run.define_metric(metric, summary=best)

    def _offline(self, why: str) -> Mode:
        logger.warning(
            "warning: Weights & Biases: %s; this run is written offline, and `wandb sync %s` sends it later",
            why,
            self._folder / "wandb" / "offline-run-*",
        )
        return "offline"

    def _try(self, do: Callable[[], object]) -> None:
        """Call Weights & Biases, and never again after it has failed."""
        if self._failed:
            return
        try:
            do()
        except Exception as error:  # what it raises when its service process is gone is not documented
            self._failed = True
            logger.warning(
                "warning: Weights & Biases failed, and gets nothing more of this run: %s; metrics.jsonl has everything",
                first_line(error),
            )
            import wandb

            with suppress(Exception):  # otherwise it prints the same error at the end of the process
                wandb.teardown()

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Send the metrics."""
        self._try(lambda: self._run.log(metrics, step=step))

    def log_scores(self, step: int, metrics: dict[str, Any]) -> None:
        """Send the scores, and set them in the summary: W&B ignores steps that it has, of a run started again."""
        self.log(step, metrics)
        self._try(lambda: self._run.summary.update(metrics))

    def log_errors(self, step: int, errors: Errors) -> None:
        """Send the kinds of errors, the confused types and, if wandb.log_pages asks for them, the worst pages."""
        pages, limit = self._settings.wandb.log_pages, self._settings.data.max_image_mib
        self._try(lambda: self._run.log(error_tables(errors, pages, limit), step=step))

    def log_model(self, folder: Path) -> None:
        """With wandb.log_model = export, send the exported model as an artifact named after the run."""
        if self._settings.wandb.log_model == "export":
            self._try(lambda: self._run.log_artifact(str(folder), name=f"model-{self._run.id}", type="model"))

    def close(self) -> None:
        """Finish the run."""
        self._finish(0)

    def preempt(self) -> None:
        """Finish the run as preempted: W&B shows a run as such that was marked and has an exit code other than 0."""
        self._try(self._run.mark_preempting)
        self._finish(1)

    def _finish(self, code: int) -> None:
        """Send what is left, for a while."""
        sending = threading.Thread(target=lambda: self._try(lambda: self._run.finish(exit_code=code)), daemon=True)
        sending.start()
        sending.join(SENDS_WITHIN_S)
        if sending.is_alive():
            self._failed = True
            logger.warning(
                "warning: Weights & Biases has not received everything within %d s; `wandb sync %s` sends the rest",
                SENDS_WITHIN_S,
                self._folder / "wandb" / "run-*",
            )

    def abandon(self) -> None:
        """Do nothing: at process exit, wandb itself marks the run as failed, which may wait for the network."""


def _mode(mode: Mode) -> Mode:
    """The mode to use: WANDB_MODE=offline, often set on compute nodes without network, forces offline mode."""
    return "offline" if mode == "online" and os.environ.get("WANDB_MODE") == "offline" else mode


def _array_group() -> str | None:
    """The group of the tasks of a Slurm array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return None if array is None else f"slurm-{array}"


def _answers() -> bool:
    """Whether the server can be connected to. Behind a proxy that is not tried."""
    import wandb

    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES):
        return True
    parts = urlsplit(wandb.setup().settings.base_url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECTS_WITHIN_S).close()
    except OSError:
        return False
    return True
