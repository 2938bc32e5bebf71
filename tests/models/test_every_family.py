"""Every family trains, evaluates, exports and predicts, at ZeRO 0 in fp32 and at ZeRO 3 in bf16, on two ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForTokenClassification, AutoProcessor, AutoTokenizer

from layoutner.distributed.ranks import Ranks
from layoutner.documents.roles import Corpus, read_documents
from layoutner.errors import DataError
from layoutner.files.image import PageImage
from layoutner.inference.labeller import Labelled, Labeller
from layoutner.models.families import FAMILIES
from layoutner.pages.document import Document
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load
from layoutner.training.plan import cut_windows
from tests.builders.forks import fork
from tests.builders.processes import ROOT

WORKER = ROOT / "tests" / "workers" / "families.py"
# layoutlmv2's backbone cannot be installed from a package index.
CASES = [*sorted(FAMILIES.keys() - {"layoutlmv2"}), "layoutlmv3:ignore"]
# In the fast tier the families that see a page in a way of their own compute in fp32; LayoutLM, which has all kinds of
# parameters, at ZeRO 3 in bf16 too.
FAST = ("layoutlm", "layoutlmv3", "layoutlmv3:ignore", "lilt", "bros")
SLOW = pytest.mark.slow
FAST_CASES = [case if case in FAST else pytest.param(case, marks=SLOW) for case in CASES]
RUNS = [
    *((case, "0") if case in FAST else pytest.param(case, "0", marks=SLOW) for case in CASES),
    *((case, "3") if case == "layoutlm" else pytest.param(case, "3", marks=SLOW) for case in CASES),
]
ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))
CORNERS = [0] * 4, [1000] * 4  # boxes of the special tokens before and after the words


@pytest.fixture(scope="module")
def out(tier: str, checkpoints: dict[str, Path], forms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker wrote, all families in one start of two ranks."""
    folder = tmp_path_factory.mktemp("families")
    done = fork(
        [WORKER, checkpoints["bert"].parent, forms, folder, tier, *(FAST if tier == "fast" else CASES)], ranks=2
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.parametrize(("case", "stage"), RUNS)
def test_the_gradient_is_that_of_plain_pytorch(case: str, stage: str, results: dict[str, Any]) -> None:
    # In fp32 at both stages. The reference trains every parameter that gets a gradient, so it names them alike.
    measured = results[f"{case}-{stage}"]
    assert max(measured["gradient"]) <= 1e-5
    assert max(map(abs, measured["norm"])) <= 1e-5
    assert max(measured["weights"]) <= 1e-4


@pytest.mark.parametrize(("case", "stage"), RUNS)
def test_it_learns_and_its_export_scores_as_it_did_in_training(
    case: str, stage: str, out: Path, results: dict[str, Any]
) -> None:
    measured = results[f"{case}-{stage}"]
    lines = [json.loads(line) for line in (out / f"run-{case}-{stage}" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines]
    assert losses[-1] < losses[0] - 0.02
    (then,) = [line["eval/loss"] for line in lines if line["step"] == measured["step"]]
    assert measured["eval"] == pytest.approx(then, rel=1e-6)
    assert measured["scores"]["box_level"] == "segment"
    assert measured["scores"]["counts"]["documents"] == 8
    preprocessing = json.loads((out / f"{case}-{stage}" / "layoutner.json").read_text())
    assert preprocessing["images"] == ("use" if case == "layoutlmv3" else "ignore")
    assert preprocessing["box_level"] == "segment"


def test_a_page_without_its_picture_is_named_before_training(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (90, 90)).save(tmp_path / "page.png")
    words = [{"text": "a", "box": [0, 0, 9, 9], "label": "B-X"}]
    page = {"document": "seen", "page_size": [90, 90], "words": words, "image": "page.png"}
    unseen = {**page, "document": "unseen", "image": None}
    (tmp_path / "pages.jsonl").write_text(f"{json.dumps(page)}\n{json.dumps(unseen)}\n")

    def corpus(images: str) -> Corpus:
        model = {"name_or_path": str(checkpoints["layoutlmv3"]), "images": images}
        data = {"format": "jsonl", "train": str(tmp_path / "pages.jsonl"), "max_length": "64", "stride": "0"}
        return cut_windows(load(None, {"model": model, "data": data}))[0]

    with pytest.raises(DataError, match="1 of 2 documents .*unseen: has no page image"):
        corpus("use")
    assert len(corpus("ignore").train) == 2


def by_transformers(case: str, folder: Path, document: Document) -> torch.Tensor:
    """Labels of a page, W, by transformers alone: the export read as its documentation says."""
    family = case.partition(":")[0]
    words, boxes = list(document.words), [list(box) for box in document.segment_boxes()]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if case == "layoutlmv3":
        assert document.image is not None
        with Image.open(document.image.path) as image:
            inputs = AutoProcessor.from_pretrained(folder)(
                image.convert("RGB"), words, boxes=boxes, return_tensors="pt"
            )
    elif family in ("layoutlmv3", "lilt"):
        inputs = tokenizer(words, boxes=boxes, return_tensors="pt")
    else:
        inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt", return_token_type_ids=False)
        if family in ("layoutlm", "bros"):
            around = [CORNERS[0], *(boxes[word] for word in inputs.word_ids() if word is not None), CORNERS[1]]
            inputs["bbox"] = torch.tensor([around])
            if family == "bros":
                inputs["bbox"] = inputs["bbox"] / 1000
    owners = tokenizer.backend_tokenizer.encode(words, is_pretokenized=True).word_ids
    firsts = [owners.index(word) for word in range(len(words))]
    with torch.no_grad():
        logits = AutoModelForTokenClassification.from_pretrained(folder).eval()(**inputs).logits
    return logits[0, firsts].softmax(-1)


@pytest.mark.parametrize("case", FAST_CASES)
def test_transformers_alone_reads_the_export_alike(case: str, out: Path, forms: Path) -> None:
    folder = out / f"{case}-0"
    documents = read_documents(DataSettings(), forms, "test")[:3]
    found: Labelled = []
    Labeller(folder, ALONE).label(documents, MicroBatchLimit(1), found.extend)
    assert [document.name for document, _ in found] == [document.name for document in documents]
    for document, answers in found:
        probabilities = by_transformers(case, folder, document)
        best, labels = probabilities.max(-1)
        assert [answer.label for answer in answers] == labels.tolist()
        assert [answer.probability for answer in answers] == pytest.approx(best.tolist(), abs=1e-5)


def test_what_is_on_the_page_matters_to_a_network_that_sees_it(out: Path, forms: Path, tmp_path: Path) -> None:
    (document,) = read_documents(DataSettings(), forms, "test")[:1]
    Image.new("RGB", document.page_size, "black").save(tmp_path / "black.png")
    blackened = Document(**{**vars(document), "image": PageImage(tmp_path / "black.png")})
    for case, differs in (("layoutlmv3", True), ("layoutlmv3:ignore", False)):
        found: Labelled = []
        Labeller(out / f"{case}-0", ALONE).label([document, blackened], MicroBatchLimit(1), found.extend)
        seen, black = ([answer.probability for answer in answers] for _, answers in found)
        assert (seen != black) == differs
