"""`layoutner train`, and `layoutner cross-validate`, which does it once a fold."""

import argparse
import gc
import json
import logging
import statistics
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from layoutner.cli.arguments import Parser, add_command, add_settings, overrides, quiet
from layoutner.cli.ending import ending_together
from layoutner.config.errors import UserError
from layoutner.config.settings import Settings, load

if TYPE_CHECKING:
    from layoutner.inference.labeller import Labeller
    from layoutner.training.metrics import Scores
    from layoutner.training.world import World

logger = logging.getLogger("layoutner")

# Settings, or sections of them, that say how and where a run computes, and what it leaves, but not what comes out.
# fmt: off
COMPUTES_NOTHING = (
    "batch.micro_windows", "data.cache", "data.max_image_mib", "deepspeed.", "wandb.", "tensorboard.",
    "run.output_dir", "run.log_every", "run.save_every", "run.keep_checkpoints", "run.resume", "run.overwrite",
    "run.device", "run.rank_timeout",
)
# fmt: on


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `train` and `cross-validate`."""
    train = add_command(commands, "train", _train, "train, evaluate, save; under deepspeed or torchrun on many ranks")
    add_settings(train)
    cross = add_command(
        commands,
        "cross-validate",
        _cross_validate,
        "train data.folds models, each scored on the part of the documents it did not see",
    )
    add_settings(cross)


def _train(options: argparse.Namespace) -> None:
    from layoutner.training.readiness import demand_ready

    settings = load(options.config, overrides(options))
    demand_ready(settings)
    with ending_together(_join(settings)) as world:
        run_once(settings, world)


def run_once(settings: Settings, world: "World") -> dict[str, Any] | None:
    """Train, export the chosen checkpoint and score it. All ranks call it.

    Returns:
        What was written to scores.json; None without data.eval and data.test.

    Raises:
        UserError: anything the user can mend.
    """
    from layoutner.training.folder import held_folders

    with held_folders():
        return _train_and_score(settings, world)


def _train_and_score(settings: Settings, world: "World") -> dict[str, Any] | None:
    from layoutner.data.document import Document
    from layoutner.inference.labeller import Labeller
    from layoutner.training.folder import EXPORT_FOLDER, SCORES_FILE, write_json
    from layoutner.training.loop import train

    plan, chosen = train(settings, world)
    run = settings.run.output_dir
    out = run / EXPORT_FOLDER
    world.on_main(lambda: _export_anew(chosen, out))
    # The chosen checkpoint is scored once, as it will be used: from the export, on the test documents if there are any.
    split = "test" if plan.corpus.test else "eval"
    documents: list[Document] = getattr(plan.corpus, split)
    written = None
    if documents:
        labeller = world.agree(lambda: Labeller(out, world, settings.data.max_image_mib))
        scores = labeller.evaluate(documents, split, settings.batch.micro_windows)
        checkpoint: dict[str, Any] = {"step": int(chosen.name.removeprefix("step-"))}
        warning = ""
        if settings.data.choose_by == "test":
            checkpoint |= {"by": "test f1", "chosen_on_test": True}
            warning = "\n  the checkpoint was chosen on these test pages (data.choose_by = test), which flatters it"
        else:
            checkpoint["by"] = "eval f1" if plan.corpus.eval else "last step"
        written = {**scores.to_dict(), "checkpoint": checkpoint}
        world.on_main(lambda: write_json(run / SCORES_FILE, written))
        logger.info("%s%s", scores, warning)
        if scores.note is not None:
            logger.info("%s", scores.note)
        if settings.run.predictions != "none":
            _write_predictions(settings, labeller, scores)
    logger.info("%s exported to %s", chosen.name, out)
    return written


def _write_predictions(settings: Settings, labeller: "Labeller", scores: "Scores") -> None:
    """The labels of the documents of data.test, in their order, as run.predictions says. All ranks call it."""
    from layoutner.inference.input import ReportingTally, documents, lost_pages
    from layoutner.inference.output import Output, results
    from layoutner.inference.predict import predict
    from layoutner.training.folder import PREDICTION_FILES, RESULTS_FILE, write_text

    run, data, world = settings.run, settings.data, labeller.world
    assert data.test is not None, "the plan refuses run.predictions without data.test"
    output = Output(run.output_dir / PREDICTION_FILES[run.predictions])
    world.on_main(output.open)
    try:
        # Read anew: training sorts the documents, and a prediction keeps to their order.
        tally = ReportingTally()
        found = documents(data, data.test, "test", tally, "ignore")
        lost = lost_pages(data, tally)
        predict(labeller, found, settings.batch.micro_windows, output, run.predictions, lost=lost)
        if run.predictions == "unilm":
            text = results({"": scores})
            world.on_main(lambda: write_text(run.output_dir / RESULTS_FILE, text))
    finally:
        output.discard()
    logger.info("labels of the documents of data.test in %s", output.path)


def _export_anew(chosen: Path, out: Path) -> None:
    from layoutner.inference.export import export
    from layoutner.training.folder import remove

    remove(out)
    export(chosen, out)


def _cross_validate(options: argparse.Namespace) -> None:
    from layoutner.training.readiness import demand_ready

    settings = load(options.config, overrides(options))
    folds = _folds(settings)
    demand_ready(*(_of_fold(settings, number) for number in range(1, folds + 1)))
    with ending_together(_join(settings)) as world:
        _train_folds(settings, folds, world)


def _train_folds(settings: Settings, folds: int, world: "World") -> None:
    import torch

    from layoutner.training.folder import SCORES_FILE, write_json

    if settings.run.eval_every:
        logger.info(
            "note: every run.eval_every = %d steps a fold's model is scored on the part it holds out, and the best is "
            "taken, which flatters the score; run.eval_every = 0 takes the last",
            settings.run.eval_every,
        )
    summary_file = settings.run.output_dir / SCORES_FILE
    world.on_main(lambda: _demand_summary(summary_file, _of_fold(settings, 1).run.output_dir))
    found: list[dict[str, Any]] = []
    for number in range(1, folds + 1):
        own = _of_fold(settings, number)
        scores = world.on_main(partial(_finished, own, SCORES_FILE))
        if scores is None:
            logger.info("fold %d of %d in %s", number, folds, own.run.output_dir)
            scores = run_once(own, world)
            assert scores is not None, "a fold has evaluation documents"
            if settings.run.overwrite:  # not before: what it summed up is gone only now
                world.on_main(lambda: summary_file.unlink(missing_ok=True))
            # DeepSpeed's engine holds itself in circles; the next fold needs its memory.
            gc.collect()
            if world.device.type == "cuda":
                torch.cuda.empty_cache()
        else:
            logger.info("fold %d of %d: scored already in %s", number, folds, own.run.output_dir)
        found.append(scores)
    summary = summarise(found)
    world.on_main(lambda: write_json(summary_file, summary))
    logger.info("%s", _table(summary))


def _folds(settings: Settings) -> int:
    """The number of folds, if the settings are those of a cross-validation.

    Raises:
        UserError: they are not.
    """
    data = settings.data
    if data.folds is None:
        raise UserError("data.folds is missing: the number of parts, each of which is held out once, such as 5")
    if data.fold is not None:
        raise UserError(f"data.fold = {data.fold}: cross-validate trains every fold; `layoutner train` trains one")
    if data.test is not None:
        # A model a fold would give a test score a fold, and the best of them would be a choice made on the test pages.
        raise UserError(
            f"data.test = {data.test}: cross-validation scores the held-out folds alone; to score test documents, "
            "`layoutner train` on all training documents"
        )
    if settings.run.resume not in ("never", "auto"):
        raise UserError(f"run.resume = {settings.run.resume}: cross-validation takes never or auto")
    return data.folds


def _demand_summary(file: Path, fold: Path) -> None:
    """Refuse to replace scores that no cross-validation has written."""
    from layoutner.training.folder import PREPROCESSING_FILE

    if file.exists() and not (fold / PREPROCESSING_FILE).is_file():
        raise UserError(
            f"{file} is not of a cross-validation, as there is no run in {fold.name} beside it; give another "
            "run.output_dir"
        )


def _of_fold(settings: Settings, number: int) -> Settings:
    """Settings of the run that holds one fold out."""
    folder, board = settings.run.output_dir, settings.tensorboard.dir
    name = f"fold-{number}"
    return settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"fold": number}),
            "run": settings.run.model_copy(update={"output_dir": folder / name}),
            "wandb": settings.wandb.model_copy(update={"name": f"{settings.wandb.name or folder.name}-{name}"}),
            "tensorboard": settings.tensorboard.model_copy(update={"dir": board and board / name}),
        }
    )


def _finished(settings: Settings, scores_file: str) -> dict[str, Any] | None:
    """Scores of a fold that an earlier call finished, where run.resume = auto.

    Raises:
        UserError: that call had other settings.
    """
    from layoutner.training.folder import SETTINGS_FILE

    folder = settings.run.output_dir
    if settings.run.resume != "auto" or not (folder / scores_file).is_file():
        return None
    file = folder / SETTINGS_FILE
    try:
        was = Settings(**tomllib.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:  # of another version
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UserError(f"{file}: are no settings of this version: {wrong}; give another run.output_dir") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}; give another run.output_dir") from None
    there, here = (_computed(tree.model_dump(mode="json")) for tree in (was, settings))
    if differs := [f"{key} = {there[key]} there, {here[key]} here" for key in here if there[key] != here[key]]:
        raise UserError(f"{folder} was trained with other settings: {'; '.join(differs)}; give another run.output_dir")
    scores: dict[str, Any] = json.loads((folder / scores_file).read_text(encoding="utf-8"))
    return scores


def _computed(tree: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Settings that scores follow from, by section.key."""
    flat = {f"{section}.{key}": value for section, values in tree.items() for key, value in values.items()}
    return {key: value for key, value in flat.items() if not key.startswith(COMPUTES_NOTHING)}


def summarise(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What the scores of all folds say together.

    Args:
        found: their scores.json, in order; at least two.

    Returns:
        F1 of each fold, mean and standard deviation (divided by n - 1) over the folds, and the sums of their counts.
    """
    each = [scores["f1"] for scores in found]
    return {
        "f1": {"mean": statistics.fmean(each), "std": statistics.stdev(each)},
        "folds": [
            {"fold": number} | {key: scores[key] for key in ("f1", "precision", "recall", "loss", "checkpoint")}
            for number, scores in enumerate(found, 1)
        ],
        "counts": {key: sum(scores["counts"][key] for scores in found) for key in found[0]["counts"]},
        "scheme": found[0]["scheme"],
        "split": "eval",
        "box_level": found[0]["box_level"],
    }


def _table(summary: dict[str, Any]) -> str:
    folds, counts = summary["folds"], summary["counts"]
    lines = [f"{len(folds)} folds: {counts['documents']} documents, {counts['words']} words, {summary['scheme']}"]
    lines.append(f"  {'held out':12} {'precision':>9} {'recall':>9} {'f1':>9} {'step':>9}")
    lines += [
        f"  {'fold ' + str(f['fold']):12} {f['precision']:9.4f} {f['recall']:9.4f} {f['f1']:9.4f} "
        f"{f['checkpoint']['step']:9d}"
        for f in folds
    ]
    lines.append(f"F1 {summary['f1']['mean']:.4f}, standard deviation {summary['f1']['std']:.4f}")
    return "\n".join(lines)


def _join(settings: Settings) -> "World":
    """Join the ranks, with layoutner's log on rank 0's standard output, and of DeepSpeed only warnings."""
    quiet()
    from layoutner.training.world import World

    world = World.join(settings.run.rank_timeout, settings.run.device)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO if world.is_main else logging.WARNING)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return world
