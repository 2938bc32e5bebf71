"""Write the network of an export as an ONNX graph, and compare what it computes with torch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from layoutner.backends.onnx_network import (
    GRAPH_FILE,
    PER_TOKEN,
    OnnxNetwork,
    input_names,
    require_packages,
    without_padding,
)
from layoutner.backends.torch_network import TorchNetwork
from layoutner.corpus.batches import collate
from layoutner.corpus.windows import Window
from layoutner.errors import ModelError, first_line
from layoutner.files.artefact import FileEntry
from layoutner.models.attention import OWN_ATTENTION
from layoutner.models.families import FAMILIES, model_inputs
from layoutner.models.preprocessing import Preprocessing

TOLERANCE = 1e-4  # largest difference of a logit from torch's, in fp32
CPU = torch.device("cpu")
IMAGE_SIDE = 224  # pixels, of networks whose configuration does not say


@dataclass(frozen=True)
class OnnxCheck:
    """How far a graph is from torch, in fp32 on the CPU."""

    batches: tuple[tuple[int, int], ...]  # rows and tokens of each batch that both have computed
    difference: float  # the largest of any logit

    def __str__(self) -> str:
        shapes = ", ".join(f"{rows} x {tokens}" for rows, tokens in self.batches)
        return f"its logits differ from torch's by at most {self.difference:.1e} (rows x tokens: {shapes})"


class _Logits(nn.Module):
    """A network as a function of tensors, without keywords."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def write_onnx(folder: Path, preprocessing: Preprocessing, out: Path) -> tuple[Preprocessing, OnnxCheck]:
    """Write model.onnx, in fp32 whatever the weights are, with any number of rows and tokens; then check it.

    Args:
        folder: an export with weights.
        preprocessing: its layoutner.json.
        out: the folder of the ONNX export, which has all other files already.

    Returns:
        The new layoutner.json, which lists the files, and the result of the check.

    Raises:
        SettingsError: a package is missing.
        ModelError: the weights cannot be loaded, the family cannot be exported, or the graph computes something else.
        OSError: it cannot be written.
    """
    require_packages("onnx", "onnxscript", "onnxruntime")
    family = preprocessing.family
    network = TorchNetwork(folder, family, CPU, torch.float32)
    names = input_names(preprocessing)
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens")
    inputs = _made_batch(network.config, preprocessing, 2, min(24, preprocessing.max_length))
    shapes = tuple({0: rows, 1: tokens} if name in PER_TOKEN else {0: rows} for name in names)
    try:
        with _exporter_silent(), torch.no_grad(), _plain_attention(network.model, family):
            program: Any = torch.onnx.export(
                _Logits(network.model, names).eval(),
                tuple(inputs[name] for name in names),
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=["logits"],
                dynamic_shapes={"inputs": shapes},
            )
    except Exception as error:  # tracing runs all of the network's code, and raises whatever that raises
        raise ModelError(f"{family} cannot be exported to ONNX: {_reason(error)}") from None
    program.save(out / GRAPH_FILE)
    files = {path.name: FileEntry.of(path) for path in sorted(out.glob(f"{GRAPH_FILE}*"))}
    changed = preprocessing.model_copy(update={"onnx": files})
    return changed, _check(network, OnnxNetwork(out, changed, CPU), changed)


@torch.no_grad()
def _check(network: TorchNetwork, graph: OnnxNetwork, preprocessing: Preprocessing) -> OnnxCheck:
    """Compute made batches of several shapes with both.

    Raises:
        ModelError: a logit differs by more than TOLERANCE.
    """
    longest = preprocessing.max_length
    shapes = ((1, 1), (1, min(7, longest)), (3, min(50, longest)), (2, longest))
    differences = []
    for rows, tokens in shapes:
        inputs = _made_batch(network.config, preprocessing, rows, tokens)
        visible_BT = inputs["attention_mask"] == 1
        try:
            computed = graph(inputs)
        except Exception as error:  # see OnnxNetwork
            raise ModelError(
                f"{preprocessing.family} cannot be exported to ONNX: {rows} x {tokens} tokens: {first_line(error)}"
            ) from None
        differences.append((network(inputs) - computed)[visible_BT].abs().max().item())
    worst = max(differences)
    if not worst <= TOLERANCE:  # also if it is no number
        raise ModelError(
            f"{preprocessing.family} cannot be exported to ONNX: a logit differs from torch's by {worst:.1e}, more "
            f"than {TOLERANCE:g}"
        )
    return OnnxCheck(shapes, worst)


def _made_batch(config: Any, preprocessing: Preprocessing, rows: int, tokens: int) -> dict[str, torch.Tensor]:
    """A padded batch of random windows, the same at every call. The first row has all tokens, the others fewer."""
    rng = np.random.default_rng(rows * 1000 + tokens)
    row = FAMILIES[preprocessing.family]
    padding = config.pad_token_id or 0
    windows = []
    for length in (max(1, tokens * (rows - number) // rows) for number in range(rows)):
        corners = np.sort(rng.integers(0, 1001, (length, 2, 2)), axis=1)  # (x0, y0), (x1, y1)
        ids = rng.integers(0, config.vocab_size - 1, length)
        ids += ids >= padding  # any but that
        windows.append(Window(0, ids, corners.reshape(length, 4), np.zeros_like(ids), np.zeros((0, 2), np.int64)))
    inputs = model_inputs(preprocessing.family, collate(windows, padding))
    if row.image is not None and preprocessing.images == "use":
        side = getattr(config, "input_size", IMAGE_SIDE)
        inputs[row.image] = torch.from_numpy(rng.standard_normal((rows, 3, side, side), np.float32))
    return without_padding(inputs)


@contextmanager
def _plain_attention(model: Any, family: str) -> Iterator[None]:
    """Attention as matrix products and a softmax. ONNX Runtime computes what "sdpa" becomes a quarter slower."""
    if family in OWN_ATTENTION:
        yield
        return
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@contextmanager
def _exporter_silent() -> Iterator[None]:
    """Let torch.onnx neither warn of its own future nor log which packages it does without."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of the error that torch's exporter wraps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
