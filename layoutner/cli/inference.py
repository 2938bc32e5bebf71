"""`layoutner predict`, `evaluate` and `export`: what is done with a trained model."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from layoutner.cli.arguments import Parser, quiet
from layoutner.config.errors import UserError
from layoutner.config.settings import DataSettings

if TYPE_CHECKING:
    from layoutner.data.page import Tally
    from layoutner.inference.labeller import Labelled, Labeller
    from layoutner.training.world import World


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `predict`, `evaluate` and `export`."""
    for name, text in (
        ("predict", "label the words of documents; under deepspeed or torchrun on many ranks"),
        ("evaluate", "score a model on labelled documents; under deepspeed or torchrun on many ranks"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "where", nargs="?", metavar="INPUT", help="folder, file or hub name of documents; - = jsonl on stdin"
        )
        command.add_argument("--input", metavar="INPUT", help="the same")
        command.add_argument("--model", type=Path, required=True, help="folder made by `layoutner export`")
        for key in ("format", "fix", "bad_pages"):
            field = DataSettings.model_fields[key]
            default = None if key == "format" else field.default
            shown = "ocr for images, jsonl for .jsonl and -, else funsd" if key == "format" else field.default
            command.add_argument(
                f"--data.{key}",
                dest=key,
                default=default,
                choices=get_args(field.annotation),
                help=f"{field.description} (default: {shown})",
            )
        command.add_argument(
            "--split",
            default="test",
            choices=["train", "eval", "test"],
            help="which one, where INPUT holds several (default: test)",
        )
        command.add_argument("--output", type=Path, metavar="FILE", help="file to write; default: standard output")
        command.add_argument("--batch", type=int, default=8, help="windows per forward (default: 8)")
        if name == "predict":
            command.add_argument(
                "--output-format",
                default="jsonl",
                choices=["jsonl", "unilm"],
                help="a line of JSON a page, or test_predictions.txt of run_seq_labeling.py (default: jsonl)",
            )
            command.add_argument(
                "--draw", type=Path, metavar="DIR", help="folder for pages with their entities drawn on them"
            )

    export = commands.add_parser("export", help="make a Hugging Face folder of a run's chosen checkpoint")
    export.add_argument("run", type=Path, help="run folder, or one of its checkpoints")
    export.add_argument("out", type=Path, help="folder to make")


def _predict(options: argparse.Namespace) -> None:
    world = _join(options)
    from layoutner.inference.draw import Drawings
    from layoutner.inference.input import ReportingTally, documents
    from layoutner.inference.labeller import Labeller, refuse
    from layoutner.inference.output import FORMATS, Output
    from layoutner.inference.predict import to_page

    output, tally = Output(options.output), ReportingTally()
    world.on_main(output.open)
    try:
        labeller = Labeller(options.model, world)
        types, tags = labeller.labels.types, labeller.labels.tags
        drawings = world.on_main(lambda: Drawings(options.draw, types)) if options.draw else None
        folder = None if options.output is None else options.output.parent

        def take(labelled: "Labelled") -> None:
            """Rank 0 writes and draws a chunk."""
            pages = [to_page(document, answers, tags, folder) for document, answers in labelled]
            output.write("".join(map(FORMATS[options.output_format], pages)))
            if drawings is not None:
                for page, (document, _) in zip(pages, labelled, strict=True):
                    drawings.add(page, document.image)

        found = documents(_settings(options, labeller), options.input, options.split, tally, "ignore")
        lost = tally.skip_all if options.bad_pages == "skip" else refuse
        labeller.label(found, options.batch, take, lost)
        world.on_main(output.finish)
    finally:
        output.discard()
    _report(tally)
    world.leave()


def _evaluate(options: argparse.Namespace) -> None:
    world = _join(options)
    from layoutner.inference.input import ReportingTally, documents
    from layoutner.inference.labeller import Labeller, refuse
    from layoutner.inference.output import Output

    output, tally = Output(options.output), ReportingTally()
    world.on_main(output.open)
    try:
        labeller = Labeller(options.model, world)
        found = documents(_settings(options, labeller), options.input, options.split, tally, "demand")
        lost = tally.skip_all if options.bad_pages == "skip" else refuse
        scores = labeller.evaluate(found, options.split, options.batch, lost)
        world.on_main(
            lambda: output.write(
                json.dumps({**scores.to_dict(), **labeller.chosen}, indent=2, ensure_ascii=False) + "\n"
            )
        )
        world.on_main(output.finish)
    finally:
        output.discard()
    if world.is_main and options.output:
        print(scores)
    _report(tally)
    world.leave()


def _join(options: argparse.Namespace) -> "World":
    """Look at the options that need no model, then join the ranks."""
    if (options.where is None) == (options.input is None):
        raise UserError(f"give one INPUT, not {'two' if options.where else 'none'}: INPUT or --input INPUT")
    given = options.where or options.input
    if options.batch < 1:
        raise UserError(f"--batch {options.batch}: at least one window a forward")
    if not options.model.is_dir():
        raise UserError(f"--model {options.model}: no such folder; `layoutner export RUN OUT` makes one")
    if given == "-" and options.format not in (None, "jsonl"):
        raise UserError(f"INPUT - with --data.format {options.format}: standard input is read as jsonl, a page a line")
    if given != "-" and options.format != "hub" and not Path(given).exists():
        raise UserError(f"--input {given}: no such file or folder")
    quiet()
    from layoutner.data.readers.jsonl import STDIN
    from layoutner.inference.input import guess_format
    from layoutner.training.world import World

    options.input = STDIN if given == "-" else Path(given)
    options.format = options.format or guess_format(options.input)
    return World.join()


def _settings(options: argparse.Namespace, labeller: "Labeller") -> DataSettings:
    """How the input is read: as the options say, with the boxes that the model was trained on."""
    box_level = labeller.windower.box_level
    return DataSettings(format=options.format, fix=options.fix, bad_pages=options.bad_pages, box_level=box_level)


def _report(tally: "Tally") -> None:
    """What was repaired and left out; only rank 0 counts anything."""
    for line in tally.lines("input"):
        print(line, file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    if not options.run.is_dir():
        raise UserError(f"{options.run}: no such run folder")
    quiet()
    from layoutner.inference.export import export

    print(f"{export(options.run, options.out)} exported to {options.out}")


COMMANDS = {"predict": _predict, "evaluate": _evaluate, "export": _export}
