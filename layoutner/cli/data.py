"""`layoutner data ...`: make pages of PDFs and images, check documents, build a store, import and export annotations.

Imports torch only if a model is given.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner.cli.annotations import add_import_and_export
from layoutner.console.arguments import Parser, add_command, add_config, add_setting, overrides, quiet
from layoutner.console.terminal import add_options, showing
from layoutner.errors import SettingsError
from layoutner.files.text import printable
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layoutner.documents.check import CountWindows
    from layoutner.pages.document import Document

# Settings that say how documents are read.
# fmt: off
KEYS = (
    "format", "labels", "ignore_types", "group_by", "box_unit", "box_format", "invalid_boxes", "box_level",
    "max_length", "stride", "max_image_mib",
)
# fmt: on
BUILD_KEYS = ("scheme", "label_all_subwords", "bad_pages")  # more of them for a store


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `data` and its subcommands."""
    about = "make pages of PDFs and images, check documents, build a store of them, import or export annotations"
    data = commands.add_parser("data", help=about)
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    check = add_command(actions, "check", _check, "count documents and words, list problems; exits 1 on errors")
    check.add_argument("path", type=Path, help="folder or file of documents")
    for key in KEYS:
        add_setting(check, "data", key, f"--data.{key}")
    check.add_argument("--split", choices=["train", "eval", "test"], help="read only this split (default: all splits)")
    check.add_argument("--model", metavar="NAME", help="checkpoint whose tokenizer counts windows and tokens")
    check.add_argument("--format", choices=["text", "json"], default="text", help="(default: text)")
    check.add_argument("--all", action="store_true", help="print every problem, not only the first ten of each kind")

    add_import_and_export(actions)
    build = add_command(actions, "build", _build, "cut labelled documents into windows once, for any number of runs")
    build.add_argument("path", type=Path, help="folder or file of documents")
    build.add_argument(
        "--out", type=Path, required=True, metavar="STORE", help="folder to write; --data.train takes it"
    )
    add_config(build)
    for key in (*KEYS, *BUILD_KEYS):
        add_setting(build, "data", key, f"--data.{key}")
    for key in ("name_or_path", "family"):
        add_setting(build, "model", key, f"--model.{key}")
    build.add_argument("--split", choices=["train", "eval", "test"], default="train", help="(default: train)")
    add_options(build)
    build.add_argument("--processes", type=int, metavar="N", help="that cut windows (default: one for each CPU)")

    about = "read the words of PDFs and images into a file of pages; needs no model"
    prepare = add_command(actions, "prepare", _prepare, about)
    prepare.add_argument("inputs", nargs="+", metavar="INPUT", help="PDF, image, folder of them, or pattern in quotes")
    prepare.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    prepare.add_argument("--images", type=Path, metavar="DIR", help="new folder for a PNG of every page, next to FILE")
    prepare.add_argument("--jobs", type=int, metavar="N", help="processes (default: one for each CPU)")
    prepare.add_argument(
        "--data.format",
        dest="data.format",
        choices=["pdf", "ocr"],
        default="pdf",
        metavar="{pdf,ocr}",
        help="pdf = the text layer of a PDF where it can be used, OCR elsewhere; ocr = OCR everywhere (default: pdf)",
    )
    for key in ("bad_pages", "max_image_mib"):
        add_setting(prepare, "data", key, f"--data.{key}")
    for key in ("engine", "language", "cache"):
        add_setting(prepare, "ocr", key)
    add_options(prepare)


def _check(options: argparse.Namespace) -> None:
    from layoutner.documents.check import check

    settings = load(None, overrides(options)).data
    report = check(settings, options.path, options.split, _counter(options.model, settings) if options.model else None)
    print(report.to_json() if options.format == "json" else report.to_text(options.all))
    if report.fatal:
        sys.exit(1)


def _counter(name: str, settings: DataSettings) -> "CountWindows":
    """A function that counts windows and tokens of documents, using the tokenizer of a pretrained model."""
    quiet()
    from layoutner.corpus.splitter import WindowSplitter
    from layoutner.models.loading import open_pretrained
    from layoutner.settings.tree import ModelSettings

    checkpoint = open_pretrained(ModelSettings(name_or_path=name))
    checkpoint.require_length(settings.max_length)
    splitter = WindowSplitter(checkpoint.tokenizer, settings.max_length, settings.stride)

    def count(documents: "Sequence[Document]") -> tuple[int, int]:
        windows = splitter.split(documents, None)
        return len(windows), windows.tokens

    return count


def _build(options: argparse.Namespace) -> None:
    settings = load(options.config, overrides(options))
    processes = options.processes
    if processes is not None and processes < 1:
        raise SettingsError(f"--processes {processes}: at least one is needed")
    quiet()
    from layoutner.corpus.build import build
    from layoutner.distributed.machine import available_cpus
    from layoutner.models.families import window_splitter
    from layoutner.models.loading import open_pretrained

    pretrained = open_pretrained(settings.model, settings.data.max_image_mib)
    pretrained.require_length(settings.data.max_length)
    splitter = window_splitter(pretrained.family, pretrained.tokenizer, settings.data)
    processes = available_cpus() if processes is None else processes
    start = time.monotonic()
    with showing(options, sys.stdout):
        manifest = build(settings.data, splitter, options.path, options.split, options.out, processes)
    if options.quiet:
        return
    for note in manifest.notes:
        print(note)
    print(f"{options.out}: {manifest}, in {time.monotonic() - start:.0f} s")


def _prepare(options: argparse.Namespace) -> None:
    from layoutner.distributed.machine import available_cpus
    from layoutner.scans.prepare import prepare

    settings = load(None, overrides(options)).data
    jobs = available_cpus() if options.jobs is None else options.jobs
    with showing(options, sys.stdout):
        summary = prepare(options.inputs, options.out, settings, options.images, jobs)
    for problem in summary.left_out:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    if not options.quiet:
        print(*summary.notes, f"{options.out}: {summary}", sep="\n")
