"""`layoutner serve`: a model behind HTTP."""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from layoutner.console.arguments import Parser, add_command, add_setting, overrides, quiet
from layoutner.errors import require_all
from layoutner.files.text import printable
from layoutner.settings.tree import load


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `serve`."""
    serve = add_command(commands, "serve", _serve, "answer the fields of documents over HTTP")
    serve.add_argument("model", type=Path, help="folder made by `layoutner export`, or a run folder")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    serve.add_argument("--port", type=int, default=8000, help="port to listen on; 0 = a free one (default: 8000)")
    add_setting(serve, "run", "device", "--device", dest="device", default="auto", require=True)
    limits = (
        ("--max-upload-mib", int, 32, "MiB", "largest body of a request, in MiB"),
        ("--max-pages", int, 50, "PAGES", "most pages of a document"),
        ("--timeout", float, 60.0, "SECONDS", "longest time of a request, from its first byte to its answer"),
        ("--batch", int, 8, "WINDOWS", "windows per forward pass"),
        ("--queue", int, 64, "REQUESTS", "most requests that are worked on or wait; more are told to come back"),
    )
    for name, kind, default, unit, text in limits:
        serve.add_argument(name, type=kind, default=default, metavar=unit, help=f"{text} (default: {default:g})")
    settings = (("data", "invalid_boxes"), ("data", "max_image_mib"), ("ocr", "engine"), ("ocr", "language"))
    for section, key in settings:
        add_setting(serve, section, key, require=True)
    lists = (
        ("--normalise", "TYPE=HOW", "give the fields of a type a value, such as TOTAL=amount; repeatable"),
        (
            "--allow-url",
            "PREFIX",
            "addresses that tasks of Label Studio may name, such as https://host/images/; repeatable",
        ),
    )
    for name, form, text in lists:
        serve.add_argument(name, action="append", default=[], metavar=form, help=text)
    files = "folder of the files that tasks of Label Studio may name"
    serve.add_argument("--documents", type=Path, metavar="FOLDER", help=files)


def _serve(options: argparse.Namespace) -> None:
    from layoutner.fields.normaliser import read_choices
    from layoutner.inference.model_folder import model_folder
    from layoutner.serving.address import listening
    from layoutner.serving.options import Limits, ServeOptions, require_packages
    from layoutner.serving.task_files import TaskFiles

    settings = load(None, overrides(options))
    data = settings.data.with_ocr(settings.ocr.model_copy(update={"cache": "off"}))  # nothing of a client is kept
    limits = Limits(options.max_upload_mib, options.max_pages, options.timeout, options.batch, options.queue)
    normalisers = read_choices(options.normalise)
    files = TaskFiles(options.documents, tuple(options.allow_url))
    checks: tuple[Callable[[], object], ...] = (
        require_packages,
        limits.require,
        files.require,
        partial(model_folder, options.model, ""),
    )
    require_all("`layoutner serve` cannot start", checks)
    folder = model_folder(options.model, "")
    # oneDNN keeps what it has made for each shape of a batch, 1,024 of them by default: about 100 MiB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    with listening(options.host, options.port) as listener:
        quiet()
        from layoutner.serving.server import serve

        def say(line: str) -> None:
            print(printable(line), flush=True)

        serve(ServeOptions(folder, options.host, options.device, limits, data, normalisers, files), listener, say)
