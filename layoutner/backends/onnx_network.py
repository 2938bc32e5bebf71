"""The network of an export in ONNX Runtime, from its ONNX graph (`pip install 'layoutner[onnx]'`)."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoConfig

from layoutner.backends.network import BROKEN
from layoutner.errors import ModelError, SettingsError, first_line
from layoutner.files.artefact import sha256
from layoutner.models.families import FAMILIES
from layoutner.models.preprocessing import PREPROCESSING_FILE, Preprocessing

logger = logging.getLogger(__name__)

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"  # only if the weights are too large for one protobuf message
ERRORS_ONLY = 3  # a severity of ONNX Runtime's log
PER_TOKEN = ("input_ids", "attention_mask", "bbox")  # inputs whose second dimension is T


def require_packages(*names: str) -> None:
    """Refuse an ONNX model if a package for it is not installed.

    Raises:
        SettingsError: one is missing.
    """
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise SettingsError(f"an ONNX model needs {' and '.join(missing)}: pip install 'layoutner[onnx]'")


def input_names(preprocessing: Preprocessing) -> list[str]:
    """Names of the graph's inputs, in their order."""
    row = FAMILIES[preprocessing.family]
    boxes = [] if row.boxes == "none" else ["bbox"]
    image = [row.image] if row.image is not None and preprocessing.images == "use" else []
    return ["input_ids", "attention_mask", *boxes, *image]


class OnnxNetwork:
    """A session of ONNX Runtime. It computes in fp32."""

    packs = False  # the graph takes padded rows

    def __init__(self, folder: Path, preprocessing: Preprocessing, device: torch.device) -> None:
        """Load it, with as many threads as torch would use.

        Args:
            folder: folder of the export.
            device: a GPU is used if onnxruntime has been built for one.

        Raises:
            ModelError: a file is missing, damaged, or of another model.
            SettingsError: the package onnxruntime is missing.
        """
        require_packages("onnxruntime")
        import onnxruntime

        _verify(folder, preprocessing)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait do not spin: they would take the CPU from those that read pages, and from other ranks.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = folder / GRAPH_FILE
        try:
            self._session = onnxruntime.InferenceSession(graph, options, _providers(onnxruntime, device))
        except Exception as error:  # ONNX Runtime has a class of its own for every status, without a common base
            raise ModelError(f"{graph}: cannot be loaded: {first_line(error)}; export the model again") from None
        self._names = input_names(preprocessing)
        found = [one.name for one in self._session.get_inputs()]
        outputs = [one.shape[-1:] for one in self._session.get_outputs()]
        if found != self._names or outputs != [[len(preprocessing.labels)]]:
            raise ModelError(
                f"{graph}: is not the network of {PREPROCESSING_FILE}: its inputs are {found}, not {self._names}, or "
                f"it has not one output for {len(preprocessing.labels)} labels; export the model again"
            )
        try:
            self.config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except BROKEN as error:
            raise ModelError(f"{folder}: its config.json cannot be read: {first_line(error)}") from None

    def __call__(self, inputs: dict[str, Any]) -> torch.Tensor:
        """See `Network`."""
        columns = inputs["input_ids"].shape[1]
        cut = without_padding(inputs)
        (logits_BTL,) = self._session.run(None, {name: cut[name].numpy() for name in self._names})
        return functional.pad(torch.from_numpy(logits_BTL), (0, 0, 0, columns - logits_BTL.shape[1]))


def without_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs without the columns that are padding in every row. Row lengths are rounded up, see `padded`, and the
    graph may have no position for what is added.
    """
    tokens = int(inputs["attention_mask"].sum(1).max())
    return {name: value[:, :tokens] if name in PER_TOKEN else value for name, value in inputs.items()}


def _verify(folder: Path, preprocessing: Preprocessing) -> None:
    """Compare the files of the graph with their digests in layoutner.json."""
    for name, entry in (preprocessing.onnx or {}).items():
        path = folder / name
        if name not in (GRAPH_FILE, WEIGHTS_FILE) or not path.is_file():
            raise ModelError(f"{folder}: {name}, listed in {PREPROCESSING_FILE}, is missing; export the model again")
        if path.stat().st_size != entry.bytes or sha256(path) != entry.sha256:
            raise ModelError(
                f"{path}: damaged, or of another model: its SHA-256 is not that in {PREPROCESSING_FILE}; export the "
                "model again"
            )


def _providers(onnxruntime: Any, device: torch.device) -> list[Any]:
    """What may compute, the first choice first."""
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        logger.warning("the installed onnxruntime has no CUDA, so the CPU computes; onnxruntime-gpu has it")
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]
