"""Weights & Biases: what a run holds, the account, and a server or service that is not there."""

import json
import os
import shutil
import signal
import struct
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb

from layoutner.distributed.ranks import Ranks
from layoutner.errors import Preempted, SettingsError
from layoutner.objectives.errors import Errors
from layoutner.runs.folds import settings_of_fold
from layoutner.settings.tree import Settings, load
from layoutner.tracking import wandb_tracker
from layoutner.tracking.trackers import open_tracker
from layoutner.tracking.wandb_tracker import require_account
from tests.builders.forks import fork
from tests.builders.processes import free_port, launch
from tests.builders.wandb_server import KEY, wandb_server

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What wandb.init is given, and what its runs log, in their order."""
    calls: list[dict[str, Any]] = []

    def init(**given: Any) -> SimpleNamespace:
        calls.append(given)
        return SimpleNamespace(
            log=lambda metrics, step: calls.append({**metrics, "at": step}),
            finish=lambda exit_code=0: calls.append({"exit code": exit_code}) if exit_code else None,
            define_metric=lambda name, **more: None,
            mark_preempting=lambda: calls.append({"preempting": True}),
            log_artifact=lambda path, name, type: calls.append({"artifact": (Path(path).name, name, type)}),
            summary={},
            id=given["id"],
        )

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb_tracker, "_answers", lambda: True)
    return calls


def online(folder: Path, **more: str) -> Settings:
    folder.mkdir()
    return load(None, {"run": {"output_dir": str(folder)}, "wandb": {"mode": "online", **more}})


def test_a_run_of_wandb_goes_on_where_it_is_resumed_alone(told: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = online(tmp_path / "run")
    for step in (4, 5, 0):  # the first was resumed from checkpoints without their record
        open_tracker(settings, ALONE, step, dict).close()
    first, resumed, fresh = told
    assert first["id"] == resumed["id"] != fresh["id"] == (tmp_path / "run" / "wandb_run_id").read_text()
    assert {(one["name"], one["resume"]) for one in told} == {("run", "allow")}
    assert first["group"] is None


def test_a_run_of_wandb_may_belong_to_a_group(told: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = online(tmp_path / "run", name="lr=0.1", group="sweep")
    open_tracker(settings, ALONE, 0, dict).close()
    assert (told[0]["name"], told[0]["group"]) == ("lr=0.1", "sweep")
    folds = settings.model_copy(update={"data": settings.data.model_copy(update={"folds": 3})})
    assert settings_of_fold(folds, 1).wandb.group == "sweep"
    assert settings_of_fold(load(None, {"data": {"folds": "3"}}), 1).wandb.group == "train"


@pytest.mark.parametrize(("variable", "mode"), [("offline", "offline"), ("", "online")])
def test_the_environment_takes_wandb_offline(
    variable: str, mode: str, told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    tracker = open_tracker(online(tmp_path / "run"), ALONE, 0, dict)
    tracker.log(7, {"train/loss": 0.5})
    tracker.close()
    start, logged = told
    assert (start["mode"], logged) == (mode, {"train/loss": 0.5, "optimizer_step": 7, "at": 7})


@pytest.mark.parametrize("given", [None, "true"])
def test_error_reports_of_wandb_are_off_unless_the_user_wants_them(
    given: str | None, told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", given or "")
    if given is None:
        monkeypatch.delenv("WANDB_ERROR_REPORTING")
    open_tracker(online(tmp_path / "run"), ALONE, 0, dict).close()
    assert os.environ["WANDB_ERROR_REPORTING"] == (given or "false")


def test_wandb_is_told_of_a_preemption(told: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(Preempted), open_tracker(online(tmp_path / "run"), ALONE, 0, dict).finished_with(ALONE):
        raise Preempted("SIGTERM: saved")
    assert told[1:] == [{"preempting": True}, {"exit code": 1}]


def records(file: Path) -> Iterator[bytes]:
    """The records of a file of wandb: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left  # padding
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)  # after a checksum
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def history(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The logged steps of an offline run of wandb, and its configuration."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    for data in records(file):
        record = Record()
        record.ParseFromString(data)
        if items := record.history.item:
            rows.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
        config |= {one.key: json.loads(one.value_json) for one in record.run.config.update}
    return rows, config


def test_an_offline_run_of_wandb_has_everything(
    train_arguments: Callable[..., list[str]], forms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = {"wandb__mode": "offline", "data__eval": 0.25, "data__test": forms, "run__eval_every": 2}
    done = fork(["layoutner", "train", *train_arguments(run, **more)], WANDB_API_KEY="0123456789" * 4)
    assert done.returncode == 0, done.stderr[-3000:]
    (offline,) = (run / "wandb").glob("offline-run-*")
    rows, config = history(offline)
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps)) == list(range(1, 7))
    scores = json.loads((run / "scores.json").read_text())
    assert rows[-1]["test/f1"] == scores["f1"]
    assert {name for name in rows[-1] if name.startswith("test/by_entity/")} == {
        f"test/by_entity/{kind}/f1" for kind in scores["by_entity"]
    }
    (best,) = {row["best/f1"] for row in rows if row.get("best/step") == scores["checkpoint"]["step"]}
    assert best == max(row["eval/f1"] for row in rows if "eval/f1" in row)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [
        {"step": row["_step"]} | {name: row[name] for name in row if "/" in name and "errors/" not in name}
        for row in rows
    ] == lines
    assert config["environment"]["world_size"] == 1
    assert config["deepspeed_json"] == json.loads((run / "ds_config.json").read_text())
    assert "windows per step" in config["plan"]
    assert config["batch"]["global_batch_size"] == 8
    assert all(b"0123456789" * 4 not in file.read_bytes() for file in run.rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_run_that_goes_on_repeats_no_other_numbers(train_arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    """W&B ignores steps that it has: those which a resumed run repeats must be the same."""
    run = tmp_path / "run"
    more = {"wandb__mode": "offline", "run__save_every": 3, "run__keep_checkpoints": 0, "run__resume": "auto"}
    for start in (1, 4):
        assert fork(["layoutner", "train", *train_arguments(run, **more)]).returncode == 0
        for folder in (run / "checkpoints").glob("step-*"):
            if start == 1 and int(folder.name.removeprefix("step-")) > 3:
                shutil.rmtree(folder)
    first, second = (history(folder)[0] for folder in sorted((run / "wandb").glob("offline-run-*")))
    assert [row["_step"] for row in first] == [1, 2, 3, 4, 5, 6]
    assert [row["_step"] for row in second] == [4, 5, 6]
    for key in ("optimizer_step", "train/loss", "train/lr", "train/grad_norm"):
        assert [row[key] for row in second] == [row[key] for row in first[3:]]


@pytest.mark.slow
def test_what_the_model_gets_wrong_is_in_the_run(
    train_arguments: Callable[..., list[str]], forms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = {"wandb__mode": "offline", "wandb__log_pages": 2, "data__test": forms, "schedule__max_steps": 2}
    done = fork(["layoutner", "train", *train_arguments(run, **more)], WANDB_DATA_DIR=str(tmp_path / "staging"))
    assert done.returncode == 0, done.stderr[-3000:]
    errors = Errors.read(run / "errors.json")
    tables = {
        file.name.partition("_")[0]: json.loads(file.read_text())["data"]
        for file in (run / "wandb").glob("offline-run-*/files/media/table/errors/*.json")
    }
    assert tables.keys() == {"kinds", "confusion", "pages"}
    assert sum(words for _, _, words in tables["confusion"]) == sum(map(sum, errors.confusion))
    assert {row[0]: sum(row[1:]) for row in tables["kinds"]} == {
        kind: sum(row.values()) for kind, row in errors.kinds.items()
    }
    assert [row[:2] for row in tables["pages"]] == [[page.document, page.errors] for page in errors.pages[:2]]
    sent = [file.read_bytes() for file in (tmp_path / "staging").rglob("*") if file.is_file()]
    assert sum(content.startswith(b"\xff\xd8\xff") for content in sent) == 2  # JPEG


def test_no_page_leaves_the_machine_unless_asked(told: list[dict[str, Any]], tmp_path: Path) -> None:
    tracker = open_tracker(online(tmp_path / "run"), ALONE, 0, dict)
    empty = {"documents": 0, "kinds": {}, "types": ("O",), "confusion": ((0,),), "bins": (), "pages": ()}
    tracker.log_errors(3, Errors(split="test", **empty))
    tracker.log_model(tmp_path / "run" / "export")
    tracker.close()
    assert told[1].keys() == {"errors/kinds", "errors/confusion", "optimizer_step", "at"}
    assert len(told) == 2
    tracker = open_tracker(online(tmp_path / "other", log_model="export"), ALONE, 0, dict)
    tracker.log_model(tmp_path / "other" / "export")
    tracker.close()
    assert told[-1] == {"artifact": ("export", f"model-{told[-2]['id']}", "model")}


def test_the_group_and_kind_of_a_job(
    told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    settings = online(tmp_path / "run")
    folds = settings.model_copy(update={"data": settings.data.model_copy(update={"folds": 3, "fold": 1})})
    for one in (settings, online(tmp_path / "named", group="mine", job_type="sweep"), folds):
        open_tracker(one, ALONE, 0, dict).close()
    assert [(one["group"], one["job_type"]) for one in told] == [
        ("slurm-77", "train"),
        ("mine", "sweep"),
        ("slurm-77", "fold"),
    ]


def test_a_trial_of_an_agent_has_its_own_folder_and_its_id(
    told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"run": {"output_dir": str(tmp_path / "{wandb_id}")}, "wandb": {"mode": "online"}}
    with pytest.raises(SettingsError, match=r"\{wandb_id\}: WANDB_RUN_ID is not set, which `wandb agent` does"):
        load(None, given)
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    settings = load(None, given)
    assert settings.run.output_dir == tmp_path / "abc123"
    settings.run.output_dir.mkdir()
    open_tracker(settings, ALONE, 0, dict).close()
    assert told[0]["id"] == "abc123" == (tmp_path / "abc123" / "wandb_run_id").read_text()
    with pytest.raises(SettingsError, match=r"\{id\} is unknown; only \{wandb_id\} is filled in"):
        load(None, {"run": {"output_dir": "runs/{id}"}})


# The account


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key in the environment or the home folder, and nothing remembered of another one."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("no_account")
def test_a_missing_account_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_arguments: Callable[..., list[str]]
) -> None:
    with pytest.raises(SettingsError, match=r"wandb.mode = online: no API key is found; log in with `wandb login`, or"):
        require_account(online(tmp_path / "run"))
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(SettingsError, match=r"wandb.mode = online: WANDB_API_KEY invalid: .* 40"):
        require_account(online(tmp_path / "other"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_account(online(tmp_path / "third"))
    done = fork(["layoutner", "train", *train_arguments(tmp_path / "none", wandb__mode="online")], WANDB_MODE="online")
    assert done.returncode == 2
    assert "WANDB_API_KEY invalid" in done.stderr
    done = fork(["layoutner", "train", *train_arguments(tmp_path / "none", wandb__mode="online")], WANDB_MODE="")
    assert done.returncode == 2
    assert "wandb.mode = online: " in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("no_account")
def test_an_entity_of_others_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_arguments: Callable[..., list[str]]
) -> None:
    given = {"wandb__mode": "online", "wandb__project": "forms"}
    with wandb_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        for number, mine in enumerate(("me", "the-team")):
            require_account(online(tmp_path / str(number), entity=mine))
        arguments = train_arguments(tmp_path / "none", **given, wandb__entity="their-team")
        done = launch(["layoutner", "train", *arguments], **server.environment(), HOME=str(tmp_path))
    assert done.returncode == 2
    assert "wandb.entity = their-team: the account of this API key has me, the-team; give one of these" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("no_account")
def test_a_server_that_does_not_tell_the_teams_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no such query")

    with wandb_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(wandb, "Api", refuse)
        require_account(online(tmp_path / "run", entity="their-team"))


@pytest.mark.slow
def test_an_agent_trains_the_trials_of_a_sweep(train_arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    """The agent of wandb itself, with a server that deals out two trials: each has its folder, id and setting."""
    layoutner = str(Path(sys.executable).with_name("layoutner"))
    given = train_arguments(tmp_path / "{wandb_id}", wandb__mode="offline")
    given = [one for one in given if not one.startswith("--optimizer.lr=")]
    with wandb_server() as server:
        server.sweep = json.dumps({"command": [layoutner, "train", *given, "${args}"]})  # JSON is YAML
        for name, lr in (("trial1", 0.001), ("trial2", 0.002)):
            trial = {"type": "run", "run_id": name, "program": "", "args": {"optimizer.lr": {"value": lr}}}
            server.trials.append(trial)
        there = {**server.environment(), "HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
        done = launch(["wandb", "agent", "me/forms/s1"], **there)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, lr in (("trial1", 0.001), ("trial2", 0.002)):
        run = tmp_path / name
        assert (run / "wandb_run_id").read_text() == name
        settings = tomllib.loads((run / "settings.toml").read_text())
        assert settings["optimizer"]["lr"] == lr
        assert [file.name for file in (run / "wandb").glob(f"offline-run-*-{name}")], list((run / "wandb").iterdir())
        assert len((run / "metrics.jsonl").read_text().splitlines()) > 1
    assert set(server.ended) == {"trial1", "trial2"}


# A server or a service that is not there


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_warning(
    train_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    found = {}
    for mode in ("online", "disabled"):
        run = tmp_path / mode
        address = {"WANDB_MODE": "online", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}"}
        done = fork(["layoutner", "train", *train_arguments(run, wandb__mode=mode)], **address)
        assert done.returncode == 0, done.stderr[-3000:]
        found[mode] = losses(run)
        said = [line for line in (run / "run.log").read_text().splitlines() if "Weights & Biases" in line]
        assert len(said) == (mode == "online")
    assert found["online"] == found["disabled"]
    assert (
        "its server cannot be connected to; this run is written offline, and `wandb sync"
        in (tmp_path / "online" / "run.log").read_text()
    )
    assert len(list((tmp_path / "online" / "wandb").glob("offline-run-*"))) == 1
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def below(process: int) -> list[int]:
    """All processes that a process has started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [one for child in map(int, children) for one in (child, *below(child))]


def test_a_service_that_is_killed_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = load(None, {"run": {"output_dir": str(tmp_path)}, "wandb": {"mode": "offline"}})
    before = set(below(os.getpid()))
    tracker = open_tracker(settings, ALONE, 0, dict)
    tracker.log(1, {"train/loss": 0.5})
    (service,) = {
        one for one in below(os.getpid()) if b"wandb-core" in Path(f"/proc/{one}/cmdline").read_bytes()
    } - before
    os.kill(service, signal.SIGKILL)
    for step in range(2, 6):
        time.sleep(0.1)
        tracker.log(step, {"train/loss": 0.5})
    tracker.log_scores(6, {"test/f1": 0.5})
    tracker.close()
    (warning,) = [record.getMessage() for record in caplog.records if "Weights & Biases" in record.getMessage()]
    assert "gets nothing more of this run" in warning
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        *range(1, 7)
    ]


def test_a_run_does_not_wait_for_a_queue_that_is_full(
    told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb_tracker, "WAITING", 2)
    released = threading.Event()
    init = wandb.init

    def stuck(**given: Any) -> SimpleNamespace:
        run = init(**given)
        run.log = lambda metrics, step: released.wait()
        return run

    monkeypatch.setattr(wandb, "init", stuck)
    tracker = open_tracker(online(tmp_path / "run"), ALONE, 0, dict)
    for step in range(1, 9):
        tracker.log(step, {"train/loss": 0.5})  # returns, though nothing is released
    tracker.close()
    (warning,) = [record.getMessage() for record in caplog.records if "Weights & Biases" in record.getMessage()]
    assert "gets nothing more of this run: 2 calls wait for it" in warning
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 8
    released.set()


def test_what_is_not_sent_in_time_is_left_for_later(
    told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb_tracker, "FINISH_S", 0.2)
    init = wandb.init

    def never_done(**given: Any) -> SimpleNamespace:
        run = init(**given)
        run.finish = lambda: time.sleep(60)
        return run

    monkeypatch.setattr(wandb, "init", never_done)
    open_tracker(online(tmp_path / "run"), ALONE, 0, dict).close()
    assert "gets nothing more of this run: it has not finished within 0.2 s" in caplog.text


def test_a_server_that_refuses_ends_the_run_and_one_that_is_slow_does_not(
    told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = wandb.init

    def answer(error: Exception) -> Callable[..., Any]:
        def start(mode: str, **given: Any) -> Any:
            if mode == "online":
                raise error
            return init(mode=mode, **given)

        return start

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "init", answer(wandb.errors.CommError("Timed out while retrying: connection reset")))
    open_tracker(online(tmp_path / "slow"), ALONE, 0, dict).close()
    assert told[-1]["mode"] == "offline"
    refused = wandb.errors.CommError("entity nobody not found"), wandb.errors.AuthenticationError("API key invalid")
    for error in refused:
        monkeypatch.setattr(wandb, "init", answer(error))
        with pytest.raises(SettingsError, match=r"wandb.mode = online: Weights & Biases did not start: .*wandb login"):
            open_tracker(online(tmp_path / type(error).__name__), ALONE, 0, dict)


def test_wandb_that_does_not_start_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise wandb.errors.UsageError("api_key not configured (no-tty).\nmore")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb_tracker, "_answers", lambda: True)
    with pytest.raises(
        SettingsError, match=r"wandb.mode = online: .*not configured.*log in with `wandb login`"
    ) as found:
        open_tracker(online(tmp_path / "run"), ALONE, 0, dict)
    assert "\n" not in str(found.value)
