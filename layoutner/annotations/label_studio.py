"""Exports of Label Studio: JSON and JSON-MIN, with rectangles, turned rectangles and polygons on images."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from layoutner.annotations.region import (
    MOST_POINTS,
    MOST_REGIONS,
    AnnotatedPage,
    Export,
    Point,
    Region,
    rectangle,
    turned,
)
from layoutner.errors import DataError
from layoutner.files.image import SUFFIXES
from layoutner.files.text import WRONG_SHAPE, read_json

LARGEST_FILE = 512 * 2**20  # maximum bytes of an export
LABELS = ("rectanglelabels", "polygonlabels", "labels")  # kinds of results that have labels of regions that are read
DRAWN = ("rectangle", "polygon", *LABELS)
PARTS = "layoutner-"  # ids of regions made by `layoutner data export`: layoutner-ENTITY-PART
PAGE_SUFFIXES = (*SUFFIXES, ".pdf")


class Choice(NamedTuple):
    """Which of the annotations of a task to take."""

    annotator: str | None = None  # id or e-mail of who made it; None: anybody
    predictions: bool = False  # whether to take predictions of tasks without an annotation


def read_export(path: Path, choice: Choice) -> Export:
    """Read an export.

    Of several annotations of a task the latest is taken. Cancelled ones are not read.

    Raises:
        DataError: not a JSON or JSON-MIN export of Label Studio, no task has an annotation, or a task is damaged.
    """
    content = read_json(path, LARGEST_FILE)
    tasks = content if isinstance(content, list) else [content]
    if not tasks or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{path}: not a Label Studio export: expected a list of tasks; export as JSON or JSON-MIN")
    if not any("data" in task for task in tasks):
        tasks = _tasks_of_rows(path, tasks)
    reader = _Reader(choice)
    for index, task in enumerate(tasks):
        source = f"task {str(task.get('id', index + 1))[:40]}"
        try:
            reader.add(task, source)
        except DataError as error:
            raise DataError(f"{path}: {source}: {error}") from None
        except WRONG_SHAPE as error:
            raise DataError(
                f"{path}: {source}: not a Label Studio task: {type(error).__name__}: {str(error)[:200]}"
            ) from None
    return reader.finish(path)


class _Reader:
    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._export = Export()
        self._counts: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()  # kinds of results that are not regions with labels
        self._relations: Counter[str] = Counter()
        self._annotators: Counter[str] = Counter()

    def add(self, task: dict[str, Any], source: str) -> None:
        data = task["data"]
        found = self._chosen(task)
        if found is None:
            return
        results = found.get("result") or []
        # The page of each result in a document of several pages; tasks of one page have no such index.
        names = _names(data)
        several = next((value for value in data.values() if _is_list_of_pages(value)), None)
        if several is not None:
            if len(several) > MOST_REGIONS:
                raise DataError(f"{len(several)} pages, more than {MOST_REGIONS}")
            by_page: dict[int, list[Any]] = {}
            for one in results:
                by_page.setdefault(int(one.get("item_index") or 0), []).append(one)
            for index, name in enumerate(several):
                self._add_page(f"{source} page {index + 1}", (str(name),), by_page.get(index, []), None)
        else:
            self._add_page(source, names, results, None)

    def _chosen(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """The annotation to take; None if there is none."""
        made = task.get("annotations") or task.get("completions") or []
        valid = [one for one in made if not one.get("was_cancelled")]
        self._counts["cancelled annotation(s) not read"] += len(made) - len(valid)
        if self._choice.annotator is not None:
            valid = [one for one in valid if self._choice.annotator in _annotator(one)]
        if valid:
            latest = max(enumerate(valid), key=lambda pair: (_time(pair[1]), pair[0]))[1]
            if len(valid) > 1:
                self._counts["task(s) with several annotations: the latest taken; --annotator chooses another"] += 1
            self._annotators[" ".join(_annotator(latest)[:1]) or "unknown"] += 1
            return dict(latest)
        predictions = task.get("predictions") or []
        if self._choice.predictions and predictions:
            chosen = max(enumerate(predictions), key=lambda pair: (_time(pair[1]), pair[0]))[1]
            self._counts[f"task(s) by the predictions of {short(chosen.get('model_version'))}"] += 1
            return dict(chosen)
        self._counts["task(s) without an annotation"] += 1
        self._counts["have predictions"] += bool(predictions)
        return None

    def _add_page(self, source: str, names: tuple[str, ...], results: list[Any], number: int | None) -> None:
        regions: dict[str, dict[str, Any]] = {}  # id -> {"points", "type", "text"}
        size: tuple[float, float] | None = None
        for index, one in enumerate(results):
            kind, value = one["type"], one.get("value") or {}
            if kind == "relation":
                for label in one.get("labels") or ["without a label"]:
                    self._relations[str(label)] += 1
                continue
            if one.get("image_rotation"):
                turn = f"drawn on an image turned by {one['image_rotation']} degrees"
                self._export.left_out.append(f"{source}: {turn}: turn the image itself, and draw again")
                return
            region = regions.setdefault(str(one.get("id") or f"#{index}"), {})
            if one.get("original_width") and one.get("original_height"):
                size = float(one["original_width"]), float(one["original_height"])
            if kind == "textarea":
                text = value["text"]
                region["text"] = " ".join(text if isinstance(text, list) else [text])
            elif kind in DRAWN:
                region["points"] = _points(value, size)
                labels = value.get(kind) or []
                self._counts["region(s) with several labels: the first taken"] += len(labels) > 1
                if labels:
                    region["type"] = _type(labels[0])
            else:
                self._ignored[str(kind)] += 1
        if len(regions) > MOST_REGIONS:
            raise DataError(f"{len(regions)} regions on one page, more than {MOST_REGIONS}")
        self._export.pages.append(
            AnnotatedPage(
                source,
                names,
                tuple(
                    Region(one.get("type"), one["points"], one.get("text", ""), _entity(key))
                    for key, one in regions.items()
                    if "points" in one
                ),
                number,
                size,
            )
        )

    def finish(self, path: Path) -> Export:
        """The pages with the notes on what was chosen and ignored."""
        export, counts = self._export, self._counts
        predicted = counts.pop("have predictions", 0)
        if not export.pages and not export.left_out:
            whose = f" by {self._choice.annotator}" if self._choice.annotator else ""
            raise DataError(
                f"{path}: no task has an annotation{whose}"
                + (f", but {predicted} have predictions: --predictions imports these" if predicted else "")
            )
        if self._ignored and not any(page.regions for page in export.pages):
            raise DataError(
                f"{path}: has only regions of the kinds {', '.join(self._ignored)}: draw rectangles or polygons"
            )
        if len(self._annotators) > 1 or self._choice.annotator:
            who = ", ".join(f"{name} ({count})" for name, count in self._annotators.most_common(10))
            export.notes.append(f"annotators: {who}")
        export.notes += [f"{count} {what}" for what, count in counts.items() if count]
        if self._ignored:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(self._ignored.items()))
            export.notes.append(f"results of other kinds ignored: {kinds}")
        if self._relations:
            kinds = ", ".join(f"{label} ({count})" for label, count in sorted(self._relations.items())[:20])
            export.notes.append(f"relations ignored: {kinds}")
        return export


def _points(value: dict[str, Any], size: tuple[float, float] | None) -> tuple[Point, ...]:
    """The corners in fractions of the page, from percent."""
    if "points" in value:
        points = tuple((float(x) / 100, float(y) / 100) for x, y in value["points"])
        if not 3 <= len(points) <= MOST_POINTS:
            raise DataError(f"a polygon of {len(points)} points; expected 3 to {MOST_POINTS}")
    else:
        x, y, width, height = (float(value[key]) / 100 for key in ("x", "y", "width", "height"))
        aspect = 1.0 if size is None else size[0] / size[1]
        points = turned(rectangle(x, y, width, height), float(value.get("rotation") or 0), aspect)
    if not all(abs(side) < 1e6 for point in points for side in point):
        raise DataError(f"a region at {short(value)} is not on the page")
    return points


def _type(label: Any) -> str:
    name = label.strip() if isinstance(label, str) else ""
    if not name or not name.isprintable():
        raise DataError(f"the label {short(label)} is not the name of an entity type")
    return name


def _entity(key: str) -> str | None:
    """The entity that a region made by `layoutner data export` is a part of."""
    entity, _, part = key.removeprefix(PARTS).partition("-")
    return f"{PARTS}{entity}" if key.startswith(PARTS) and entity.isdigit() and part.isdigit() else None


def _names(data: dict[str, Any]) -> tuple[str, ...]:
    """Paths and URLs of the page in the data of a task; "document", which `layoutner data export` writes, is first."""
    texts = [(key, value) for key, value in data.items() if isinstance(value, str) and 0 < len(value) < 4096]
    own = [value for key, value in texts if key == "document"]
    paths = [value for _, value in texts if value.partition("?")[0].lower().endswith(PAGE_SUFFIXES) or "?d=" in value]
    return tuple(dict.fromkeys(own + (paths or [value for _, value in texts])))


def _is_list_of_pages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(one, str) and one.partition("?")[0].lower().endswith(PAGE_SUFFIXES) for one in value)
    )


def _time(annotation: dict[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _annotator(annotation: dict[str, Any]) -> list[str]:
    """The names of who made an annotation: e-mail and id."""
    who = annotation.get("completed_by")
    found = [who.get("email"), who.get("id")] if isinstance(who, dict) else [who]
    return [str(one) for one in found if one is not None]


def _tasks_of_rows(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tasks as a JSON export has them, from the rows of a JSON-MIN export: one per annotation."""
    tasks: dict[str, dict[str, Any]] = {}
    for index, row in enumerate(rows):
        try:
            results = list(_results_of_row(row))
        except WRONG_SHAPE as error:
            raise DataError(
                f"{path}: row {index + 1}: not of Label Studio: {type(error).__name__}: {str(error)[:200]}"
            ) from None
        data = {key: value for key, value in row.items() if isinstance(value, str) and key != "created_at"}
        task = tasks.setdefault(
            str(row.get("id", f"#{index + 1}")), {"id": row.get("id"), "data": data, "annotations": []}
        )
        who = {"completed_by": row.get("annotator"), "updated_at": row.get("updated_at"), "result": results}
        task["annotations"].append(who)
    if not any(one["result"] for task in tasks.values() for one in task["annotations"]):
        raise DataError(f"{path}: not a Label Studio export: it has no regions; export as JSON or JSON-MIN")
    return list(tasks.values())


def _results_of_row(row: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """JSON-MIN lists the boxes, the labels and the texts of the regions one after the other, without their ids."""
    boxes: dict[str, str] = {}  # geometry -> id
    texts: list[list[str]] = []
    for name, value in row.items():
        if name in ("transcription", "text") and isinstance(value, str):  # of a single region
            texts.append([value])
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for one in value:
                geometry = str([one.get(key) for key in ("x", "y", "width", "height", "rotation", "points")])
                key = boxes.setdefault(geometry, str(len(boxes)))
                kind = next((kind for kind in one if kind.endswith("labels")), "rectangle")
                size = {side: one.get(side) for side in ("original_width", "original_height")}
                if "points" in one or "x" in one:
                    yield {"id": key, "type": kind, "value": one, **size}
        elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            texts.append(value)
    for found in texts:
        if len(found) == len(boxes):
            for index, text in enumerate(found):
                yield {"id": str(index), "type": "textarea", "value": {"text": text}}
            break
