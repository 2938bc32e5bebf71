"""What `config plan` says of memory, against what training takes on the CPU."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LayoutLMConfig

from layoutner.errors import SettingsError
from layoutner.models import sizes
from layoutner.models.loading import build, open_pretrained
from layoutner.models.sizes import count_network
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.memory import (
    Curve,
    GiB,
    Memory,
    MiB,
    Network,
    estimate,
    largest_micro_batch,
    parse_memory,
)
from layoutner.planning.memory_plan import Case, advice, describe
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.optimizer import Muon
from layoutner.settings.tree import Settings, load
from tests.builders.processes import ROOT, launch

WORKER = ROOT / "tests" / "workers" / "memory.py"
# fp16 differs from bf16 at stage 1 alone: elsewhere the same classes allocate the same.
CASES = [*((dtype, stage) for dtype in ("fp32", "bf16") for stage in (0, 1, 2, 3)), ("fp16", 1)]
CASES += [("fp32 averaging", 0), ("bf16 averaging", 3)]
# Near to LayoutLM base.
BASE = Network(
    parameters=112_633_351,
    trainable=112_042_759,
    layers=12,
    intermediate_size=3072,
    tensors=(30522 * 768, 512 * 768, *[1024 * 768] * 4, *[768 * 768] * 48, *[3072 * 768] * 24, *[768] * 100),
    layer=Curve(0, 58_000, 0),
    ends=Curve(0, 13_000, 0),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("memory") / "measured.json"
    done = launch([Path(sys.executable).name, WORKER, out], PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def estimated(measured: dict[str, Any], case: str, micro: int | None = None) -> Memory:
    dtype, stage, ranks = case.split("/")
    dtype, *averaging = dtype.split()
    about = measured["about"]
    with tempfile.TemporaryDirectory() as folder:
        LayoutLMConfig(**about["network"]).save_pretrained(folder)
        model = {"name_or_path": folder, "dropout_masks": "torch"}
        network = count_network(load(None, {"model": model, "precision": {"dtype": dtype}}), about["labels"], "cpu")
    return estimate(
        network,
        dtype=dtype,
        stage=int(stage),
        world_size=int(ranks),
        micro_batch_size=micro or about["micro"],
        window_tokens=about["tokens"],
        ds_config=measured[case]["config"],
        averages=bool(averaging),
        device="cpu",
    )


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("dtype", "stage"), CASES)
def test_the_estimate_is_what_training_takes(stage: int, dtype: str, ranks: int, measured: dict[str, Any]) -> None:
    case = f"{dtype}/{stage}/{ranks}"
    memory = estimated(measured, case)
    assert memory.model_states == pytest.approx(measured[case]["states"], rel=0.10)
    assert memory.total == pytest.approx(measured[case]["peak"], rel=0.25)


@pytest.mark.slow
def test_the_measurement_would_see_an_error(measured: dict[str, Any]) -> None:
    # The tolerances are worth something: a moment forgotten would be outside of them, and activations
    # are a good part of the peak (19% at the least).
    for case, found in measured.items():
        if case != "about":
            memory = estimated(measured, case)
            assert memory.activations > 0.15 * found["peak"]
            assert memory.optimizer_states / 3 > 0.10 * memory.model_states


FAMILIES = ["bert", "roberta", "xlm-roberta", "layoutlm", "layoutlmv3", "lilt", "bros", "modernbert"]


def settings_for(folder: Path, **model: str) -> Settings:
    return load(None, {"model": {"name_or_path": str(folder), **model}, "precision": {"dtype": "fp32"}})


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_exactly(family: str, checkpoints: dict[str, Path]) -> None:
    settings = settings_for(checkpoints[family])
    network = count_network(settings, 5)
    model = build(open_pretrained(settings.model), ["O", *"ABCD"], None)
    assert network.parameters == sum(p.numel() for p in model.parameters())
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert (list(network.tensors), network.trainable) == (trained, sum(trained))


def test_a_bert_that_starts_a_layoutlm_is_counted_as_one(checkpoints: dict[str, Path]) -> None:
    settings = settings_for(checkpoints["bert"], family="layoutlm")
    model = build(open_pretrained(settings.model), ["O", "A"], None)
    assert count_network(settings, 2).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_autograd_keeps_is_counted_for_windows_of_any_length(family: str, checkpoints: dict[str, Path]) -> None:
    """The curves, drawn through short windows of shallow networks, against the whole network and a longer window."""
    settings = settings_for(checkpoints[family])
    network = count_network(settings, 5, "cpu")
    pretrained = open_pretrained(settings.model)
    model = build(pretrained, ["O", *"ABCD"], None).train()
    tokens = 12 if family == "modernbert" else 48  # the local attention of the small ModernBERT ends at 17
    sees_images = pretrained.image_processor is not None
    found = sizes.saved_bytes(model, family, tokens, sees_images, "cpu")
    # ModernBERT's first layer, which is one of those that are counted, has no norm before its attention.
    expected = network.layers * network.layer.at(tokens) + network.ends.at(tokens)
    assert expected == pytest.approx(found, rel=0.02)


def test_layoutlm_base_keeps_what_its_operations_need(tmp_path: Path) -> None:
    LayoutLMConfig().save_pretrained(tmp_path)
    hidden, inner, heads = 768, 3072, 12
    elements = 8 * hidden + 2 * inner  # a layer's tensors per token: Korthikanti et al. 2022, arXiv:2205.05198, 4.1
    network = count_network(settings_for(tmp_path), 7)
    assert network.parameters == 112_633_351  # as transformers builds it
    assert network.layer.linear == pytest.approx(4 * elements, rel=0.01)
    assert network.layer.square == heads * (4 + 4)  # probabilities before and after dropout
    on_cpu = count_network(settings_for(tmp_path), 7, "cpu")
    assert on_cpu.layer.square == network.layer.square + heads * 2  # and random bits
    torchs = count_network(settings_for(tmp_path, dropout_masks="torch"), 7)
    assert torchs.layer.square == 0  # in one kernel
    assert count_network(settings_for(tmp_path, dropout="0"), 7).layer.square == 0


def test_a_curve_goes_through_its_points() -> None:
    curve = Curve.through((16, 32, 64), [3 + 5 * t + 7 * t**2 for t in (16, 32, 64)])
    assert (curve.constant, curve.linear, curve.square) == (3, 5, 7)
    assert curve.at(512) == 3 + 5 * 512 + 7 * 512**2


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * GiB), ("24GB", 24 * GiB), ("40G", 40 * GiB), ("800MiB", 800 * MiB), ("1.5 gib", 3 * GiB // 2)],
)
def test_memory_is_read(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "0", "-3G", "24 apples", "24GiBs", "1e3G"])
def test_other_text_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(SettingsError, match="give number and unit, as in 24GiB, 24GB, 40G or 800MiB"):
        parse_memory(text)


def case_of(stage: int = 1, dtype: str = "fp32", world_size: int = 2, micro: int = 8) -> Case:
    tree = {
        "batch": {"global_batch_size": "32", "micro_batch_size": str(micro)},
        "schedule": {"max_steps": "100", "warmup_steps": "10"},
        "precision": {"dtype": dtype},
        "deepspeed": {"zero_stage": str(stage)},
    }
    settings = load(None, tree)
    return Case(settings, plan_batch(32, micro, world_size), plan_schedule(settings.schedule, 32, None), BASE, 512)


@pytest.mark.parametrize("stage", range(4))
def test_the_largest_micro_batch_fits_and_the_next_does_not(stage: int) -> None:
    case = case_of(stage)
    splits = [case.on(2, micro) for micro in (1, 2, 3, 4, 6, 8, 16)]  # 6: 4 micro-batches of 5, 2 of 6
    assert [split.batch.micro_batch_size for split in splits] == [1, 2, 3, 4, 6, 8, 16]
    fits = [split.batch.micro_batch_size for split in splits if split.memory().total <= 4 * GiB]
    assert case.largest(4 * GiB) == max(fits)
    assert 1 < max(fits) < 16
    assert case.largest(800 * MiB) is None
    assert case.largest(80 * GiB) == 16


def test_the_largest_micro_batch_is_one_that_a_split_has() -> None:
    arguments: dict[str, Any] = {"dtype": "fp32", "stage": 0, "window_tokens": 512, "ds_config": {}}

    def largest(ranks: int, limit: int) -> int | None:
        return largest_micro_batch(BASE, world_size=ranks, global_batch_size=18, limit=limit, **arguments)

    assert largest(3, 80 * GiB) == 6
    assert largest(4, 80 * GiB) == 5  # 4 + 4 + 5 + 5
    assert largest(32, 80 * GiB) == 1  # and 14 ranks without
    five = estimate(BASE, world_size=4, micro_batch_size=5, **arguments).total
    assert largest(4, five) == 5
    assert largest(4, five - 1) == 3  # at most 4 gives 8 micro-batches, 6 of 2 and 2 of 3


def test_advice_names_every_change_in_order_with_its_numbers() -> None:
    case = case_of()
    assert advice(case, 24 * GiB) == []
    lines = advice(case, 3 * GiB)
    words = ["per rank is more than 3.00 GiB", "batch.micro_batch_size = 3 (", "zero_stage = 2", "zero_stage = 3"]
    words += ["dtype = bf16", "4 ranks", "max_length = 256", "zero3-offload"]
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line
        assert "iB" in line
    assert lines[1].endswith("fits")
    assert all(line.endswith("still too much") for line in advice(case, MiB)[1:])


def test_a_rank_that_is_alone_is_not_told_to_shard() -> None:
    assert not any("zero_stage = 3, with" in line for line in advice(case_of(0, world_size=1), MiB))


def test_the_plan_is_readable() -> None:
    case = case_of(2, "bf16")
    text = describe(case.settings, case.batch, case.schedule, BASE, 512, 24 * GiB)
    assert "batch: 32 windows per step = 8 per micro-batch x 2 gradient accumulation steps x 2 ranks" in text
    assert (
        "100 optimizer steps (schedule.max_steps), 10 of them warm-up\noptimizer: adamw, peak learning rate 5e-05"
        in text
    )
    rows = [line.split() for line in text.splitlines() if line.strip()[:2] in ("0 ", "1 ", "*2", "3 ")]
    assert [row[0] for row in rows] == ["0", "1", "*2", "3"]
    assert "fits into 24.00 GiB" in text
    assert "none fits" in describe(case.settings, case.batch, case.schedule, BASE, 512, MiB)
    assert "largest micro-batch" not in describe(case.settings, case.batch, case.schedule, BASE, 512, None)
    assert str(case.memory()).startswith("parameters ")


@pytest.mark.parametrize(("stage", "ranks"), [(0, 1), (2, 1), (2, 4), (3, 4)])
def test_an_average_of_the_weights_takes_four_bytes_a_parameter_partitioned(stage: int, ranks: int) -> None:
    without = case_of(stage, "bf16", ranks, micro=4)
    optimizer = without.settings.optimizer.model_copy(update={"average_decay": 0.999})
    averaging = replace(without, settings=without.settings.model_copy(update={"optimizer": optimizer}))
    more = averaging.memory().optimizer_states - without.memory().optimizer_states
    assert more == 4 * -(-BASE.trainable // (ranks if stage else 1))
    text = describe(averaging.settings, averaging.batch, averaging.schedule, BASE, 512, None)
    assert "averaged with decay 0.999, in 4 more bytes per parameter" in text


@pytest.mark.parametrize(("stage", "ranks"), [(0, 1), (2, 4)])
def test_muon_keeps_one_tensor_of_the_matrices_of_the_layers_and_two_of_the_rest(stage: int, ranks: int) -> None:
    network = replace(BASE, matrices=85_000_000)
    adamw = case_of(stage, "bf16", ranks, micro=4)
    muon = replace(adamw, settings=adamw.settings.model_copy(update={"optimizer": Muon()}))
    less = [replace(case, network=network).memory().optimizer_states for case in (adamw, muon)]
    assert less[0] - less[1] == 4 * 85_000_000 // ranks


def test_the_matrices_of_the_layers_are_counted(checkpoints: dict[str, Path]) -> None:
    settings = load(None, {"model": {"name_or_path": str(checkpoints["layoutlm"])}})
    network = count_network(settings, 7)
    config = json.loads((checkpoints["layoutlm"] / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    assert network.matrices == config["num_hidden_layers"] * (4 * hidden**2 + 2 * hidden * inner)
