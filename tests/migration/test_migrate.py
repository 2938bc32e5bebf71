"""`layoutner config migrate`: every option of the old scripts, the arithmetic, the mistakes; real lines that run."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler

from layoutner.documents import splits as data_splits
from layoutner.documents.roles import Corpus, read_corpus
from layoutner.errors import DataError, SettingsError
from layoutner.migration import old_run
from layoutner.migration.migrate import IF_GIVEN, migrate
from layoutner.migration.migrated import Migrated, Outcome
from layoutner.migration.old_script import OPTIONS, PREPROCESS, TRAIN
from layoutner.planning.batch_plan import plan_batch
from layoutner.settings.tree import load
from tests.builders.processes import HANGS_S, ROOT, call, free_port

REQUIRED = ["--data_dir", "data", "--model_type", "layoutlm", "--model_name_or_path", "base", "--output_dir", "a/out"]
BASE = ["python", TRAIN, *REQUIRED]
TRAINING, SCORING = [*BASE, "--do_train"], [*BASE, "--do_eval"]
LAUNCH = ["python", "-m", "torch.distributed.launch", "--nproc_per_node=4"]
CUDA = "CUDA_VISIBLE_DEVICES=2,3"
PAGE = ROOT / "docs" / "run_seq_labeling" / "options.md"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def old_data(folder: Path, pieces: int, splits: tuple[str, ...] = ("train", "test"), tag: str = "S-A") -> None:
    """A data folder with so many pages of a piece a split; those of dev are those of test."""
    folder.mkdir()
    for split in splits:
        first = 0 if split == "train" else 500
        old_pages(folder, split, range(first, first + pieces), tag)


def old_pages(folder: Path, split: str, numbers: Iterable[int], tag: str = "S-A") -> None:
    """The files of a split, with pages that their numbers tell apart."""
    rows = [
        [(f"{word}\t{its}", f"{word}\t{n} 0 999 9", f"{n}.png") for word, its in ((f"w{n}", tag), ("x", "O"))]
        for n in numbers
    ]
    for kind, lines in (
        ("", [text for page in rows for text in (*(row[0] for row in page), "")]),
        ("_box", [text for page in rows for text in (*(row[1] for row in page), "")]),
        ("_image", [text for page in rows for text in (*(f"{row[1]}\t800 900\t{row[2]}" for row in page), "")]),
    ):
        (folder / f"{split}{kind}.txt").write_text("".join(f"{line}\n" for line in lines))


def corpus(made: Migrated) -> Corpus:
    """What layoutner reads by the settings."""
    loaded(made)
    return read_corpus(load("settings.toml", {}).data, 42)


def fate(made: Migrated, option: str, script: str = TRAIN) -> Outcome:
    at = list(OPTIONS[script]).index(option)
    return made.report[at + len(OPTIONS[TRAIN]) * (script == PREPROCESS)]


def loaded(made: Migrated) -> dict[str, Any]:
    """The TOML as layoutner reads it, "section.key" -> value, of what it says; nothing is changed on the way."""
    Path("settings.toml").write_text(made.toml(), encoding="utf-8")
    said = tomllib.loads(made.toml())
    tree = load("settings.toml", {}).model_dump(mode="json")
    values = {f"{section}.{key}": value for section, keys in said.items() for key, value in keys.items()}
    assert said == made.settings
    assert {name: str(Path(str(value))) for name, value in values.items()} == {
        name: str(Path(str(tree[name.partition(".")[0]][name.partition(".")[2]]))) for name in values
    }
    return values


# (option, more words, what became of it, settings that follow, part of the report's line); None = no such setting.
CASES: list[tuple[str, list[str], str, dict[str, Any], str]] = [
    ("data_dir", [], "kept", {"data.format": "unilm", "data.train": "data", "data.test": None}, "as it is"),
    ("data_dir", ["--do_eval"], "kept", {"data.train": "data", "data.test": "data"}, "data.test = data"),
    ("model_type", ["--model_type", "RoBERTa"], "kept", {"model.family": "roberta"}, "model.family = roberta"),
    ("model_type", ["--model_type", "bert"], "kept", {"model.family": "bert"}, ""),
    ("model_name_or_path", [], "kept", {"model.name_or_path": "base"}, "model.name_or_path = base"),
    ("model_name_or_path", ["--model_name_or_path", "x/m.ckpt"], "dropped", {"model.name_or_path": None}, "from_tf"),
    (
        "output_dir",
        [],
        "kept",
        {"run.output_dir": "a/out", "tensorboard.enabled": None, "tensorboard.dir": None},
        "tensorboard.enabled = true writes them to a/out/tensorboard (pip install 'layoutner[tensorboard]')",
    ),
    ("output_dir", ["--output_dir", "a/out/"], "kept", {"run.output_dir": "a/out/"}, "to a/out/tensorboard (pip"),
    ("labels", [], "default", {"data.labels": None, "data.scheme": "BIOES"}, "else of preprocess.py"),
    ("labels", ["--labels", "l.txt"], "kept", {"data.labels": "l.txt", "data.scheme": "BIOES"}, ""),
    ("config_name", ["--config_name", "other"], "dropped", {}, "the pretrained model's own is used"),
    ("tokenizer_name", ["--tokenizer_name", "other"], "dropped", {}, "change the file in a copy of it"),
    ("cache_dir", ["--cache_dir", "/a b"], "replaced", {}, "HF_HUB_CACHE='/a b'"),
    ("max_seq_length", [], "default", {"data.max_length": 512, "data.stride": 0}, "no overlap; data.stride = 128"),
    ("max_seq_length", ["--max_seq_length", "64"], "kept", {"data.max_length": 64}, "cut off after 64 sub-words"),
    ("do_train", [], "replaced", {"data.train": "data"}, "`layoutner train`"),
    ("do_eval", [], "not given", {"data.test": None}, ""),
    ("do_eval", ["--do_eval"], "kept", {"data.test": "data", "run.predictions": None}, "scores.json"),
    ("do_predict", ["--do_predict"], "kept", {"data.test": "data", "run.predictions": "unilm"}, "test_predictions.txt"),
    ("evaluate_during_training", [], "not given", {"data.eval": None, "run.eval_every": None}, ""),
    (
        "evaluate_during_training",
        ["--evaluate_during_training", "--logging_steps", "7"],
        "kept",
        {"data.eval": "data", "run.eval_every": 7},
        "the best checkpoint is exported",
    ),
    (
        "evaluate_during_training",
        ["--evaluate_during_training", "--logging_steps", "0"],
        "dropped",
        {"data.eval": None, "run.eval_every": None},
        "at logging steps",
    ),
    ("do_lower_case", ["--do_lower_case"], "replaced", {}, "it is saved with the model"),
    ("do_lower_case", [], "default", {}, "if this tokenizer lower-cases, sub-words differ"),
    ("do_lower_case", ["--model_name_or_path", "b-cased"], "not given", {}, ""),
    ("do_lower_case", ["--model_name_or_path", "bert-base-uncased"], "default", {}, "become [UNK]"),
    ("do_lower_case", ["--model_name_or_path", "b-cased", "--do_lower_case"], "replaced", {}, "here words keep their"),
    (
        "per_gpu_train_batch_size",
        ["--per_gpu_train_batch_size", "3"],
        "kept",
        {"batch.micro_batch_size": 3, "batch.global_batch_size": 3},
        "micro-batch of 3 x 1 GPU(s) per process x 1 process(es) x 1 gradient accumulation step(s)",
    ),
    (
        "per_gpu_eval_batch_size",
        ["--per_gpu_eval_batch_size", "3"],
        "dropped",
        {"batch.micro_batch_size": 8},
        "_size 3: evaluation during training uses batch.micro_batch_size; scores do not depend on it",
    ),
    (
        "gradient_accumulation_steps",
        ["--gradient_accumulation_steps", "5"],
        "kept",
        {"batch.micro_batch_size": 8, "batch.global_batch_size": 40},
        "batch.global_batch_size = 40",
    ),
    ("learning_rate", ["--learning_rate", "3e-4"], "kept", {"optimizer.lr": 3e-4}, "optimizer.lr = 0.0003"),
    ("learning_rate", [], "default", {"optimizer.lr": 5e-5}, "--learning_rate 5e-05 -> optimizer.lr = 5e-05"),
    ("weight_decay", [], "default", {"optimizer.weight_decay": 0.0}, "--weight_decay 0.0 ->"),
    ("weight_decay", ["--weight_decay", "0.01"], "kept", {"optimizer.weight_decay": 0.01}, ""),
    ("adam_epsilon", ["--adam_epsilon", "1e-6"], "kept", {"optimizer.eps": 1e-6}, ""),
    ("max_grad_norm", ["--max_grad_norm", "0.5"], "kept", {"optimizer.max_grad_norm": 0.5}, ""),
    ("max_grad_norm", ["--max_grad_norm", "0"], "kept", {"optimizer.max_grad_norm": 0.0}, "nothing was learnt"),
    ("num_train_epochs", [], "default", {"schedule.epochs": 3, "schedule.max_steps": None}, ""),
    ("num_train_epochs", ["--num_train_epochs", "2.7"], "kept", {"schedule.epochs": 2}, "rounded down"),
    ("num_train_epochs", ["--max_steps", "9"], "not given", {"schedule.epochs": None}, ""),
    (
        "num_train_epochs",
        ["--num_train_epochs", "7", "--max_steps", "9"],
        "dropped",
        {"schedule.epochs": None},
        "is used instead",
    ),
    ("max_steps", ["--max_steps", "9"], "kept", {"schedule.max_steps": 9}, "one more step, at learning rate 0"),
    ("max_steps", ["--max_steps", "-1"], "dropped", {"schedule.max_steps": None}, "the number of epochs is used"),
    ("warmup_steps", ["--warmup_steps", "11"], "kept", {"schedule.warmup_steps": 11}, ""),
    ("logging_steps", [], "default", {"run.log_every": 50}, ""),
    ("logging_steps", ["--logging_steps", "-1"], "kept", {"run.log_every": 0}, "never"),
    ("save_steps", [], "default", {"run.save_every": 50, "run.keep_checkpoints": 0}, "all checkpoints are kept"),
    ("save_steps", ["--save_steps", "-1"], "kept", {"run.save_every": 0, "run.keep_checkpoints": None}, "at the end"),
    ("eval_all_checkpoints", ["--eval_all_checkpoints"], "dropped", {}, "with --do_eval"),
    ("eval_all_checkpoints", ["--eval_all_checkpoints", "--do_eval"], "replaced", {}, "evaluate --checkpoints"),
    ("no_cuda", [], "not given", {"run.device": None}, ""),
    ("no_cuda", ["--no_cuda"], "kept", {"run.device": "cpu"}, "run.device = cpu"),
    ("overwrite_output_dir", [], "not given", {"run.overwrite": None}, ""),
    ("overwrite_output_dir", ["--overwrite_output_dir"], "replaced", {"run.overwrite": None}, "`--run.overwrite true`"),
    ("overwrite_cache", ["--overwrite_cache"], "dropped", {}, "layoutner data build"),
    ("seed", ["--seed", "7"], "kept", {"run.seed": 7}, "run.seed = 7"),
    ("fp16", [], "default", {"precision.dtype": "fp32"}, "--fp16 (off) ->"),
    ("fp16", ["--fp16"], "kept", {"precision.dtype": "fp16"}, ""),
    ("fp16", ["--fp16", "--no_cuda"], "kept", {"precision.dtype": "fp32"}, "apex needs a GPU"),
    ("fp16_opt_level", ["--fp16", "--fp16_opt_level", "O0"], "replaced", {"precision.dtype": "fp32"}, "O0 is fp32"),
    ("fp16_opt_level", ["--fp16"], "default", {"precision.dtype": "fp16"}, "the whole network is cast"),
    ("fp16_opt_level", ["--fp16", "--fp16_opt_level", "O3"], "replaced", {"precision.dtype": "fp16"}, "at every level"),
    ("fp16_opt_level", ["--fp16_opt_level", "O2"], "dropped", {"precision.dtype": "fp32"}, "only with --fp16"),
    ("local_rank", [], "not given", {}, ""),
    ("local_rank", ["--local_rank", "0"], "replaced", {"batch.global_batch_size": 8}, "LOCAL_RANK"),
    ("server_ip", ["--server_ip", "1.2.3.4", "--server_port", "5"], "replaced", {}, "debugpy --listen 1.2.3.4:5"),
    ("server_port", ["--server_ip", "1.2.3.4", "--server_port", "5"], "replaced", {}, "debugpy --listen 1.2.3.4:5"),
    ("server_port", ["--server_port", "5"], "dropped", {}, "with the other one"),
]


@pytest.mark.parametrize(
    ("option", "words", "what", "settings", "part"), CASES, ids=[" ".join([case[0], *case[1]]) for case in CASES]
)
def test_an_option_becomes(option: str, words: list[str], what: str, settings: dict[str, Any], part: str) -> None:
    made = migrate([*TRAINING, *words])
    its = fate(made, option)
    assert (its.what, its.option.split()[0]) == (what, f"--{option}")
    assert part in str(its)
    values = loaded(made)
    assert {name: values.get(name) for name in settings} == settings


# Without training: the options that say something, and the command that they go into.
INFERENCE: list[tuple[str, list[str], str, str]] = [
    ("do_eval", [], "replaced", "--output-format unilm --model a/out/export --output a/out/eval_results.txt"),
    ("do_predict", ["--do_predict"], "replaced", "unilm --model a/out/export --output a/out/test_predictions.txt"),
    ("eval_all_checkpoints", ["--eval_all_checkpoints"], "replaced", "unilm --checkpoints a/out --output a/out/eval"),
    ("data_dir", ["--data_dir", "d d"], "replaced", "layoutner evaluate --input 'd d' --data.format unilm --batch 8"),
    ("per_gpu_eval_batch_size", ["--per_gpu_eval_batch_size", "3"], "replaced", "--batch 3"),
    ("no_cuda", ["--no_cuda"], "replaced", "--device cpu"),
    ("cache_dir", ["--cache_dir", "/c"], "replaced", "HF_HUB_CACHE=/c layoutner evaluate"),
    ("output_dir", ["--output_dir", "b b"], "replaced", "--model 'b b/export'"),
]


@pytest.mark.parametrize(("option", "words", "what", "part"), INFERENCE, ids=[case[0] for case in INFERENCE])
def test_an_option_without_training(option: str, words: list[str], what: str, part: str) -> None:
    made = migrate([*SCORING, *words])
    assert fate(made, option).what == what
    assert part in "\n".join(made.commands)
    assert loaded(made) == {}
    assert [line for line in made.toml().splitlines() if not line.startswith("#")] == []
    assert "migrate its training command first" in made.toml()


def test_without_training_what_only_training_reads_is_dropped_where_it_was_given() -> None:
    made = migrate([*SCORING, "--seed", "3", "--fp16"])
    said = {name: (fate(made, name).what, fate(made, name).why) for name in ("learning_rate", "fp16", "seed")}
    reads = ("dropped", "only training uses it")
    idle = ("not given", "if given, dropped: only training uses it")
    assert said == {"learning_rate": idle, "fp16": reads, "seed": reads}


def test_the_files_of_the_old_script_come_from_as_few_commands_as_can_be() -> None:
    at = "--input data --data.format unilm --batch 8 --output-format unilm"
    model = "--model a/out/export --output a/out"
    predicting = [
        f"layoutner evaluate {at} {model}/test_results.txt",
        f"layoutner predict {at} {model}/test_predictions.txt",
    ]
    every = f"layoutner evaluate {at} --checkpoints a/out --output a/out/eval_results.txt"
    train = "layoutner train --config settings.toml"
    assert migrate([*BASE, "--do_predict"]).commands == predicting
    assert migrate([*SCORING, "--do_predict"]).commands == [
        f"layoutner evaluate {at} {model}/eval_results.txt",
        *predicting,
    ]
    assert migrate([*SCORING, "--do_predict", "--eval_all_checkpoints"]).commands == [every, *predicting]
    assert migrate([*TRAINING, "--do_eval", "--do_predict"]).commands == [train]
    again = migrate([*TRAINING, "--overwrite_output_dir", "--do_predict"])
    assert again.commands == [f"{train} --run.overwrite true"]
    both = migrate([*TRAINING, "--do_eval", "--eval_all_checkpoints"]).commands
    assert both == [train, every.replace(" --batch 8", "")]


PREPROCESSING: list[tuple[str, str, str, dict[str, Any], str]] = [
    ("data_dir", "forms/training_data/annotations", "replaced", {"data.train": "forms"}, "--data.train forms"),
    ("data_split", "test", "dropped", {"data.test": "data/training_data", "data.train": None}, "name the folder"),
    ("output_dir", "elsewhere", "dropped", {"data.format": "funsd", "run.output_dir": None}, "no preprocessed files"),
    ("model_name_or_path", "roberta-base", "dropped", {"model.name_or_path": None}, "the model's own tokenizer"),
    ("max_len", "254", "replaced", {"data.max_length": 256, "data.stride": 0}, "data.max_length = 256"),
]


@pytest.mark.parametrize(
    ("option", "value", "what", "settings", "part"), PREPROCESSING, ids=[f"preprocess-{c[0]}" for c in PREPROCESSING]
)
def test_an_option_of_preprocess(option: str, value: str, what: str, settings: dict[str, Any], part: str) -> None:
    made = migrate(["python", "preprocess.py", f"--{option}", value])
    assert len(made.report) == 5
    made.report = [*[Outcome("", "", "", "")] * len(OPTIONS[TRAIN]), *made.report]
    its = fate(made, option, PREPROCESS)
    assert (its.what, its.option) == (what, f"{PREPROCESS} --{option} {value}")
    assert part in str(its)
    values = loaded(made)
    assert {name: values.get(name) for name in settings} == settings
    assert "--model.name_or_path NAME --schedule.epochs N" in made.toml()


# The folder and --data_split of each command; settings of [data].
HALVES: list[tuple[list[tuple[str, str]], dict[str, str]]] = [
    ([("training_data", "train"), ("testing_data", "test")], {"train": "fdata", "test": "fdata"}),
    ([("testing_data", "train")], {"train": "fdata/testing_data"}),
    ([("training_data", "test")], {"test": "fdata/training_data"}),
    ([("training_data", "train"), ("testing_data", "dev")], {"train": "fdata", "eval": "fdata/testing_data"}),
    (
        [("training_data", "train"), ("testing_data", "dev"), ("testing_data", "test")],
        {"train": "fdata", "test": "fdata", "selection_split": "test"},
    ),
]


@pytest.mark.parametrize(("halves", "settings"), HALVES, ids=[" ".join(sum(halves, ())) for halves, _ in HALVES])
def test_the_halves_of_funsd_keep_the_roles_that_preprocess_gave_them(
    halves: list[tuple[str, str]], settings: dict[str, str], forms: Path
) -> None:
    Path("fdata").symlink_to(forms)
    lines = [f"python {PREPROCESS} --data_dir fdata/{half}/annotations/ --data_split {role}" for half, role in halves]
    made = migrate(["\n".join(lines)])
    rest = {"format": "funsd", "scheme": "BIOES", "max_length": 512, "stride": 0}
    assert made.settings == {"data": {**settings, **rest}}
    assert f"--data.format funsd {' '.join(f'--data.{key} {value}' for key, value in settings.items())}:" in "".join(
        f"{its}:" for its in made.report
    )
    missing = "train" not in settings
    assert (" --data.train DIR " in made.commands[0]) == missing
    if not missing:
        read = corpus(made)
        found = {"train": read.train, "dev": read.eval, "test": read.test}
        pages = {"training_data": 24, "testing_data": 8}
        assert {role: len(found[role]) for _, role in halves} == {role: pages[half] for half, role in halves}


def test_a_split_that_the_old_trainer_never_read_is_said() -> None:
    line = f"python {PREPROCESS} --data_split valid"
    with pytest.raises(
        SettingsError, match="--data_split valid: run_seq_labeling.py reads only train, dev and test; give"
    ):
        migrate([line])
    assert any(note.startswith("--data_split valid: ") for note in migrate([f"{line}; {shlex.join(TRAINING)}"]).notes)


def test_every_option_has_a_case_and_a_line_of_the_report() -> None:
    assert [len(OPTIONS[script]) for script in (TRAIN, PREPROCESS)] == [36, 5]
    assert {case[0] for case in CASES} == set(OPTIONS[TRAIN])
    assert [case[0] for case in PREPROCESSING] == list(OPTIONS[PREPROCESS])
    lines = [f"--{option}" for option in OPTIONS[TRAIN]]
    lines += [f"{PREPROCESS} --{option}" for option in OPTIONS[PREPROCESS]]
    for words in (TRAINING, SCORING):
        report = migrate(words).report
        assert [re.sub(r"(--\w+).*", r"\1", its.option) for its in report] == lines
        assert {its.what for its in report} <= {"kept", "replaced", "dropped", "default", "not given"}


# Options that change something beside another one alone.
PARTNERS = {
    "eval_all_checkpoints": ["--do_eval"],
    "fp16_opt_level": ["--fp16"],
    "server_ip": ["--server_port", "5"],
    "server_port": ["--server_ip", "5"],
}


# What such an option becomes.
HOMES = ["data.test", "data.eval", "run.eval_every", "run.predictions", "schedule.max_steps", "run.device"]
HOMES += ["precision.dtype", "--run.overwrite true", "--device cpu", "`layoutner train`", "`layoutner predict`"]
HOMES += ["`layoutner evaluate", "--checkpoints", "tokenizer", "HF_HUB_CACHE", "LOCAL_RANK", "`python -m debugpy"]


@pytest.mark.parametrize(
    "words",
    [
        TRAINING,
        [*TRAINING, "--do_eval", "--max_steps", "9"],
        [*TRAINING, "--model_name_or_path", "b-cased"],
        [*LAUNCH, TRAIN, *REQUIRED, "--do_train"],
        SCORING,
        [*BASE, "--do_predict"],
    ],
    ids=["train", "train and evaluate", "cased", "launched", "evaluate", "predict"],
)
def test_of_an_option_that_was_not_given_stands_what_becomes_of_it_where_it_is(words: list[str]) -> None:
    idle = [its for its in migrate(words).report[:36] if its.what == "not given"]
    assert len(idle) > 10
    for its in idle:
        option = its.option.removeprefix("--")
        default = OPTIONS[TRAIN][option]
        value = [] if default is False else ["O1"] if default == "O1" else ["7"]
        its_own = fate(migrate([*words, *PARTNERS.get(option, []), its.option, *value]), option)
        if its_own.what == "dropped":
            assert its.why == f"if given, dropped: {its_own.why}"
            continue
        homes = [[home for home in HOMES if home in text] for text in (its.why, its_own.became)]
        assert (its.why.split()[2], homes[0]) == (its_own.what, homes[1] or "one of HOMES"), (its, its_own)


def names(text: str) -> set[str]:
    """Settings, commands, options and variables that a line of the report names."""
    found = re.findall(r"[a-z]+\.[a-z]\w+|layoutner [a-z]+|--[a-z.]+(?: true| cpu)?|[A-Z_]{5,}|debugpy|tokenizer", text)
    return set(found) - {"--listen", "--wait", "--do"}


@pytest.mark.parametrize("trains", [True, False], ids=["train", "no train"])
@pytest.mark.parametrize("option", IF_GIVEN)
def test_what_an_option_would_become_is_what_it_becomes(option: str, trains: bool) -> None:
    instead = IF_GIVEN[option][not trains]
    if not instead or (option == "do_train" and trains):
        return  # its rule says it
    without = [*BASE, "--do_predict"] if option == "do_eval" else SCORING
    before = LAUNCH if option == "local_rank" else ["python"]
    words = [*before, *(TRAINING if trains or option == "do_train" else without)[1:], *PARTNERS.get(option, [])]
    value = [] if OPTIONS[TRAIN][option] is False else ["O1"] if option == "fp16_opt_level" else ["7"]
    made = fate(migrate([*words, f"--{option}", *value]), option)
    assert made.what == instead.split()[0]
    said = instead.partition(", ")[0] if instead.endswith(("--do_eval", "--fp16")) else instead
    assert names(said) == names(made.became.replace("7", "")) != set(), (instead, made)


# How a line may be written.

PLAIN = ["--seed", "7", "--num_train_epochs", "100.0", "--save_steps", "-1", "--fp16"]
FORMS = {
    "options alone": [*REQUIRED, "--do_train", *PLAIN],
    "script": [TRAIN, *REQUIRED, "--do_train", *PLAIN],
    "a path and -u": ["python3.8", "-u", f"some/where/{TRAIN}", *REQUIRED, "--do_train", *PLAIN],
    "a module": ["python", "-m", "examples.seq_labeling.run_seq_labeling", *REQUIRED, "--do_train", *PLAIN],
    "equals signs": [*TRAINING, "--seed=7", "--num_train_epochs=100.0", "--save_steps=-1", "--fp16"],
    "abbreviations": [*TRAINING, "--see", "7", "--num", "100.0", "--sa=-1", "--fp16"],
    "the last of two": [*TRAINING, "--seed", "1", *PLAIN],
    "one text": [shlex.join([*TRAINING, *PLAIN])],
    "a script": [
        "#!/bin/bash\n# doesn't test\ncd $HOME && mkdir -p out #\r\n"
        f"nohup python {TRAIN} \\  \r\n  {shlex.join(REQUIRED)} --do_train \\\n  --seed 7 --num_train_epochs 100.0 "
        "--save_steps -1 --fp16 > 'log file' 2>&1 &  # in the background\n"
    ],
    "a notebook": [f"!python {TRAIN} {shlex.join(REQUIRED)} --do_train {shlex.join(PLAIN)} | tee log"],
    "behind a prompt": [f"$ {shlex.join([*TRAINING, *PLAIN])}"],
    "a path of Windows": [f"C:\\\\Python38\\\\python.exe {shlex.join([*TRAINING, *PLAIN][1:])}"],
    "options of python": [f"python -W ignore -X dev {shlex.join([*TRAINING, *PLAIN][1:])}"],
    "with an input": [f"{shlex.join([*TRAINING, *PLAIN])} < /dev/null"],
}


@pytest.mark.parametrize("words", FORMS.values(), ids=FORMS)
def test_however_it_is_written(words: list[str]) -> None:
    made = migrate(words)
    assert made.settings == migrate([*TRAINING, *PLAIN]).settings
    assert loaded(made) | {"run.seed": 7, "schedule.epochs": 100, "run.save_every": 0} == loaded(made)
    assert made.commands == ["layoutner train --config settings.toml"]


def test_what_is_not_read_is_named() -> None:
    others = {"a script": ["cd '$HOME'", "mkdir -p out"], "a notebook": ["tee log"]}
    for name, words in FORMS.items():
        named = [note for note in migrate(words).notes if note.startswith("not read")]
        assert named == [f"not read: {other}" for other in others.get(name, [])], name


def test_the_options_of_preprocess_alone() -> None:
    words = ["--data_split", "test", "--max_len", "254"]
    assert migrate(words).settings == migrate(["python", PREPROCESS, *words]).settings
    assert len(migrate(words).report) == len(OPTIONS[PREPROCESS])


def test_words_of_a_text_are_those_of_a_shell() -> None:
    text = (
        f"time {shlex.join(BASE)} --do_train --labels ~/l.txt --cache_dir 'a #b'/c#d --config_name \"\" 2>log&& ls; ls"
    )
    made = migrate([text])
    assert made.settings["data"]["labels"] == os.path.expanduser("~/l.txt")
    assert made.commands == ["HF_HUB_CACHE='a #b/c#d' layoutner train --config settings.toml"]
    assert [note for note in made.notes if note.startswith("not read")] == ["not read: ls"] * 2


# (words before the script, --gpus, a process' GPUs x processes, how it is started)
STARTS: dict[str, tuple[list[str], int | None, tuple[int, int], str]] = {
    "alone": (["python"], None, (1, 1), "layoutner"),
    "launch": (LAUNCH, None, (1, 4), "deepspeed --num_gpus 4 --module layoutner"),
    "launch on a port": (
        [*LAUNCH, "--master_port", "77", "--use_env"],
        None,
        (1, 4),
        "deepspeed --num_gpus 4 --master_port 77 --module layoutner",
    ),
    "launch, abbreviated": ([*LAUNCH[:3], "--nproc=4"], None, (1, 4), "deepspeed --num_gpus 4 --module layoutner"),
    "an environment": (
        ["A_B=c d", "RANK=0", "HF_HUB_CACHE=e", *LAUNCH],
        None,
        (1, 4),
        "A_B='c d' HF_HUB_CACHE=e deepspeed --num_gpus 4 --module layoutner",
    ),
    "an environment by env": (["env", "A=b", "python"], None, (1, 1), "A=b layoutner"),
    "torchrun": (["torchrun", "--nproc-per-node", "2"], None, (1, 2), "deepspeed --num_gpus 2 --module layoutner"),
    "torchrun with a switch": (
        ["torchrun", "--standalone", "--nproc_per_node=4"],
        None,
        (1, 4),
        "deepspeed --num_gpus 4 --module layoutner",
    ),
    "launch on devices": ([CUDA, *LAUNCH], None, (1, 4), f"{CUDA} torchrun --nproc-per-node 4 -m layoutner"),
    "nodes": (
        [*LAUNCH, "--nnodes", "2", "--node_rank=1", "--master_addr", "10.0.0.1", "--master_port", "77"],
        None,
        (1, 8),
        "torchrun --nproc-per-node 4 --master-port 77 --nnodes 2 --node-rank 1 --master-addr 10.0.0.1 -m layoutner",
    ),
    "nodes without an address": (
        [*LAUNCH, "--nnodes=2"],
        None,
        (1, 8),
        "torchrun --nproc-per-node 4 --nnodes 2 --node-rank 0 --master-addr ADDRESS -m layoutner",
    ),
    "DataParallel": ([CUDA, "python"], None, (2, 1), f"{CUDA} torchrun --nproc-per-node 2 -m layoutner"),
    "DataParallel by both": ([CUDA, "python"], 2, (2, 1), f"{CUDA} torchrun --nproc-per-node 2 -m layoutner"),
    "DataParallel by --gpus": (["python"], 3, (3, 1), "deepspeed --num_gpus 3 --module layoutner"),
    "devices before an invalid one": (
        ["CUDA_VISIBLE_DEVICES=0,1,-1,2", "python"],
        None,
        (2, 1),
        "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node 2 -m layoutner",
    ),
    "devices by name": (
        ["CUDA_VISIBLE_DEVICES=GPU-1a,GPU-2b", "python"],
        None,
        (2, 1),
        "CUDA_VISIBLE_DEVICES=GPU-1a,GPU-2b torchrun --nproc-per-node 2 -m layoutner",
    ),
    "one process by torchrun": (
        [CUDA, "torchrun", "--nproc_per_node=1"],
        None,
        (2, 1),
        f"{CUDA} torchrun --nproc-per-node 2 -m layoutner",
    ),
    "one device": (["CUDA_VISIBLE_DEVICES=5", "python"], None, (1, 1), "CUDA_VISIBLE_DEVICES=5 layoutner"),
    "no device": (["CUDA_VISIBLE_DEVICES=", "python"], None, (1, 1), "layoutner"),
    "no device, by a number": (["CUDA_VISIBLE_DEVICES=-1", "python"], None, (1, 1), "layoutner"),
    "no device, by --gpus": (["python"], 0, (1, 1), "layoutner"),
}


@pytest.mark.parametrize(("words", "gpus", "ranks", "start"), STARTS.values(), ids=STARTS)
def test_processes_and_gpus(words: list[str], gpus: int | None, ranks: tuple[int, int], start: str) -> None:
    sizes = ["--per_gpu_train_batch_size", "3", "--gradient_accumulation_steps", "5"]
    made = migrate([*words, TRAIN, *REQUIRED, "--do_train", *sizes], gpus)
    values = loaded(made)
    assert (values["batch.micro_batch_size"], values["batch.global_batch_size"]) == (3, 3 * ranks[0] * ranks[1] * 5)
    assert made.commands == [f"{start} train --config settings.toml"]
    arithmetic = f"micro-batch of 3 x {ranks[0]} GPU(s) per process x {ranks[1]} process(es)"
    arithmetic += " x 5 gradient accumulation step(s)"
    assert f"batch: {15 * ranks[0] * ranks[1]} windows per optimizer step = {arithmetic}" in made.notes
    none = gpus == 0 or bool({"CUDA_VISIBLE_DEVICES=", "CUDA_VISIBLE_DEVICES=-1"} & set(words))
    assert values.get("run.device") == ("cpu" if none else None)
    alone = any(note.startswith("processes: the old script makes a process group only with") for note in made.notes)
    assert alone == (ranks[1] > 1 and ("torchrun" in words or "--use_env" in words))
    assert ("GPUs: 1 per process, chosen by --local_rank" in made.notes) == (ranks[1] > 1 and not alone)


@pytest.mark.parametrize(
    ("words", "ranks", "start"),
    [
        # The variables of a launcher, set by hand.
        (["WORLD_SIZE=4", "RANK=0", "python", TRAIN, "--local_rank=0"], 4, "deepspeed --num_gpus 4"),
        (["torchrun", "--nproc_per_node=2", TRAIN, "--local_rank=0"], 2, "deepspeed --num_gpus 2"),
        ([*LAUNCH, TRAIN, "--no_cuda"], 4, "torchrun --nproc-per-node 4"),
    ],
)
def test_processes_that_the_old_script_joined(words: list[str], ranks: int, start: str) -> None:
    made = migrate([*words, *REQUIRED, "--do_train"])
    values = loaded(made)
    assert values["batch.global_batch_size"] == 8 * ranks
    assert values.get("run.device") == ("cpu" if "--no_cuda" in words else None)
    assert made.commands[0].startswith(start)
    assert not [note for note in made.notes if note.startswith("processes: ")]


def test_processes_that_the_old_script_did_not_join_each_went_through_all_pieces() -> None:
    old_data(Path("data"), 150)
    for before, gpus, batches in (([], "1 is assumed", "8) = 19"), ([CUDA], f"2, from {CUDA}", "16) = 10")):
        for launcher in (["torchrun", "--nproc_per_node=2"], [*LAUNCH[:3], "--nproc_per_node=2", "--use_env"]):
            notes = migrate([*before, *launcher, *TRAINING[1:]]).notes
            assert f"GPUs: each old process used all that it saw ({gpus}); here each process has one" in notes
            steps = int(batches[-2:])
            old = f"150 pieces in each process, ceil(150 / {batches} batches, {steps} // 1 = {steps} steps per epoch; "
            assert f"steps of the old script: {old}x 3 epochs = {3 * steps} steps" in notes[-2]
    assert "per process, ceil(75 / 8)" in migrate([*LAUNCH[:3], "--nproc_per_node=2", *TRAINING[1:]]).notes[-2]


@pytest.mark.parametrize(("processes", "devices", "fits"), [(4, "2,3", 2), (4, "0,1,2", 2), (3, "5,6", 1)])
def test_more_processes_than_gpus_are_said(processes: int, devices: str, fits: int) -> None:
    before = [f"CUDA_VISIBLE_DEVICES={devices}", *LAUNCH[:3], f"--nproc_per_node={processes}"]
    said = f"layoutner refuses more processes than GPUs: name {processes} GPUs, or give --nproc-per-node {fits} in the"
    made = migrate([*before, *TRAINING[1:]])
    (note,) = (note for note in made.notes if note.startswith("processes: "))
    assert said in note
    batch = made.settings["batch"]
    plan_batch(int(str(batch["global_batch_size"])), int(str(batch["micro_batch_size"])), world_size=fits)
    assert not any(said in note for note in migrate([*before, *SCORING[1:]]).notes)


def test_gpus_without_training_are_not_said_to_have_a_process_each() -> None:
    made = migrate(SCORING, gpus=3)
    assert made.commands[0].startswith("layoutner evaluate ")
    said = "GPUs: 3, from --gpus; one process used all of them (DataParallel), here the commands use one of them"
    assert said in made.notes
    assert any("here each has a process of its own" in note for note in migrate(TRAINING, gpus=3).notes)


@pytest.mark.parametrize(("words", "shape"), [([], "--gpus-per-node=4"), (["--no_cuda"], "--cpus-per-task=4")])
def test_nodes_are_asked_of_slurm_as_its_script_counts(words: list[str], shape: str) -> None:
    made = migrate([*LAUNCH, "--nnodes", "2", *TRAINING[1:], *words])
    assert f"  sbatch --nodes=2 {shape} slurm/train.sh --config settings.toml" in made.remarks
    assert "tasks=${SLURM_CPUS_PER_TASK:-1}" in (ROOT / "slurm" / "train.sh").read_text()


class Pieces(Dataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def old_steps(pieces: int, micro: int, gpus: int, processes: int, accumulation: int) -> int:
    """Steps of an old epoch, counted with the loader that the old script had."""
    data = Pieces(pieces)
    sampler: RandomSampler | DistributedSampler[int] = RandomSampler(data)
    if processes > 1:
        sampler = DistributedSampler(data, num_replicas=processes, rank=0)
    forwards = list(DataLoader(data, sampler=sampler, batch_size=micro * gpus))
    return sum((step + 1) % accumulation == 0 for step in range(len(forwards)))


@pytest.mark.parametrize(
    ("pieces", "micro", "gpus", "processes", "accumulation"),
    [(150, 16, 1, 1, 1), (150, 16, 1, 4, 1), (150, 8, 2, 1, 1), (7, 2, 1, 3, 1), (33, 2, 1, 1, 3), (9, 2, 1, 2, 2)],
)
def test_steps_are_counted_as_the_old_loader_counts(
    pieces: int, micro: int, gpus: int, processes: int, accumulation: int
) -> None:
    old_data(Path("data"), pieces)
    words = ["--per_gpu_train_batch_size", str(micro), "--gradient_accumulation_steps", str(accumulation)]
    before = ["python", "-m", "torch.distributed.launch", f"--nproc_per_node={processes}"] if processes > 1 else []
    given = None if processes > 1 else gpus
    made = migrate([*before, TRAIN, *REQUIRED, "--do_train", "--num_train_epochs", "10.9", *words], given)
    old, new = (next(note for note in made.notes if note.startswith(f"steps {who}")) for who in ("of the old", "here"))
    steps = old_steps(pieces, micro, gpus, processes, accumulation)
    assert f" = {steps} steps per epoch; x 10 epochs = {steps * 10} steps" in old
    mine = len(range(0, pieces, micro * gpus * processes * accumulation))
    assert f" = {mine} steps per epoch; x 10 epochs = {mine * 10} steps" in new
    lost = len(range(0, len(range(0, pieces, processes)), micro * gpus)) % accumulation
    assert (f"last {lost} batch(es) was added to the next epoch's first step" in old) == (lost > 0)


def test_steps_by_max_steps_and_none_at_all() -> None:
    old_data(Path("data"), 20)
    notes = "\n".join(migrate([*TRAINING, "--max_steps", "30"]).notes)
    assert "max_steps + 1 = 31 steps" in notes
    assert "ceil(20 / 8) = 3 steps per epoch; 30 steps" in notes
    notes = "\n".join(migrate([*TRAINING, "--gradient_accumulation_steps", "4"]).notes)
    none = "3 // 4 = 0 steps per epoch; no step at all, and a division by zero"
    assert f"{none} after the last epoch, before the model was saved" in notes
    notes = "\n".join(migrate([*TRAINING, "--gradient_accumulation_steps", "4", "--max_steps", "30"]).notes)
    assert f"{none} before the first epoch" in notes
    notes = "\n".join(migrate([*TRAINING, "--warmup_steps", "10"]).notes)
    assert "--warmup_steps 10 is more than that, which layoutner refuses" in notes
    assert "which layoutner refuses" not in "".join(migrate([*TRAINING, "--warmup_steps", "9"]).notes)
    values = loaded(migrate([*TRAINING, "--max_steps", "4", "--warmup_steps", "4"]))
    assert (values["schedule.max_steps"], values["schedule.warmup_steps"]) == (4, 4)


# What is looked for in the data folder.


def test_pieces_are_counted_as_the_old_reader_counts() -> None:
    old_data(Path("data"), 0)
    Path("data/train.txt").write_text("\n\na\tO\nb\tO\n\n\n-DOCSTART- x\nc\tO\n\nd\tI-A\n")
    notes = migrate(TRAINING).notes
    assert "data: data: train.txt has 3 pieces, no dev.txt, test.txt has 0 pieces" in notes
    Path("data/train.txt").write_bytes("Straße\tO\n\n".encode("latin-1"))
    assert any("train.txt has 1 pieces" in note for note in migrate(TRAINING).notes)


@pytest.mark.parametrize(
    ("labels", "tag", "scheme"),
    [
        ("B-A\nI-A\nO\n", "S-A", "BIO"),
        ("B-A\nE-A\nO\n", "B-A", "BIOES"),
        ("B-A\nS-A\nO\n", "B-A", "BIOES"),
        (None, "S-A", "BIOES"),
        (None, "E-A", "BIOES"),
        (None, "I-A", "BIO"),
    ],
)
def test_the_scheme_is_that_of_the_labels_else_of_the_words(labels: str | None, tag: str, scheme: str) -> None:
    old_data(Path("data"), 2, tag=tag)
    if labels:
        Path("data/labels.txt").write_text(labels)
    for words in ([], ["--labels", "data/labels.txt"]):
        assert loaded(migrate([*TRAINING, *words]))["data.scheme"] == scheme


def test_without_dev_files_a_tenth_is_taken_where_that_can_be_seen() -> None:
    words = [*TRAINING, "--evaluate_during_training"]
    assert loaded(migrate(words))["data.eval"] == "data"
    old_data(Path("data"), 26)
    made = migrate(words)
    assert loaded(made)["data.eval"] == 0.1
    assert "26 pieces without the tenth for data.eval: ceil(23 / 8) = 3 steps per epoch" in made.notes[-1]
    assert len(corpus(made).train) == 23
    (Path("data") / "dev.txt").write_text("a\tO\n")
    assert loaded(migrate(words))["data.eval"] == "data"


def test_dev_files_that_are_the_test_files_choose_as_test_pages() -> None:
    words = [*TRAINING, "--evaluate_during_training"]
    old_data(Path("data"), 20, ("train", "dev", "test"))
    made = migrate(words)
    values = loaded(made)
    chosen = (values.get("data.eval"), values["data.selection_split"], values["data.test"], values["run.eval_every"])
    assert chosen == (None, "test", "data", 50)
    assert "dev.txt has the same pages as test.txt" in fate(made, "evaluate_during_training").why
    old_pages(Path("data"), "dev", [300])
    values = loaded(migrate(words))
    assert (values["data.eval"], values.get("data.selection_split"), values.get("data.test")) == ("data", None, None)


@pytest.mark.parametrize(
    ("dev", "test", "refused"),
    [
        (range(500, 506), range(500, 512), "6 of 6"),  # half of the test pages
        (range(500, 512), range(500, 506), "6 of 12"),
        ([300, 301, 500, 501], range(500, 560), "2 of 4"),
        ([500, *range(300, 305)], range(500, 506), ""),  # one is an accident
        ([*range(500, 503), *range(300, 330)], range(500, 530), ""),  # a tenth is, too
    ],
)
def test_pages_of_dev_that_are_test_pages_are_said_where_training_refuses_them(
    dev: Iterable[int], test: Iterable[int], refused: str
) -> None:
    old_data(Path("data"), 20)
    old_pages(Path("data"), "test", test)
    old_pages(Path("data"), "dev", dev)
    words = [*TRAINING, "--evaluate_during_training"]
    made = migrate([*words, "--do_eval"])
    assert made.settings["data"]["eval"] == "data"
    said = [remark for remark in made.remarks if remark.endswith(f" {refused} pages of dev.txt are pages of test.txt.")]
    assert len(said) == bool(refused)
    if refused:
        with pytest.raises(DataError, match=f"{refused} pages of data.eval are pages of data.test"):
            corpus(made)
        assert "Remove them from dev.txt, or set data.eval = 0.1" in made.toml()
        made.settings["data"]["eval"] = 0.1
    corpus(made)
    assert migrate(words).remarks == []  # without data.test nothing is refused
    assert old_run.ACCIDENT == data_splits.ACCIDENT


def test_dev_pages_that_are_all_test_pages_need_not_be_a_copy_of_the_file() -> None:
    old_data(Path("data"), 20)
    old_pages(Path("data"), "dev", reversed(range(500, 520)))
    with open("data/dev.txt", "a") as file:
        file.write("\n")
    made = migrate([*TRAINING, "--evaluate_during_training", "--do_eval"])
    assert (made.settings["data"]["selection_split"], made.remarks) == ("test", [])
    assert "eval" not in made.settings["data"]
    assert len(corpus(made).eval) == 20


def test_pages_of_another_size_under_one_name_are_pages_as_layoutner_counts_them() -> None:
    old_data(Path("data"), 20, ("train", "dev", "test"))
    for split in ("dev", "test"):
        file = Path("data") / f"{split}_image.txt"
        lines = [re.sub(r"\d+\.png", "contract.pdf", line) for line in file.read_text().splitlines(keepends=True)]
        # Two sizes by turns keep the 20 pages of test apart.
        other = "700 900" if split == "test" else "800 900"
        sizes = [other if number // 3 % 2 else "800 900" for number in range(len(lines))]
        lines = [line.replace("800 900", size) for line, size in zip(lines, sizes, strict=True)]
        file.write_text("".join(lines))
    made = migrate([*TRAINING, "--evaluate_during_training", "--do_eval"])
    # In dev all pages share name and size, and so are one page; it is none of the 20 of test.
    assert (made.settings["data"]["eval"], made.settings["data"].get("selection_split"), made.remarks) == (
        "data",
        None,
        [],
    )
    assert [len(documents) for documents in (corpus(made).eval, corpus(made).test)] == [1, 20]


def test_without_labels_those_of_the_folder_count_as_layoutner_takes_them() -> None:
    old_data(Path("data"), 2)
    said = "the labels come from data/labels.txt if it exists, else from the training pages; the old script failed"
    assert said in str(fate(migrate(TRAINING), "labels"))
    assert corpus(migrate(TRAINING)).labels.types == ("A",)
    Path("data/labels.txt").write_text("S-A\nS-B\n")
    made = migrate(TRAINING)
    assert "; the labels come from data/labels.txt; the old script failed without --labels" in str(fate(made, "labels"))
    assert corpus(made).labels.types == ("A", "B")


@pytest.mark.parametrize("lower", [True, False], ids=["lower", "as it is"])
def test_an_old_folder_without_the_files_of_a_tokenizer_lower_cases(lower: bool) -> None:
    from transformers import AutoTokenizer

    folder = Path("cased")
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nForm\nform\n")
    words = [*TRAINING, "--model_name_or_path", "cased", *["--do_lower_case"] * lower]
    its = fate(migrate(words), "do_lower_case")
    assert its.what == ("replaced" if lower else "default")
    assert its.why == (
        "cased has no tokenizer_config.json and no tokenizer.json, so the tokenizer lower-cases words (the old run "
        f'{"did" if lower else "did not"}); to keep capitals for a cased vocabulary, write {{"do_lower_case": false}} '
        "into cased/tokenizer_config.json"
    )
    assert AutoTokenizer.from_pretrained("cased").tokenize("Form") == ["form"]
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert AutoTokenizer.from_pretrained("cased").tokenize("Form") == ["Form"]
    assert "tokenizer_config.json" not in fate(migrate(words), "do_lower_case").why
    assert "has no" not in fate(migrate([*words, "--model_type", "roberta"]), "do_lower_case").why


@pytest.mark.parametrize(("name", "more"), [("roberta-base", []), ("b-cased", ["--do_lower_case"])])
def test_roberta_has_capitals_by_itself(name: str, more: list[str]) -> None:
    made = migrate([*TRAINING, "--model_type", "roberta", "--model_name_or_path", name, *more])
    assert "the old run" not in fate(made, "do_lower_case").why


def test_an_output_folder_with_something_in_it_is_noted() -> None:
    Path("a/out").mkdir(parents=True)
    assert [note for note in migrate(TRAINING).notes if note.startswith("output:")] == []
    Path("a/out/pytorch_model.bin").touch()

    def notes(*words: str) -> list[str]:
        return [note for note in migrate([*BASE, *words]).notes if note.startswith("output: a/out is not empty; ")]

    (note,) = notes("--do_train", "--do_eval", "--eval_all_checkpoints")
    others = "files of another trainer (a model, test_predictions.txt, test_results.txt): give another run.output_dir"
    assert note.endswith(f"; training is refused in a folder with an earlier run, or with {others}")
    (note,) = notes("--do_train", "--overwrite_output_dir")
    removes = "; --run.overwrite true removes only an earlier run of layoutner; training is refused in a folder"
    assert note.endswith(f"{removes} with {others}")
    assert notes("--do_eval", "--do_predict") == []
    for name in ("eval_results", "test_predictions", "test_results"):
        Path(f"a/out/{name}.txt").touch()
    said = [re.findall(r"`(.*)` overwrites (\S*):", note) for note in notes("--do_eval", "--do_predict")]
    assert said == [
        [("layoutner evaluate", "eval_results.txt")],
        [("layoutner evaluate", "test_results.txt")],
        [("layoutner predict", "test_predictions.txt")],
    ]
    _, note = notes("--do_train", "--do_eval", "--eval_all_checkpoints")
    assert "`layoutner evaluate` overwrites eval_results.txt: keep a copy" in note


def test_preprocess_beside_training_leaves_the_data_folder_as_it_stands() -> None:
    line = "python preprocess.py --data_split train && python preprocess.py --data_dir data/testing_data/annotations "
    line += f"--data_split test; {shlex.join(TRAINING)}"
    made = migrate([line])
    values = loaded(made)
    assert (values["data.format"], values["data.train"]) == ("unilm", "data")
    assert fate(made, "data_split", PREPROCESS).option == f"{PREPROCESS} --data_split train, --data_split test"
    assert (
        "`--data.format funsd --data.train data --data.test data` would read the annotations directly" in made.notes[-1]
    )
    assert len(made.made_from) == 3


def test_the_longest_pieces_of_several_preprocessings_count() -> None:
    lengths = {"test": 126, "train": 254, "dev": 100}
    lines = [f"python {PREPROCESS} --data_split {split} --max_len {length}" for split, length in lengths.items()]
    assert migrate([" && ".join(lines)]).settings["data"]["max_length"] == 256


# Mistakes.

MISTAKES: list[tuple[list[str], str]] = [
    (["--data-dir", "x"], "--data-dir: unknown option of run_seq_labeling.py; did you mean '--data_dir'?"),
    (["-fp16"], "-fp16: unknown option of run_seq_labeling.py; did you mean '--fp16'?"),
    (["--do"], "ambiguous option: --do could match --do_train, --do_eval, --do_predict, --do_lower_case"),
    (["--seed", "x"], "--seed x: give a whole number, such as 10"),
    (["--max_steps", "9" * 20], "--max_steps 9"),
    (["--seed", "4294967296"], "--seed 4294967296: give at most 4294967295"),
    (["--logging_steps", "99999999999"], "--logging_steps 99999999999: give at most 4294967295"),
    (["--output_dir", ""], "--output_dir '': is empty (an unset shell variable?); write the value"),
    (["--data_dir", " "], "--data_dir ' ': is empty"),
    (["--model_name_or_path="], "--model_name_or_path '': is empty"),
    (["--model_type", ""], "--model_type '': is empty"),
    (["--seed", ""], "--seed '': is empty"),
    (["--fp16_opt_level", ""], "--fp16_opt_level '': is empty"),
    (["--seed", "1.5"], "--seed 1.5: give a whole number"),
    (["--learning_rate", "fast"], "--learning_rate fast: give a number, such as 0.1"),
    (["--learning_rate", "nan"], "--learning_rate nan: not valid for optimizer.lr"),
    (["--learning_rate", "0"], "--learning_rate 0.0: not valid for optimizer.lr: input should be greater than 0"),
    (["--labels"], "argument --labels: expected one argument"),
    (["--labels", "--fp16"], "argument --labels: expected one argument"),
    (["--fp16=true"], "argument --fp16: a switch takes no value; leave out 'true'"),
    (["foo"], "foo: a value without an option"),
    (["--model_type", "layoutlmv2"], "--model_type layoutlmv2: unknown to the old script; did you mean 'layoutlm'?"),
    (["--max_seq_length", "4"], "--max_seq_length 4: not valid for data.max_length"),
    (["--num_train_epochs", "0.5"], "--num_train_epochs 0.5: the old script trained whole epochs only"),
    (["--num_train_epochs", "inf"], "--num_train_epochs inf: the old script"),
    (["--max_steps", "3", "--warmup_steps", "4"], "--warmup_steps 4: more than --max_steps 3"),
    (["--per_gpu_train_batch_size", "0"], "--per_gpu_train_batch_size 0: must be at least 1"),
    (["--per_gpu_eval_batch_size", "0"], "--per_gpu_eval_batch_size 0: must be at least 1"),
    (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps 0: must be at least 1"),
    (["--fp16_opt_level", "O4"], "--fp16_opt_level O4: unknown to the old script; did you mean 'O"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_said_with_what_to_do(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as found:
        migrate([*TRAINING, *words])
    assert str(found.value).startswith(f"the old command line cannot be migrated: {message}")
    assert "\n" not in str(found.value)  # said once


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{shlex.join(TRAINING)} --labels $LABELS"], "$LABELS: the value is not in the text. Write it, or put"),
        ([f"N=4\n{shlex.join(TRAINING)} --seed `cat x`"], "`cat, x`: the value is not in the text"),
        ([f"export {CUDA}\n{shlex.join(TRAINING)}"], f"export {CUDA}: write CUDA_VISIBLE_DEVICES=... before the"),
        (["deepspeed", "--num_gpus", "4", *TRAINING[1:]], "deepspeed: unknown before run_seq_labeling.py"),
        (["python", "-m", "accelerate.commands.launch", *TRAINING[1:]], "accelerate.commands.launch: unknown"),
        (
            ["mpirun", "-np", "4", *TRAINING],
            "remove `mpirun` and its options; for N processes write `torchrun --nproc_per_node=N run_seq_labeling.py ",
        ),
        ([f"srun -n 4 {shlex.join(TRAINING)}"], "for one process with N GPUs give --gpus N before the --"),
        ([*TRAINING, "--labels", "\udcff"], "the old command line is not UTF-8"),
        ([f"{shlex.join(TRAINING)} ; {shlex.join(SCORING)}"], "2 commands of run_seq_labeling.py"),
        ([f"{shlex.join(TRAINING)} --labels 'a b"], "a quote that is not closed: a b"),
        (
            ["torchrun", "--nprocs_per_node=4", *TRAINING[1:]],
            "--nprocs_per_node=4: unknown option of torchrun; did you",
        ),
        (["torchrun", "--no", *TRAINING[1:]], "--no: unknown option of torchrun; did you mean '--no"),
        ([*LAUNCH[:-1], "--nproc_per_node=gpu", *TRAINING[1:]], "--nproc_per_node gpu: write a number"),
        (["ls", "-l"], "no command of run_seq_labeling.py or preprocess.py found (not read: ls -l)"),
        (["python", "train.py", "--data_dir", "d"], "only its options if the script has another name"),
        (["python", PREPROCESS, "--max_len", "5"], "--max_len 5: must be at least 6"),
        (["python", PREPROCESS, "--data_dir", ""], "--data_dir '': is empty"),
        (BASE, "none of --do_train, --do_eval, --do_predict"),
    ],
)
def test_lines_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as found:
        migrate(words)
    assert message in str(found.value)


def test_the_advice_on_another_launcher_can_be_followed() -> None:
    with pytest.raises(
        SettingsError, match="remove `srun` and its options.*for one process with N GPUs give --gpus N before the --"
    ):
        migrate(["srun", "-n", "1", *TRAINING], gpus=4)
    assert migrate(TRAINING, gpus=4).settings["batch"]["global_batch_size"] == 32


@pytest.mark.parametrize(
    ("file", "option"), [("data/train.txt", "data_dir"), ("data/labels.txt", "data_dir"), ("l.txt", "labels")]
)
def test_a_file_that_cannot_be_read_is_said_by_its_option(
    file: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_data(Path("data"), 2)
    Path(file).touch()
    refuse(monkeypatch, "builtins.open", file)
    words = ["--labels", file] if option == "labels" else []
    value = file if option == "labels" else "data"
    said = rf"^[^:]*: --{option} {value}: {file} cannot be read \(Permission denied\); make it readable, because"
    with pytest.raises(SettingsError, match=said):
        migrate([*TRAINING, *words])


def test_an_output_folder_that_cannot_be_looked_into_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a/out").mkdir(parents=True)
    refuse(monkeypatch, "os.listdir", "a/out")
    said = "output: a/out cannot be listed (Permission denied): give another run.output_dir, or make it readable"
    assert said in migrate(TRAINING).notes


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, path: str) -> None:
    """Let a function refuse a path, which root may read whatever its permissions."""
    module, _, name = function.rpartition(".")
    real = getattr(sys.modules[module], name)

    def wrapped(given: Any, *rest: Any, **more: Any) -> Any:
        if given == path:
            raise PermissionError(13, "Permission denied", path)
        return real(given, *rest, **more)

    monkeypatch.setattr(function, wrapped)


SECRETS = ["WANDB_API_KEY", "HF_TOKEN", "aws_secret_access", "DB_PASSWORD"]


@pytest.mark.parametrize("trains", [True, False], ids=["train", "evaluate"])
def test_a_secret_in_front_of_the_line_is_not_copied(trains: bool) -> None:
    given = [f"{name}=hush$1" for name in SECRETS]
    command = shlex.join([*given, "TOKENIZERS_PARALLELISM=false", *(TRAINING if trains else SCORING)])
    text = f"export HF_TOKEN=hush; {command}"
    made = migrate([text])
    printed = made.toml() + "".join(made.notes)
    assert "hush" not in printed
    assert f"{' '.join(f'{name}=...' for name in SECRETS)} TOKENIZERS_PARALLELISM=false python" in made.made_from[0]
    assert made.commands[0].startswith("TOKENIZERS_PARALLELISM=false layoutner ")
    said = f"Secrets are not copied here. Set them in the environment: {', '.join(SECRETS)}."
    assert said in made.remarks
    assert "not read: export HF_TOKEN=..." in made.notes


def test_all_mistakes_come_at_once() -> None:
    unknown = ["--sed", "1", "--sod=7", "stray"]
    with pytest.raises(SettingsError) as found:
        migrate(["--data_dir", "d", "--seed", "x", *unknown, "--learning_rate", "-1", "--do_train"], gpus=-1)
    text = str(found.value)
    parts = ("--seed x", "--sed: unknown", "--model_type: is missing", "--model_name_or_path: is", "--output_dir: is")
    parts += ("--sod=7: unknown", "stray: a value without an option")
    for part in (*parts, "--learning_rate -1", "--gpus -1"):
        assert f"  - {part}" in text
    assert text.count("\n") == 9


PARTS = [
    *"'\"\\$`#~&|;<>()!%={} \n\r\t-",
    "2>",
    "~/",
    " a",
    " python ",
    f" {TRAIN} ",
    "--seed",
    " 7",
    " --do_train",
    CUDA[:-3],
]


def test_no_text_gives_a_traceback() -> None:
    numbers, ends = random.Random(0), {"made": 0, "refused": 0}
    for _ in range(700):
        text = "".join(numbers.choices(PARTS, k=numbers.randint(1, 20)))
        texts = [text, f"python {TRAIN} {shlex.join(REQUIRED)} --do_train {text}"]
        for words in texts:
            try:
                tomllib.loads(migrate([words]).toml())
                ends["made"] += 1
            except SettingsError:
                ends["refused"] += 1
    assert min(ends.values()) > 100


# The command line of layoutner.


def test_settings_are_printed_alone_and_the_report_beside(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "config", "migrate", "--gpus", "2", "--", *TRAINING, "--seed", "7")
    assert code == 0
    assert tomllib.loads(out)["batch"] == {"global_batch_size": 16, "micro_batch_size": 8}
    lines = re.findall(r"^(?:kept|replaced|dropped|default|not given) +(?:preprocess.py )?--", err, re.MULTILINE)
    assert len(lines) == 41
    assert "kept      --seed 7 -> run.seed = 7\n" in err
    assert (
        call(capsys, "config", "migrate", *TRAINING)[1] == call(capsys, "config", "migrate", "--", *TRAINING)[1] != ""
    )


def test_a_local_rank_behind_the_command_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "config", "migrate", "--", *LAUNCH, TRAIN, "--local_rank=3", *REQUIRED, "--do_train")
    assert code == 0
    assert "replaced  --local_rank -> LOCAL_RANK" in err
    assert f"{TRAIN} --local_rank=3 --data_dir" in out
    code, _, err = call(capsys, "config", "migrate", "--", TRAIN, *REQUIRED, "--do_train", "--local_rank", "0")
    assert (code, "replaced  --local_rank" in err) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no old command line; give it after --"),
        (REQUIRED, "--data_dir: "),
        (["--gpus", "two", "--", *TRAINING], "invalid int value: 'two'"),
        (["--gpus", "3", "--", CUDA, *TRAINING], "--gpus 3: CUDA_VISIBLE_DEVICES=2,3 names 2; leave out one"),
        (["--gpus", "2", "--", *LAUNCH, *TRAINING[1:]], "--gpus 2: with a launcher, each process has one GPU"),
    ],
)
def test_mistakes_exit_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "config", "migrate", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("layoutner: error: ")
    assert message in err


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys; from layoutner.migration.migrate import migrate; migrate(sys.argv[1:]).toml()\n"
        "print([m for m in ('torch', 'deepspeed', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *TRAINING], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The page of the documentation.


def test_the_page_has_the_options_of_the_code() -> None:
    parts = re.split(r"^## (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tables = dict(zip(parts[1::2], parts[2::2], strict=True))
    shown = {None: "required", False: "off", "": "none"}
    for script, options in OPTIONS.items():
        rows = re.findall(r"^\| `--(\w+)` \| `?(.*?)`? \| .+ \| .+ \|$", tables[script], re.MULTILINE)
        wanted = [
            (name, shown[value] if value in (None, "") or value is False else str(value))
            for name, value in options.items()
        ]
        assert rows == wanted


def test_the_example_of_the_page_says_what_is_shown(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL))
    command = shlex.split(blocks["bash"].replace("\\\n", ""))
    assert command[:4] == ["layoutner", "config", "migrate", "--"]
    assert command[-2:] == [">", "settings.toml"]
    Path("data").symlink_to(real_data / "funsd_unilm")
    code, out, err = call(capsys, "config", "migrate", *command[3:-2])
    assert code == 0
    assert out == blocks["toml"]
    said, skipping = iter(err.splitlines()), False
    for line in blocks["text"].splitlines():
        if line == "...":
            skipping = True
        else:
            assert line in said if skipping else line == next(said), line
            skipping = False


# Three real lines, and what they print, run.

RECIPE = (
    "--data_dir data --model_type layoutlm --model_name_or_path path/to/layoutlm-base-uncased --do_lower_case "
    "--max_seq_length 512 --do_train --num_train_epochs 100.0 --logging_steps 10 --save_steps -1 --output_dir path "
    "--labels data/labels.txt --per_gpu_train_batch_size 16 --per_gpu_eval_batch_size 16 --fp16"
)
SHORT = ["--schedule.max_steps", "3", "--data.max_length", "128", "--run.log_every", "1"]


@pytest.fixture
def at_home(real_data: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the old commands found it: data/ is FUNSD, and a small LayoutLM stands where they name one."""
    (tmp_path / "data").symlink_to(real_data / "funsd_unilm")
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "layoutlm-base-uncased").symlink_to(checkpoints["layoutlm"])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def run_printed(old: str, *more: str) -> None:
    """Save the settings of an old line, and run the commands at their top as they stand, with `more` behind train."""
    made = migrate(shlex.split(old))
    Path("settings.toml").write_text(made.toml(), encoding="utf-8")
    commands = re.findall(r"^#   ((?:layoutner|deepspeed) .*)", made.toml(), re.MULTILINE)
    assert commands == made.commands != []
    for command in commands:
        line = f"{command} {shlex.join(more)}" if " train " in command else command
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=HANGS_S, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"


def half() -> list[str]:
    """fp16 as the line says, where this CPU's torch has it."""
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    return [] if CPU_Accelerator().is_fp16_supported() else ["--precision.dtype", "fp32"]


def check_run(run: Path, ranks: int) -> None:
    """What three steps leave that were started from the migrated settings."""
    config = json.loads((run / "ds_config.json").read_text())
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (16 * ranks, 16)
    assert config["gradient_clipping"] == 1.0
    assert json.loads((run / "environment.json").read_text())["world_size"] == ranks
    assert config.get("fp16", {}).get("enabled", False) == (half() == [])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["train/lr"] for line in lines] == pytest.approx([5e-5, 5e-5 * 2 / 3, 5e-5 / 3])
    kept = tomllib.loads((run / "settings.toml").read_text())
    said = tomllib.loads(Path("settings.toml").read_text())
    for section, key in (("data", "scheme"), ("data", "stride"), ("optimizer", "eps"), ("run", "seed")):
        assert kept[section][key] == said[section][key]
    labels = json.loads((run / "export" / "config.json").read_text())["id2label"]
    assert sorted(labels.values()) == Path("data/labels.txt").read_text().split()


@pytest.mark.slow
def test_the_published_recipe_on_one_gpu_runs(at_home: Path) -> None:
    run_printed(f"python {TRAIN} {RECIPE}", *SHORT, *half())
    check_run(at_home / "path", 1)
    assert not (at_home / "path" / "scores.json").exists()


@pytest.mark.slow
def test_the_published_recipe_on_four_processes_runs(at_home: Path) -> None:
    launcher = f"python -m torch.distributed.launch --nproc_per_node=4 --master_port={free_port()}"
    run_printed(f"{launcher} {TRAIN} {RECIPE}", *SHORT, *half())
    check_run(at_home / "path", 4)


@pytest.mark.slow
def test_evaluation_and_prediction_alone_run(at_home: Path) -> None:
    run_printed(f"python {TRAIN} {RECIPE}", *SHORT, *half())
    inference = RECIPE.replace("--do_train", "--do_eval --do_predict")
    run_printed(f"python {TRAIN} {inference}")
    predicted = [line.split(" ") for line in Path("path/test_predictions.txt").read_text().splitlines() if line]
    results = dict(line.split(" = ") for line in Path("path/test_results.txt").read_text().splitlines())
    assert list(results) == ["f1", "loss", "precision", "recall"]
    assert Path("path/eval_results.txt").read_text() == Path("path/test_results.txt").read_text()
    # As the old script, which wrote a word up to its first blank.
    words = [line.split()[0] for line in Path("data/test.txt").read_text().splitlines() if line]
    assert [word for word, _ in predicted] == words
    assert {label for _, label in predicted} <= set(Path("data/labels.txt").read_text().split())
