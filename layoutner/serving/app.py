"""The HTTP interface: routes, errors as JSON, and the pages for people."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from layoutner import __version__
from layoutner.fields.normaliser import find_normalisers
from layoutner.fields.record import Rules
from layoutner.serving.answer import to_answer
from layoutner.serving.label_studio import LabelStudio
from layoutner.serving.metrics import CONTENT_TYPE
from layoutner.serving.observed import Observed
from layoutner.serving.refusal import Refused
from layoutner.serving.service import Service
from layoutner.serving.uploads import receive

PAGES = Path(__file__).parent / "pages"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}

_FILE = {"schema": {"type": "string", "format": "binary"}}
_PAGE = {"type": "object", "description": "a page with the keys document, page_size and words, as a line of jsonl"}
BODY = {
    "requestBody": {
        "required": True,
        "description": "A PDF, an image or a multi-page TIFF, as a form's file or as the body; or a page as JSON, or a "
        "list of pages.",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
            },
            "application/pdf": _FILE,
            "image/*": _FILE,
            "application/json": {"schema": {"oneOf": [_PAGE, {"type": "array", "items": _PAGE}]}},
        },
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"example": {"error": "one sentence"}}}}
    for status, text in (
        (400, "Malformed: no document, or not the JSON that it claims to be"),
        (408, "The body did not arrive in time"),
        (413, "Larger than the server takes"),
        (415, "Of an unknown kind"),
        (422, "A page cannot be read or used"),
        (503, "The server is full; Retry-After says when to try again"),
        (504, "Takes longer than the server allows"),
    )
}


@dataclass(frozen=True)
class About:
    """What the server says of itself."""

    model: str  # name of the model's folder
    normalisers: Mapping[str, str]  # entity type -> name of its normaliser
    hosts: frozenset[str] | None  # names by which the server may be called; None = any


def make_app(service: Service, about: About, label_studio: LabelStudio) -> ASGIApp:
    """The application. It closes the service when the server ends.

    Raises:
        SettingsError: a normaliser of a type that the model does not have.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(title="layoutner", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    normalisers = find_normalisers(about.normalisers, service.model.labels)
    _add_errors(app)
    _add_pages(app)

    @app.post("/predict", openapi_extra=BODY, responses=ERRORS, summary="The fields of a document")
    async def predict(
        request: Request,
        words: Annotated[bool, Query(description="whether the answer has every word of every page")] = True,
        previews: Annotated[bool, Query(description="whether the answer has the page images, as data URLs")] = False,
        min_confidence: Annotated[float, Query(ge=0, le=1, description="fields below it have a review note")] = 0.0,
        name: Annotated[str | None, Query(max_length=200, description="of a document sent as the body")] = None,
    ) -> Response:
        async with service.visit() as visit:
            path = await receive(request, visit.folder, service.limits.max_upload_bytes, visit.until)
            labelled = await service.label(path, visit, previews)
            rules = Rules(normalisers, min_confidence)
            types = service.model.labels
            document = None if path.suffix == ".json" else path.stem  # JSON has a name of its own
            tree = await run_in_threadpool(to_answer, document, labelled.pages, types, rules, labelled.previews, words)
        return JSONResponse(tree)

    @app.get("/health", summary="Whether the server is alive, and its model")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": about.model,
            "family": service.model.family,
            "types": list(service.model.labels),
            "version": __version__,
        }

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.post("/label-studio/predict", responses=ERRORS, summary="Predictions for tasks of Label Studio")
    async def label_studio_predict(request: Request) -> dict[str, Any]:
        return await label_studio.predict(request)

    @app.post("/label-studio/setup", summary="Label Studio connects to the model")
    async def label_studio_setup() -> dict[str, Any]:
        return {"model_version": label_studio.version}

    @app.get("/label-studio/health", summary="Label Studio asks whether the model is there")
    async def label_studio_health() -> dict[str, Any]:
        return {"status": "UP", "model_class": "layoutner"}

    return Observed(app, service.metrics, about.hosts)


def _add_pages(app: FastAPI) -> None:
    """Add the pages for people. All that they need comes from here: nothing is loaded from the network."""

    def page(name: str) -> Response:
        return Response((PAGES / name).read_bytes(), media_type=TYPES[Path(name).suffix])

    @app.get("/", include_in_schema=False)
    async def upload_page() -> Response:
        return page("upload.html")

    @app.get("/docs", include_in_schema=False)
    async def docs_page() -> Response:
        return page("docs.html")

    @app.get("/pages/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in ("page.css", "upload.js", "docs.js"):
            raise HTTPException(404)
        return page(name)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse({"error": error.message}, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return JSONResponse(
            {"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code, error.headers
        )

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "an error inside the server; its log says more"}, 500)
