"""Learning rate, betas and eps by the rules of their papers, and every contradiction refused."""

import pytest

from layoutner.errors import SettingsError
from layoutner.planning.scaling import describe, scaled_optimizer, unstable_lr_notes
from layoutner.settings.tree import Settings, load


def settings(batch: int, reference: int | None, **optimizer: str) -> Settings:
    sizes = {"global_batch_size": str(batch)} | ({} if reference is None else {"reference_batch_size": str(reference)})
    return load(None, {"batch": sizes, "optimizer": {"lr": "1e-3", **optimizer}})


@pytest.mark.parametrize(("rule", "lr"), [("linear", 16e-3), ("sqrt", 4e-3)])
def test_the_learning_rate_follows_the_batch(rule: str, lr: float) -> None:
    for name in ("adamw", "lamb", "lars", "lion", "muon"):
        assert scaled_optimizer(settings(256, 16, name=name, scale_lr=rule)).lr == pytest.approx(lr)
    assert scaled_optimizer(settings(4, 16, scale_lr="sqrt")).lr == pytest.approx(5e-4)  # a smaller batch, too


def test_the_sde_rule_keeps_the_moments_forgetting_per_window() -> None:
    scaled = scaled_optimizer(settings(64, 16, scale_lr="sqrt", scale_betas="sde", betas="0.9,0.99", eps="1e-6"))
    assert scaled.betas == pytest.approx((0.6, 0.96))  # type: ignore[union-attr]
    assert scaled.eps == pytest.approx(5e-7)  # type: ignore[union-attr]


def test_the_half_life_rule_keeps_the_half_life_in_windows() -> None:
    scaled = scaled_optimizer(settings(64, 16, scale_betas="half-life", betas="0.9,0.999"))
    assert scaled.betas == pytest.approx((0.9, 0.999**4))  # type: ignore[union-attr]
    assert (scaled.lr, scaled.eps) == (1e-3, 1e-8)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("batch", "reference", "optimizer", "said"),
    [
        (64, 16, {}, "batch.reference_batch_size = 16, but nothing is scaled"),
        (64, None, {"scale_lr": "sqrt"}, "scaled from which batch"),
        (64, None, {"scale_betas": "sde"}, "scaled from which batch"),
        (64, 16, {"scale_betas": "sde", "scale_lr": "linear"}, "goes with scale_lr = sqrt"),
        (256, 16, {"scale_betas": "sde"}, "makes betas -0.6 and 0.984, below 0"),
    ],
)
def test_contradictions_are_refused(batch: int, reference: int | None, optimizer: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        scaled_optimizer(settings(batch, reference, **optimizer))


def test_the_derivation_is_shown() -> None:
    text = describe(settings(64, 16, scale_lr="sqrt", scale_betas="sde", name="lamb", layer_decay="0.9"))
    assert "lamb, peak learning rate 0.002 = 0.001 x sqrt(64 / 16)" in text
    assert "betas 0.6, 0.996 and eps 5e-07 from 0.9, 0.999 and 1e-06 by the sde rule for 64 / 16" in text
    assert "each layer is 0.9 of that of the layer above" in text
    assert describe(settings(64, None)) == "adamw, peak learning rate 0.001"


def test_a_learning_rate_beyond_the_largest_stable_one_gets_a_warning() -> None:
    given = {"lr": "1e-3", "scale_lr": "sqrt", "largest_stable_lr": "2e-3"}
    batch = {"global_batch_size": "64", "ramp": "0:16,10:64", "reference_batch_size": "16"}
    assert unstable_lr_notes(load(None, {"optimizer": given, "batch": batch}), 100) == []
    beyond = load(None, {"optimizer": {**given, "largest_stable_lr": "1.6e-3"}, "batch": batch})
    (said,) = unstable_lr_notes(beyond, 100)
    assert unstable_lr_notes(beyond, 10) == []  # the run ends before its batch grows
    assert said.startswith(
        "warning: the peak learning rate of 0.002 is 1.25 times the largest that is known to be stable"
    )
    # Given, not scaled.
    (said,) = unstable_lr_notes(load(None, {"optimizer": {"lr": "0.1", "largest_stable_lr": "0.05"}}), 1)
    assert "0.1 is 2 times" in said
