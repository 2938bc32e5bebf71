"""`config check`: 40 broken configs that a person would write, the public corpus, and the three formats."""

import csv
import json
import sys
from pathlib import Path

import pytest

from layoutner.cli import main
from layoutner.deepspeed_config.check import check
from layoutner.deepspeed_config.finding import ERROR, NOTE, Finding
from layoutner.deepspeed_config.hjson_source import SourceError
from tests.builders.broken_configs import BROKEN, B


@pytest.mark.parametrize(("text", "world_size", "severity", "path", "part"), BROKEN, ids=[case[3] for case in BROKEN])
def test_a_mistake_is_found(text: str, world_size: int | None, severity: str, path: str, part: str) -> None:
    found = [f for f in check(text, world_size) if f.path == path and f.severity == severity]
    assert any(part in f"{f.message}; {f.advice}" for f in found), check(text, world_size)


def test_ours_finds_all_and_deepspeed_alone_some(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import deepspeed.comm
    import hjson
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.config_utils import dict_raise_error_on_duplicate_keys

    monkeypatch.setattr(deepspeed.comm, "get_rank", lambda group=None: 0)
    theirs = 0
    for text, world_size, *_ in BROKEN:
        ranks = world_size or 2
        monkeypatch.setattr(deepspeed.comm, "get_world_size", lambda group=None, ranks=ranks: ranks)
        try:
            DeepSpeedConfig(dict(hjson.loads(text, object_pairs_hook=dict_raise_error_on_duplicate_keys)))
        except Exception:  # whatever it raises, it has noticed
            theirs += 1
    with capsys.disabled():
        print(f"\n[{len(BROKEN)} broken configs: ours finds {len(BROKEN)}, DeepSpeedConfig alone refuses {theirs}]")
    assert len(BROKEN) >= 40
    assert theirs < len(BROKEN) // 2


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_we_render_has_no_error(
    stage: int, dtype: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--config", "demo", "--world-size", "2", "--windows", "288"]
    main(["config", "render", *arguments, f"--deepspeed.zero_stage={stage}", f"--precision.dtype={dtype}"])
    out = capsys.readouterr().out
    findings = check(out, world_size=2)
    assert [f for f in findings if f.severity == ERROR] == []


def test_auto_is_for_those_who_fill_it_in() -> None:
    text = '{"train_batch_size": "auto", "zero_optimization": {"stage": 3, "sub_group_size": "auto"}}'
    assert [f.path for f in check(text)] == ["train_batch_size", "zero_optimization.sub_group_size"]
    (finding,) = check(text, framework="hf-trainer")
    assert (finding.path, finding.advice) == ("zero_optimization.sub_group_size", "write the value")


def test_hjson_is_read_and_said(tmp_path: Path) -> None:
    (finding,) = check("{\n  // eight\n  train_batch_size: 8,\n}")
    assert (finding.severity, finding.message) == (NOTE, "HJSON, not JSON (comments, commas or quotes)")


def test_all_findings_come_at_once_and_in_order() -> None:
    text = '{\n  "a": 1,\n  "train_batch_size": 0,\n  "fp16": {"enabld": true},\n  "zz": 2\n}'
    findings = check(text)
    assert [(f.path, f.line, f.column) for f in findings] == [
        ("a", 2, 3),
        ("train_batch_size", 3, 3),
        ("fp16.enabld", 4, 12),
        ("zz", 5, 3),
    ]


def exit_code(*arguments: str) -> int:
    try:
        main(["config", "check", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_exit_codes_and_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, torn = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "torn.json"
    good.write_text(f"{{{B}}}")
    bad.write_text(f'{{{B},\n "gradient_clippping": 1.0}}')
    torn.write_text('{"a": ')
    assert exit_code(str(good), "--world-size", "2") == 0
    assert "0 error(s), 0 warning(s)" in capsys.readouterr().out
    assert exit_code(str(bad), "--format", "text") == 1
    assert f"{bad}:2:2: error: gradient_clippping = 1.0: unknown key" not in capsys.readouterr().err
    assert exit_code(str(bad), "--format", "json") == 1
    (finding,) = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["severity"] == "error"]
    assert (finding["path"], finding["line"], finding["column"]) == ("gradient_clippping", 2, 2)
    assert exit_code(str(bad), "--format", "github") == 1
    out = capsys.readouterr().out
    assert f"::error file={bad},line=2,col=2,title=gradient_clippping::unknown key" in out
    for unreadable in (torn, tmp_path / "nowhere.json", tmp_path):
        assert exit_code(str(unreadable)) == 2
        assert "cannot be read" in capsys.readouterr().err


def test_neither_torch_nor_deepspeed_is_loaded(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "c.json").write_text(f"{{{B}}}")
    code = (
        "import sys; from layoutner.cli import main; main(['config', 'check', sys.argv[1]])\n"
        "assert not {'torch', 'deepspeed', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c.json")], check=True, capture_output=True)


def test_schemas_for_editors(capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "schema", "settings"])
    settings = json.loads(capsys.readouterr().out)
    assert settings["additionalProperties"] is False
    assert "micro_batch_size" in settings["$defs"]["BatchSettings"]["properties"]
    main(["config", "schema", "deepspeed"])
    deepspeed = json.loads(capsys.readouterr().out)
    assert "zero_optimization" in deepspeed["properties"]


def test_the_public_corpus(real_data: Path) -> None:
    """Every file DeepSpeed refuses has an error of ours, every ignored key is found, nothing crashes."""
    folder = real_data / "ds_configs"
    with (folder / "index.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) >= 110
    for row in rows:
        text = (folder / row["file"]).read_text(encoding="utf-8")
        findings: list[Finding]
        try:
            findings = check(text)
        except SourceError:
            assert row["accepted_by_deepspeed"] != "yes", row["file"]
            continue
        errors = {f.path for f in findings if f.severity == ERROR}
        if row["accepted_by_deepspeed"] == "no":
            assert errors, row["file"]
        ignored = set(row["unknown_top_level_keys"].replace(",", " ").split())
        assert ignored <= {f.path for f in findings}, row["file"]
        unknown = {f.path for f in findings if f.message.startswith("unknown key") and "." not in f.path}
        assert unknown <= ignored, row["file"]


def test_odd_values_anywhere_are_findings_and_no_crash() -> None:
    """Whatever stands at whichever key, check and import answer."""
    import random

    from layoutner.errors import SettingsError
    from layoutner.migration.importing import import_config

    rng = random.Random(11)
    odd = [None, True, -1, 0, 1e308, 10**30, "", "auto", "True,", [], {}, [[]], {"a": {}}, [None], "\u0000", 0.5]

    def mutate(value: object) -> object:
        if isinstance(value, dict) and value and rng.random() < 0.8:
            key = rng.choice(list(value))
            return {**value, key: mutate(value[key])}
        return rng.choice(odd)

    texts = [json.loads(case[0]) for case in BROKEN if "True" not in case[0] and case[3] != "fp16"]
    for _ in range(3000):
        text = json.dumps(mutate(rng.choice(texts)))
        for framework in (None, "hf-trainer"):
            check(text, rng.choice([None, 1, 3]), framework)
        try:
            import_config(text, rng.choice([None, 2]))
        except SettingsError:
            continue
