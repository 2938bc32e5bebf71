"""Files and folders have their names when they are whole and on the disk, and leave nothing when they fail."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.files.atomic import AtomicFile, atomic_file, atomic_folder, remove, remove_leftovers, write_text
from tests.builders.disk import small_files


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What was synced, by name, and what stood in the folder at that time."""
    found: list[tuple[str, list[str]]] = []

    def fsync(handle: int) -> None:
        found.append((os.readlink(f"/proc/self/fd/{handle}").removeprefix(f"{tmp_path}/"), tree(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    synced: list[tuple[str, list[str]]], tmp_path: Path
) -> None:
    with atomic_file(tmp_path / "a") as file:
        file.write(b"new")
        assert tree(tmp_path) == [".a.partial"]
    assert synced == [(".a.partial", [".a.partial"]), (str(tmp_path), ["a"])]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_is_synced_with_all_that_is_in_it(synced: list[tuple[str, list[str]]], tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "up" / "out") as partial:
        (partial / "in").mkdir()
        (partial / "in" / "a").write_text("a")
        (partial / "b").write_text("b")
    names = [name for name, _ in synced]
    hidden = "up/.out.partial"
    assert names == [f"{hidden}/in/a", f"{hidden}/in", f"{hidden}/b", hidden, "up"]
    assert tree(tmp_path) == ["up", "up/out", "up/out/b", "up/out/in", "up/out/in/a"]


def _fail_in_block(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise KeyError


def _fail_on_disk(path: Path) -> None:
    with small_files(4), atomic_file(path) as file:
        file.write(b"more than four")


@pytest.mark.parametrize(("work", "error"), [(_fail_in_block, KeyError), (_fail_on_disk, OSError)])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_file_that_fails_leaves_what_was_there(
    work: Callable[[Path], None], error: type[Exception], before: str | None, tmp_path: Path
) -> None:
    if before is not None:
        (tmp_path / "a").write_text(before)
    with pytest.raises(error):
        work(tmp_path / "a")
    assert tree(tmp_path) == ([] if before is None else ["a"])
    assert before is None or (tmp_path / "a").read_text() == before


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_fails_leaves_what_was_there(replace: bool, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()

    def write() -> None:
        with atomic_folder(tmp_path / "out", replace) as partial:
            (partial / "half").touch()
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert tree(tmp_path) == ["out", "out/old"]


def test_a_folder_gives_way_only_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as partial:  # an empty one always
        (partial / "first").touch()
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "out"):
        pass
    assert tree(tmp_path) == ["out", "out/first"]
    with atomic_folder(tmp_path / "out", replace=True) as partial:
        (partial / "second").touch()
    assert tree(tmp_path) == ["out", "out/second"]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from layoutner.files.atomic import atomic_file, atomic_folder
with atomic_file(Path({str(tmp_path)!r}, "a")) as file, atomic_folder(Path({str(tmp_path)!r}, "out")) as partial:
    file.write(b"half of it, and more than there will be")
    file.flush()
    (partial / "half").touch()
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert tree(tmp_path) == [".a.partial", ".out.partial", ".out.partial/half"]
    write_text(tmp_path / "a", "whole")
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "whole").touch()
    assert tree(tmp_path) == ["a", "out", "out/whole"]
    assert (tmp_path / "a").read_text() == "whole"


def test_several_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    one, two = AtomicFile(tmp_path / "a", shared=True), AtomicFile(tmp_path / "a", shared=True)
    one.file.write(b"one")
    two.file.write(b"two")
    two.commit()
    assert (tmp_path / "a").read_bytes() == b"two"
    one.commit()
    one.discard()  # nothing happens any more
    assert tree(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"one"


def test_a_file_system_that_syncs_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a", "x")
    with atomic_folder(tmp_path / "out"):
        pass
    assert tree(tmp_path) == ["a", "out"]


def test_what_is_removed_goes_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "folder" / "in").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("link", "folder", "file", "nothing"):
        remove(tmp_path / name)
    assert tree(tmp_path) == ["kept"]


def test_leftovers_are_removed_by_name_and_age(tmp_path: Path) -> None:
    for name in (".step-1.partial", ".step-2.removed", ".step-3.partial", ".other.partial", "step-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    an_hour_ago = time.time() - 3600
    os.utime(tmp_path / ".step-1.partial", (an_hour_ago, an_hour_ago))
    remove_leftovers(tmp_path, "step-*", older_than_s=1800)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".step-2.removed",
        ".step-3.partial",
        ".other.partial",
        "step-4",
    }
    remove_leftovers(tmp_path, "step-*")
    assert {path.name for path in tmp_path.iterdir()} == {".other.partial", "step-4"}
