"""`layoutner data import` and `data export`: from an annotation tool, and to it. Import loads no torch."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner.console.arguments import Parser, add_command, add_setting, overrides, quiet
from layoutner.console.terminal import add_options, showing
from layoutner.errors import DataError, SettingsError, raise_gathered
from layoutner.files.text import printable
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load

if TYPE_CHECKING:
    from layoutner.annotations.region import Export
    from layoutner.pages.document import Document

# Settings that say how pages are read.
KEYS = ("format", "box_unit", "box_format", "invalid_boxes", "bad_pages", "max_image_mib")
TOOLS = ("label-studio", "ppocrlabel")


def add_import_and_export(actions: "argparse._SubParsersAction[Parser]") -> None:
    """Add `import` and `export` to `layoutner data`."""
    about = "make labelled pages from an export of an annotation tool"
    importing = add_command(actions, "import", _import, about)
    importing.add_argument("export", type=Path, metavar="EXPORT", help="file that the tool has exported")
    importing.add_argument("--from", dest="tool", choices=TOOLS, required=True, help="the annotation tool")
    importing.add_argument(
        "--pages",
        type=Path,
        metavar="PAGES",
        help="pages with their words, which get the labels; default: the words are the transcriptions in the export",
    )
    importing.add_argument("--out", type=Path, required=True, metavar="FILE", help="jsonl file to write")
    importing.add_argument(
        "--by-order", action="store_true", help="match pages and annotations by their order instead of by their names"
    )
    importing.add_argument("--annotator", metavar="WHO", help="e-mail or id; default: the latest annotation of a task")
    importing.add_argument(
        "--predictions", action="store_true", help="take the predictions of tasks that nobody has annotated, too"
    )
    _add_settings(importing)

    about = "write tasks with predictions for an annotation tool, the least certain pages first"
    exporting = add_command(actions, "export", _export, about)
    exporting.add_argument("path", type=Path, metavar="PAGES", help="folder or file of pages")
    exporting.add_argument("--to", choices=TOOLS[:1], required=True, help="the annotation tool")
    exporting.add_argument(
        "--model", type=Path, required=True, help="folder made by `layoutner export`, or a run folder"
    )
    exporting.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file of tasks to write")
    exporting.add_argument(
        "--image-url",
        metavar="PREFIX",
        help="what to put before the path of an image (default: Label Studio's local files, with the folder of PAGES "
        "as LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT)",
    )
    exporting.add_argument("--batch", type=int, default=8, help="windows per forward pass (default: 8)")
    add_setting(exporting, "run", "device", "--device", dest="device", default="auto", require=True)
    _add_settings(exporting)


def _add_settings(command: Parser) -> None:
    for key in KEYS:
        shown = "pdf, ocr or jsonl by the names of the files, else funsd" if key == "format" else None
        add_setting(command, "data", key, shown=shown, require=True)
    add_options(command)


def _import(options: argparse.Namespace) -> None:
    from layoutner.annotations.importing import label_pages, pages_of_regions, write_pages

    if options.pages is None and options.by_order:
        raise SettingsError("--by-order without --pages: give the pages too")
    if options.tool != "label-studio" and (options.annotator or options.predictions):
        raise SettingsError(f"--annotator and --predictions are for label-studio, not for {options.tool}")
    with showing(options, sys.stdout):
        export = _exported(options)
        folder = options.export if options.export.is_dir() else options.export.parent
        if options.pages is None:
            imported = pages_of_regions(export, folder)
        else:
            imported = label_pages(export, _documents(options, options.pages, "--pages"), options.by_order, folder)
        lost = write_pages(imported.documents, options.out)
    if lost:
        imported.notes.append(
            f"{lost} page image(s) are not inside {options.out.parent}, so {options.out.name} does not name them"
        )
    if not options.quiet:
        print(printable("\n".join([f"{options.out}: {len(imported.documents)} pages", *imported.lines()])))


def _exported(options: argparse.Namespace) -> "Export":
    """The export; an error about a file of another kind says what it is."""
    from layoutner.annotations import label_studio, ppocrlabel
    from layoutner.readers.foreign import recognise

    try:
        if options.tool == "ppocrlabel":
            return ppocrlabel.read_export(options.export)
        choice = label_studio.Choice(options.annotator, options.predictions)
        return label_studio.read_export(options.export, choice)
    except DataError as error:
        kind = recognise(options.export)
        own = {"label-studio": "a Label Studio export", "ppocrlabel": "a PaddleOCR label file"}
        if kind is None or kind.what == own[options.tool]:
            raise
        other = next((tool for tool, what in own.items() if what == kind.what), None)
        advice = f"--from {other} reads it" if other else "export it from Label Studio as JSON or JSON-MIN"
        raise DataError(f"{error} ({options.export} is {kind.what}; {advice})") from None


def _documents(options: argparse.Namespace, path: Path, said: str) -> "list[Document]":
    """The pages of a path, without their labels."""
    from layoutner.documents.roles import stream
    from layoutner.inference.input import guess_format
    from layoutner.pages.document import Document
    from layoutner.pages.page import ReadStats

    data: DataSettings = load(None, overrides(options)).data
    if "format" not in data.model_fields_set:
        data = data.model_copy(update={"format": guess_format(path)})
    stats = ReadStats()
    pages, problems = [], []
    for found in stream(data, path, "test", stats, said, "ignore"):
        if isinstance(found, Document):
            pages.append(found)
        else:
            problems += [str(problem) for problem in found if problem.fatal]
    advice = "--data.bad_pages skip leaves such pages out"
    raise_gathered(DataError, f"{len(problems)} problem(s) in {path} ({advice})", problems)
    for line in stats.lines(said):
        print(printable(line), file=sys.stderr)
    if not pages:
        raise DataError(f"{said} {path}: holds no page")
    return pages


def _export(options: argparse.Namespace) -> None:
    if options.batch < 1:
        raise SettingsError(f"--batch {options.batch}: must be at least 1, the windows per forward pass")
    pages = _documents(options, options.path, "PAGES")
    quiet()
    from layoutner.annotations.exporting import LOCAL_FILES, export_tasks
    from layoutner.inference.model import load_model

    folder = options.path if options.path.is_dir() else options.path.parent
    prefix = LOCAL_FILES if options.image_url is None else options.image_url
    with showing(options, sys.stdout):
        model = load_model(options.model, device=options.device)
        version = f"layoutner {options.model.resolve().name}"
        interface = export_tasks(model, pages, folder, prefix, version, options.out, options.batch)
    if not options.quiet:
        print(f"{options.out}: {len(pages)} tasks, the least certain first")
        print(f"{interface}: the labelling interface, for Settings > Labeling Interface > Code")
