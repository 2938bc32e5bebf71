"""Around the application: counts every answer, adds headers, and refuses foreign host names."""

import json
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from layoutner.serving.metrics import Metrics

TIMED = ("/predict", "/label-studio/predict")
ROUTES = (*TIMED, "/", "/docs", "/health", "/metrics", "/openapi.json", "/label-studio/setup", "/label-studio/health")
OTHER = "other"  # the route of everything else, so that no client can make up new metrics

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Observed:
    """The application as the server calls it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: frozenset[str] | None) -> None:
        """`hosts`: names by which the server may be called, without ports; None = any."""
        self._app, self._metrics, self._hosts = app, metrics, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else OTHER
        since, status = time.monotonic(), 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        try:
            if self._is_foreign(scope):
                await _refuse_host(observed)
            else:
                await self._app(scope, receive, observed)
        finally:
            # 499: the client has gone, or the server ends.
            self._metrics.request(route, status or 499, time.monotonic() - since, route in TIMED)

    def _is_foreign(self, scope: Scope) -> bool:
        # A page of another site whose name points to 127.0.0.1 could otherwise read answers through a browser.
        if self._hosts is None:
            return False
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        return name not in self._hosts


async def _refuse_host(send: Send) -> None:
    text = "the server is bound to this machine only, and takes no other host name; --host binds it elsewhere"
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
