"""An untrained network of one or two layers for every family, with a tokenizer of the kind that family has."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BrosConfig,
    BrosForTokenClassification,
    LayoutLMv3Config,
    LayoutLMv3ForTokenClassification,
    LayoutLMv3ImageProcessorPil,
    LayoutLMv3Tokenizer,
    LiltConfig,
    LiltForTokenClassification,
    ModernBertConfig,
    ModernBertForTokenClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForTokenClassification,
    RobertaTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
    XLMRobertaTokenizer,
)

from layoutner.models import families
from layoutner.models.loading import PretrainedModel, open_pretrained
from layoutner.settings.tree import load

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SIZE = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
POSITIONS = 256  # tokens of the longest window, in all of them
IMAGE = 32  # pixels a side, in patches of 8
TINY = ("roberta", "xlm-roberta", "layoutlmv3", "lilt", "bros", "modernbert")


def make_tiny(folder: Path, forms: Path, wordpiece: Path) -> dict[str, Path]:
    """Write TINY to folders of their name.

    Args:
        forms: their words are what tokenizers are trained on.
        wordpiece: a checkpoint with a WordPiece tokenizer.
    """
    files = sorted(forms.glob("training_data/annotations/*.json"))
    words = [w["text"] for f in files for entity in json.loads(f.read_text())["form"] for w in entity["words"]]
    vocab, merges = _byte_level_bpe(words)
    tokenizers: dict[str, Any] = {
        "roberta": RobertaTokenizerFast(vocab=vocab, merges=merges, add_prefix_space=True),
        "xlm-roberta": XLMRobertaTokenizer(vocab=_unigram(words)),
        "layoutlmv3": LayoutLMv3Tokenizer(vocab=vocab, merges=merges),
        "lilt": LayoutLMv3Tokenizer(vocab=vocab, merges=merges),
        "bros": AutoTokenizer.from_pretrained(wordpiece),
        "modernbert": _modernbert_tokenizer(vocab, merges),
    }
    torch.manual_seed(3)
    behind = {**SIZE, **IDS, "max_position_embeddings": POSITIONS + 2}
    rows = {family: len(tokenizer) for family, tokenizer in tokenizers.items()}
    image = {"input_size": IMAGE, "patch_size": 8, "coordinate_size": 8, "shape_size": 8}
    bins = {"rel_pos_bins": 8, "rel_2d_pos_bins": 8}
    marks = {"cls_token_id": 0, "sep_token_id": 2}
    networks = {
        "roberta": RobertaForTokenClassification(RobertaConfig(vocab_size=rows["roberta"], hidden_size=32, **behind)),
        "xlm-roberta": XLMRobertaForTokenClassification(
            XLMRobertaConfig(vocab_size=rows["xlm-roberta"], hidden_size=32, **behind)
        ),
        "layoutlmv3": LayoutLMv3ForTokenClassification(
            LayoutLMv3Config(vocab_size=rows["layoutlmv3"], hidden_size=48, **behind, **image, **bins)
        ),
        "lilt": LiltForTokenClassification(LiltConfig(vocab_size=rows["lilt"], hidden_size=48, **behind)),
        "bros": BrosForTokenClassification(
            BrosConfig(vocab_size=rows["bros"], hidden_size=64, max_position_embeddings=POSITIONS, **SIZE)
        ),
        "modernbert": ModernBertForTokenClassification(
            ModernBertConfig(
                vocab_size=rows["modernbert"],
                hidden_size=32,
                max_position_embeddings=POSITIONS,
                local_attention=16,
                **SIZE,
                **IDS,
                **marks,
            )
        ),
    }
    for family in TINY:
        networks[family].save_pretrained(folder / family)
        tokenizers[family].save_pretrained(folder / family)
    # Neither the size nor mean and deviation of the class's defaults: they must come from the checkpoint.
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    LayoutLMv3ImageProcessorPil(size={"height": IMAGE, "width": IMAGE}, **processor).save_pretrained(
        folder / "layoutlmv3"
    )
    return {family: folder / family for family in TINY}


def make_export(checkpoint: Path, folder: Path, tags: list[str], images: str = "ignore") -> Path:
    """An untrained model as `layoutner export` leaves one: it labels at random, and the same always.

    Args:
        checkpoint: a folder of one of the families, named after it.
        images: "use" or "ignore", as layoutner.json has it.
    """
    out = folder / checkpoint.name
    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(checkpoint, id2label=dict(enumerate(tags)))
    network = AutoModelForTokenClassification.from_config(config)
    for name, weight in network.classifier.named_parameters():
        if name.endswith("weight"):
            weight.data.normal_(0, 2)
    network.save_pretrained(out)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(out)
    if images == "use":
        shutil.copy(checkpoint / "preprocessor_config.json", out)
    preprocessing = {"family": checkpoint.name, "scheme": "BIO", "labels": tags, "max_length": 64, "stride": 16}
    (out / "layoutner.json").write_text(json.dumps({**preprocessing, "box_level": "word", "images": images}))
    return out


def _byte_level_bpe(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 500, "special_tokens": SPECIAL, "initial_alphabet": alphabet, "show_progress": False}
    bpe.train_from_iterator(words, trainers.BpeTrainer(**options))
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _unigram(words: list[str]) -> list[tuple[str, float]]:
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    options = {"vocab_size": 300, "special_tokens": SPECIAL, "unk_token": "<unk>", "show_progress": False}
    unigram.train_from_iterator(words, trainers.UnigramTrainer(**options))
    return [(piece, score) for piece, score in json.loads(unigram.to_str())["model"]["vocab"]]


def _modernbert_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Without a class of its own, and without a space before the first word: as ModernBERT's is published."""
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def opened(name: Path | str, family: str | None = None, images: str = "use") -> PretrainedModel:
    given = {"name_or_path": str(name), "images": images, **({"family": family} if family else {})}
    return open_pretrained(load(None, {"model": given}).model)


BUILT = sorted(families.FAMILIES.keys() - {"layoutlmv2"})


def changed(source: Path, folder: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """A copy of a checkpoint with some weights replaced, added or (None) taken out."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = {**load_file(source / "model.safetensors"), **change}
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
