"""What stands before every route: headers, API keys, bodies within their limits of size and time. Knows no model.

A client that sends half a body, or one byte a minute, holds its own bytes and no more: a request takes a place in the
queue when its body is here. A client that has gone takes what it asked for with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from humanpref.serve.admission import Admission
from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError
from humanpref.serve.keys import ApiKeys
from humanpref.serve.metrics import Metrics
from humanpref.web import security_headers

logger = logging.getLogger(__name__)

BODIES = frozenset({"/v1/score", "/v1/compare"})
"""The routes that read a body."""
PROTECTED = "/v1/"
MEDIA_TYPES = ("application/json", "multipart/form-data")
LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and thrown away, so that its sender gets to see the answer."""

HEADERS = {**security_headers(images="'self' blob:", forms="'none'"), "Cache-Control": "no-store"}
"""On every response. blob: are the pictures that were dropped on the page."""


class _GoneError(Exception):
    """The client has gone."""


class Guard:
    """ASGI middleware around the application."""

    def __init__(
        self, app: ASGIApp, *, config: ServeConfig, keys: ApiKeys, admission: Admission, metrics: Metrics
    ) -> None:
        self.app = app
        self._config = config
        self._keys = keys
        self._admission = admission
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self._admission.request():
            await self._serve(_Exchange(scope, receive, send), scope)

    async def _serve(self, exchange: _Exchange, scope: Scope) -> None:
        began = time.monotonic()
        held = 0
        try:
            try:
                self._check_head(scope)
                if scope["method"] == "POST" and scope["path"] in BODIES:
                    body = bytearray()
                    async for chunk in self._chunks(exchange):
                        self._admission.take_bytes(len(chunk))
                        held += len(chunk)
                        body += chunk
                    scope["humanpref.body"] = bytes(body)
                    del body
                    await self._run_unless_gone(exchange, scope)
                else:
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
                logger.exception("%s failed", scope["path"], exc_info=error)
                if exchange.status is not None:
                    raise
                await self._refuse(exchange, scope, RequestError("internal", "something went wrong here"))
        except _GoneError:
            self._metrics.abandoned.inc()
            exchange.status = exchange.status or 499  # as nginx counts them
        finally:
            self._admission.bytes -= held
            scope.pop("humanpref.body", None)
            route = scope["route"].path if "route" in scope else "none"
            self._metrics.requests.labels(route, str(exchange.status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)

    def _check_head(self, scope: Scope) -> None:
        """Refuse by what is known before the body is."""
        path: str = scope["path"]
        if not path.startswith(PROTECTED):
            return
        headers = Headers(scope=scope)
        if not self._keys.accept(headers.get("authorization")):
            raise RequestError("unauthorized", "an API key is needed here: Authorization: Bearer KEY")
        if scope["method"] != "POST" or path not in BODIES:
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

    async def _chunks(self, exchange: _Exchange) -> Any:
        """Yield a body as it comes. Raises `RequestError` 413 and 408."""
        config, total, end = self._config, 0, time.monotonic() + self._config.body_seconds
        while not exchange.body_read:
            left = min(config.idle_seconds, end - time.monotonic())
            try:
                with anyio.fail_after(max(0.0, left)):
                    message = await exchange.receive()
            except TimeoutError:
                raise RequestError("body_too_slow", "the body did not come in time") from None
            if message["type"] == "http.disconnect":
                raise _GoneError
            total += len(message.get("body", b""))
            if total > config.max_body_bytes:
                raise self._too_large()
            yield message.get("body", b"")

    async def _run_unless_gone(self, exchange: _Exchange, scope: Scope) -> None:
        """Run the application; when the client goes away, end what it asked for."""
        run = asyncio.ensure_future(self.app(scope, _nothing_more, exchange.send))
        gone = asyncio.ensure_future(exchange.receive())  # all that can still come is that
        try:
            await asyncio.wait({run, gone}, return_when=asyncio.FIRST_COMPLETED)
            if run.done() or exchange.status is not None:
                await run
                return
            raise _GoneError
        finally:
            gone.cancel()
            if not run.done():
                run.cancel()
            await asyncio.gather(run, gone, return_exceptions=True)

    async def _refuse(self, exchange: _Exchange, scope: Scope, error: RequestError) -> None:
        self._metrics.refused.labels(error.code).inc()
        if error.code != "body_too_slow":
            await exchange.discard()
        await error_response(error)(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request's `receive` and `send`, with what has happened on them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._receive = receive
        self._send = send
        self._expects = "expect" in headers
        self.body_read = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self.status: int | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.body_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if not self.body_read:  # nobody will: what still comes is not to keep the connection
                headers["Connection"] = "close"
        await self._send(message)

    async def discard(self) -> None:
        """Read the rest of a body and throw it away, for a while: who is still sending does not read."""
        if self._expects:
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
