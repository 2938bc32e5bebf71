"""The worked examples of docs/extending.md do what the page says."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, ElectraConfig, ElectraForTokenClassification

from layoutner.corpus.batches import collate
from layoutner.corpus.splitter import WindowSplitter
from layoutner.documents.roles import read_documents
from layoutner.engine.optimizers import Placement
from layoutner.errors import DataError, ModelError
from layoutner.models.families import FAMILIES, model_inputs, untrained
from layoutner.models.loading import build, open_pretrained
from layoutner.pages.document import Document
from layoutner.readers import READERS
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import ModelSettings
from layoutner.tracking.trackers import Trackers
from tests.builders.markdown import blocks

PAGE = "docs/extending.md"
HEADER = "text,left,top,right,bottom,label,width,height\n"


def example(name: str) -> dict[str, Any]:
    """What the block defines in which this name stands."""
    (code,) = [content for language, content in blocks(PAGE) if language == "python" and name in content]
    defined: dict[str, Any] = {}
    exec(compile(code, PAGE, "exec", dont_inherit=True), defined)
    return defined


@pytest.fixture
def csv_words(monkeypatch: pytest.MonkeyPatch) -> DataSettings:
    """The settings of a run that reads the example's format."""
    monkeypatch.setitem(READERS, "csv", example("csv.DictReader")["read"])
    return DataSettings().model_copy(update={"format": "csv"})


def test_the_format_reads_pages_and_labels(csv_words: DataSettings, tmp_path: Path) -> None:
    rows = "Total,60,40,120,60,O,200,400\n9.00,150,40,190,60,B-TOTAL,200,400\n"
    (tmp_path / "receipt.csv").write_text(HEADER + rows)
    (document,) = read_documents(csv_words, tmp_path, "train")
    assert document.name == "receipt"
    assert document.words == ("Total", "9.00")
    assert document.boxes == ((300, 100, 600, 150), (750, 100, 950, 150))
    assert document.tags == ("O", "B-TOTAL")


def test_a_page_that_the_format_cannot_read_is_a_problem(csv_words: DataSettings, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(HEADER + "Total,sixty,40,120,60,O,200,400\n")
    (tmp_path / "good.csv").write_text(HEADER + "Total,60,40,120,60,O,200,400\n")
    with pytest.raises(DataError, match=r"bad\.csv: not a table of words: ValueError"):
        read_documents(csv_words, tmp_path, "train")
    skipping = csv_words.model_copy(update={"bad_pages": "skip"})
    assert [document.name for document in read_documents(skipping, tmp_path, "train")] == ["good"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no \.csv file"):
        read_documents(csv_words, tmp_path / "empty", "train")


def test_the_family_is_opened_built_and_gets_gradients(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ElectraConfig(vocab_size=len(tokenizer), embedding_size=16, pad_token_id=tokenizer.pad_token_id, **size)
    torch.manual_seed(0)
    ElectraForTokenClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a 'electra'; layoutner "):
        open_pretrained(ModelSettings(name_or_path=str(tmp_path)))

    with monkeypatch.context() as patched:
        patched.setitem(FAMILIES, "electra", None)  # which takes the example's row out again, too
        example('FAMILIES["electra"]')
        pretrained = open_pretrained(ModelSettings(name_or_path=str(tmp_path)))
        model = build(pretrained, ["O", "B-X", "I-X"], dropout=None)
        document = Document("d", ("brass", "wheel"), ((0, 0, 9, 9),) * 2, None, (100, 100))
        windows = WindowSplitter(pretrained.tokenizer, 64, 0).split([document], None)
        inputs = model_inputs("electra", collate(windows, tokenizer.pad_token_id))
        model.eval()(**inputs).logits.sum().backward()
        missing = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert missing == set(untrained("electra", model, sees_images=False)) == set()


def test_the_tracker_writes_each_step(tmp_path: Path) -> None:
    tracker = example("class CsvTracker")["CsvTracker"](tmp_path / "metrics.csv")
    trackers = Trackers(tracker)
    trackers.log(10, {"train/loss": 0.5, "train/lr": 1e-4, "time/step_s": 0.1})
    trackers.log(20, {"train/loss": 0.25, "train/lr": 5e-5})
    trackers.close()
    with (tmp_path / "metrics.csv").open(newline="") as table:
        assert list(csv.reader(table)) == [
            ["step", "train/loss", "train/lr"],
            ["10", "0.5", "0.0001"],
            ["20", "0.25", "5e-05"],
        ]


def test_the_optimizer_is_gradient_descent_with_momentum() -> None:
    own = torch.nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
    whole = torch.nn.Parameter(own.detach().clone())
    optimizer = example("class SgdOptimizer")["SgdOptimizer"](
        [{"params": [own], "weight_decay": 0.0, "state": ("momentum_buffer",)}], None
    )
    optimizer.bind({id(own): Placement.whole(own)})
    theirs = torch.optim.SGD([whole], lr=0.1, momentum=0.9)
    optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(3):
        for parameter, one in ((own, optimizer), (whole, theirs)):
            parameter.grad = None
            parameter.square().sum().backward()
            one.step()
    torch.testing.assert_close(own, whole)
    assert not torch.equal(own, torch.linspace(-1, 1, 6).view(2, 3))
