"""Dropout masks: their statistics, what they depend on, and the networks that use them."""

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import LayoutLMv2Config, PreTrainedModel
from transformers.models.layoutlmv2 import modeling_layoutlmv2

from layoutner.corpus.batches import Batch, collate
from layoutner.corpus.windows import Window
from layoutner.files.image import PageImage
from layoutner.models.dropout import LEVELS, Dropout, MaskKeys, mask_keys, masks_from, replace_dropout
from layoutner.models.families import FAMILIES, model_inputs
from layoutner.models.loading import PretrainedModel, build
from tests.builders.families import BUILT, opened

TAGS = ["O", "B-X", "I-X"]
SEED, STEP = 0, 0  # a hash may have a weakness there
# In standard errors. No sample of the tests below is beyond it by chance: they always draw the same.
BOUND = 5.0


def batch_of(rows: int, tokens: int) -> Batch:
    return collate([Window(0, [7] * tokens, [(0, 0, 1, 1)] * tokens, [0] * tokens, [])] * rows, 0)


def keys_of(indices: Iterable[int], tokens: int, seed: int = SEED, step: int = STEP, device: str = "cpu") -> MaskKeys:
    indices = list(indices)
    return mask_keys(seed, step, indices, batch_of(len(indices), tokens)).to(device)


def kept(keys: MaskKeys, *shape: int, p: float = 0.1, name: str = "a.dropout", first: int = 0) -> torch.Tensor:
    """Which elements stay."""
    drop = Dropout(p, name)
    drop.keys, drop.calls = keys, int(first > 0)  # a part of a row that is not its first
    return drop(torch.ones(shape, device=keys.tokens_BT.device), first) != 0


def rounded(p: float) -> float:
    return round(p * LEVELS) / LEVELS


def correlation(a: torch.Tensor, b: torch.Tensor, p: float = 0.1) -> float:
    """Of two masks, in standard errors of what independent ones have."""
    q = 1 - rounded(p)
    return float(((a.double() - q) * (b.double() - q)).sum() / (q * (1 - q) * math.sqrt(a.numel())))


@pytest.mark.parametrize("p", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_probability(p: float) -> None:
    for mask in (kept(keys_of(range(8), 128), 8, 128, 384, p=p), kept(keys_of([0], 256), 1, 12, 256, 256, p=p)):
        q = 1 - rounded(p)
        assert abs(float(mask.double().mean()) - q) < 4 * math.sqrt(q * (1 - q) / mask.numel())
        # Also the sums of single tokens vary as binomials do: a chi-squared of one degree of freedom each.
        sums = mask.flatten(0, -2).double().sum(-1)
        width = mask.shape[-1]
        squares = (sums - width * q).square() / (width * q * (1 - q))
        excess = 2 + (1 - 6 * q * (1 - q)) / (width * q * (1 - q))  # variance of a square, of a binomial
        assert abs(float(squares.mean()) - 1) < BOUND * math.sqrt(excess / len(squares))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_neighbours_do_not_depend_on_each_other(p: float) -> None:
    shape = 8, 128, 384
    mask_BTF = kept(keys_of(range(8), 128), *shape, p=p)
    for apart in (1, 2, 3, 4, 8, 64):
        assert abs(correlation(mask_BTF[..., apart:], mask_BTF[..., :-apart], p)) < BOUND
        assert abs(correlation(mask_BTF[:, apart:], mask_BTF[:, :-apart], p)) < BOUND
    for apart in (1, 2, 4):
        assert abs(correlation(mask_BTF[apart:], mask_BTF[:-apart], p)) < BOUND
    others = [kept(keys_of(range(8), 128, step=STEP + apart), *shape, p=p) for apart in (1, 2, 3, 64)]
    others += [kept(keys_of(range(8), 128, seed=SEED + apart), *shape, p=p) for apart in (1, 2, -1)]
    others += [kept(keys_of(range(8), 128), *shape, p=p, name=name) for name in ("b.dropout", "a.drop", "")]
    for other in others:
        assert abs(correlation(mask_BTF, other, p)) < BOUND
    # Of four corners of a rectangle, whose hashes combine two rows and two columns.
    centred = (mask_BTF.double() - 1 + rounded(p)) / math.sqrt(rounded(p) * (1 - rounded(p)))
    four = centred[:, 1:, 4:] * centred[:, :-1, 4:] * centred[:, 1:, :-4] * centred[:, :-1, :-4]
    assert abs(float(four.sum())) < BOUND * math.sqrt(four.numel())


def test_attention_probabilities_do_not_depend_on_each_other() -> None:
    mask_BHTT = kept(keys_of([0], 256), 1, 12, 256, 256)
    for apart in (1, 2, 3, 4, 8, 64):
        assert abs(correlation(mask_BHTT[..., apart:], mask_BHTT[..., :-apart])) < BOUND
        assert abs(correlation(mask_BHTT[..., apart:, :], mask_BHTT[..., :-apart, :])) < BOUND
        if apart < 12:
            assert abs(correlation(mask_BHTT[:, apart:], mask_BHTT[:, :-apart])) < BOUND
    below, above = (torch.ones(256, 256).tril(-1).bool() for _ in range(2))
    assert abs(correlation(mask_BHTT[..., below], mask_BHTT.transpose(-1, -2)[..., above])) < BOUND


def test_other_coordinates_other_masks() -> None:
    """Every mask of many sites, steps, windows and positions is another one."""
    found = set()
    for name in ("a", "b"):
        for seed in (0, 1, -1, 2**40):
            for step in (0, 1, 2, 1000, 10**7):
                mask_BTF = kept(keys_of((0, 1, 2, 999), 16, seed=seed, step=step), 4, 16, 64, p=0.5, name=name)
                found |= {tuple(row) for row in mask_BTF.flatten(0, 1).tolist()}
    assert len(found) == 2 * 4 * 5 * 4 * 16


def test_masks_are_those_of_every_version() -> None:
    """With others, a resumed run would go on as another one."""
    keys = keys_of((3,), 8, seed=42, step=7)
    mask_TF, mask_HTT = kept(keys, 1, 8, 16, p=0.5)[0].int(), kept(keys, 1, 2, 8, 8, p=0.5)[0].int()
    found = ["".join(map(str, row)) for row in (*mask_TF[:3].tolist(), *mask_HTT[:, 0].tolist())]
    assert found == ["0000011110100000", "0001000111011000", "1110011111110010", "11111110", "00101010"]


def test_no_hash_serves_twice() -> None:
    """Of tokens, features and key positions: pairs of them are combined."""
    keys = keys_of(range(4), 304)
    parts = [keys.tokens(0, 304 + 49, visual=False), keys.columns(0, 384), keys.columns(12, 304, 49)]
    hashes = torch.cat([part.flatten() for part in parts])
    assert len(hashes.unique()) == len(hashes) == 4 * 353 + 96 + 12 * (76 + 13)


def test_masks_do_not_depend_on_rows_or_padding() -> None:
    whole_BTF, whole_BHTT = (kept(keys_of((5, 9, 2), 24), *shape) for shape in ((3, 24, 30), (3, 2, 24, 24)))
    alone_BTF, alone_BHTT = (kept(keys_of((9,), 16), *shape) for shape in ((1, 16, 30), (1, 2, 16, 16)))
    assert torch.equal(alone_BTF[0], whole_BTF[1, :16])
    assert torch.equal(alone_BHTT[0], whole_BHTT[1, :, :16, :16])
    assert not torch.equal(whole_BTF[0], whole_BTF[1])
    assert not torch.equal(whole_BTF[0], kept(keys_of((5,), 24, step=STEP + 1), 1, 24, 30)[0])
    # A part of a row, and fewer features.
    assert torch.equal(kept(keys_of((9,), 16), 1, 5, 7, first=3)[0], whole_BTF[1, 3:8, :7])


def test_masks_do_not_depend_on_packing() -> None:
    windows = [Window(0, [7] * tokens, [(0, 0, 1, 1)] * tokens, [0] * tokens, []) for tokens in (13, 8, 21)]
    packed, padded = (mask_keys(SEED, STEP, [5, 9, 2], collate(windows, 0, packed)) for packed in (True, False))
    row_1TF, rows_BTF = kept(packed, 1, 48, 30), kept(padded, 3, 24, 30)
    first = 0
    for number, window in enumerate(windows):
        tokens = window.length
        assert torch.equal(row_1TF[0, first : first + tokens], rows_BTF[number, :tokens])
        own_1HTT = kept(packed, 1, 2, tokens, tokens, first=first)
        assert torch.equal(own_1HTT[0], kept(padded, 3, 2, 24, 24)[number, :, :tokens, :tokens])
        first += tokens


def test_visual_tokens_have_positions_of_their_own() -> None:
    """LayoutLMv2 and v3: they follow the padded text."""
    whole, alone = keys_of((5, 9), 24), keys_of((9,), 16)
    whole_BTF, alone_BTF = kept(whole, 2, 24 + 49, 32), kept(alone, 1, 16 + 49, 32)
    assert torch.equal(alone_BTF[0, :16], whole_BTF[1, :16])
    assert torch.equal(alone_BTF[0, 16:], whole_BTF[1, 24:])
    only_BVF = kept(alone, 1, 49, 32, name="layoutlmv2.visual_dropout")
    assert torch.equal(only_BVF, kept(whole, 2, 49, 32, name="layoutlmv2.visual_dropout")[1:])
    assert not torch.equal(only_BVF[0, :16], kept(alone, 1, 16, 32, name="layoutlmv2.embeddings.dropout")[0])
    whole_BHTT, alone_BHTT = kept(whole, 2, 3, 73, 73), kept(alone, 1, 3, 65, 65)
    for own, there in ((slice(0, 16), slice(0, 16)), (slice(16, 65), slice(24, 73))):
        for own_keys, there_keys in ((slice(0, 16), slice(0, 16)), (slice(16, 65), slice(24, 73))):
            assert torch.equal(alone_BHTT[0, :, own, own_keys], whole_BHTT[1, :, there, there_keys])


def test_visual_tokens_after_a_text_that_ends_within_a_hash() -> None:
    text = keys_of((9,), 16)
    short = MaskKeys(text.windows_B, text.tokens_BT[:, :13])
    assert torch.equal(kept(short, 1, 3, 13 + 6, 13 + 6)[..., 13:, 13:], kept(text, 1, 3, 22, 22)[..., 16:, 16:])
    assert torch.equal(kept(short, 1, 3, 13 + 6, 13 + 6)[..., :13, :13], kept(text, 1, 3, 22, 22)[..., :13, :13])


def test_kept_values_are_scaled_by_the_probability_that_is_used() -> None:
    values = torch.randn(2, 16, 30, dtype=torch.float64)
    for p, threshold in ((0.1, 6554), (0.3, 19661), (2**-16, 1), (0.5, 32768), (1 - 2**-16, 65535)):
        drop = Dropout(p, "a")
        drop.keys = keys_of((1, 2), 16)
        found = drop(values)
        expected = values * 65536 / (65536 - threshold)
        assert torch.allclose(found[found != 0], expected[found != 0], rtol=1e-15, atol=0)
    assert torch.equal(kept(keys_of((1,), 16), 1, 16, 64, p=1.0), torch.zeros(1, 16, 64, dtype=torch.bool))
    assert kept(keys_of(range(8), 256), 8, 256, 384, p=2**-16).double().mean() == pytest.approx(1 - 2**-16, abs=2e-5)


def test_nothing_is_dropped_in_evaluation_or_at_probability_0() -> None:
    values = torch.randn(2, 16, 30)
    assert Dropout(0.0, "a")(values) is values
    assert Dropout(1e-6, "a")(values) is values  # rounded to 0
    assert Dropout(0.5, "a").eval()(values) is values
    with pytest.raises(RuntimeError, match="dropout has no mask keys: call the network in `masks_from`"):
        Dropout(0.5, "a")(values)


@pytest.mark.parametrize("hashed_again", [False, True])
@pytest.mark.parametrize("shape", [(2, 16, 30), (2, 3, 16, 16)])
def test_the_gradient_is_that_of_the_mask(
    shape: tuple[int, ...], hashed_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hashed_again:  # as on a GPU
        monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    drop = Dropout(0.3, "a")
    drop.keys = keys_of((1, 2), 16)
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def pure(values: torch.Tensor) -> torch.Tensor:
        drop.calls = 0
        found: torch.Tensor = drop(values)
        return found

    assert torch.autograd.gradcheck(pure, values)
    weights = torch.randn(shape, dtype=torch.float64)
    (found,) = torch.autograd.grad((pure(values) * weights).sum(), values)
    mask = kept(drop.keys, *shape, p=0.3, name="a").double() / (1 - rounded(0.3))
    assert torch.allclose(found, weights * mask, rtol=1e-12)
    swapped = values.detach().transpose(-1, -2).contiguous().transpose(-1, -2)  # not contiguous
    assert torch.equal(pure(swapped), pure(values))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_masks_are_the_same_for_every_dtype(dtype: torch.dtype) -> None:
    drop = Dropout(0.1, "a")
    for shape in ((2, 16, 30), (2, 3, 16, 16)):
        drop.keys, drop.calls = keys_of((1, 2), 16), 0
        found = drop(torch.ones(shape, dtype=dtype))
        assert found.dtype == dtype
        expected = kept(drop.keys, *shape, name="a").double() * (65536 / (65536 - 6554))
        assert torch.equal(found, expected.to(dtype))


@pytest.mark.gpu
def test_masks_are_the_same_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for shape in ((2, 16 + 49, 30), (2, 3, 65, 65)):
        here, there = (kept(keys_of((1, 2), 16, device=device), *shape) for device in ("cpu", "cuda"))
        assert torch.equal(here, there.cpu())
    drop = Dropout(0.1, "a")
    drop.keys = keys_of((1, 2), 16, device="cuda")
    values = torch.randn(2, 16, 30, device="cuda", requires_grad=True)
    found = drop(values)
    found.sum().backward()
    assert torch.equal(values.grad, (found != 0) * torch.tensor(65536 / (65536 - 6554), device="cuda"))


# Networks.


@pytest.fixture
def windows(tmp_path: Path) -> list[Window]:
    """Eight windows of 5 to 61 tokens, each with a picture."""
    rng = torch.Generator().manual_seed(1)
    found = []
    for number, length in enumerate((61, 40, 33, 32, 17, 16, 9, 5)):
        picture = tmp_path / f"{number}.png"
        Image.effect_noise((30, 40), 80).save(picture)
        ids = torch.randint(5, 60, (length,), generator=rng).tolist()
        corners = torch.randint(0, 900, (length, 2), generator=rng).tolist()
        boxes = [(x, y, x + 50, y + 20) for x, y in corners]
        labels = torch.randint(0, 3, (length,), generator=rng).tolist()
        found.append(Window(number, ids, boxes, labels, [], PageImage(picture)))
    return found


def gradients(
    model: nn.Module,
    checkpoint: PretrainedModel,
    windows: list[Window],
    micro_batches: list[list[int]],
    packed: bool = False,
) -> dict[str, torch.Tensor]:
    """Of the summed loss of all micro-batches."""
    model.zero_grad()
    for indices in micro_batches:
        batch = collate([windows[index] for index in indices], checkpoint.tokenizer.pad_token_id, packed)
        inputs = model_inputs(checkpoint.family, batch, checkpoint.image_processor)
        with masks_from(model, mask_keys(SEED, STEP, indices, batch)):
            logits_BTL = model(**inputs).logits
            nn.functional.cross_entropy(logits_BTL.flatten(0, 1), batch.labels_BT.flatten(), reduction="sum").backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> float:
    assert found.keys() == truth.keys()
    difference = sum(float((found[name] - truth[name]).double().square().sum()) for name in truth)
    return math.sqrt(difference / sum(float(truth[name].double().square().sum()) for name in truth))


def network(checkpoint: PretrainedModel, dropout: float | None = 0.1, masks: Any = "rank-free") -> Any:
    torch.manual_seed(0)
    return build(checkpoint, TAGS, dropout, masks).train()


WHOLE = [list(range(8))]
ALONE = [[index] for index in range(8)]
MIXED = [[7, 0, 3], [1], [6, 5, 2, 4]]


@pytest.mark.parametrize("family", [*BUILT, "layoutlmv3:ignore"])
def test_the_gradient_depends_on_neither_micro_batches_nor_packing(
    family: str, checkpoints: dict[str, Path], windows: list[Window]
) -> None:
    family, _, images = family.partition(":")
    checkpoint = opened(checkpoints[family], images=images or "use")
    model = network(checkpoint)
    whole = gradients(model, checkpoint, windows, WHOLE)
    assert relative(gradients(model, checkpoint, windows, ALONE), whole) < 1e-6
    assert relative(gradients(model, checkpoint, windows, MIXED), whole) < 1e-6
    if checkpoint.packs:
        for micro_batches in (WHOLE, ALONE, MIXED):
            assert relative(gradients(model, checkpoint, windows, micro_batches, packed=True), whole) < 1e-6
    # Dropout is on, and torch's generator has no part in it.
    model.eval()
    assert relative(gradients(model, checkpoint, windows, WHOLE), whole) > 0.01
    model.train()
    torch.manual_seed(1)
    assert relative(gradients(model, checkpoint, windows, WHOLE), whole) == 0


class Features(nn.Module):
    """LayoutLMv2's visual backbone, which needs a package that is not installed: 2 x 3 features of the picture."""

    def __init__(self, config: Any) -> None:
        super().__init__()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(image, (2, 3)).flatten(2).transpose(1, 2).repeat(1, 1, 4)


def test_layoutlmv2_too(windows: list[Window], checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_layoutlmv2, "requires_backends", lambda *_: None)
    monkeypatch.setattr(modeling_layoutlmv2, "LayoutLMv2VisualBackbone", Features)
    monkeypatch.setattr(
        modeling_layoutlmv2.LayoutLMv2PreTrainedModel, "_init_weights", PreTrainedModel._init_weights
    )  # its own looks for the package too
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    more = {"vocab_size": 64, "coordinate_size": 8, "shape_size": 8, "image_feature_pool_shape": [2, 3, 12]}
    torch.manual_seed(0)
    config = LayoutLMv2Config(**size, **more, num_labels=3)
    model = modeling_layoutlmv2.LayoutLMv2ForTokenClassification(config).train()
    replace_dropout(model)
    pages = opened(checkpoints["layoutlmv3"]).image_processor
    assert pages is not None
    checkpoint: Any = SimpleNamespace(
        family="layoutlmv2", image_processor=pages, tokenizer=SimpleNamespace(pad_token_id=0)
    )
    whole = gradients(model, checkpoint, windows, WHOLE)
    assert relative(gradients(model, checkpoint, windows, ALONE), whole) < 1e-6
    assert relative(gradients(model.eval(), checkpoint, windows, WHOLE), whole) > 0.01


@pytest.mark.parametrize("family", ["layoutlm", "bros"])
def test_torchs_masks_depend_on_the_micro_batch(
    family: str, checkpoints: dict[str, Path], windows: list[Window]
) -> None:
    checkpoint = opened(checkpoints[family])
    model = network(checkpoint, masks="torch")
    assert not [module for module in model.modules() if isinstance(module, Dropout)]
    torch.manual_seed(1)
    whole = gradients(model, checkpoint, windows, WHOLE)
    torch.manual_seed(1)
    assert relative(gradients(model, checkpoint, windows, WHOLE), whole) == 0
    assert relative(gradients(model, checkpoint, windows, ALONE), whole) > 0.01


@pytest.mark.parametrize("family", BUILT)
def test_every_call_has_masks_of_its_own_and_the_probability_of_the_config(
    family: str, checkpoints: dict[str, Path], windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = opened(checkpoints[family])
    probabilities = {
        "hidden_dropout_prob": 0.11,
        "attention_probs_dropout_prob": 0.12,
        "classifier_dropout": 0.13,
        "embedding_dropout": 0.14,
        "attention_dropout": 0.15,
        "mlp_dropout": 0.16,
    }
    for name, p in probabilities.items():
        if hasattr(checkpoint.config, name):
            setattr(checkpoint.config, name, p)
    model = network(checkpoint, dropout=None)
    torchs = network(checkpoint, dropout=None, masks="torch")
    there = {name: module for name, module in torchs.named_modules() if isinstance(module, nn.Dropout)}
    here = {name: module for name, module in model.named_modules() if isinstance(module, Dropout)}
    assert not [name for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    assert there.keys() <= here.keys()
    for name, module in there.items():
        assert here[name].p == module.p
        assert f"p={module.p}" in repr(here[name])
    added = {name: module.p for name, module in here.items() if name not in there}
    expected = {f"model.layers.{layer}.attn.dropout": 0.15 for layer in range(2)} if family == "modernbert" else {}
    assert added == expected

    calls: list[tuple[int, ...]] = []
    real = Dropout.forward

    def watched(self: Dropout, values: torch.Tensor, first: int = 0) -> torch.Tensor:
        calls.append((self.site, self.calls, values.dim()))
        return real(self, values, first)

    monkeypatch.setattr(Dropout, "forward", watched)
    gradients(model, checkpoint, windows, WHOLE)
    once = list(calls)
    calls.clear()
    gradients(model, checkpoint, windows, WHOLE)
    assert calls == once
    assert len(set(once)) == len(once)
    layers = model.config.num_hidden_layers
    attentions = [call for call in once if call[2] == 4]
    assert len(attentions) == layers * (2 if family == "lilt" else 1)


@pytest.mark.parametrize("family", [family for family in BUILT if FAMILIES[family].packs])
def test_every_micro_batch_calls_the_same_modules(
    family: str, checkpoints: dict[str, Path], windows: list[Window]
) -> None:
    """At ZeRO 3 ranks that call others than their neighbours wait for one another forever."""
    checkpoint = opened(checkpoints[family])
    model = network(checkpoint)
    called: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, ___, name=name: called.append(name))
    found = []
    for micro_batch in (WHOLE[0], ALONE[0], []):
        gradients(model, checkpoint, windows, [micro_batch], packed=True)
        found.append(list(called))
        called.clear()
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 20


def test_a_head_that_drops_twice_draws_twice(checkpoints: dict[str, Path], windows: list[Window]) -> None:
    """LayoutLMv3's, with 10 tags or more, calls one dropout module before and after its first layer."""
    checkpoint = opened(checkpoints["layoutlmv3"])
    torch.manual_seed(0)
    model = build(checkpoint, ["O", *(f"B-{number}" for number in range(11))], 0.5).train()
    seen: list[torch.Tensor] = []
    model.get_submodule("classifier.dropout").register_forward_hook(lambda _, __, out: seen.append(out.detach() != 0))
    gradients(model, checkpoint, windows, WHOLE)
    first, second = seen
    assert first.shape == second.shape
    assert abs(correlation(first, second, 0.5)) < BOUND


@pytest.mark.parametrize("family", ["bert", "layoutlm", "lilt"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_draws_the_same_masks(
    family: str, reentrant: bool, checkpoints: dict[str, Path], windows: list[Window]
) -> None:
    checkpoint = opened(checkpoints[family])
    model = network(checkpoint)
    whole = gradients(model, checkpoint, windows, WHOLE)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert relative(gradients(model, checkpoint, windows, WHOLE), whole) < 1e-6


def test_nothing_is_left_behind(checkpoints: dict[str, Path], windows: list[Window]) -> None:
    checkpoint = opened(checkpoints["layoutlm"])
    model = network(checkpoint)
    names = set(network(checkpoint, masks="torch").state_dict())
    assert set(model.state_dict()) == names
    gradients(copy.deepcopy(model), checkpoint, windows, WHOLE)
    gradients(model, checkpoint, windows, WHOLE)
    assert {module.keys for module in model.modules() if isinstance(module, Dropout)} == {None}
    batch = collate(windows, checkpoint.tokenizer.pad_token_id)
    with pytest.raises(RuntimeError, match="no mask keys"):
        model(**model_inputs("layoutlm", batch))
    empty = collate([], checkpoint.tokenizer.pad_token_id)
    with masks_from(model, mask_keys(SEED, STEP, [], empty)):
        assert torch.isfinite(model(**model_inputs("layoutlm", empty)).logits).all()
