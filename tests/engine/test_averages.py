"""The average of the weights is the formula's at every ZeRO stage, on any number of ranks, and changes no training."""

import json
from typing import Any

import pytest

from layoutner.engine.averages import decay_at
from tests.builders.forks import fork
from tests.builders.processes import ROOT

WORKER = ROOT / "tests" / "workers" / "averages.py"
SLOW = pytest.mark.slow
STAGES = ("0", "1", "2", "3")
OFFLOADING = ("2-offload", "3-offload")
MEASURED = {
    ("adamw", "fp32"): STAGES + OFFLOADING,
    ("adamw", "bf16"): STAGES + OFFLOADING,
    ("adamw", "fp16"): STAGES,
    ("lamb", "fp32"): ("0", "2-offload", "3"),
}
FAST = {("adamw", "fp32", "2"), ("adamw", "fp32", "3")}  # see FAST of the worker
CASES = [
    pytest.param(name, dtype, stage, ranks, marks=[] if (name, dtype, stage) in FAST and ranks == 2 else SLOW)
    for (name, dtype), stages in MEASURED.items()
    for stage in stages
    for ranks in (2, 1, 3)
]

Results = dict[int, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def results(tier: str, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Measured by the worker on 2, 1 and 3 ranks. All resume from the checkpoints of the 2 ranks."""
    folder = tmp_path_factory.mktemp("averages")
    found = {}
    for ranks in (2,) if tier == "fast" else (2, 1, 3):
        out = folder / f"{ranks}.json"
        done = fork([WORKER, folder, out, tier], ranks=ranks)
        assert done.returncode == 0, done.stderr[-4000:]
        found[ranks] = json.loads(out.read_text())
    return found


def require_right(measured: dict[str, Any]) -> None:
    assert measured["average"] <= 1e-6
    assert measured["apart"] > 1e-3  # from the weights, so those would not do
    assert measured["restored"]
    assert measured["saved"]
    assert measured["frozen"]
    # What is scored with the average is what a network with its weights computes, not what one with the others does.
    assert measured["shown"] < 0.05


@pytest.mark.parametrize(("name", "dtype", "stage", "ranks"), CASES)
def test_it_is_the_definition_in_float64(name: str, dtype: str, stage: str, ranks: int, results: Results) -> None:
    measured = results[ranks][f"{name}/{dtype}/{stage}"]
    require_right(measured)
    # The steps that fp16 skips do not count.
    assert 0 < measured["updates"] < 8 if dtype == "fp16" else measured["updates"] == 8


@pytest.mark.parametrize(("name", "dtype", "stage", "ranks"), CASES)
def test_an_evaluation_changes_no_later_bit(name: str, dtype: str, stage: str, ranks: int, results: Results) -> None:
    assert results[ranks][f"{name}/{dtype}/{stage}"]["changed by evaluations"] == []


@pytest.mark.parametrize(("name", "dtype", "stage", "ranks"), CASES)
def test_it_goes_on_at_another_stage_and_on_other_ranks(
    name: str, dtype: str, stage: str, ranks: int, results: Results
) -> None:
    require_right(results[ranks][f"{name}/{dtype}/to {stage}"])


@pytest.mark.parametrize(
    ("stage", "ranks"),
    [
        pytest.param(stage, ranks, marks=[] if (stage, ranks) == ("3", 2) else SLOW)
        for stage in STAGES
        for ranks in (2, 1, 3)
    ],
)
def test_it_starts_at_the_weights_of_a_checkpoint_without_one(stage: str, ranks: int, results: Results) -> None:
    require_right(results[ranks][f"without/{stage}"])


def test_the_decay_grows_to_its_limit() -> None:
    assert [decay_at(updates, 0.9) for updates in (1, 8, 80, 81)] == pytest.approx([2 / 11, 0.5, 0.9, 0.9])
    assert decay_at(80, 0.9) == pytest.approx(81 / 90)
    assert decay_at(10**6, 0.9) == 0.9
    assert decay_at(1, 0.1) == 0.1


def test_one_process_averages_as_plain_pytorch_does() -> None:
    """AdamW and the average, against a loop that has neither DeepSpeed nor layoutner in it."""
    import torch
    from torch import nn
    from transformers import BertConfig, BertForTokenClassification

    from layoutner.distributed.ranks import Ranks
    from layoutner.engine.engine import Engine
    from layoutner.planning.batch_plan import plan_batch
    from layoutner.planning.render import render
    from layoutner.planning.schedule import plan_schedule
    from layoutner.settings.tree import load

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

    def network() -> BertForTokenClassification:
        torch.manual_seed(0)
        return BertForTokenClassification(BertConfig(vocab_size=20, max_position_embeddings=16, **size, **no_dropout))

    inputs, targets = torch.arange(16).view(2, 8), torch.arange(16) % 2

    def loss(logits: Any) -> Any:
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets)

    plain = network()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    expected = {name: weight.detach().clone() for name, weight in plain.named_parameters()}
    for step in range(1, 13):
        optimizer.zero_grad()
        loss(plain(input_ids=inputs).logits).backward()
        optimizer.step()
        decay = min(0.4, (1 + step) / (10 + step))
        for name, weight in plain.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach()

    found = {}
    for average_decay in ("0.4", "0"):
        given = {"lr": "0.01", "max_grad_norm": "0", "average_decay": average_decay}
        settings = load(
            None,
            {"precision": {"dtype": "fp32"}, "schedule": {"max_steps": "12", "shape": "constant"}, "optimizer": given},
        )
        schedule = plan_schedule(settings.schedule, 2, None)
        config = render(settings, plan_batch(2, 2, 1), schedule)
        with Ranks.join() as ranks:
            engine = Engine(network(), config, settings.optimizer, ranks)
            for step in range(12):
                engine.backward(loss(engine.forward({"input_ids": inputs})), last=True)
                engine.step(0.01, schedule.deepspeed_position(step))
            with engine.averaged(), torch.no_grad():
                scored = float(loss(engine.forward({"input_ids": inputs})))
            found[average_decay] = engine.moments(), engine.weights(), scored
            engine.close()

    moments, weights, scored = found["0.4"]
    for name, average in expected.items():
        assert (moments[f"average/{name}"] - average).norm() <= 1e-6 * average.norm() + 1e-9
        assert torch.equal(weights[name], moments[f"average/{name}"])
        assert not torch.equal(weights[name], moments[f"master/{name}"])
    plain.load_state_dict(expected)
    with torch.no_grad():
        assert scored == pytest.approx(float(loss(plain(input_ids=inputs).logits)), rel=1e-5)

    # Off, nothing is kept, and the same is trained, scored and saved as without the setting.
    moments_off, weights_off, scored_off = found["0"]
    assert {key.split("/")[0] for key in moments_off} == {"master", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(moments_off[key], moments[key]) for key in moments_off)
    assert all(torch.equal(weights_off[name], moments[f"master/{name}"]) for name in expected)
    assert scored_off != scored
