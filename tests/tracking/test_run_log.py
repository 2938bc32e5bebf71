"""run.log: the lines of a run with their times, of several starts, and never a reason for a run to end."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from layoutner.distributed.ranks import Ranks
from layoutner.errors import TrainingDiverged
from layoutner.tracking.run_log import LOG_FILE, run_log
from tests.builders.forks import fork

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)")

logger = logging.getLogger("layoutner.tests")


def lines(folder: Path) -> list[str]:
    """The lines without their times."""
    found = [LINE.fullmatch(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    assert all(found)
    return [one[1] for one in found if one]


@pytest.fixture(autouse=True)
def _logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("layoutner"), "level", logging.INFO)
    logging.getLogger("layoutner.tests").manager._clear_cache()  # type: ignore[attr-defined]


def test_lines_from_before_there_is_a_folder_are_kept(tmp_path: Path) -> None:
    with run_log(ALONE) as log:
        logger.info("plan")
        log.begin(tmp_path)
        logger.info("step %d", 1)
    logger.info("after the run")
    assert lines(tmp_path) == ["plan", "step 1"]


def test_another_start_adds_to_it(tmp_path: Path) -> None:
    for expected in (["first"], ["first", "second"]):
        with run_log(ALONE) as log:
            log.begin(tmp_path)
            logger.info(expected[-1])
        assert lines(tmp_path) == expected


def test_a_name_that_is_no_text_is_written_in_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own log takes no such name.
    monkeypatch.setattr(logging.getLogger("layoutner"), "propagate", False)
    with run_log(ALONE) as log:
        logger.info("caf\udce9.json is hidden")
        log.begin(tmp_path)
        logger.info("caf\udce9.json")
    assert lines(tmp_path) == ["caf\\udce9.json is hidden", "caf\\udce9.json"]


def test_its_last_line_says_why_a_run_failed(tmp_path: Path) -> None:
    def run() -> None:
        with run_log(ALONE) as log:
            log.begin(tmp_path)
            raise TrainingDiverged("the loss is nan")

    with pytest.raises(TrainingDiverged):
        run()
    assert lines(tmp_path) == ["TrainingDiverged: the loss is nan"]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with run_log(Ranks(rank=1, size=2, device=torch.device("cpu"))):
        logger.info("line")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / LOG_FILE).symlink_to("/dev/full")
    with run_log(ALONE) as log:
        log.begin(tmp_path)
        for number in range(3):
            logger.info("line %d", number)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.fullmatch(r"warning: run.log cannot be written any more: .*No space left.*; the run goes on", warning)


def test_a_run_has_all_that_it_printed(train_arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = fork(["layoutner", "train", *train_arguments(run, schedule__max_steps=2)])
    assert done.returncode == 0, done.stderr[-3000:]
    printed = [line for line in done.stdout.splitlines() if line]
    text = (run / LOG_FILE).read_text()
    assert [line for line in printed if line not in text] == []
    assert re.search(r"step 1/2 .* s/step \d:\d\d:\d\d left; ", text)
    assert os.stat(run / LOG_FILE).st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
