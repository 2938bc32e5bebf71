"""A trained head goes on with the tags that it shares with a run, by name, whatever their number and order."""

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from layoutner.errors import ModelError
from layoutner.models import loading
from layoutner.models.loading import build
from tests.builders.families import BUILT, changed, opened
from tests.builders.forks import fork

TAGS = ["O", "B-X", "I-X", "B-Y", "I-Y"]
# One type more, one fewer, both in another order; and the other scheme.
OTHERS = {
    "more": ["O", "B-A", "I-A", "B-X", "I-X", "B-Y", "I-Y"],
    "fewer": ["O", "B-Y", "I-Y"],
    "another order": ["B-Y", "I-X", "I-Y", "O", "B-X"],
    "some": ["O", "B-Z", "I-Z", "B-Y", "I-Y"],
    "BIOES": ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y"],
}


def wide(tags: list[str]) -> list[str]:
    """As many types more as make LayoutLMv3's head one of two layers."""
    return [*tags, *(f"{prefix}-{kind}" for kind in "KLMNP" for prefix in "BI")]


def exported(network: nn.Module, source: Path, folder: Path) -> Path:
    """A network with the tokenizer and image processor of a checkpoint."""
    network.save_pretrained(folder)  # type: ignore[operator]
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    for file in source.glob("preprocessor_config.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def trained(source: Path, folder: Path, tags: list[str], family: str | None = None) -> Path:
    """As an export of a run with these tags: a head that is not what a new one would be, bias and all."""
    torch.manual_seed(1)
    network = build(opened(source, family), tags, None)
    for parameter in network.classifier.parameters():  # type: ignore[union-attr]
        nn.init.normal_(parameter)
    return exported(network, source, folder)


def outputs(network: nn.Module) -> nn.Linear:
    return [module for module in network.classifier.modules() if isinstance(module, nn.Linear)][-1]  # type: ignore[union-attr]


def kept(network: nn.Module, tags: list[str], weights: dict[str, torch.Tensor], its_tags: list[str]) -> set[str]:
    """Tags whose outputs are those of a checkpoint's weights."""
    layer = outputs(network)
    (name,) = (name for name in weights if weights[name].shape[0] == len(its_tags) and name.endswith("weight"))
    bias = weights[name.removesuffix("weight") + "bias"]
    return {
        tag
        for tag in set(tags) & set(its_tags)
        if torch.equal(layer.weight[tags.index(tag)], weights[name][its_tags.index(tag)])
        and torch.equal(layer.bias[tags.index(tag)], bias[its_tags.index(tag)])
    }


def head_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: w for name, w in load_file(folder / "model.safetensors").items() if name.startswith("classifier.")}


@pytest.mark.parametrize("family", [*BUILT, "layoutlmv3, two layers"])
def test_outputs_of_shared_tags_are_kept_by_name(family: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    family, two_layers, _ = family.partition(", two layers")
    more = wide if two_layers else list
    its_tags = more(TAGS)
    weights = head_of(trained(checkpoints[family], tmp_path, its_tags))
    assert len(weights) == (4 if two_layers else 2)
    checkpoint = opened(tmp_path)
    for name, other in OTHERS.items():
        tags = more(other)
        torch.manual_seed(2)
        network = build(checkpoint, tags, None)
        assert kept(network, tags, weights, its_tags) == set(tags) & set(its_tags), name
        if two_layers:
            assert torch.equal(network.classifier.dense.weight, weights["classifier.dense.weight"])
            assert torch.equal(network.classifier.dense.bias, weights["classifier.dense.bias"])
        # New ones are as of an untrained network: small, without a bias, and the same on every rank.
        new = [index for index, tag in enumerate(tags) if tag not in its_tags]
        layer = outputs(network)
        assert not layer.bias[new].any()
        assert not new or 0.005 < float(layer.weight[new].detach().std()) < 0.3
        torch.manual_seed(2)
        assert torch.equal(outputs(build(checkpoint, tags, None)).weight, layer.weight)
        assert network.config.id2label == dict(enumerate(tags))


def test_a_trained_bert_s_head_goes_on_in_a_layoutlm(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    weights = head_of(trained(checkpoints["bert"], tmp_path, TAGS))
    for tags in (TAGS, OTHERS["more"]):
        network = build(opened(tmp_path, "layoutlm"), tags, None)
        assert kept(network, tags, weights, TAGS) == set(TAGS)
        assert network.config.model_type == "layoutlm"


@pytest.mark.parametrize(("count", "other"), [(4, 5), (5, 4)])
def test_layoutlmv3_s_head_keeps_its_answers_where_it_gets_or_loses_a_layer(
    count: int, other: int, checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    its_tags, tags = (["O", *(f"{p}-{kind}" for kind in "ABCDE"[:number] for p in "BI")] for number in (count, other))
    checkpoint = opened(checkpoints["layoutlmv3"], images="ignore")
    torch.manual_seed(1)
    network = build(checkpoint, its_tags, 0.0)
    # Each sub-word gets a tag of its own, of those that both have.
    ids = torch.arange(5, 105).reshape(4, 25)
    inputs = {"input_ids": ids, "bbox": torch.zeros(4, 25, 4, dtype=torch.long)}
    truth = ids * 7 % 9
    optimizer = torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(**inputs).logits.flatten(0, 1), truth.flatten()).backward()
        optimizer.step()
    assert torch.equal(network.eval()(**inputs).logits.argmax(-1), truth)
    exported(network, checkpoints["layoutlmv3"], tmp_path)
    caplog.set_level(logging.INFO)
    again = build(opened(tmp_path, images="ignore"), tags, 0.0).eval()
    assert isinstance(again.classifier, nn.Linear) == (len(tags) < 10)
    assert torch.equal(again(**inputs).logits[..., :9].argmax(-1), truth)
    assert f"head: 9 of {len(tags)} tags kept from {tmp_path} (with a different number of layers" in caplog.text


def test_the_log_says_what_became_of_the_head(
    checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def said() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == loading.__name__]
        caplog.clear()
        return found

    source = trained(checkpoints["layoutlm"], tmp_path / "export", TAGS)
    assert said() == ["head: new, for 5 tags"]  # its own are called LABEL_0 and LABEL_1
    lines = {
        "more": f"5 of 7 tags kept from {source}, 2 added (B-A, I-A)",
        "fewer": f"3 of 3 tags kept from {source}, 2 dropped (B-X, I-X)",
        "some": f"3 of 5 tags kept from {source}, 2 added (B-Z, I-Z), 2 dropped (B-X, I-X)",
    }
    for name, line in lines.items():
        build(opened(source), OTHERS[name], None)
        assert said() == [f"head: {line}"]
    build(opened(source), TAGS, None)
    build(opened(source), ["B-Q", "I-Q"], None)
    assert said() == [f"head: 5 of 5 tags kept from {source}", "head: new, for 2 tags"]
    build(opened(source), ["O", *(f"{prefix}-{number}" for number in range(9) for prefix in "BI")], None)
    listed = "B-0, I-0, B-1, I-1, B-2, I-2, B-3, I-3, B-4, I-4, ..."
    assert said() == [f"head: 1 of 19 tags kept from {source}, 18 added ({listed}), 4 dropped (B-X, I-X, B-Y, I-Y)"]


def test_a_head_that_the_configuration_speaks_of_must_be_there(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = trained(checkpoints["layoutlm"], tmp_path / "export", TAGS)
    for number, change in enumerate(({"classifier.weight": None, "classifier.bias": None}, {"classifier.bias": None})):
        torn = changed(source, tmp_path / f"torn-{number}", dict(change))
        for tags in (TAGS, OTHERS["more"]):
            with pytest.raises(ModelError, match=r"weights are missing.*: classifier\.bias"):
                build(opened(torn), tags, None)
    # A configuration with one more tag than the weights: which output is whose, nobody can tell.
    other = changed(source, tmp_path / "other", {})
    config = json.loads((other / "config.json").read_text())
    config["id2label"] = {0: "O", 1: "B-A", **{index + 1: tag for index, tag in enumerate(TAGS) if index}}
    config.pop("label2id")
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"of another shape.*classifier\.bias"):
        build(opened(other), TAGS, None)
    # One that speaks of no such network gets a new head.
    config = json.loads((tmp_path / "torn-0" / "config.json").read_text())
    config["architectures"] = ["LayoutLMForMaskedLM"]
    (tmp_path / "torn-0" / "config.json").write_text(json.dumps(config))
    build(opened(tmp_path / "torn-0"), TAGS, None)


WORDS = {"brass": "B-MATTER", "wheel": "B-PART", "date": "B-WHEN", "page": "O"}


def write_pages(folder: Path, words: list[str]) -> None:
    """train.jsonl and eval.jsonl, in which each word has always the same label."""
    folder.mkdir()
    rng = random.Random(4)
    for name, pages in (("train", 40), ("eval", 6)):
        rows = []
        for number in range(pages):
            texts = rng.choices(words, k=12)
            boxes = [[80 * place, 20 * number, 80 * place + 40, 20 * number + 9] for place in range(12)]
            cells = [{"text": t, "box": box, "label": WORDS[t]} for t, box in zip(texts, boxes, strict=True)]
            rows.append(json.dumps({"document": f"{name}-{number}", "page_size": [600, 800], "words": cells}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def test_training_further_with_other_labels_goes_on_where_it_was(
    train_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    write_pages(tmp_path / "all", list(WORDS))
    write_pages(tmp_path / "fewer", ["brass", "date", "page"])
    (tmp_path / "labels.txt").write_text("WHEN\nCOLOUR\nPART\nMATTER\n")  # one more, in another order

    def train(name: str, data: str, **more: object) -> tuple[float, str]:
        given = {"data__format": "jsonl", "data__train": tmp_path / data, "data__eval": tmp_path / data, **more}
        done = fork(["layoutner", "train", *train_arguments(tmp_path / name, "bert", **given)])
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        f1: float = json.loads((tmp_path / name / "scores.json").read_text())["f1"]
        return f1, done.stdout

    f1, said = train("first", "all", schedule__max_steps=120)
    assert (f1, said.count("\nhead: new, for 7 tags\n")) == (1.0, 1)
    export = tmp_path / "first" / "export"
    further = {"model__name_or_path": export, "schedule__max_steps": 2, "optimizer__lr": 1e-7}
    f1, said = train("more", "all", **further, data__labels=tmp_path / "labels.txt")
    assert (f1, f"\nhead: 7 of 9 tags kept from {export}, 2 added (B-COLOUR, I-COLOUR)\n" in said) == (1.0, True)
    f1, said = train("less", "fewer", **further)
    assert (f1, f"\nhead: 5 of 5 tags kept from {export}, 2 dropped (B-PART, I-PART)\n" in said) == (1.0, True)
