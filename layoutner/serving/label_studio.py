"""The routes of an ML backend of Label Studio: tasks with an image become predictions."""

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from layoutner.inference.labelled_page import Entity, LabelledPage
from layoutner.serving.answer import confidence
from layoutner.serving.refusal import Refused, one_sentence
from layoutner.serving.service import Service, Visit
from layoutner.serving.task_files import TaskFiles
from layoutner.serving.uploads import kind_of, read_body

AT_ONCE = 8  # tasks of one request that are read at the same time


@dataclass(frozen=True)
class Controls:
    """The tags of a labelling interface that predictions are for."""

    image: str  # name of the Image tag
    key: str  # of the task's data, with the image
    rectangles: str  # name of RectangleLabels, or of Rectangle
    labels: str | None  # name of Labels, if they are a tag of their own
    text: str | None  # name of the TextArea with the text of each region
    types: frozenset[str]  # the labels that it offers

    def result(self, page: LabelledPage) -> list[dict[str, Any]]:
        """The entities of a page as regions, in percent of its width and height."""
        regions = []
        for number, entity in enumerate(page.entities):
            if entity.type in self.types:
                regions += self._region(page, entity, f"layoutner-{number}")
        return regions

    def _region(self, page: LabelledPage, entity: Entity, name: str) -> list[dict[str, Any]]:
        x0, y0, x1, y1 = (side / 10 for side in entity.box)
        place = {"x": x0, "y": y0, "width": round(x1 - x0, 1), "height": round(y1 - y0, 1), "rotation": 0}
        width, height = (round(side) for side in page.document.page_size)

        def part(control: str, kind: str, **value: list[str]) -> dict[str, Any]:
            return {
                "id": name,  # parts with the same name are one region
                "from_name": control,
                "to_name": self.image,
                "type": kind,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**place, **value},
                "score": round(confidence(page, entity), 4),
            }

        if self.labels is None:
            parts = [part(self.rectangles, "rectanglelabels", rectanglelabels=[entity.type])]
        else:
            parts = [part(self.rectangles, "rectangle"), part(self.labels, "labels", labels=[entity.type])]
        return parts if self.text is None else [*parts, part(self.text, "textarea", text=[entity.text])]


class LabelStudio:
    """Answers Label Studio."""

    def __init__(self, service: Service, files: TaskFiles, version: str) -> None:
        """`version`: of the model, which Label Studio shows and keeps with its predictions."""
        self._service, self._files, self.version = service, files, version

    async def predict(self, request: Request) -> dict[str, Any]:
        """Predictions for the tasks of a request, in their order. A task that fails has none, and the reason.

        Raises:
            Refused: the request is not what Label Studio sends, or the server is full.
        """
        async with self._service.visit() as visit:
            body = await read_body(request, self._service.limits.max_upload_bytes, visit.until)
            tasks, controls = _parse(body)
            few = asyncio.Semaphore(AT_ONCE)

            async def one(number: int, task: dict[str, Any]) -> dict[str, Any]:
                async with few:
                    try:
                        page = await self._page(task["data"].get(controls.key), visit, number)
                    except Refused as refused:
                        return {"result": [], "score": 0.0, "model_version": self.version, "error": refused.message}
                scores = [confidence(page, entity) for entity in page.entities]
                return {
                    "result": controls.result(page),
                    "score": round(min(scores, default=0.0), 4),
                    "model_version": self.version,
                }

            return {"results": await asyncio.gather(*(one(number, task) for number, task in enumerate(tasks)))}

    async def _page(self, reference: Any, visit: Visit, number: int) -> LabelledPage:
        """The first page of the file that a task names."""
        if not isinstance(reference, str):
            raise Refused(422, "the task's data has no text with an image under the key that the interface names")
        content = await run_in_threadpool(
            self._files.read, reference, self._service.limits.max_upload_bytes, visit.until
        )
        suffix = kind_of(content[:2048])
        if suffix == ".json":
            raise Refused(415, "the file of the task is JSON; expected an image")
        folder = visit.folder / str(number)
        folder.mkdir()
        path = folder / f"task{suffix}"
        await run_in_threadpool(path.write_bytes, content)
        return (await self._service.label(path, visit)).pages[0]


def _parse(body: bytes) -> tuple[list[dict[str, Any]], Controls]:
    """The tasks of a request and the interface of their project.

    Raises:
        Refused: 400 = not what Label Studio sends; 422 = the interface has no place for predictions.
    """
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, one_sentence(f"the body is not JSON: {error}")) from None
    tasks = tree.get("tasks") if isinstance(tree, dict) else None
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    ):
        raise Refused(400, "tasks is missing; expected a list of objects with data, as Label Studio sends")
    config = tree.get("label_config")
    if not isinstance(config, str):
        raise Refused(400, "label_config is missing; expected the labelling interface, as Label Studio sends")
    return tasks, _controls(config)


def _controls(config: str) -> Controls:
    if "<!doctype" in config.lower() or "<!entity" in config.lower():
        raise Refused(400, "label_config declares a document type, which no labelling interface needs")
    try:
        root = ElementTree.fromstring(config)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise Refused(400, one_sentence(f"label_config is not XML: {error}")) from None
    image = root.find(".//Image")
    together, alone, labels = (root.find(f".//{tag}") for tag in ("RectangleLabels", "Rectangle", "Labels"))
    rectangles = together if together is not None else alone
    if image is None or rectangles is None or (together is None and labels is None):
        raise Refused(422, "the labelling interface needs an Image with RectangleLabels, or with Rectangle and Labels")
    named = together if together is not None else labels
    assert named is not None, "refused above"
    text = root.find(".//TextArea")
    return Controls(
        image.get("name", "image"),
        image.get("value", "").removeprefix("$"),
        rectangles.get("name", "bbox"),
        None if together is not None else named.get("name", "label"),
        None if text is None else text.get("name"),
        frozenset(label.get("value", "") for label in named.iter("Label")),
    )
