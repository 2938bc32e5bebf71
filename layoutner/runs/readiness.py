"""Check everything that a run needs and that can be checked without importing torch. Reports all problems at once."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from layoutner.documents.roles import require_path, require_predictions, require_roles
from layoutner.documents.store import Store, is_store
from layoutner.errors import SettingsError, require_all
from layoutner.models.source import checkpoint_name
from layoutner.pages.labels import read_labels
from layoutner.planning.batch_plan import plan_settings, with_micro_batch
from layoutner.planning.ramp import Ramp
from layoutner.planning.render import load_preset, render
from layoutner.planning.schedule import Schedule, plan_schedule
from layoutner.readers import require_packages as require_reader
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import Settings
from layoutner.tracking.trackers import require_packages
from layoutner.tracking.wandb_tracker import require_account
from layoutner.training.checkpoint_files import require_resumable
from layoutner.training.folder import require_replaceable


def require_ready(*runs: Settings, writes: bool = True) -> None:
    """Refuse a run that cannot start. Each rank calls it before it joins the others. It changes no files.

    Args:
        runs: settings of the run; for a cross-validation, those of every fold.
        writes: whether the run writes its run folder.

    Raises:
        LayoutnerError: all problems together; of their class if it is the same for all. Problems in the documents and
            in the pretrained model are found later.
    """
    require_all("this run cannot start", (check for run in runs for check in _checks(run, writes)))


def _checks(settings: Settings, writes: bool) -> Iterator[Callable[[], object]]:
    """The checks of a run. Most of them are functions that the run itself calls later."""
    data, run = settings.data, settings.run
    yield partial(require_roles, data)
    yield partial(checkpoint_name, settings.model)
    yield partial(_require_schedule, settings)
    yield partial(load_preset, settings.deepspeed)
    yield partial(_require_engine, settings)
    for role in ("train", "eval", "test"):
        if isinstance(path := getattr(data, role), Path):
            yield partial(require_path, path, data.format, f"data.{role}")
            if is_store(path):
                yield partial(_require_store, path, data, role)
    if data.labels is not None:
        yield partial(read_labels, data.labels, data.scheme)
    yield partial(require_predictions, settings)
    yield partial(require_reader, data.format, data.ocr)
    yield partial(require_packages, settings)
    yield partial(_require_names, settings)
    if writes and os.environ.get("RANK", "0") == "0":  # only rank 0 uses the run folder, which may be local to its node
        yield partial(require_resumable, run)
        yield partial(require_replaceable, settings)
        yield partial(require_account, settings)


def _require_store(path: Path, data: DataSettings, role: str) -> None:
    Store(path).require_read_as(data, f"data.{role}")


def _require_schedule(settings: Settings) -> None:
    # A schedule in epochs or windows cannot be checked before the number of training windows is known.
    if settings.schedule.epochs is None and settings.schedule.max_windows is None:
        plan_schedule(settings.schedule, settings.batch.global_batch_size, None)


def _require_engine(settings: Settings) -> None:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch.micro_batch_size == "auto":
        settings = with_micro_batch(settings, 1)
    batch = plan_settings(settings, world_size)
    # Use a dummy schedule: its length does not affect whether the DeepSpeed config is valid.
    render(settings, batch, Schedule(1, 0, Ramp.of(batch.global_batch_size), "not known yet"))


def _require_names(settings: Settings) -> None:
    """Refuse non-ASCII paths if the locale is not UTF-8: libraries for models and tokenizers encode paths as UTF-8."""
    encoding, name = sys.getfilesystemencoding(), settings.model.name_or_path or ""
    for key, path in (("run.output_dir", str(settings.run.output_dir)), ("model.name_or_path", name)):
        if os.fsencode(path) != path.encode("utf-8"):
            raise SettingsError(
                f"{key} = {path}: this locale encodes file names as {encoding}, but libraries expect UTF-8: set "
                "PYTHONUTF8=1, or use a name in ASCII"
            )
