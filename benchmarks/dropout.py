"""Time forward and backward on the CPU with torch's dropout, with rank-free dropout and with none.

    python benchmarks/dropout.py [THREADS]

The variants take turns, and a ratio is the median of the ratios of turns, so that other work on the machine matters
little. With one thread the CPU time of that thread is measured, otherwise the time that passes.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from transformers import LayoutLMConfig, LayoutLMForTokenClassification

from layoutner.corpus.batches import collate
from layoutner.corpus.windows import Window
from layoutner.models.attention import implementation
from layoutner.models.dropout import Dropout, mask_keys, masks_from, replace_dropout
from layoutner.models.families import model_inputs

P = 0.1
VOCAB = 30_522


def compare(title: str, variants: dict[str, Callable[[], object]], turns: int) -> None:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(turns):
        for name, run in variants.items():
            start = clock()
            run()
            times[name].append(clock() - start)
    print(f"{title}, fp32, {torch.get_num_threads()} thread(s), {turns} turns")
    first = next(iter(times.values()))
    for name, found in times.items():
        ratio = statistics.median(own / other for own, other in zip(found, first, strict=True))
        print(f"  {name:10} median {1e3 * statistics.median(found):9.2f} ms, {ratio:.2f} of the first")


def windows(rows: int, tokens: int) -> list[Window]:
    ids = torch.randint(1000, VOCAB, (rows, tokens)).tolist()
    return [Window(0, row, [(0, 0, 9, 9)] * tokens, [0] * tokens, []) for row in ids]


def module(title: str, *shape: int) -> None:
    values, gradient = torch.randn(shape, requires_grad=True), torch.randn(shape)
    drop = Dropout(P, "dropout")
    drop.keys = mask_keys(0, 0, range(shape[0]), collate(windows(shape[0], shape[-2]), 0))
    variants = {
        "torch": lambda: torch.autograd.grad(nn.functional.dropout(values, P), values, gradient),
        "rank-free": lambda: torch.autograd.grad(drop(values), values, gradient),
    }
    compare(f"{title} {' x '.join(map(str, shape))}", variants, turns=40)


def network(rows: int, tokens: int, packed: bool) -> None:
    """A LayoutLM of MiniLM's size."""
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    batch = collate(windows(rows, tokens), 0, packed)
    inputs = model_inputs("layoutlm", batch)

    def variant(p: float, rank_free: bool) -> Callable[[], None]:
        config = LayoutLMConfig(vocab_size=VOCAB, hidden_dropout_prob=p, attention_probs_dropout_prob=p, **size)
        model = LayoutLMForTokenClassification(config).train()
        model.set_attn_implementation(implementation("auto"))
        if rank_free:
            replace_dropout(model)

        def run() -> None:
            with masks_from(model, mask_keys(0, 0, range(rows), batch)):
                model(**inputs).logits.square().mean().backward()
            model.zero_grad(set_to_none=False)

        return run

    variants = {"torch": variant(P, False), "rank-free": variant(P, True), "none": variant(0.0, False)}
    compare(f"network, {rows} windows of {tokens} tokens, {'packed' if packed else 'padded'} rows", variants, turns=5)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    torch.manual_seed(0)
    module("hidden states", 8, 256, 384)
    module("attention", 1, 12, 256, 256)
    for rows, tokens, packed in ((8, 256, False), (8, 256, True), (32, 64, True)):
        network(rows, tokens, packed)
