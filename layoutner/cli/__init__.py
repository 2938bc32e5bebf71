"""The command line: reads arguments, builds Settings, hands over. Heavy imports wait until a command needs them."""

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner import __version__
from layoutner.cli import config
from layoutner.cli.arguments import Parser, add_settings, overrides, quiet
from layoutner.config.errors import UserError, first_line
from layoutner.config.settings import did_you_mean, load, sections

if TYPE_CHECKING:
    from layoutner.data.document import Document
    from layoutner.training.world import World

ERROR, INTERRUPTED = 2, 130  # exit codes; 130 = 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `layoutner`, `python -m layoutner` and the launchers. Exits with 0, 1, 2 or 130."""
    rank = int(os.environ.get("RANK", "0"))
    who = f"layoutner: rank {rank}: " if rank else "layoutner: "
    try:
        _run(_without_local_rank(sys.argv[1:] if arguments is None else list(arguments)))
    except UserError as error:
        # Once they have joined, ranks fail alike, and the others say it in one line.
        text = str(error) if rank == 0 or "torch" not in sys.modules else first_line(error)
        print(f"{who}error: {text}", file=sys.stderr)
        sys.exit(ERROR)
    except KeyboardInterrupt:
        print(f"{who}interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        advice = "a smaller batch.micro_windows needs less, and computes the same"
        print(f"{who}error: {first_line(error)} - {advice}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"{who}error: {error}", file=sys.stderr)
        sys.exit(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Everything is written and all ranks have left. What is skipped is the teardown of the interpreter, in which
        # a thread that gloo or NCCL still runs can abort the process, and so turn a finished run into a failed one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _without_local_rank(arguments: list[str]) -> list[str]:
    """`deepspeed` puts --local_rank=N before the program's own arguments; the environment says the same."""
    kept, skip = [], False
    for argument in arguments:
        name, _, value = argument.partition("=")
        if skip:
            skip = False
        elif name in ("--local_rank", "--local-rank"):
            skip = not value
        else:
            kept.append(argument)
    return kept


def _run(arguments: list[str]) -> None:
    parser = Parser(
        prog="layoutner",
        description="Fine-tune LayoutLM-family models to label the words of scanned forms, with DeepSpeed.",
    )
    parser.add_argument("--version", action="version", version=f"layoutner {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    train = commands.add_parser("train", help="train, evaluate, save; under deepspeed or torchrun on many ranks")
    add_settings(train)

    demo = commands.add_parser("demo", help="synthetic forms through the whole toolkit, without a download")
    add_settings(demo, config=False)

    for name, text in (
        ("predict", "label the words of documents"),
        ("evaluate", "score a model on labelled documents"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--model", type=Path, required=True, help="folder made by `layoutner export`")
        command.add_argument("--input", type=Path, required=True, help="folder or file of documents")
        command.add_argument("--data.format", dest="format", default="funsd", choices=["funsd", "unilm"], help="reader")
        command.add_argument(
            "--split",
            default="test",
            choices=["train", "eval", "test"],
            help="which one, where --input holds several",
        )
        command.add_argument("--output", type=Path, help="file to write; default: standard output")
        command.add_argument("--batch", type=int, default=8, help="windows per forward (default: 8)")
        if name == "predict":
            command.add_argument("--draw", type=Path, help="folder for pages with their entities drawn on them")

    export = commands.add_parser("export", help="make a Hugging Face folder of a run's chosen checkpoint")
    export.add_argument("run", type=Path, help="run folder, or one of its checkpoints")
    export.add_argument("out", type=Path, help="folder to make")

    config.add_commands(commands)

    options, strangers = parser.parse_known_args(arguments)
    if strangers:
        known = [f"--{section}.{key}" for section, model in sections().items() for key in model.model_fields]
        known += ["--config", "--model", "--input", "--output", "--split", "--world-size", "--windows"]
        raise UserError(f"unknown argument {strangers[0]}: {did_you_mean(strangers[0].partition('=')[0], known)}")
    COMMANDS[options.action if options.command == "config" else options.command](options)


def _train(options: argparse.Namespace) -> None:
    settings = load(options.config, overrides(options))
    quiet()
    from layoutner.inference.labeller import Labeller
    from layoutner.training.folder import SCORES_FILE, write_json
    from layoutner.training.loop import train
    from layoutner.training.world import World

    world = World.join()
    _log_on(world)
    plan, chosen = train(settings, world)
    run = settings.run.output_dir
    out = run / "export"
    world.on_main(lambda: _export_anew(chosen, out))
    # The chosen checkpoint is scored once, as it will be used: from the export, on the documents that chose nothing.
    split = "test" if plan.corpus.test else "eval"
    documents: list[Document] = getattr(plan.corpus, split)
    if documents:
        scores = Labeller(out, world).evaluate(documents, split, settings.batch.micro_windows)
        chosen_by = {
            "step": int(chosen.name.removeprefix("step-")),
            "by": "eval f1" if plan.corpus.eval else "last step",
        }
        if world.is_main:
            write_json(run / SCORES_FILE, {**scores.to_dict(), "checkpoint": chosen_by})
            logging.getLogger("layoutner").info("%s", scores)
    logging.getLogger("layoutner").info("%s exported to %s", chosen.name, out)
    world.leave()


def _export_anew(chosen: Path, out: Path) -> None:
    from layoutner.inference.export import export

    shutil.rmtree(out, ignore_errors=True)
    export(chosen, out)


def _evaluate(options: argparse.Namespace) -> None:
    labeller_world, documents = _open(options)
    from layoutner.inference.labeller import Labeller
    from layoutner.training.folder import write_json

    scores = Labeller(options.model, labeller_world).evaluate(documents, options.split, options.batch)
    if labeller_world.is_main:
        if options.output:
            write_json(options.output, scores.to_dict())
            print(scores)
        else:
            print(json.dumps(scores.to_dict(), indent=2))
    labeller_world.leave()


def _predict(options: argparse.Namespace) -> None:
    world, documents = _open(options)
    from layoutner.inference.draw import draw
    from layoutner.inference.labeller import Labeller
    from layoutner.inference.predict import predict, write_jsonl

    labeller = Labeller(options.model, world)
    pages = predict(labeller, documents, options.batch)
    if pages is not None:
        if options.output:
            write_jsonl(options.output, pages)
        else:
            for page in pages:
                print(json.dumps(page, ensure_ascii=False))
        if options.draw:
            for page, document in zip(pages, documents, strict=True):
                draw(page, document.image, labeller.labels.types, options.draw / f"{document.name}.png")
    world.leave()


def _open(options: argparse.Namespace) -> "tuple[World, list[Document]]":
    """Join the ranks and read the documents of --input."""
    if options.batch < 1:
        raise UserError(f"--batch {options.batch}: at least one window a forward")
    if not options.model.is_dir():
        raise UserError(f"--model {options.model}: no such folder; `layoutner export RUN OUT` makes one")
    if not options.input.exists():
        raise UserError(f"--input {options.input}: no such file or folder")
    quiet()
    from layoutner.config.settings import DataSettings
    from layoutner.data.corpus import read_documents
    from layoutner.training.world import World

    world = World.join()
    _log_on(world)
    return world, world.agree(
        lambda: read_documents(DataSettings(format=options.format), options.input, options.split, said="--input")
    )


def _export(options: argparse.Namespace) -> None:
    if not options.run.is_dir():
        raise UserError(f"{options.run}: no such run folder")
    quiet()
    from layoutner.inference.export import export

    print(f"{export(options.run, options.out)} exported to {options.out}")


def _demo(options: argparse.Namespace) -> None:
    given = overrides(options)
    settings = load("demo", given)
    quiet()
    from layoutner.demo.run import run_demo

    run_demo(settings, given)


def _log_on(world: "World") -> None:
    """layoutner's log on rank 0's standard output; of DeepSpeed only warnings."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("layoutner").setLevel(logging.INFO if world.is_main else logging.WARNING)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


COMMANDS = {
    "train": _train,
    "demo": _demo,
    "predict": _predict,
    "evaluate": _evaluate,
    "export": _export,
    **config.COMMANDS,
}
