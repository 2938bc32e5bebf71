"""What the key of kept windows is made of, and when an entry has its name; test_cache.py has the rest of the cache."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from layoutner.corpus.cache import WindowCache, cache_key
from layoutner.corpus.windows import WindowSplitter
from tests.builders.windows import LABELS, Call, change_tokenizer, pages


@pytest.fixture
def cut(checkpoints: dict[str, Path]) -> Call:
    return WindowSplitter(AutoTokenizer.from_pretrained(checkpoints["bert"]), 32, 8), pages(), LABELS, True


def other_numbers(tokenizer: Any) -> None:
    """The same sub-words with other numbers, as of another vocabulary file."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = tree["model"]["vocab"]
    words = [word for word in vocab if not word.startswith("[")]
    vocab |= dict(zip(words, [vocab[word] for word in words[::-1]], strict=True))
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(tree))


@pytest.mark.parametrize(
    "change",
    [
        change_tokenizer(other_numbers),
        change_tokenizer(lambda tokenizer: setattr(tokenizer, "mask_token", "brass")),
        change_tokenizer(lambda tokenizer: tokenizer.add_special_tokens({"additional_special_tokens": ["bra"]})),
    ],
    ids=["vocabulary", "special word", "added word"],
)
def test_another_tokenizer_is_another_key(change: Callable[[Call], Call], cut: Call, tmp_path: Path) -> None:
    kept = WindowCache(tmp_path)
    before = kept.windows(*cut)
    changed = change(cut)
    splitter, *rest = changed
    fresh = splitter.split(*rest)
    assert fresh != before  # so that a stale entry would be seen
    assert kept.windows(*changed) == fresh
    assert cache_key(*changed) != cache_key(*cut)


def test_an_entry_is_on_the_disk_before_it_has_its_name(
    cut: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(sorted(file.suffix for file in tmp_path.iterdir())))
    WindowCache(tmp_path).windows(*cut)
    assert flushed == [[".lock", ".partial"], [".lock", ".safetensors"]]  # the file, then the name in its folder
