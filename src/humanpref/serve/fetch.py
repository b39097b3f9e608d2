"""Fetching images by URL without being led inside: only from public addresses, checked before each connection.

The name is resolved once per connection, every address it has must be public, and the connection goes to the very
address that was checked: a name that says something else a moment later (DNS rebinding) gains nothing. Redirects are
followed by hand and meet the same check. Proxies of the environment are not used: they would resolve names themselves.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import anyio
import httpcore

from humanpref.serve.errors import RequestError

MAX_REDIRECTS = 4
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_ADDRESSES = 64
MAX_FETCHES = 32
"""At once, of all requests; those that wait for their turn do not lose time of theirs."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
EMBEDDED = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
"""IPv6 networks whose addresses stand for IPv4 ones, perhaps private: NAT64, 6to4, Teredo."""


def is_public(text: str) -> bool:
    """Tell whether an IP address is one of the public internet: not private, loopback, link-local, reserved ..."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if any(address in network for network in EMBEDDED) or address.is_site_local:
            return False
    return address.is_global and not (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )


async def resolve(host: str, port: int) -> list[str]:
    """Return all addresses of a host. Raises `OSError`."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    # not the loop's own getaddrinfo: the loop waits for that when it ends, however long the resolver takes
    found = await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _RefusedError(Exception):
    """An address that is not to be connected to."""


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that passed the check, and to nothing else."""

    def __init__(self, resolve: Resolve, allowed: Callable[[str], bool]) -> None:
        self._resolve = resolve
        self._allowed = allowed
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve once, check every address, connect to the first that answers."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("the name cannot be resolved") from None
        if not addresses or len(addresses) > MAX_ADDRESSES:
            raise httpcore.ConnectError("the name cannot be resolved")
        if not all(self._allowed(address) for address in addresses):
            raise _RefusedError
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise _RefusedError

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


class Fetcher:
    """Fetches images; `fetch` raises `RequestError` for whatever goes wrong, with no more than a client may know."""

    def __init__(
        self,
        *,
        max_bytes: int,
        seconds: float,
        resolve: Resolve = resolve,
        allowed: Callable[[str], bool] = is_public,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._turns = asyncio.Semaphore(MAX_FETCHES)
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or ssl.create_default_context(),
            max_connections=MAX_FETCHES,
            max_keepalive_connections=0,  # each request resolves and checks anew
            network_backend=CheckedBackend(resolve, allowed),
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._pool.aclose()

    async def fetch(self, url: str, take: Callable[[int], None] = lambda _: None) -> bytes:
        """Fetch what is at a URL, over at most a few redirects, within the limits of size and time.

        `take` is told of bytes before they are kept, and may raise `RequestError`.
        """
        async with self._turns:
            return await self._fetch(url, take)

    async def _fetch(self, url: str, take: Callable[[int], None]) -> bytes:
        try:
            with anyio.fail_after(self._seconds):
                for _ in range(MAX_REDIRECTS + 1):
                    content, further = await self._get(url, take)
                    if further is None:
                        return content
                    url = further
        except TimeoutError:
            raise RequestError("url_failed", f"the URL gave no image in {self._seconds:g} seconds") from None
        except _RefusedError:
            raise RequestError("url_refused", "the URL leads to an address that is not public") from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            ssl.SSLError,
            OSError,
        ) as error:
            raise RequestError("url_failed", f"the URL could not be fetched ({type(error).__name__})") from None
        raise RequestError("url_failed", f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _get(self, url: str, take: Callable[[int], None]) -> tuple[bytes, str | None]:
        """-> what is there, or where it says to go on."""
        check_url(url)
        limits = dict.fromkeys(("connect", "read", "write", "pool"), self._seconds)
        headers = [("Host", urlsplit(url).netloc), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
        target = url.partition("#")[0]
        try:
            request = self._pool.stream("GET", target, headers=headers, extensions={"timeout": limits})
        except (ValueError, UnicodeError):
            raise RequestError("url_refused", "the URL is not well-formed") from None
        async with request as response:
            found = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in REDIRECTS and (place := found.get(b"location")):
                try:
                    return b"", urljoin(url, place)
                except ValueError:
                    raise RequestError("url_failed", "the URL redirects to what is no URL") from None
            if response.status != 200:
                raise RequestError("url_failed", f"the URL answered {response.status}")
            if found.get(b"content-encoding", "identity").lower() != "identity":
                raise RequestError("url_failed", "the URL answered in an encoding that was not asked for")
            content = bytearray()
            async for chunk in response.aiter_stream():
                if len(content) + len(chunk) > self._max_bytes:
                    raise RequestError("image_too_large", f"the URL gave more than {self._max_bytes:,} bytes")
                take(len(chunk))
                content += chunk
            return bytes(content), None


def check_url(url: str) -> None:
    """Raise `RequestError` for what is no plain http(s) URL: other schemes, user names, odd characters."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise RequestError("url_refused", "the URL is not well-formed") from None
    if parts.scheme.lower() not in {"http", "https"} or not host or port == 0:
        raise RequestError("url_refused", "only http and https URLs are fetched")
    if parts.username is not None or parts.password is not None:
        raise RequestError("url_refused", "URLs with user names are not fetched")
    if not url.isascii() or any(ord(character) <= 32 or ord(character) == 127 for character in url):
        raise RequestError("url_refused", "the URL holds characters that must be percent-encoded")
