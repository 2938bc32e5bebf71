"""How a model is served: address, limits, what is read and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from layoutner.errors import SettingsError
from layoutner.serving.task_files import TaskFiles
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import DeviceName

PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}  # module -> package


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    max_upload_mib: int = 32  # body of a request
    max_pages: int = 50  # of one document
    timeout_s: float = 60.0  # from the first byte of a request to its answer
    batch_size: int = 8  # windows per forward pass
    queue: int = 64  # requests that are in the server at once; further ones are told to come back

    def require(self) -> None:
        """Refuse limits with which no request could be answered.

        Raises:
            SettingsError: one of them is not above 0.
        """
        given = {
            "--max-upload-mib": self.max_upload_mib,
            "--max-pages": self.max_pages,
            "--timeout": self.timeout_s,
            "--batch": self.batch_size,
            "--queue": self.queue,
        }
        for name, value in given.items():
            if not 0 < value < float("inf"):
                raise SettingsError(f"{name} {value:g}: must be more than 0")

    @property
    def max_upload_bytes(self) -> int:
        """The largest body of a request."""
        return self.max_upload_mib * 2**20


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served."""

    model: Path  # folder of the exported model
    host: str = "127.0.0.1"
    device: DeviceName = "auto"
    limits: Limits = field(default_factory=Limits)
    data: DataSettings = field(default_factory=DataSettings)  # how documents are read
    normalisers: Mapping[str, str] = field(default_factory=dict)  # entity type -> name of its normaliser
    files: TaskFiles = field(default_factory=TaskFiles)  # what tasks of Label Studio may name


def require_packages() -> None:
    """Refuse to start without the packages of the extra.

    Raises:
        SettingsError: a package is missing.
    """
    if missing := [package for module, package in PACKAGES.items() if find_spec(module) is None]:
        raise SettingsError(f"`layoutner serve` needs {', '.join(missing)}: pip install 'layoutner[serve]'")
