"""What stands before every route: headers, API keys, bodies within their limits of size and time. Knows no model.

A client that sends half a body, or one byte a minute, holds its own bytes and no more: a request takes a place in the
queue when its body is here. A client that has gone takes what it asked for with it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeAlias

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from humanpref.serve.admission import Admission
from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError
from humanpref.serve.keys import ApiKeys
from humanpref.serve.metrics import Metrics
from humanpref.serve.patience import Patience
from humanpref.web import security_headers

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

GONE = "humanpref.gone"
"""In a scope: what the server calls when the client of a request goes away."""
PROTECTED = "/v1/"
MEDIA_TYPES = ("application/json", "multipart/form-data")
LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and thrown away, so that its sender gets to see the answer."""

HEADERS = tuple(
    (name.lower().encode(), value.encode())
    for name, value in {**security_headers(images="'self' blob:", forms="'none'"), "Cache-Control": "no-store"}.items()
)
"""On every response, as ASGI wants them. blob: are the pictures that were dropped on the page."""


class _GoneError(Exception):
    """The client has gone."""


class Guard:
    """ASGI middleware around the application.

    `handlers` are of the paths that bodies are posted to. They are called from here: the path is known, and what a
    router does costs a tenth of a millisecond. `routes`: all paths.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        config: ServeConfig,
        keys: ApiKeys,
        admission: Admission,
        metrics: Metrics,
        handlers: Mapping[str, Handler],
        routes: Collection[str],
    ) -> None:
        self.app = app
        self._handlers = handlers
        self._routes = frozenset(routes)
        self._config = config
        self._keys = keys
        self._admission = admission
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self._admission.request(), self._admission.holding() as take:
            await self._serve(_Exchange(scope, receive, send), scope, take)

    async def _serve(self, exchange: _Exchange, scope: Scope, take: Callable[[int], None]) -> None:
        began = time.monotonic()
        path, route = scope["path"], "none"
        try:
            try:
                self._check_head(exchange, scope)
                if scope["method"] == "POST" and (handler := self._handlers.get(path)) is not None:
                    with exchange.patience:
                        scope["humanpref.body"] = await self._read_body(exchange, take)
                        route = path
                        await self._run_unless_gone(handler, exchange, scope)
                    self._check_patience(exchange)
                else:
                    route = path if path in self._routes else "none"
                    await self.app(scope, exchange.receive, exchange.send)
            except RequestError as error:
                await self._refuse(exchange, scope, error)
            except asyncio.CancelledError:
                if not self._admission.draining or exchange.status is not None:
                    raise
                late = RequestError("draining", "the server was stopped before this was done", retry_after=2)
                await error_response(late)(scope, exchange.receive, exchange.send)
            except _GoneError:
                raise
            except Exception as error:  # here and not further out, so that this answer has the same shape too
                logger.exception("%s failed", path, exc_info=error)
                if exchange.status is not None:
                    raise
                await self._refuse(exchange, scope, RequestError("internal", "something went wrong here"))
        except _GoneError:
            self._metrics.abandoned.inc()
            exchange.status = exchange.status or 499  # as nginx counts them
        finally:
            scope.pop("humanpref.body", None)
            self._metrics.answered(route, exchange.status, time.monotonic() - began)

    def _check_head(self, exchange: _Exchange, scope: Scope) -> None:
        """Refuse by what is known before the body is."""
        path, headers = scope["path"], exchange.headers
        if not path.isprintable():  # the router's patterns also fit what a line's end follows
            raise RequestError("not_found", "there is no such path")
        if not path.startswith(PROTECTED):
            return
        if not self._keys.accept(headers.get("authorization")):
            raise RequestError("unauthorized", "an API key is needed here: Authorization: Bearer KEY")
        if scope["method"] != "POST" or path not in self._handlers:
            return
        if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            raise RequestError("cross_site", "pages of other sites may not ask")
        if self._admission.draining:
            raise RequestError("draining", "the server is being stopped; try another, or later", retry_after=2)
        if not headers.get("content-type", "").lower().startswith(MEDIA_TYPES):
            raise RequestError("unsupported_media_type", f"send {' or '.join(MEDIA_TYPES)}")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError("unsupported_media_type", "compressed bodies are not read; send it as it is")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._config.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> RequestError:
        return RequestError(
            "body_too_large", f"the body is over {self._config.max_body_bytes:,} bytes; send less at once"
        )

    async def _read_body(self, exchange: _Exchange, take: Callable[[int], None]) -> bytes:
        """Read a body; `take` is told of its bytes as they come. Raises `RequestError` 413 and 503."""
        config, body, now = self._config, bytearray(), asyncio.get_running_loop().time
        end = now() + config.body_seconds
        while not exchange.body_read:
            exchange.patience.until(min(end, now() + config.idle_seconds))
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            part: bytes = message.get("body", b"")
            if len(body) + len(part) > config.max_body_bytes:
                raise self._too_large()
            take(len(part))
            if not body and not message.get("more_body", False):
                return part  # the whole of it, not copied
            body += part
        return bytes(body)

    async def _run_unless_gone(self, handler: Handler, exchange: _Exchange, scope: Scope) -> None:
        """Handle a request; when its time is over or the client goes away, end what it was asked for."""

        def leave() -> None:
            if exchange.status is None:
                exchange.gone = True
                exchange.patience.end()

        exchange.patience.until(asyncio.get_running_loop().time() + self._config.request_seconds)
        scope[GONE] = leave
        try:
            response = await handler(Request(scope, _nothing_more))
            await response(scope, _nothing_more, exchange.send)
        finally:
            del scope[GONE]

    def _check_patience(self, exchange: _Exchange) -> None:
        """Raise what the time that is over, if one is, means."""
        if not exchange.patience.over:
            return
        if exchange.gone:
            raise _GoneError
        if not exchange.body_read:
            raise RequestError("body_too_slow", "the body did not come in time")
        raise RequestError("timed_out", f"not done in {self._config.request_seconds:g} seconds", retry_after=5)

    async def _refuse(self, exchange: _Exchange, scope: Scope, error: RequestError) -> None:
        self._metrics.refused.labels(error.code).inc()
        if error.code != "body_too_slow":
            await exchange.discard()
        await error_response(error)(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request's `receive` and `send`, with what has happened on them.

    headers: of the request. patience: the time for what is under way, until the answer begins: an answer is not cut.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            self.headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        self._receive = receive
        self._send = send
        self.body_read = self.headers.get("content-length", "0") == "0" and "transfer-encoding" not in self.headers
        self.status: int | None = None
        self.gone = False
        self.patience = Patience()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.body_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.patience.until(math.inf)
            headers = message["headers"]
            given = {name for name, _ in headers}
            headers += [(name, value) for name, value in HEADERS if name not in given]
            if not self.body_read:  # nobody will: what still comes is not to keep the connection
                headers.append((b"connection", b"close"))
        await self._send(message)

    async def discard(self) -> None:
        """Read the rest of a body and throw it away, for a while: who is still sending does not read."""
        if "expect" in self.headers:
            return  # it waits to be asked for the body
        with anyio.move_on_after(LINGER_SECONDS):
            while not self.body_read:
                if (await self.receive())["type"] == "http.disconnect":
                    return


async def _nothing_more() -> Message:
    """The body has been read already."""
    return {"type": "http.request", "body": b"", "more_body": False}


def error_response(error: RequestError) -> JSONResponse:
    """{"error": {"code", "message", "image"?}} with its status."""
    return JSONResponse({"error": error.plain()}, error.status, error.headers())


def body_of(request: Request) -> bytes:
    """The body that the guard has read; it is given once."""
    body: bytes = request.scope.pop("humanpref.body", b"")
    return body
