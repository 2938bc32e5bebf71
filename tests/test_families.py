"""Checkpoints become token classifiers, or the run stops."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layoutner.config.errors import UserError
from layoutner.config.settings import load
from layoutner.data.batches import collate
from layoutner.data.document import Document
from layoutner.data.windows import Windower
from layoutner.model.families import FAMILIES, Checkpoint, build, model_inputs, open_checkpoint

TAGS = ["O", "B-X", "I-X"]


def opened(name: Path | str, family: str | None = None) -> Checkpoint:
    return open_checkpoint(
        load(None, {"model": {"name_or_path": str(name), **({"family": family} if family else {})}}).model
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_takes_its_inputs_and_keeps_its_weights(family: str, checkpoints: dict[str, Path]) -> None:
    checkpoint = opened(checkpoints[family])
    assert checkpoint.family == family
    assert checkpoint.max_length == 256
    model = build(checkpoint, TAGS, dropout=0.0).eval()
    weights = load_file(checkpoints[family] / "model.safetensors")
    for name, parameter in model.named_parameters():
        if "classifier" not in name and "pooler" not in name:
            assert torch.equal(parameter, weights[name]), name
    page = Document("d", ("brass", "wheel"), ((0, 0, 500, 10), (500, 0, 1000, 10)), None, (10, 10))
    (window,) = Windower(checkpoint.tokenizer, 256, 0).windows([page], None)
    inputs = model_inputs(family, collate([window], checkpoint.tokenizer.pad_token_id), "cpu")
    assert ("bbox" in inputs) == (family == "layoutlm")
    logits = model(**inputs).logits
    assert logits.shape == (*inputs["input_ids"].shape, 3)
    assert model.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_the_full_length_of_a_roberta_fits_its_positions(checkpoints: dict[str, Path]) -> None:
    checkpoint = opened(checkpoints["roberta"])
    model = build(checkpoint, TAGS, None)
    ids = torch.full((1, checkpoint.max_length), 7)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_a_bert_starts_a_layoutlm(checkpoints: dict[str, Path]) -> None:
    checkpoint = opened(checkpoints["bert"], "layoutlm")
    torch.manual_seed(0)
    model = build(checkpoint, TAGS, None)
    weights = load_file(checkpoints["bert"] / "model.safetensors")
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        if name.startswith("bert."):
            assert torch.equal(own[name.replace("bert.", "layoutlm.")], weight), name
    embeddings = model.layoutlm.embeddings
    size = float(embeddings.word_embeddings.weight.detach().std())
    for axis in "xyhw":
        table = getattr(embeddings, f"{axis}_position_embeddings").weight.detach()
        assert float(table.std()) == pytest.approx(0.1 * size, rel=1e-3)
        near = torch.nn.functional.cosine_similarity(table[:-1], table[1:]).mean()
        far = torch.nn.functional.cosine_similarity(table[:500], table[500:1000]).mean()
        assert near > 0.95 > 0.5 > far
    assert not torch.equal(embeddings.x_position_embeddings.weight, embeddings.y_position_embeddings.weight)


def test_the_pretrained_text_model_starts_a_layoutlm(minilm: Path) -> None:
    model = build(opened(minilm, "layoutlm"), TAGS, None)
    assert sum(p.numel() for p in model.parameters()) > 22_000_000


def changed(source: Path, folder: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """A copy of a checkpoint with some weights replaced, added or (None) taken out."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = {**load_file(source / "model.safetensors"), **change}
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layoutlm.encoder.layer.0.output.dense.weight": None},
            "1 weights are missing.*encoder.layer.0.output.dense.weight",
        ),
        ({"layoutlm.encoder.layer.7.output.dense.bias": torch.zeros(64)}, "1 weights are left over.*encoder.layer.7"),
        ({"layoutlm.embeddings.h_position_embeddings.weight": None}, "missing.*h_position_embeddings"),
        ({"layoutlm.embeddings.LayerNorm.weight": torch.zeros(32)}, "LayerNorm.weight"),
    ],
)
def test_weights_that_do_not_fit_stop_the_run(
    change: dict[str, torch.Tensor | None], message: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    broken = changed(checkpoints["layoutlm"], tmp_path / "broken", change)
    with pytest.raises(UserError, match=message):
        build(opened(broken), TAGS, None)


def test_heads_and_poolers_may_be_missing_or_left_over(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    change: dict[str, torch.Tensor | None] = {
        "classifier.weight": None,
        "classifier.bias": None,
        "layoutlm.pooler.dense.weight": None,
        "cls.predictions.bias": torch.zeros(5),
    }
    build(opened(changed(checkpoints["layoutlm"], tmp_path / "pretrained", change)), TAGS, None)


def test_the_head_is_kept_for_the_same_labels_and_new_for_others(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = build(opened(checkpoints["layoutlm"]), TAGS, None)
    model.save_pretrained(tmp_path)
    opened(checkpoints["layoutlm"]).tokenizer.save_pretrained(tmp_path)
    assert torch.equal(build(opened(tmp_path), TAGS, None).classifier.weight, model.classifier.weight)
    assert not torch.equal(
        build(opened(tmp_path), ["O", "B-Y", "I-Y"], None).classifier.weight, model.classifier.weight
    )


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [
        (None, None, "model.name_or_path is missing"),
        ("/nowhere/at/all", None, "no config.json in it"),
        ("nobody/nothing", None, "cannot be opened"),
        ("layoutlm", "bert", "only a bert checkpoint can start another family"),
        ("bert", "roberta", "only a bert checkpoint can start another family"),
    ],
)
def test_what_cannot_be_opened(
    name: str | None, family: str | None, message: str, checkpoints: dict[str, Path]
) -> None:
    where = str(checkpoints.get(name, name)) if name else None  # type: ignore[arg-type]
    overrides = {key: value for key, value in (("name_or_path", where), ("family", family)) if value}
    with pytest.raises(UserError, match=message):
        open_checkpoint(load(None, {"model": overrides}).model)


def without(source: Path, folder: Path, *names: str) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        if file.name not in names:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_checkpoint_without_tokenizer_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    # transformers makes an empty tokenizer instead, to which every word is unknown.
    bare = without(checkpoints["layoutlm"], tmp_path / "bare", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(UserError, match="tokenizer"):
        opened(bare)


def test_a_tokenizer_of_another_checkpoint_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    mixed = without(checkpoints["layoutlm"], tmp_path / "mixed")
    config = (mixed / "config.json").read_text()
    size = len(opened(checkpoints["layoutlm"]).tokenizer)
    (mixed / "config.json").write_text(config.replace(f'"vocab_size": {size}', '"vocab_size": 50'))
    with pytest.raises(UserError, match=f"has {size} tokens and its network embeddings for 50"):
        opened(mixed)


def test_truncated_weights_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    torn = without(checkpoints["layoutlm"], tmp_path / "torn")
    weights = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="its weights cannot be loaded"):
        build(opened(torn), TAGS, None)


def test_a_checkpoint_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match="is a 't5'; layoutner builds bert, roberta, layoutlm"):
        opened(tmp_path)
