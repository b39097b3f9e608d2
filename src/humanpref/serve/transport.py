"""How the client asks a server: tries, pauses and deadlines over HTTP, and an end to all of it at any moment."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx

from humanpref.errors import HumanprefError, ScoreError, reason_of
from humanpref.retry_after import retry_after

AGAIN = frozenset({429, 502, 503, 504})
"""Statuses that may pass; 502 and 504 are those of proxies."""
LONGEST_PAUSE = 60.0
CONNECT_SECONDS = 10.0


class ClientError(HumanprefError):
    """The server refused what was asked; `code` as it says (see docs/serve.md), `status` that of HTTP."""

    def __init__(self, message: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class UnauthorizedError(ClientError):
    """The server wants an API key, or another one."""


class UnavailableError(ClientError):
    """No answer that helps after all tries: nobody listens, or the server is busy or being stopped."""


class Transport:
    """Connections to one server. Safe to use from several threads.

    timeout: seconds of one try without a byte. retries: tries after the first, `pause` seconds apart at first, then
    twice as long each time. deadline: seconds of all tries of a request together. connections: most at once.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout: float,
        retries: int,
        pause: float,
        deadline: float,
        connections: int,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"{url}: a server's address begins with http:// or https://")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=5)
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, limits=limits)
        self._url = url
        self._timeout, self._retries, self._pause, self._deadline = timeout, retries, pause, deadline
        self._stop = threading.Event()
        self._closed = False
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()

    def close(self) -> None:
        """End what is under way, and take no more."""
        self._closed = True
        self.interrupt()
        self._http.close()

    def interrupt(self) -> None:
        """End what is under way: nothing waits for the server, or to ask again, any longer. Others may ask later."""
        with self._lock:
            stopped, self._stop = self._stop, threading.Event()
            sockets = list(self._sockets)
        stopped.set()
        for one in sockets:
            _shut(one)

    def send(self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None) -> dict[str, Any]:
        """Ask until there is an answer, no try is left, or its time is over. Raises `ClientError` and its kinds."""
        stop, end, pause = self._stop, time.monotonic() + self._deadline, self._pause
        if self._closed:
            raise ClientError(f"{self._url}: the client is closed", code="closed")
        content = body if isinstance(body, bytes) or body is None else encode(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        for left in range(self._retries, -1, -1):
            after = None
            try:
                response = self._http.request(
                    method,
                    path,
                    content=content,
                    headers=headers,
                    timeout=self._patience(end),
                    extensions={"trace": lambda event, about: self._watch(stop, event, about)},
                )
            except (httpx.TransportError, httpx.DecodingError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not self._closed:  # httpx's, for a client that is closed
                    raise
                failure = UnavailableError(f"{self._url}: no answer ({reason_of(error)})")
            else:
                if response.status_code == 200:
                    return self._read(response)
                if response.status_code not in AGAIN:
                    raise self._refusal(response)
                refusal = self._refusal(response)
                failure = UnavailableError(str(refusal), code=refusal.code, status=refusal.status)
                after = retry_after(response.headers)
            wait = pause * random.uniform(0.5, 1.5) if after is None else after + random.uniform(0, pause)  # noqa: S311
            wait = min(wait, LONGEST_PAUSE)
            over = left == 0 or time.monotonic() + wait >= end
            if stop.wait(0 if over else wait):
                raise ClientError(f"{self._url}: interrupted", code="interrupted") from None
            if over:
                break
            pause *= 2
        raise failure

    def _patience(self, end: float) -> httpx.Timeout:
        """How long one try may be silent."""
        seconds = max(0.001, min(self._timeout, end - time.monotonic()))
        return httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))

    def _watch(self, stop: threading.Event, event: str, about: Mapping[str, Any]) -> None:
        """Remember the sockets, as httpcore opens them: shutting one down is what ends waiting for it."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            found = about["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.add(found)
            if stop.is_set():
                _shut(found)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            found: dict[str, Any] = response.json()
        except ValueError:
            found = {}
        if not isinstance(found, dict) or not ({"results", "models"} & found.keys()):
            raise ClientError(
                f"{self._url}: is no humanpref server (its answer is another)", status=response.status_code
            )
        return found

    def _refusal(self, response: httpx.Response) -> ClientError:
        try:
            error = response.json()["error"]
            code, message = str(error["code"]), str(error["message"])
        except (ValueError, KeyError, TypeError):
            code, message = "", response.text[:200]
        kind = UnauthorizedError if response.status_code == 401 else ClientError
        return kind(f"{self._url}: {message} ({response.status_code})", code=code, status=response.status_code)


def encode(body: Mapping[str, Any]) -> bytes:
    """JSON as it is sent. Raises `ScoreError` for text that is none: half a surrogate pair."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ScoreError(
            f"a prompt or URL holds {error.object[error.start]!r}, half a surrogate pair, and is no text"
        ) from None


def _shut(one: socket.socket) -> None:
    """Wake who waits for a socket. Of the plain kind also under TLS, whose own state is the waiting thread's."""
    with suppress(OSError):
        socket.socket.shutdown(one, socket.SHUT_RDWR)
