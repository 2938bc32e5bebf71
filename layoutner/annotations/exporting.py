"""Write predictions as tasks of an annotation tool, the pages that the model is least certain of first."""

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from layoutner.annotations.tasks import certainty, labelling_interface, make_task
from layoutner.errors import DataError, raise_gathered
from layoutner.files.atomic import write_text
from layoutner.inference.model import Model
from layoutner.pages.document import Document
from layoutner.pages.page_object import image_keys

SHOWN = (".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".webp")  # suffixes of images that browsers show
LOCAL_FILES = "/data/local-files/?d="  # the URL of Label Studio's storage of local files


def export_tasks(
    model: Model, documents: Sequence[Document], folder: Path, prefix: str, version: str, out: Path, batch_size: int
) -> Path:
    """Predict, and write the tasks of Label Studio and, next to them, the labelling interface.

    Args:
        folder: of the pages. A task's image URL is `prefix` and the image's path relative to it.
        version: of the model, as Label Studio shows it.
        out: the JSON file of the tasks.

    Returns:
        The file of the labelling interface.

    Raises:
        DataError: a page has no image that Label Studio could show, or a file cannot be written.
    """
    interface = out.with_suffix(".xml")
    if out.is_dir() or interface == out:
        raise DataError(f"--out {out}: name a file such as tasks.json")
    urls = _urls(documents, folder, prefix)
    pages = model.predict(documents, batch_size=batch_size)
    order = sorted(range(len(pages)), key=lambda index: certainty(pages[index]))
    tasks = [make_task(pages[index], urls[index], version) for index in order]
    try:
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        write_text(interface.resolve(), labelling_interface(model.labels))
        write_text(out.resolve(), json.dumps(tasks, indent=1) + "\n")
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error}") from None
    return interface


def _urls(documents: Sequence[Document], folder: Path, prefix: str) -> list[str]:
    problems, urls = [], []
    for document in documents:
        name = image_keys(document.image, folder).get("image")
        if document.image is None:
            problems.append(f"{document.name}: has no image")
        elif document.image.frame is not None or document.image.path.suffix.lower() not in SHOWN:
            problems.append(f"{document.name}: its image is {document.image.path.name}, which browsers do not show")
        elif name is None:
            problems.append(f"{document.name}: its image {document.image.path} is not inside {folder}")
        else:
            urls.append(prefix + quote(str(name)))
    what = f"Label Studio needs an image of each page, such as a PNG; {len(problems)} page(s) have none"
    raise_gathered(DataError, what, problems)
    return urls
