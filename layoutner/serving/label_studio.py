"""The routes of an ML backend of Label Studio: tasks with an image become predictions."""

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from layoutner.annotations.tasks import make_task
from layoutner.inference.labelled_page import LabelledPage
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

    def fit(self, regions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Regions of `make_task`, with the names of these tags. Types that the interface lacks are left out."""
        kept = {one["id"] for one in regions if self.types.issuperset(one["value"].get("rectanglelabels", ("",)))}
        found: list[dict[str, Any]] = []
        for one in regions:
            own = {**one, "to_name": self.image}
            if one["id"] not in kept:
                continue
            if one["type"] == "textarea":
                found += [] if self.text is None else [{**own, "from_name": self.text}]
            elif self.labels is None:
                found.append({**own, "from_name": self.rectangles})
            else:  # a rectangle and its labels are two results with one id
                place = dict(one["value"])
                types = place.pop("rectanglelabels")
                found.append({**own, "from_name": self.rectangles, "type": "rectangle", "value": place})
                found.append({**own, "from_name": self.labels, "type": "labels", "value": {**place, "labels": types}})
        return found


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
                (prediction,) = make_task(page, "", self.version)["predictions"]
                return {**prediction, "result": controls.fit(prediction["result"])}

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
