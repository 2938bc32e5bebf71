"""The command line: help, speed, launchers' flags, `config render`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Optional

import pytest
import torch

from layoutner.console.arguments import closed_choices
from layoutner.console.ending import report
from layoutner.errors import SettingsError
from layoutner.settings.tree import load, sections
from tests.builders.processes import call


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["sweep", "--help"],
        ["config", "render", "--config", "demo", "--world-size", "2", "--windows", "288"],
    ],
    ids=["help", "sweep-help", "render"],
)
def test_what_needs_no_torch_loads_none(arguments: list[str]) -> None:
    code = "import sys, layoutner.cli\ntry: layoutner.cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print(*(name for name in ('torch', 'transformers', 'deepspeed', 'numpy') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_render_prints_json_alone_and_the_arithmetic_beside(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(
        capsys, "config", "render", "--config", "funsd-layoutlm-base", "--world-size", "2", "--windows", "150"
    )
    config = json.loads(out)
    assert code == 0
    assert config["train_batch_size"] == 16
    assert config["scheduler"]["params"]["total_num_steps"] == 1002  # 1000, and 2 that stand for a warm-up of 0
    assert config["fp16"]["enabled"] is True
    assert "16 windows per step = 8 per micro-batch x 1 gradient accumulation step x 2 ranks" in err
    assert "1000 optimizer steps (100 epochs x 10 steps)" in err


def test_render_counts_the_windows_of_the_data(
    capsys: pytest.CaptureFixture[str], forms: Path, checkpoints: dict[str, Path]
) -> None:
    arguments = [
        "config",
        "render",
        "--config",
        "demo",
        "--world-size",
        "1",
        f"--data.train={forms}",
        "--data.eval=0.25",
    ]
    code, _, err = call(capsys, *arguments, f"--model.name_or_path={checkpoints['layoutlm']}")
    assert code == 0
    assert "2 steps per epoch = 18 windows / 16 per step, rounded up, the last of them with 2 windows" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "render", "--config", "demo", "--world-size", "2"], "give --windows N"),
        (["config", "render", "--config", "demo", "--world-size", "two"], "invalid int value: 'two'"),
        (["config", "render", "--config", "demo", "--world-size", "0", "--windows", "9"], "at least one rank"),
        (["config", "render", "--config", "demo", "--world-size", "2", "--windows", "0"], "--windows 0"),
        (["config", "render", "--world-size", "2"], "no length"),
        (["train", "--batch.globl_windows", "3"], "did you mean '--batch.global_batch_size'?"),
        (["train", "--lr=1"], "did you mean '--optimizer.lr'?"),
        (["train", "--learning_rate", "1"], "an option of run_seq_labeling.py; `layoutner config migrate -- OLD"),
        (["train", "--epochs=1"], "did you mean '--schedule.epochs'?"),
        (["train", "--labels", "x"], "an option of run_seq_labeling.py; `layoutner config migrate -- OLD"),
        (["train", "--output-format=json"], "`layoutner train` does not take it; --help lists its options"),
        (["predict", "x", "--model", "y", "--devise", "cpu"], "did you mean '--device'?"),
        (["predict", "x", "--model", "y", "--draww", "z"], "unknown argument --draww: did you mean '--draw'?"),
        (["evaluate", "x", "--draw", "z"], "--draw: `layoutner evaluate` does not take it"),
        (["config", "plan", "--world-size", "1", "--gpu-memry", "2"], "did you mean '--gpu-memory'?"),
        (["config", "plan", "--world-size", "1", "--for", "x"], "--for: `layoutner config plan` does not take it"),
        (["data", "check", ".", "--checkpoints", "x"], "--checkpoints: `layoutner data check` does not take it"),
        (["train", "--config", "nothing"], "no recipe of that name"),
        (["trian"], "invalid choice: 'trian'"),
        ([], "COMMAND"),
    ],
)
def test_mistakes_exit_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert err.startswith("layoutner: error: ")
    assert message in err


def test_plan_says_what_fits(capsys: pytest.CaptureFixture[str], checkpoints: dict[str, Path]) -> None:
    base = ["config", "plan", "--config", "demo", "--world-size", "2", "--windows", "288"]
    base.append(f"--model.name_or_path={checkpoints['layoutlm']}")
    code, out, _ = call(capsys, *base, "--gpu-memory", "24GiB")
    assert code == 0
    assert "16 windows per step = 8 per micro-batch x 1 gradient accumulation step x 2 ranks" in out
    assert "fits into 24.00 GiB" in out
    code, out, _ = call(capsys, *base, "--gpu-memory", "1MiB")
    assert code == 0
    assert "is more than 1.0 MiB" in out
    code, _, err = call(capsys, *base, "--gpu-memory", "lots")
    assert (code, "is not a memory size" in err) == (2, True)
    code, _, err = call(capsys, *base[:-1])
    assert (code, "model.name_or_path is missing" in err) == (2, True)


def test_import_writes_settings_that_render_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--world-size", "2", "--windows", "150"]
    _, rendered, _ = call(capsys, "config", "render", "--config", "demo", "--deepspeed.preset", "zero2", *more)
    (tmp_path / "ds.json").write_text(rendered)
    code, _, report = call(capsys, "config", "import", str(tmp_path / "ds.json"), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "train_batch_size -> batch.global_batch_size = 16" in report
    code, again, _ = call(capsys, "config", "render", "--config", str(tmp_path / "out" / "settings.toml"), *more)
    assert code == 0
    assert json.loads(again) == json.loads(rendered)
    code, out, _ = call(capsys, "config", "import", str(tmp_path / "ds.json"))
    assert code == 0
    assert "# preset.json:" in out
    code, _, err = call(capsys, "config", "import", str(tmp_path / "ds.json"), "--out", str(tmp_path / "out"))
    assert (code, "holds settings.toml and preset.json already" in err) == (2, True)


@pytest.mark.parametrize("flag", [["--local_rank=1"], ["--local-rank=1"], ["--local_rank", "1"]])
def test_the_launchers_flag_may_come_first(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *flag, "config", "render", "--config", "demo", "--world-size", "1", "--windows", "9")
    assert code == 0
    assert json.loads(out)["train_batch_size"] == 16


def test_other_ranks_say_errors_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    _, _, err = call(capsys, "train", "--optimizer.lr=x", "--batch.micro_batch_size=y")
    assert len(err.splitlines()) == 1
    assert err.startswith(
        "layoutner: rank 3: error: settings cannot be used: - the command line: batch.micro_batch_size"
    )
    assert "optimizer.lr = 'x'" in err  # the others may see other files and variables, so this rank says all of it
    # Once they have joined, they fail alike, and rank 0 says the rest.
    report(SettingsError("settings cannot be used:\n  - one\n  - two"), joined=True)
    assert capsys.readouterr().err == "layoutner: rank 3: error: settings cannot be used:\n"


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: torch.empty(10**15, dtype=torch.uint8), "DefaultCPUAllocator: can't allocate memory: you tried to"),
        (lambda: bytearray(2**62), "error: MemoryError - "),
    ],
    ids=["torch", "python"],
)
def test_a_cpu_that_is_out_of_memory_is_one_message(
    work: Callable[[], object], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("layoutner.cli._run", lambda _: work())
    code, _, err = call(capsys, "train")
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err
    assert "reduce batch.micro_batch_size (predict, evaluate: --batch)" in err


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "train", "--help")
    assert code == 0
    for section, model in sections().items():
        for key in model.model_fields:
            assert f"--{section}.{key}" in out


@pytest.mark.parametrize(
    ("annotation", "choices"),
    [
        (bool, ("true", "false")),
        (Literal["a", "b"], ("a", "b")),
        (Literal[0, 1] | None, ("0", "1")),
        (Annotated[Literal["a"] | None, "why"], ("a",)),
        (Optional[Annotated[bool, "why"]], ("true", "false")),  # noqa: UP045
        (Literal["a"] | int, ()),
        (str, ()),
        (float | Path | None, ()),
        (tuple[str, ...], ()),
    ],
)
def test_what_can_be_chosen_follows_from_the_type(annotation: object, choices: tuple[str, ...]) -> None:
    assert closed_choices(annotation) == choices


CLOSED = {
    "data.format": "{funsd,unilm,sroie,cord,xfund,jsonl,hub,pdf,ocr,hocr,alto,page-xml,textract,azure,google,doctr}",
    "data.label_all_subwords": "{true,false}",
    "deepspeed.zero_stage": "{0,1,2,3}",
    "precision.dtype": "{fp16,bf16,fp32}",
    "model.family": "{bert,roberta,xlm-roberta,layoutlm,layoutlmv2,layoutlmv3,lilt,bros,modernbert}",
    "tensorboard.enabled": "{true,false}",
    "wandb.mode": "{online,offline,disabled}",
    "run.seed": "VALUE",
    "data.eval": "VALUE",
}


@pytest.mark.parametrize("command", [["train"], ["cross-validate"], ["demo"], ["config", "render"], ["config", "plan"]])
def test_help_shows_every_closed_choice(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *command, "--help")
    assert code == 0
    for name, choices in CLOSED.items():
        assert f"--{name} {choices}" in " ".join(out.split())
    text = " ".join(out.split())
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            # What JSON Schema lists is what the help lists: another way to the same, from the same types.
            schema = model.model_json_schema()["properties"][key]
            listed = [one for part in (schema, *schema.get("anyOf", ())) for one in part.get("enum", ())]
            if "const" in schema:
                listed = [schema["const"]]
            shown = (
                f"{{{','.join(map(str, listed))}}}"
                if listed
                else "{true,false}"
                if field.annotation is bool
                else "VALUE"
            )
            assert f"--{section}.{key} {shown} " in text


@pytest.mark.parametrize("command", [["data", "check"], ["predict"], ["evaluate"]])
def test_a_setting_looks_the_same_in_every_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, *command, "--help")
    text = " ".join(out.split())
    assert f"--data.format {CLOSED['data.format']} reader of the files (default: " in text
    assert "{none,clamp,drop} boxes off the page or inverted: none = an error" in text


def test_switches_that_are_given_as_shown_are_taken() -> None:
    for shown, value in (("true", True), ("false", False)):
        assert load(None, {"data": {"label_all_subwords": shown}}).data.label_all_subwords is value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--precision.dtype=fp8", "--run.overwrite=perhaps"], ["'fp16', 'bf16' or 'fp32'", "valid boolean"]),
        (
            ["data", "check", ".", "--data.invalid_boxes=mend", "--data.format=docx"],
            ["'none', 'clamp' or 'drop'", "'funsd', 'u"],
        ),
        (["predict", ".", "--model", ".", "--data.invalid_boxes=mend"], ["'none', 'clamp', 'drop'"]),
        (["evaluate", ".", "--model", ".", "--device=tpu"], ["'auto', 'cpu', 'cuda'"]),
    ],
)
def test_what_is_none_of_the_choices_is_answered_with_them(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    for text in said:
        assert text in err


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("null", "does not take the model description in its config.json"),
        ('{"model_type": "bert", "hidden_size": "768"}', "does not take hidden_size = '768' in its config.json"),
        ('{"model_type": "bert", "hidden_size": -8}', "its config.json describes no network: Trying to create tensor"),
        ('{"model_type": "bert", "num_attention_heads": 7}', "its config.json describes no network: The hidden size"),
    ],
)
def test_a_config_json_of_no_network(
    config: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(config)
    base = ["config", "plan", "--config", "demo", "--world-size", "1", "--windows", "20"]
    code, _, err = call(capsys, *base, "--model.name_or_path", tmp_path)
    assert (code, said in err) == (2, True), err
