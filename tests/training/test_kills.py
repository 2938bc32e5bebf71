"""Kill -9 at random moments: nothing is lost, and nothing is trained twice. The whole of it: benchmarks/kills.py."""

from pathlib import Path

import pytest

from tests.builders.processes import HANGS_S, ROOT, launch


@pytest.mark.slow
def test_killed_runs_end_as_the_run_that_nobody_killed(tmp_path: Path) -> None:
    done = launch(["python", ROOT / "benchmarks" / "kills.py", 12, tmp_path], timeout=HANGS_S)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    found = dict(line.split(": ") for line in done.stdout.splitlines() if ": " in line)
    assert found["kills"] == "12"
    assert int(found["resumes"]) >= 4
    assert int(found["runs finished"]) >= 1
    assert int(found["steps lost at most"]) <= 1
