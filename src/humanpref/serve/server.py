"""The process: binding its port, clients that dawdle over their head, and stopping without losing what was taken in."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, ClassVar, cast

import httptools
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from humanpref.serve.app import Service, create_app
from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError, ServeError
from humanpref.serve.guard import GONE
from humanpref.serve.keys import ApiKeys
from humanpref.serve.models import ModelOptions, load_models

logger = logging.getLogger(__name__)

LEAST_DRAIN = 0.5
"""Seconds for which new requests are still answered (503) after the order to stop, so that balancers notice."""


LONGEST_HEAD = 64 * 1024
"""Most bytes of a request's line and headers, and most that come without the parser's making anything of them."""
MOST_AHEAD = 64 * 1024
"""Most bytes that are thrown away of what is sent before the answer to the request before it."""


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with an end to its patience: a head must be there in time, also on a kept connection, and
    answers must be read. Its parser, in C, has no limits of heads; they are here.

    One request at a time: what is sent ahead of an answer is not read, and the connection is closed after that answer
    (RFC 9112, 9.3.2: its sender asks again). So a connection holds one body, and one request that ends with it.
    Connections over the limit are answered 503 and closed; what is no HTTP is answered in our errors' shape.
    """

    header_seconds: ClassVar[float] = 10.0
    reader_seconds: ClassVar[float] = 10.0
    max_connections: ClassVar[int] = 1000
    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _ahead: int | None = None
    """Bytes that were sent ahead; None: none was."""
    _head_bytes = 0
    _unread = 0
    """Bytes since the parser has last told of something: it keeps a header until that is whole."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._close_with(RequestError("overloaded", "too many connections", retry_after=1))
            return
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the clock runs on while they make no whole head."""
        if self._ahead is not None:
            self._ahead += len(data)
            if self._ahead > MOST_AHEAD:
                self.transport.abort()
            return
        self._unread += len(data)
        super().data_received(data)
        if self._unread > LONGEST_HEAD:
            self.send_400_response("The head is too long.")
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_waiting()
        elif self._head is None:
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        if self._is_answering():
            raise httptools.HttpParserError("it is sent ahead")
        self._head_bytes = self._unread = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of its line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is here. Refuse what proxies and this parser may see differently."""
        named = [name for name, _ in self.headers]
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if self.parser.get_http_version() == "1.1" and b"host" not in named:
            raise httptools.HttpParserError("no Host")
        if codings not in ([], [b"chunked"]):
            raise httptools.HttpParserError("a coding that is not read")
        upgrades = self.parser.should_upgrade()
        if upgrades and (codings or any(n == b"content-length" and v.strip(b"0 ") for n, v in self.headers)):
            raise httptools.HttpParserError("another protocol is offered with a body, which the parser would not read")
        super().on_headers_complete()
        if upgrades:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of a body; how much of it is taken in is for who reads it."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is here. Go on reading, which a large piece of a body paused: who goes away is to be noticed."""
        super().on_message_complete()
        self.flow.resume_reading()

    def _count(self, read: int) -> None:
        self._unread = 0
        self._head_bytes += read
        if self._head_bytes > LONGEST_HEAD:
            raise httptools.HttpParserError("the head is too long")

    def pause_writing(self) -> None:
        """The client does not read its answer: wait for a while, then let it go."""
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        if self.transport.is_closing():
            self._expect_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clocks; end what this client asked for."""
        self._stop_waiting()
        if self._reader is not None:
            self._reader.cancel()
        super().connection_lost(exc)
        scope = {} if self.cycle is None else cast("dict[str, Any]", self.cycle.scope)
        if (gone := scope.get(GONE)) is not None:
            gone()

    def on_response_complete(self) -> None:
        """An answer is written. Where the connection ends with it, its client has some time to read it."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reader()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came: close, without the rest of an answer that nobody read all this time."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; behind a request that is being answered, close after its answer."""
        self._stop_waiting()
        if self._is_answering():
            self._ahead = 0
            self.cycle.keep_alive = False
        elif not self.transport.is_closing():
            self._close_with(RequestError("bad_request", msg.rstrip(".").lower()))

    def _is_answering(self) -> bool:
        """Tell whether a whole request is here and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(self.header_seconds, self._too_late)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_late(self) -> None:
        self._head = None
        if not self.transport.is_closing():
            self._close_with(RequestError("body_too_slow", "the request did not come in time"))

    def _close_with(self, error: RequestError) -> None:
        self.transport.write(_raw(error))
        self.transport.close()
        self._expect_reader()

    def _expect_reader(self) -> None:
        if self._reader is None:
            self._reader = self.loop.call_later(self.reader_seconds, self.transport.abort)


class Server(uvicorn.Server):
    """Told to stop, it goes on answering what it has taken in, and refuses what is new with 503, before it closes."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The first signal drains, the second ends it now. Neither is raised again: the exit status is 0."""
        if self._service.admission.draining:
            self.force_exit = self.should_exit = True
            return
        self._service.admission.draining = True
        name = signal.Signals(sig).name
        logger.info("%s: answering %d requests that are under way", name, self._service.admission.requests)

    async def on_tick(self, counter: int) -> bool:
        """Begin to drain when told to, ten times a second."""
        if self._service.admission.draining and self._drain is None:
            self._drain = asyncio.create_task(self._drained())
        return await super().on_tick(counter)

    async def _drained(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not self.should_exit:
            passed = loop.time() - began
            if passed > self._service.config.drain_seconds:
                break
            if passed > LEAST_DRAIN and not self._service.admission.requests:
                break
            await asyncio.sleep(0.02)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Take the port, before anything heavy is loaded. Raises `ServeError` where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            taken.listen(0)  # two that are only bound could share a port
        except OSError:
            taken.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServeError(f"port {port} on {host} is taken; choose another (--port)") from None
        raise ServeError(f"{host}:{port} cannot be listened on ({error.strerror or error})") from None
    return taken


def make_server(app: Starlette, config: ServeConfig, *, log_level: str = "warning") -> Server:
    """Make the server of an application that `create_app` made."""

    class Protocol(PatientProtocol):
        header_seconds = config.header_seconds
        reader_seconds = config.idle_seconds
        max_connections = config.max_connections

    settings = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks where a client is
        log_level=log_level,
        timeout_keep_alive=max(1, round(config.keep_alive_seconds)),
        timeout_graceful_shutdown=2,
        backlog=1024,
    )
    return Server(settings, app.state.service)


def serve(
    models: Sequence[ModelOptions],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    config: ServeConfig | None = None,
    keys: ApiKeys | None = None,
    on_ready: Callable[[str], None] = lambda _: None,
    log_level: str = "warning",
) -> None:
    """Load models and serve them until a signal says to stop; then answer what was taken in, and return.

    `port` 0 takes a free one; `on_ready` is told the address. Raises `ServeError` and what `load_scorer` raises.
    A model that was still busy after `drain_seconds` goes on in its thread, which Python waits for when it exits.
    """
    config = config or ServeConfig()
    taken = bind(host, port)
    try:
        app = create_app(load_models(models), config, keys)
        gc.collect()
        gc.freeze()  # looking through all that was loaded, again and again, takes 0.1 s that answers wait for
        name, number = taken.getsockname()[:2]
        on_ready(f"http://{f'[{name}]' if ':' in name else name}:{number}")
        server = make_server(app, config, log_level=log_level)
        server.run(sockets=[taken])
        if not server.started:
            raise ServeError("the service could not start (what went wrong is above)")
    finally:
        taken.close()


def _raw(error: RequestError) -> bytes:
    """An answer outside of any request."""
    body = json.dumps({"error": error.plain()}).encode()
    head = f"HTTP/1.1 {error.status} {STATUS_TEXT.get(error.status, 'Error')}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in error.headers().items())
    return head.encode() + b"\r\n" + body


STATUS_TEXT = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}
