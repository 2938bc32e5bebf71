"""ONNX exports: every family answers as torch does, and what is damaged, foreign or missing is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layoutner.backends import onnx_export, onnx_network
from layoutner.backends.onnx_export import TOLERANCE, write_onnx
from layoutner.demo.forms import TYPES
from layoutner.distributed.ranks import Ranks
from layoutner.documents.roles import read_documents
from layoutner.errors import ModelError, SettingsError
from layoutner.inference.export import export_onnx
from layoutner.inference.labeller import Labelled, Labeller
from layoutner.models.preprocessing import Preprocessing
from layoutner.pages.document import Document
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.data import DataSettings
from tests.builders.checkpoints import checkpoint
from tests.builders.families import BUILT, make_export
from tests.builders.processes import call, launch

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))
TAGS = ["O", *(f"{prefix}-{kind.upper()}" for kind in TYPES for prefix in "BI")]
WEIGHTS = ("model.safetensors", "README.md")
CASES = [*BUILT, "layoutlmv3:ignore"]


@pytest.fixture(scope="module")
def documents(forms: Path) -> list[Document]:
    return read_documents(DataSettings(format="funsd"), forms, "test")


@pytest.fixture(scope="module")
def model(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with weights."""
    return make_export(checkpoints["layoutlm"], tmp_path_factory.mktemp("model"), TAGS)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as an ONNX graph."""
    return as_onnx(model, tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture
def graph(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "graph"))


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Path:
    """A run folder with one checkpoint, whose weights are the model's."""
    return run_of(model, tmp_path / "run")


def as_onnx(model: Path, out: Path) -> Path:
    shutil.copytree(model, out, ignore=shutil.ignore_patterns(*WEIGHTS))
    preprocessing, _ = write_onnx(model, Preprocessing.read(model / "layoutner.json"), out)
    preprocessing.write(out / "layoutner.json")
    return out


def run_of(model: Path, run: Path) -> Path:
    shutil.copytree(model, run / "model", ignore=shutil.ignore_patterns(*WEIGHTS, "layoutner.json"))
    shutil.copyfile(model / "layoutner.json", run / "layoutner.json")
    checkpoint(run, 1, weights=load_file(model / "model.safetensors"))
    return run


def answers(folder: Path, documents: list[Document], batch: int = 4) -> tuple[list[int], list[float]]:
    """Labels and probabilities of all words."""
    found: Labelled = []
    Labeller(folder, ALONE).label(documents, MicroBatchLimit(batch), found.extend)
    assert [document.name for document, _ in found] == [document.name for document in documents]
    words = [word for _, its in found for word in its]
    return [word.label for word in words], [word.probability for word in words]


def edit(folder: Path, file: str, **values: object) -> None:
    tree = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**tree, **values}))


@pytest.mark.parametrize(
    "case", [case if case == "layoutlm" else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_every_family_answers_as_torch_does(
    case: str, checkpoints: dict[str, Path], documents: list[Document], tmp_path: Path
) -> None:
    family = case.partition(":")[0]
    model = make_export(checkpoints[family], tmp_path, TAGS, images="use" if case == "layoutlmv3" else "ignore")
    graph = as_onnx(model, tmp_path / "graph")
    (labels, probabilities), (expected_labels, expected) = answers(graph, documents), answers(model, documents)
    assert labels == expected_labels
    assert probabilities == pytest.approx(expected, abs=TOLERANCE)
    assert len(set(labels)) > 1
    alone = answers(graph, documents, batch=1)  # other rows, with other padding
    assert alone[0] == labels
    assert alone[1] == pytest.approx(probabilities, abs=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_become_fp32(
    dtype: torch.dtype, model: Path, documents: list[Document], tmp_path: Path
) -> None:
    weights = {name: weight.to(dtype) for name, weight in load_file(model / "model.safetensors").items()}
    for name, kind in (("half", dtype), ("whole", torch.float32)):  # the same numbers
        shutil.copytree(model, tmp_path / name)
        its = {key: weight.to(kind) for key, weight in weights.items()}
        save_file(its, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        edit(tmp_path / name, "config.json", dtype=str(kind).removeprefix("torch."))
    (labels, probabilities) = answers(as_onnx(tmp_path / "half", tmp_path / "graph"), documents)
    expected_labels, expected = answers(tmp_path / "whole", documents)
    assert labels == expected_labels
    assert probabilities == pytest.approx(expected, abs=TOLERANCE)


def test_a_window_as_long_as_the_network_has_positions(
    checkpoints: dict[str, Path], documents: list[Document], tmp_path: Path
) -> None:
    # Rows of 250 tokens are padded to 256, and the packed rows of training have no padding.
    model = make_export(checkpoints["layoutlm"], tmp_path, TAGS)
    weights = load_file(model / "model.safetensors")
    positions = next(
        name for name in weights if name.endswith(".position_embeddings.weight") and "_position" not in name
    )
    weights[positions] = weights[positions][:250].clone()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    edit(model, "config.json", max_position_embeddings=250)
    edit(model, "layoutner.json", max_length=250)
    long = [Document("long", documents[0].words * 20, documents[0].boxes * 20, None, (1000, 1000))]
    (labels, probabilities), (expected_labels, expected) = (
        answers(folder, long) for folder in (as_onnx(model, tmp_path / "graph"), model)
    )
    assert labels == expected_labels
    assert probabilities == pytest.approx(expected, abs=TOLERANCE)


# Files that are not as they were exported


def test_a_flipped_bit_a_cut_file_and_none_at_all_are_named(graph: Path) -> None:
    whole = (graph / "model.onnx").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[:-100], b""):
        (graph / "model.onnx").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.onnx: damaged, or of another model: .*; export the model again"):
            Labeller(graph, ALONE)
    (graph / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx, listed in layoutner\.json, is missing"):
        Labeller(graph, ALONE)


@pytest.mark.slow
def test_the_graph_of_another_model_is_refused(graph: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    other = as_onnx(make_export(checkpoints["layoutlm"], tmp_path, [*TAGS, "B-Z", "I-Z"]), tmp_path / "other")
    shutil.copyfile(other / "model.onnx", graph / "model.onnx")
    with pytest.raises(ModelError, match="damaged, or of another model"):
        Labeller(graph, ALONE)
    # Whoever changes layoutner.json too still finds that labels and network differ.
    shutil.copyfile(other / "layoutner.json", graph / "layoutner.json")
    edit(graph, "layoutner.json", labels=TAGS)
    with pytest.raises(ModelError, match="is not the network of layoutner.json"):
        Labeller(graph, ALONE)


def test_a_file_that_is_no_graph_and_names_that_lead_elsewhere_are_refused(graph: Path) -> None:
    (graph / "model.onnx").write_bytes(b"no graph at all")
    listed = onnx_export.FileEntry.of(graph / "model.onnx").model_dump()
    edit(graph, "layoutner.json", onnx={"model.onnx": listed})
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be loaded: "):
        Labeller(graph, ALONE)
    for name in ("/dev/zero", "../model.onnx"):
        edit(graph, "layoutner.json", onnx={name: {"bytes": 0, "sha256": ""}})
        with pytest.raises(ModelError, match=f"{name}, listed in layoutner.json, is missing"):
            Labeller(graph, ALONE)
    edit(graph, "layoutner.json", onnx=["model.onnx"])
    with pytest.raises(ModelError, match="layoutner.json: onnx: Input should be a valid dictionary"):
        Labeller(graph, ALONE)


def test_a_config_that_was_edited_is_named(graph: Path) -> None:
    edit(graph, "config.json", id2label={str(index): tag for index, tag in enumerate(reversed(TAGS))})
    with pytest.raises(ModelError, match="modified export: its config.json has the labels"):
        Labeller(graph, ALONE)
    (graph / "config.json").write_text("{")
    with pytest.raises(ModelError, match="its config.json cannot be read"):
        Labeller(graph, ALONE)


def test_without_the_package_the_message_says_what_to_install(
    graph: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = onnx_network.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_network.importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else find(name)
    )
    with pytest.raises(SettingsError, match=r"needs onnxruntime: pip install 'layoutner\[onnx\]'"):
        Labeller(graph, ALONE)
    with pytest.raises(SettingsError, match="needs onnx and onnxscript and onnxruntime: pip install"):
        write_onnx(model, Preprocessing.read(model / "layoutner.json"), tmp_path)


# The command


def test_the_command_exports_and_predict_and_evaluate_use_the_graph(
    run: Path, model: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, said, err = call(capsys, "export", run, out, "--onnx")
    assert (code, err) == (0, "")
    assert "step-000001 exported to" in said
    assert "as an ONNX graph: its logits differ from torch's by at most " in said
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "config.json", "layoutner.json", "model.onnx", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    card = (out / "README.md").read_text()
    assert "library_name: onnx" in card
    assert "AutoModelForTokenClassification" not in card
    assert "`bbox` (rows x tokens x 4, thousandths of the page, int64)" in card
    assert "its output is `logits` (rows x tokens x 17)" in card
    pages = []
    for folder in (out, model):
        code, lines, err = call(capsys, "predict", forms, "--model", folder)
        assert (code, err) == (0, "")
        pages.append([word for line in lines.splitlines() for word in json.loads(line)["words"]])
    assert len(pages[0]) == len(pages[1]) > 100
    for ours, expected in zip(*pages, strict=True):
        assert ours == {**expected, "probability": pytest.approx(expected["probability"], abs=TOLERANCE)}
    scores = []
    for folder in (out, model):
        code, text, err = call(capsys, "evaluate", forms, "--model", folder)
        assert (code, err) == (0, "")
        scores.append(json.loads(text))
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=TOLERANCE)
    assert scores[0] == {**scores[1], "loss": scores[0]["loss"]}


@pytest.mark.slow
def test_nothing_of_the_exporter_reaches_the_terminal(run: Path, tmp_path: Path) -> None:
    done = launch(["layoutner", "export", run, tmp_path / "out", "--onnx"])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_a_graph_that_is_not_exact_or_cannot_be_made_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(ModelError, match=r"layoutlm cannot be exported to ONNX: a logit differs from torch's by .*e-0"):
        export_onnx(run, tmp_path / "out")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("export failed") from NotImplementedError("no such operator\nmore")

    monkeypatch.setattr(torch.onnx, "export", fail)
    code, out, err = call(capsys, "export", run, tmp_path / "out", "--onnx")
    assert (code, out) == (2, "")
    assert "layoutlm cannot be exported to ONNX: no such operator" in err
    assert "more" not in err
    assert sorted(os.listdir(tmp_path)) == there
