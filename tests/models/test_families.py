"""Checkpoints become token classifiers, or the run stops."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, LayoutLMv2ImageProcessorPil, PreTrainedTokenizerFast

from layoutner.corpus.batches import collate
from layoutner.corpus.pixels import PageImages
from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.windows import IGNORED, Window
from layoutner.errors import LayoutnerError, ModelError, SettingsError
from layoutner.files.image import PageImage
from layoutner.models import loading
from layoutner.models.dropout import Dropout
from layoutner.models.families import FAMILIES, model_inputs
from layoutner.models.loading import PretrainedModel, build, open_pretrained
from layoutner.models.parameters import decay_groups
from layoutner.pages.document import Document
from layoutner.settings.tree import FamilyName, load
from tests.builders.families import BUILT, changed, opened

TAGS = ["O", "B-X", "I-X"]


# Beside input_ids and attention_mask.
TAKES = {"layoutlm": {"bbox"}, "layoutlmv3": {"bbox", "pixel_values"}, "lilt": {"bbox"}, "bros": {"bbox"}}


def inputs_of(checkpoint: PretrainedModel, *documents: Document, length: int = 256) -> dict[str, torch.Tensor]:
    special_boxes = FAMILIES[checkpoint.family].special_boxes
    windows = WindowSplitter(checkpoint.tokenizer, length, 0, special_boxes=special_boxes).split(documents, None)
    batch = collate(windows, checkpoint.tokenizer.pad_token_id)
    return model_inputs(checkpoint.family, batch, checkpoint.image_processor)


@pytest.fixture
def page(tmp_path: Path) -> Document:
    """A page of two words, with a picture."""
    Image.effect_noise((30, 40), 80).save(tmp_path / "page.png")
    boxes = ((0, 0, 500, 10), (500, 0, 1000, 10))
    return Document("d", ("brass", "wheel"), boxes, None, (30, 40), PageImage(tmp_path / "page.png"))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"hidden_size": "64"}, r"does not take hidden_size = '64' in its config\.json: .*expected int, got str"),
        ({"id2label": "x"}, r"does not take id2label = 'x' in its config\.json: 'str' object has no"),
        ({"num_labels": None}, r"does not take num_labels = None in its config\.json: "),
        ({"quantization_config": 3}, r"does not take a value in its config\.json: "),
        ({"model_type": ["bert"]}, r"does not take the model description in its config\.json: "),
        (None, r"does not take the model description in its config\.json: "),
    ],
)
def test_a_config_that_transformers_does_not_take_is_said(
    broken: dict[str, object] | None, said: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    config = json.loads((checkpoints["layoutlm"] / "config.json").read_text())
    file.write_text(json.dumps(None if broken is None else config | broken))
    with pytest.raises(
        ModelError, match=rf"^model\.name_or_path = {tmp_path}: transformers \S+ {said}.*; fix it there"
    ):
        opened(tmp_path)


def test_the_table_holds_every_family_of_the_settings() -> None:
    assert set(FAMILIES) == set(get_args(FamilyName))


@pytest.mark.parametrize("family", BUILT)
def test_a_family_takes_its_inputs_and_keeps_its_weights(
    family: str, checkpoints: dict[str, Path], page: Document
) -> None:
    checkpoint = opened(checkpoints[family])
    assert checkpoint.family == family
    assert checkpoint.max_length == 256
    model = build(checkpoint, TAGS, dropout=0.0).eval()
    weights = load_file(checkpoints[family] / "model.safetensors")
    for name, parameter in model.named_parameters():
        if "classifier" not in name and "pooler" not in name:
            assert torch.equal(parameter, weights[name]), name
    inputs = inputs_of(checkpoint, page)
    assert inputs.keys() == {"input_ids", "attention_mask"} | TAKES.get(family, set())
    if "bbox" in inputs:
        scale, end = (1000, 1) if family == "bros" else (1, 1000 if family == "layoutlm" else 0)
        assert inputs["bbox"][0, 0].tolist() == [0, 0, 0, 0]
        assert inputs["bbox"][0, 1].tolist() == pytest.approx([0, 0, 500 / scale, 10 / scale])
        assert inputs["bbox"][inputs["input_ids"] == checkpoint.tokenizer.sep_token_id].tolist() == [[end] * 4]
    logits = model(**inputs).logits
    assert logits.shape == (*inputs["input_ids"].shape, 3)
    assert model.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    assert {m.p for m in model.modules() if isinstance(m, Dropout)} == {0.0}


@pytest.mark.parametrize("family", BUILT)
def test_dropout_is_set_everywhere(family: str, checkpoints: dict[str, Path]) -> None:
    config = build(opened(checkpoints[family]), TAGS, dropout=0.25).config.to_dict()
    names = {name for name in config if "dropout" in name}
    assert len(names) >= 2
    assert {config[name] for name in names} == {0.25}


@pytest.mark.parametrize("family", BUILT)
def test_the_full_length_fits_the_positions_and_one_more_does_not(
    family: str, checkpoints: dict[str, Path], page: Document
) -> None:
    checkpoint = opened(checkpoints[family])
    model = build(checkpoint, TAGS, None).eval()

    def logits(length: int) -> torch.Tensor:
        window = Window(0, [7] * length, [page.boxes[0]] * length, [IGNORED] * length, [], page.image)
        batch = collate([window], checkpoint.tokenizer.pad_token_id)
        found: torch.Tensor = model(**model_inputs(family, batch, checkpoint.image_processor)).logits
        return found

    assert logits(256).shape == (1, 256, 3)
    if family != "modernbert":  # rotary positions know no end
        with pytest.raises((IndexError, RuntimeError)):
            logits(257)


def test_positions_that_are_no_multiple_of_eight(checkpoints: dict[str, Path]) -> None:
    packs, pads = opened(checkpoints["layoutlm"]), opened(checkpoints["bros"])
    for checkpoint in (packs, pads):
        checkpoint.config.max_position_embeddings = 255
        checkpoint.require_length(248)
    packs.require_length(255)
    with pytest.raises(SettingsError, match="= 256, but .* has positions for 255 tokens: give at most 255"):
        packs.require_length(256)
    with pytest.raises(SettingsError, match="= 250, which are padded to 256, but .* for 255 tokens: give at most 248"):
        pads.require_length(250)
    pads.config.max_position_embeddings = 100
    pads.require_length(100)


@pytest.mark.parametrize("family", BUILT)
def test_a_rank_without_windows_computes_numbers(family: str, checkpoints: dict[str, Path]) -> None:
    checkpoint = opened(checkpoints[family])
    model = build(checkpoint, TAGS, None).eval()
    assert torch.isfinite(model(**inputs_of(checkpoint)).logits).all()


@pytest.mark.parametrize(
    ("family", "images"), [*((family, "use") for family in BUILT), ("layoutlmv3", "ignore"), ("bert", "ignore")]
)
def test_frozen_is_what_gets_no_gradient_and_nothing_else(
    family: str, images: str, checkpoints: dict[str, Path], page: Document
) -> None:
    checkpoint = opened(checkpoints[family], images=images)
    model = build(checkpoint, TAGS, 0.0)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model(**inputs_of(checkpoint, page)).logits.square().sum().backward()
    assert frozen == {name for name, parameter in model.named_parameters() if parameter.grad is None}


@pytest.mark.parametrize("family", BUILT)
def test_biases_and_norms_are_not_decayed(family: str, checkpoints: dict[str, Path]) -> None:
    model = build(opened(checkpoints[family]), TAGS, None)
    decayed, free = ({id(p) for p in group["params"]} for group in decay_groups(model, 0.1))
    names = dict(model.named_parameters())
    assert {name for name in names if id(names[name]) in free} == {
        name for name in names if name.endswith(".bias") or "norm" in name.lower().split(".")[-2]
    }
    assert len(decayed) + len(free) == len(names)


@pytest.mark.parametrize("family", [family for family in BUILT if family not in ("bert", "layoutlm", "bros")])
def test_every_word_starts_as_a_word_here_and_in_an_export(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = opened(checkpoints[family]).tokenizer
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        encoding = one.backend_tokenizer.encode(["brass", "wheel"], is_pretokenized=True)
        firsts = [encoding.tokens[encoding.word_ids.index(word)] for word in (0, 1)]
        assert [first[0] for first in firsts] == ["▁" if family == "xlm-roberta" else "Ġ"] * 2


def test_a_pretrained_head_layer_is_kept(checkpoints: dict[str, Path]) -> None:
    weights = load_file(checkpoints["modernbert"] / "model.safetensors")
    model = build(opened(checkpoints["modernbert"]), TAGS, None)
    assert torch.equal(model.head.dense.weight, weights["head.dense.weight"])


def test_layoutlmv2_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "layoutlmv2"}')
    with pytest.raises(ModelError, match="layoutlmv2 needs detectron2 for its image backbone, and it is not installed"):
        opened(tmp_path)


def test_layoutlmv2_pictures_are_blue_first_and_not_normalised(page: Document) -> None:
    # The picture is all that can be tried without its backbone.
    Image.new("RGB", (30, 40), (10, 20, 30)).save(page.image.path)
    pages = PageImages(LayoutLMv2ImageProcessorPil(apply_ocr=False))
    batch = collate([Window(0, [7], [(0, 0, 1, 1)], [IGNORED], [], page.image)], pad_token_id=0)
    inputs = model_inputs("layoutlmv2", batch, pages)
    assert inputs.keys() == {"input_ids", "attention_mask", "bbox", "image"}
    assert inputs["image"].shape == (1, 3, 224, 224)
    assert inputs["image"].unique(dim=-1).unique(dim=-2).flatten().tolist() == [30, 20, 10]


def test_a_tokenizer_that_pads_otherwise_than_the_network_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    mixed = without(checkpoints["lilt"], tmp_path / "mixed")
    config = (mixed / "config.json").read_text()
    (mixed / "config.json").write_text(config.replace('"pad_token_id": 1', '"pad_token_id": 0'))
    with pytest.raises(ModelError, match="its tokenizer pads with token 1 and its network with 0"):
        opened(mixed)


def test_images_need_the_image_processor_of_the_checkpoint(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    bare = without(checkpoints["layoutlmv3"], tmp_path / "bare", "preprocessor_config.json")
    with pytest.raises(ModelError, match="image processor cannot be opened.*set model.images = ignore to run without"):
        opened(bare)
    assert opened(bare, images="ignore").image_processor is None
    other = without(checkpoints["layoutlmv3"], tmp_path / "other")
    text = (other / "preprocessor_config.json").read_text()
    (other / "preprocessor_config.json").write_text(text.replace(": 32", ": 48"))
    with pytest.raises(ModelError, match="makes 48 x 48 pixels, its network needs 32 x 32"):
        opened(other)
    blind = without(checkpoints["layoutlmv3"], tmp_path / "blind")
    text = (blind / "config.json").read_text()
    (blind / "config.json").write_text(text.replace('"visual_embed": true', '"visual_embed": false'))
    with pytest.raises(ModelError, match="was trained without page images"):
        opened(blind)


def test_bf16_weights_take_boxes_and_pixels_in_fp32(checkpoints: dict[str, Path], page: Document) -> None:
    for family in ("bros", "layoutlmv3"):
        checkpoint = opened(checkpoints[family])
        model = build(checkpoint, TAGS, None).eval()
        inputs = inputs_of(checkpoint, page)
        whole = model(**inputs).logits
        for parameter in model.parameters():  # as DeepSpeed does, which leaves buffers alone
            parameter.data = parameter.data.bfloat16()
        assert torch.allclose(model(**inputs).logits.float(), whole, atol=0.02)


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


def test_the_layoutlm_of_the_old_script_is_one(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    # Its weights begin with "bert.", its config.json says bert, it is a pickle, and its tokenizer a vocab.txt.
    tokenizer = opened(checkpoints["layoutlm"]).tokenizer
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)))
    weights = load_file(checkpoints["layoutlm"] / "model.safetensors")
    torch.save({name.replace("layoutlm.", "bert."): w for name, w in weights.items()}, tmp_path / "pytorch_model.bin")
    config = json.loads((checkpoints["layoutlm"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert", "architectures": None}))
    for family in (None, "layoutlm"):
        checkpoint = opened(tmp_path, family)
        assert checkpoint.family == "layoutlm"
        own = dict(build(checkpoint, TAGS, None).named_parameters())
        taken = [name for name in weights if name.startswith("layoutlm.") and ".pooler." not in name]
        assert all(torch.equal(own[name], weights[name]) for name in taken)
        assert "layoutlm.embeddings.h_position_embeddings.weight" in taken
    # A bert's own weights are still a bert's.
    assert opened(checkpoints["bert"]).family == "bert"


def test_the_pretrained_text_model_starts_a_layoutlm(minilm: Path) -> None:
    model = build(opened(minilm, "layoutlm"), TAGS, None)
    assert sum(p.numel() for p in model.parameters()) > 22_000_000


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
    with pytest.raises(ModelError, match=message):
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
    ("name", "family", "kind", "message"),
    [
        (None, None, SettingsError, "model.name_or_path is missing"),
        ("/nowhere/at/all", None, ModelError, "it has no config.json"),
        ("nobody/nothing", None, ModelError, "cannot be opened"),
        ("layoutlm", "bert", SettingsError, "the only change of family is from a bert checkpoint"),
        ("bert", "roberta", SettingsError, "the only change of family is from a bert checkpoint"),
    ],
)
def test_what_cannot_be_opened(
    name: str | None, family: str | None, kind: type[LayoutnerError], message: str, checkpoints: dict[str, Path]
) -> None:
    where = str(checkpoints.get(name, name)) if name else None  # type: ignore[arg-type]
    overrides = {key: value for key, value in (("name_or_path", where), ("family", family)) if value}
    with pytest.raises(kind, match=message):
        open_pretrained(load(None, {"model": overrides}).model)


def without(source: Path, folder: Path, *names: str) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        if file.name not in names:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_checkpoint_without_tokenizer_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    # transformers makes an empty tokenizer instead, to which every word is unknown.
    bare = without(checkpoints["layoutlm"], tmp_path / "bare", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(ModelError, match="tokenizer"):
        opened(bare)


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ((False, True), "which needs a package to be read: pip install sentencepiece protobuf$"),
        ((True, False), "which needs a package to be read: pip install sentencepiece protobuf$"),
        ((True, True), "its sentencepiece model is damaged; download the checkpoint again$"),
    ],
)
@pytest.mark.parametrize("family", ["xlm-roberta", "lilt"])
def test_a_sentencepiece_model_names_the_packages_that_read_it(
    family: str,
    installed: tuple[bool, bool],
    said: str,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = without(checkpoints[family], tmp_path / "old", "tokenizer.json")
    (old / "sentencepiece.bpe.model").write_bytes(b"\n\x0e\n\x05<unk>\x15")  # cut off
    (old / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    for package, there in zip(("sentencepiece", "protobuf"), installed, strict=True):
        monkeypatch.setattr(loading, f"is_{package}_available", lambda there=there: there)
    with pytest.raises(ModelError, match=f"its tokenizer cannot be opened: .*{said}") as stop:
        opened(old)
    assert "tiktoken" not in str(stop.value)


def test_an_old_cased_checkpoint_is_not_lower_cased(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """As downloads of old had it: a vocabulary alone, of which transformers makes a lower-case tokenizer."""
    old = without(checkpoints["layoutlm"], tmp_path / "old", "tokenizer.json", "tokenizer_config.json")
    words = ["Date", "Total", "date", "total", *map(chr, range(ord("a"), ord("z")))]
    (old / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    with pytest.raises(
        ModelError, match=r"lower case, and 2 of the 34 tokens .* such as 'Date'.*\"do_lower_case\": fal"
    ):
        opened(old)
    (old / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert opened(old).tokenizer.tokenize("Date") == ["Date"]
    (old / "tokenizer_config.json").unlink()
    (old / "vocab.txt").write_text((old / "vocab.txt").read_text().replace("Date", "due").replace("Total", "sum"))
    assert opened(old).tokenizer.tokenize("Date") == ["date"]


def test_a_byte_level_tokenizer_may_lower_case(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Its vocabulary has every byte, and a capital letter of Latin for the space."""
    lower = without(checkpoints["roberta"], tmp_path / "lower")
    tokenizer = Tokenizer.from_file(str(lower / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Lowercase()
    special = opened(lower).tokenizer.special_tokens_map
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(lower)
    assert opened(lower).tokenizer.backend_tokenizer.normalizer.normalize_str("A") == "a"


def test_a_tokenizer_of_another_checkpoint_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    mixed = without(checkpoints["layoutlm"], tmp_path / "mixed")
    config = (mixed / "config.json").read_text()
    size = len(opened(checkpoints["layoutlm"]).tokenizer)
    (mixed / "config.json").write_text(config.replace(f'"vocab_size": {size}', '"vocab_size": 50'))
    with pytest.raises(ModelError, match=f"has {size} tokens and its network embeddings for 50"):
        opened(mixed)


def test_truncated_weights_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    torn = without(checkpoints["layoutlm"], tmp_path / "torn")
    weights = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="its weights cannot be loaded"):
        build(opened(torn), TAGS, None)


def test_a_checkpoint_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match="is a 't5'; layoutner supports bert, roberta, xlm-roberta, layoutlm, "):
        opened(tmp_path)


@pytest.mark.parametrize("family", BUILT)
def test_layers_near_the_input_learn_more_slowly(family: str, checkpoints: dict[str, Path]) -> None:
    model: Any = build(opened(checkpoints[family]), TAGS, None)
    layers = model.config.num_hidden_layers
    groups = decay_groups(model, 0.1, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(scales) == len(named)
    assert scales[id(named["classifier.weight"])] == 1
    embeddings = [name for name in named if "embeddings" in name and "layer" not in name]
    assert {scales[id(named[name])] for name in embeddings} == {0.5 ** (layers + 1)}
    for layer in range(layers):
        own = [name for name in named if f"layer.{layer}." in name or f"layers.{layer}." in name]
        assert {scales[id(named[name])] for name in own} == {0.5 ** (layers - layer)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


@pytest.mark.parametrize("family", BUILT)
def test_the_matrices_of_the_layers_can_be_a_group_of_their_own(family: str, checkpoints: dict[str, Path]) -> None:
    model: Any = build(opened(checkpoints[family]), TAGS, None)
    groups = decay_groups(model, 0.1, matrices=True)
    of_matrices = {id(one) for group in groups if group["is_matrix"] for one in group["params"]}
    named = dict(model.named_parameters())
    matrices = {name for name, one in named.items() if re.search(r"layers?\.\d", name) and one.ndim == 2}
    assert {name for name, one in named.items() if id(one) in of_matrices} == matrices != set()
    assert sum(len(group["params"]) for group in groups) == len(named)
    assert not any(group["is_matrix"] for group in decay_groups(model, 0.1))
