"""Find the subfolder of a dataset for a role."""

from pathlib import Path

from layoutner.errors import DataError, NoSplitError


def split_folder(path: Path, role: str, splits: dict[str, str], inner: str) -> Path:
    """The folder that contains `inner`: the path itself, or its subfolder for the role.

    Args:
        splits: role -> name of its subfolder.
        inner: name of the folder with the pages' files.

    Raises:
        DataError: there is no such folder, or none for this role.
    """
    if (path / inner).is_dir():
        return path
    there = [name for name in splits.values() if (path / name / inner).is_dir()]
    if not there:
        raise DataError(f"{path}: holds neither {inner}/ nor {splits['train']}/{inner}/")
    if splits.get(role) not in there:
        raise NoSplitError(
            f"{path}: holds {' and '.join(there)}, none of them for data.{role}; give the full path of one of them"
            + (", or give a fraction of the training documents such as 0.1" if role == "eval" else "")
        )
    return path / splits[role]
