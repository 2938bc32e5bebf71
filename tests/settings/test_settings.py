"""Sources, precedence, and what is refused."""

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from layoutner.errors import SettingsError
from layoutner.planning.optimizers import OPTIMIZERS
from layoutner.settings.optimizer import BY_NAME, AdamW, Lamb, Lion
from layoutner.settings.recipes import recipe_names
from layoutner.settings.tree import load, sections
from tests.builders.processes import ROOT, call


def write(folder: Path, text: str) -> str:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path, "[optimizer]\nlr = 1e-5\nweight_decay = 0.1\neps = 1e-6\n[schedule]\nepochs = 3\n")
    monkeypatch.setenv("LAYOUTNER_OPTIMIZER__LR", "2e-5")
    monkeypatch.setenv("LAYOUTNER_OPTIMIZER__WEIGHT_DECAY", "0.2")
    monkeypatch.setenv("LAYOUTNER_OPTIMIZER__BETAS", "0.8,0.95")
    settings = load(config, {"optimizer": {"lr": "3e-5"}})
    assert settings.optimizer.lr == 3e-5
    assert settings.optimizer.weight_decay == 0.2
    assert settings.optimizer.eps == 1e-6
    assert settings.optimizer.betas == (0.8, 0.95)
    assert settings.schedule.epochs == 3


def test_a_later_source_replaces_the_alternative_of_an_earlier_one() -> None:
    settings = load("funsd-layoutlm-base", {"schedule": {"max_steps": "7", "warmup_ratio": "0.1"}})
    assert (settings.schedule.max_steps, settings.schedule.epochs) == (7, None)
    assert (settings.schedule.warmup_ratio, settings.schedule.warmup_steps) == (0.1, None)


def test_the_resolved_tree_reads_back_equal(tmp_path: Path) -> None:
    settings = load("funsd-layoutlm-base", {"wandb": {"tags": "a,b"}, "data": {"eval": "0.1", "train": "x"}})
    again = load(write(tmp_path, settings.to_toml()), {})
    assert again == settings
    assert tomllib.loads(settings.to_toml())["data"]["eval"] == 0.1


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(None, {}).optimizer.lr = 1.0  # type: ignore[misc]


def test_every_recipe_loads() -> None:
    assert {"demo", "funsd-layoutlm-base"} <= set(recipe_names())
    for name in recipe_names():
        load(name, {})
    published = load("funsd-layoutlm-base", {})
    assert (published.batch.global_batch_size, published.optimizer.lr, published.schedule.epochs) == (16, 5e-5, 100)


def test_every_recipe_says_what_it_is_and_shows_as_a_file_that_means_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, listed, _ = call(capsys, "config", "list")
    assert code == 0
    lines = listed.splitlines()
    assert [line.partition(": ")[0] for line in lines[::2]] == recipe_names()
    for name, line, detail in zip(recipe_names(), lines[::2], lines[1::2], strict=True):
        settings = load(name, {})
        assert len(line) > len(name) + 20
        assert detail == f"  model: {settings.model.name_or_path or 'not set'}; data format: {settings.data.format}"
        code, shown, _ = call(capsys, "config", "show", name)
        assert code == 0
        assert f"# {line.removeprefix(f'{name}: ')}" == shown.splitlines()[0]
        assert shown == (ROOT / "layoutner" / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        assert load(write(tmp_path, shown), {}) == settings
    code, _, said = call(capsys, "config", "show", "funsd-layoutlm-bsae")
    assert (code, "did you mean 'funsd-layoutlm-base'?" in said) == (2, True)


def test_every_key_has_a_description() -> None:
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            assert field.description, f"{section}.{key}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"batch": {"micro_window": "4"}},
            "command line: batch.micro_window: unknown; did you mean 'micro_batch_size'?",
        ),
        ({"batch": {"lr": "1"}}, r"batch.lr: unknown; it belongs to \[optimizer\]"),
        ({"modle": {"family": "bert"}}, r"\[modle\]: unknown; did you mean 'model'?"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr = 'fast'"),
        ({"optimizer": {"lr": "nan"}}, "optimizer.lr"),
        ({"optimizer": {"lr": "inf"}}, "optimizer.lr"),
        ({"optimizer": {"lr": "-1"}}, "optimizer.lr = '-1'"),
        ({"optimizer": {"betas": "0.9"}}, "optimizer.betas"),
        ({"optimizer": {"betas": "0.9,1.5"}}, "each lies in"),
        (
            {"optimizer": {"name": "adam"}},
            "optimizer.name = 'adam': must be one of 'adamw', 'lamb', 'lars', 'lion', 'muon'",
        ),
        ({"optimizer": {"momentum": "0.5"}}, "optimizer.momentum = '0.5': optimizer.name = adamw has no momentum"),
        ({"optimizer": {"name": "lars", "betas": "0.9,0.9"}}, "optimizer.name = lars has no betas"),
        (
            {"optimizer": {"name": "lamb", "min_trust_ratio": "2", "max_trust_ratio": "1"}},
            "min_trust_ratio = 2.0 is above",
        ),
        ({"optimizer": {"layer_decay": "0"}}, "optimizer.layer_decay = '0'"),
        ({"optimizer": {"average_decay": "1"}}, "optimizer.average_decay = '1'"),
        ({"schedule": {"power": "2"}}, "shape = linear has none"),
        ({"schedule": {"epochs": "2", "max_steps": "3"}}, "give one of the two"),
        ({"schedule": {"warmup_ratio": "1.5"}}, "schedule.warmup_ratio"),
        ({"data": {"eval": "1.5"}}, "a fraction lies between 0 and 1"),
        ({"data": {"stride": "300"}}, "more than half of max_length"),
        ({"deepspeed": {"zero_stage": "4"}}, "deepspeed.zero_stage"),
        ({"precision": {"dtype": "fp8"}}, "precision.dtype = 'fp8'"),
        ({"run": {"seed": "5000000000"}}, "run.seed"),
        ({"batch": {"global_batch_size": "0"}}, "batch.global_batch_size = '0'"),
    ],
)
def test_what_is_wrong_is_refused(overrides: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(None, overrides)


def test_all_problems_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYOUTNER_RUN__SEEED", "1")
    config = write(tmp_path, "[batch]\nmicro_batch_size = true\n")
    with pytest.raises(SettingsError) as caught:
        load(config, {"optimizer": {"lr": "x"}})
    text = str(caught.value)
    assert "the environment: run.seeed: unknown; did you mean 'seed'?" in text
    assert "the config file: batch.micro_batch_size: true: this setting takes neither true nor false" in text
    assert "the command line: optimizer.lr = 'x'" in text


def test_an_environment_variable_of_no_section_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYOUTNER_OPTIMISER__LR", "1e-5")
    with pytest.raises(SettingsError, match="LAYOUTNER_OPTIMISER__LR: did you mean 'optimizer'?"):
        load(None, {})


@pytest.mark.parametrize("value", ["bert", '{"family": "bert"}'])
def test_a_section_as_a_whole_cannot_come_from_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYOUTNER_MODEL", value)
    with pytest.raises(SettingsError, match="LAYOUTNER_MODEL: a whole section cannot be set this way"):
        load(None, {})


def test_a_key_outside_any_section_is_sent_home(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"lr = 0.1 is outside any section; it belongs to \[optimizer\]"):
        load(write(tmp_path, "lr = 0.1\n"), {})


def test_the_settings_of_a_run_without_eval_can_be_given_back(tmp_path: Path) -> None:
    settings = load(None, {})
    assert load(write(tmp_path, "\ufeff" + settings.to_toml()), {}) == settings


def test_a_config_that_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file, and no recipe"):
        load("dmeo", {})
    with pytest.raises(SettingsError, match="not valid TOML"):
        load(write(tmp_path, "{}"), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(str(tmp_path / "binary"), {})


def test_an_optimizer_is_chosen_by_its_name_from_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYOUTNER_OPTIMIZER__BETAS", "0.8,0.95")
    monkeypatch.setenv("LAYOUTNER_OPTIMIZER__MAX_TRUST_RATIO", "10")
    config = write(tmp_path, '[optimizer]\nname = "lamb"\nlr = 0.01\n')
    settings = load(config, {"optimizer": {"variant": "nvlamb"}})
    expected = Lamb(name="lamb", lr=0.01, betas=(0.8, 0.95), max_trust_ratio=10, variant="nvlamb")
    assert settings.optimizer == expected
    assert load(write(tmp_path, settings.to_toml()), {}).optimizer == expected
    monkeypatch.undo()
    # A file that a run wrote names every key of its optimizer; those that the other has are kept.
    other = load(write(tmp_path, settings.to_toml()), {"optimizer": {"name": "lion"}}).optimizer
    assert other == Lion(lr=0.01, betas=(0.8, 0.95))
    assert load(None, {}).optimizer == AdamW()
    assert load(None, {"optimizer": {"name": "lion"}}).optimizer.betas == (0.9, 0.99)  # type: ignore[union-attr]


def test_help_and_documentation_know_the_keys_of_every_optimizer() -> None:
    assert set(sections()["optimizer"].model_fields) == {key for one in BY_NAME.values() for key in one.model_fields}
    assert set(OPTIMIZERS) == {one.model_fields["name"].default for one in BY_NAME.values()} == set(BY_NAME)
