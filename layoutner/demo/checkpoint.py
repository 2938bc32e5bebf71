"""A pretrained-model folder with a small tokenizer and a small untrained network."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForTokenClassification,
    LayoutLMConfig,
    LayoutLMForTokenClassification,
    PreTrainedTokenizerFast,
)

from layoutner.models.layout_tables import init_layout_tables

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def make_checkpoint(folder: Path, forms: Path, family: str, seed: int, positions: int = 256) -> None:
    """Write an untrained "layoutlm" or "bert" for `positions` tokens, and a tokenizer trained on the forms' words."""
    words = [
        word["text"]
        for file in sorted(forms.glob("training_data/annotations/*.json"))
        for entity in json.loads(file.read_text(encoding="utf-8"))["form"]
        for word in entity["words"]
    ]
    tokenizer = _tokenizer(words, positions)
    torch.manual_seed(seed)
    size = {**SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": positions}
    if family == "bert":
        model = BertForTokenClassification(BertConfig(**size))
    else:
        model = LayoutLMForTokenClassification(LayoutLMConfig(**size))
        init_layout_tables(model.layoutlm.embeddings, scale=2.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(words: list[str], positions: int) -> PreTrainedTokenizerFast:
    wordpiece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    wordpiece.train_from_iterator(words, trainer)
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, wordpiece.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=wordpiece, model_max_length=positions, **names)
