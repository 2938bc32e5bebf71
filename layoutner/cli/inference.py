"""`layoutner predict`, `evaluate` and `export`: the commands that use a trained model."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner.console.arguments import Parser, add_command, add_setting, overrides, quiet
from layoutner.console.ending import ending_together
from layoutner.console.terminal import add_options, is_terminal, showing
from layoutner.errors import CheckpointError, SettingsError, require_all
from layoutner.files.text import printable
from layoutner.inference.prediction_format import DOCUMENTS, PAGES, choose_format
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import RunSettings, load

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks
    from layoutner.inference.labeller import Labeller
    from layoutner.objectives.errors import ErrorCounter
    from layoutner.objectives.metrics import Scores
    from layoutner.pages.page import ReadStats


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `predict`, `evaluate` and `export`."""
    for name, do, text in (
        ("predict", _predict, "label the words of documents; use deepspeed or torchrun to run on many ranks"),
        ("evaluate", _evaluate, "score a model on labelled documents; use deepspeed or torchrun to run on many ranks"),
    ):
        command = add_command(commands, name, do, text)
        command.add_argument(
            "where", nargs="?", metavar="INPUT", help="folder, file or hub name of documents; - = jsonl on stdin"
        )
        command.add_argument("--input", metavar="INPUT", help="another way to give INPUT")
        command.add_argument(
            "--model",
            type=Path,
            required=name == "predict",
            help="folder made by `layoutner export`, or a run folder, whose exported model is used",
        )
        for key in ("format", "box_unit", "box_format", "invalid_boxes", "bad_pages", "max_image_mib"):
            shown = "pdf, ocr or jsonl by the names of the files, else funsd" if key == "format" else None
            add_setting(command, "data", key, shown=shown, require=True)
        for key in ("engine", "language", "cache"):
            add_setting(command, "ocr", key, require=True)
        command.add_argument(
            "--split",
            default="test",
            choices=["train", "eval", "test"],
            help="split to read, if INPUT has several (default: test)",
        )
        command.add_argument("--output", type=Path, metavar="FILE", help="file to write; default: standard output")
        add_options(command)
        command.add_argument("--batch", type=int, default=8, help="windows per forward pass (default: 8)")
        add_setting(command, "run", "device", "--device", dest="device", default="auto", require=True)
        if name == "predict":
            command.add_argument(
                "--output-format",
                choices=[*PAGES, *DOCUMENTS],
                help="jsonl: one line per page with all words; fields: one JSON line per document with its fields; "
                "csv: one row per document; unilm: the test_predictions.txt of run_seq_labeling.py (default: by the "
                "ending of --output, else jsonl)",
            )
            command.add_argument(
                "--normalise",
                action="append",
                default=[],
                metavar="TYPE=NORMALISER",
                help="for fields and csv, repeatable: amount, date or number, with .dot or .comma for a known decimal "
                "sign, .dmy, .mdy or .ymd for a known order",
            )
            command.add_argument(
                "--min-confidence", type=float, metavar="P", help="for fields and csv: fields below it are for review"
            )
            command.add_argument(
                "--review", type=Path, metavar="FILE", help="for fields and csv: CSV of the fields that are for review"
            )
            command.add_argument(
                "--draw", type=Path, metavar="DIR", help="folder for pages with their entities drawn on them"
            )
        else:
            command.add_argument(
                "--checkpoints", type=Path, metavar="RUN", help="instead of --model: score all checkpoints of a run"
            )
            command.add_argument(
                "--report", type=Path, metavar="FILE", help="HTML file for the errors and the worst pages of --model"
            )
            command.add_argument(
                "--output-format",
                default="json",
                choices=["json", "unilm"],
                help="JSON, or the test_results.txt of run_seq_labeling.py, one number per line (default: json)",
            )

    export = add_command(commands, "export", _export, "write a run's chosen checkpoint as a Hugging Face model folder")
    export.add_argument("run", type=Path, help="run folder, or one of its checkpoints")
    export.add_argument("out", type=Path, help="folder to make")
    export.add_argument(
        "--onnx", action="store_true", help="write an ONNX graph in fp32, for ONNX Runtime, in place of the weights"
    )
    export.add_argument("--push", metavar="ORG/NAME", help="then upload the folder to this repository of the hub")
    export.add_argument("--public", action="store_true", help="with --push: for all to see; default: private")


def _predict(options: argparse.Namespace) -> None:
    options.output_format = choose_format(options.output, options.output_format)
    names = _require_fields(options)
    with _joined(options) as ranks:
        from layoutner.fields.normaliser import find_normalisers
        from layoutner.fields.record import Rules
        from layoutner.inference.input import ReportingStats, documents, has_next, lost_pages
        from layoutner.inference.labeller import Labeller
        from layoutner.inference.output import Output
        from layoutner.inference.predict import predict
        from layoutner.inference.prediction_text import DocumentText, PageText

        output, review, stats = Output(options.output), Output(options.review), ReportingStats()
        ranks.run_on_rank_zero(output.open)
        try:
            if options.review is not None:
                ranks.run_on_rank_zero(review.open)
            labeller = ranks.run_on_all_ranks(lambda: Labeller(options.model, ranks, options.data.max_image_mib))
            settings = _settings(options, labeller)
            found = documents(settings, options.input, options.split, stats, "ignore")
            lost, types = lost_pages(settings, stats), labeller.labels.types
            text: PageText | DocumentText
            if options.output_format not in DOCUMENTS:
                text = PageText(options.output_format)
            else:
                rules = Rules(find_normalisers(names, types), options.min_confidence or 0.0)
                text = DocumentText(options.output_format, types, rules)
            limit, ready = MicroBatchLimit(options.batch), partial(has_next, options.input)
            predict(labeller, found, limit, output, text, options.draw, lost, ready)
            if options.review is not None and isinstance(text, DocumentText):
                listed = text.review
                ranks.run_on_rank_zero(lambda: review.write(listed.to_csv()))
                ranks.run_on_rank_zero(review.finish)
        finally:
            output.discard()
            review.discard()
        _report(stats)


def _require_fields(options: argparse.Namespace) -> dict[str, str]:
    """Check the options of fields. Returns entity type -> name of its normaliser.

    Raises:
        SettingsError: an option without a meaning, or that another one contradicts.
    """
    from layoutner.fields.normaliser import read_choices

    least, review = options.min_confidence, options.review
    given = {"--normalise": options.normalise, "--min-confidence": least is not None, "--review": review is not None}
    unused = [name for name, is_given in given.items() if is_given]
    if unused and options.output_format not in DOCUMENTS:
        raise SettingsError(f"{' and '.join(unused)}: only with --output-format {' or '.join(DOCUMENTS)}")
    if least is not None and not 0 <= least <= 1:
        raise SettingsError(f"--min-confidence {least:g}: must be between 0 and 1")
    if review is not None and review.suffix.lower() not in ("", ".csv"):
        raise SettingsError(f"--review {review}: it is written as CSV; give a file that ends in .csv")
    if review is not None and review == options.output:
        raise SettingsError(f"--review {review}: is the file of --output, too; give another one")
    return read_choices(options.normalise)


def _evaluate(options: argparse.Namespace) -> None:
    if (options.model is None) == (options.checkpoints is None):
        given = "none" if options.model is None else "both"
        raise SettingsError(f"give one of --model FOLDER and --checkpoints RUN, not {given}")
    if options.checkpoints is not None and options.report is not None:
        raise SettingsError("--report shows the errors of one model: give --model FOLDER")
    if options.report is not None and options.report.is_dir():
        raise SettingsError(f"--report {options.report}: is a folder; name a file in it")
    with _joined(options) as ranks:
        from layoutner.inference.export import as_model, undamaged_checkpoints
        from layoutner.inference.output import Output, results
        from layoutner.objectives.errors import ErrorCounter

        output = Output(options.output)
        errors = None if options.report is None else ErrorCounter()
        ranks.run_on_rank_zero(output.open)
        try:
            if options.checkpoints is None:
                named = {"": _score(options, options.model, ranks, errors)}
            else:
                named = {}
                for checkpoint in ranks.run_on_rank_zero(lambda: undamaged_checkpoints(options.checkpoints)):
                    with ExitStack() as stack:
                        model = ranks.run_on_all_ranks(partial(stack.enter_context, as_model(checkpoint)))
                        named[checkpoint.name.removeprefix("step-").lstrip("0")] = _score(options, model, ranks)
            if options.output_format == "unilm":
                text = results({name: scores for name, (scores, _) in named.items()})
            else:
                tree = {name: {**scores.to_dict(), **chosen} for name, (scores, chosen) in named.items()}
                text = json.dumps(tree if options.checkpoints else tree[""], indent=2, ensure_ascii=False) + "\n"
            ranks.run_on_rank_zero(lambda: output.write(text))
            ranks.run_on_rank_zero(output.finish)
        finally:
            output.discard()
        if ranks.is_rank_zero and options.checkpoints:
            print(_table(named, options.split), file=sys.stdout if options.output else sys.stderr)
        elif ranks.is_rank_zero and options.output and not options.quiet:
            print(named[""][0])
        if errors is not None:
            from layoutner.reports.report import report_scores

            counted, out = errors.result(options.split), options.report
            name, mib = str(options.model), options.data.max_image_mib
            ranks.run_on_rank_zero(lambda: report_scores(name, named[""][0], counted, out, mib))


def _score(
    options: argparse.Namespace, model: Path, ranks: "Ranks", errors: "ErrorCounter | None" = None
) -> "tuple[Scores, dict[str, bool]]":
    """Scores of one model folder, and how its checkpoint was chosen (see `Labeller.chosen`). All ranks call it.

    Args:
        errors: counts the errors on rank 0.
    """
    from layoutner.inference.input import ReportingStats, documents, lost_pages
    from layoutner.inference.labeller import Labeller

    stats = ReportingStats()
    labeller = ranks.run_on_all_ranks(lambda: Labeller(model, ranks, options.data.max_image_mib))
    settings = _settings(options, labeller)
    found = documents(settings, options.input, options.split, stats, "require")
    limit, lost = MicroBatchLimit(options.batch), lost_pages(settings, stats)
    scores = labeller.evaluate(found, options.split, limit, lost, errors)
    _report(stats)
    if ranks.is_rank_zero and scores.note is not None:
        print(scores.note, file=sys.stderr)
    return scores, labeller.chosen


def _table(named: "dict[str, tuple[Scores, dict[str, bool]]]", split: str) -> str:
    """Text table with one line per checkpoint."""
    lines = [f"{'step':>8} {'precision':>9} {'recall':>9} {'f1':>9} {'loss':>9}"]
    lines += [
        f"{step:>8} {s.precision:9.4f} {s.recall:9.4f} {s.f1:9.4f} {s.loss:9.4f}" for step, (s, _) in named.items()
    ]
    best = max(named, key=lambda step: named[step][0].f1)
    lines.append(f"best F1 at step {best}; choosing a checkpoint by it means choosing on these {split} documents")
    return "\n".join(lines)


@contextmanager
def _joined(options: argparse.Namespace) -> "Iterator[Ranks]":
    """Check the options that need no model, and join the ranks.

    Raises:
        SettingsError: options contradict each other.
        LayoutnerError: something that the options name does not exist on some rank.
    """
    if (options.where is None) == (options.input is None):
        raise SettingsError(f"give one INPUT, not {'two' if options.where else 'none'}: INPUT or --input INPUT")
    given = options.where or options.input
    options.data = load(None, overrides(options)).data
    options.format = options.data.format if "format" in options.data.model_fields_set else None
    if options.batch < 1:
        raise SettingsError(f"--batch {options.batch}: must be at least 1, the windows per forward pass")
    if getattr(options, "checkpoints", None) and given == "-":
        raise SettingsError("INPUT - with --checkpoints: standard input can be read only once; give a file")
    if given == "-" and options.format not in (None, "jsonl"):
        raise SettingsError(f"INPUT - with --data.format {options.format}: standard input is always read as jsonl")
    # Which files exist may differ by rank, so all ranks check (below). A single process can check before torch loads.
    if os.environ.get("WORLD_SIZE", "1") == "1":
        _require_files(options, given)
    quiet()
    from layoutner.distributed.ranks import Ranks
    from layoutner.inference.input import guess_format
    from layoutner.readers.jsonl import STDIN

    options.input = STDIN if given == "-" else Path(given)
    rank_timeout = RunSettings.model_fields["rank_timeout"].default
    # The results are on standard output, unless there is a file: nothing is drawn among them.
    bars = options.output is not None or not is_terminal(sys.stdout)
    with (
        ending_together(Ranks.join(rank_timeout, options.device)) as ranks,
        showing(options, sys.stderr, ranks.is_rank_zero, bars),
    ):
        model = ranks.run_on_all_ranks(lambda: _require_files(options, given))
        if ranks.is_rank_zero and model != options.model and not options.quiet:
            print(f"--model {options.model} is a run folder: using its exported model {model}", file=sys.stderr)
        options.model = model
        options.format = options.format or guess_format(options.input)
        yield ranks


def _require_files(options: argparse.Namespace, given: str) -> Path | None:
    """The model's folder; None with --checkpoints.

    Raises:
        LayoutnerError: a file, folder or package is missing or of the wrong kind; all problems together.
    """
    from layoutner.documents.roles import require_path
    from layoutner.inference.model_folder import model_folder
    from layoutner.readers import require_packages

    def checks() -> Iterator[Callable[[], object]]:
        if options.model is not None:
            yield partial(model_folder, options.model)
        else:
            from layoutner.inference.export import require_checkpoints

            yield partial(require_checkpoints, options.checkpoints)
        yield partial(require_packages, options.format, options.data.ocr)
        if given != "-":
            yield partial(require_path, Path(given), options.format, "--input")

    require_all(f"`layoutner {options.command}` cannot start", checks())
    return None if options.model is None else model_folder(options.model)


def _settings(options: argparse.Namespace, labeller: "Labeller") -> DataSettings:
    """Settings to read the input: those of the options, with box_level and ignore_types of the model's training."""
    of_model = {"ignore_types": labeller.ignore_types, "box_level": labeller.splitter.box_level}
    data: DataSettings = options.data
    return data.model_copy(update={"format": options.format, **of_model})


def _report(stats: "ReadStats") -> None:
    """Print what was repaired or skipped while reading. Only rank 0 reads, so only its counts are not empty."""
    for line in stats.lines("input"):
        print(printable(line), file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    if not options.run.is_dir():
        raise CheckpointError(f"{options.run}: no such run folder")
    if options.public and options.push is None:
        raise SettingsError("--public without --push: give --push ORG/NAME too")
    from layoutner.inference.export import export, export_onnx

    if options.push is not None:
        from layoutner.publishing.push import push, require_name

        require_name(options.push)
    if options.onnx:
        quiet()
        checkpoint, check = export_onnx(options.run, options.out)
        print(f"{checkpoint} exported to {options.out} as an ONNX graph: {check}", flush=True)
    else:
        print(f"{export(options.run, options.out)} exported to {options.out}", flush=True)
    if options.push is not None:
        print(f"{options.out} uploaded to {push(options.out, options.push, options.public)}")
