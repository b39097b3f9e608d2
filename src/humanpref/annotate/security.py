"""What keeps the pages safe: signed sessions, CSRF tokens, headers, limits on size and rate. Knows no route.

`Guard` stands before every route, so that none can be forgotten: whatever changes something (any method but GET and
HEAD) is refused without the session's CSRF token.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import limits
from itsdangerous import BadSignature, URLSafeTimedSerializer
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from humanpref.annotate.records import AnnotateError, Annotator
from humanpref.annotate.store import Store
from humanpref.web import security_headers

COOKIE = "humanpref_session"
SESSION_SECONDS = 30 * 24 * 3600
RESIGN_SECONDS = 24 * 3600
"""A session that is used lives on: it is signed again when it is older than this."""
ADMIN_SECONDS = 12 * 3600
MAX_BODY = 64 * 1024
logger = logging.getLogger(__name__)
SAFE_METHODS = frozenset({"GET", "HEAD"})

HEADERS = security_headers()


class RequestError(AnnotateError):
    """A request that is refused before any route sees it; `status` is that of HTTP."""

    def __init__(self, status: int, code: str, *, retry_after: int | None = None) -> None:
        super().__init__(code, code)
        self.status = status
        self.retry_after = retry_after


# ---- rates


@dataclass(frozen=True)
class Rates:
    """How often: `requests` and `answers` of one session (or address, where nobody is signed in), failed attempts to
    `join` or to sign in as `admin`, and `register` of one address. As `limits` writes them: "10/minute"."""

    requests: str = "1200/minute"
    answers: str = "90/minute"
    join: str = "10/minute;60/hour"
    register: str = "10/minute;100/hour"
    admin: str = "5/minute;30/hour"


class Limiter:
    """Counts in memory, for this process. Raises `RequestError` 429 with the seconds to wait."""

    def __init__(self, rates: Rates) -> None:
        self._strategy = MovingWindowRateLimiter(MemoryStorage())
        self._rates = {name: limits.parse_many(text) for name, text in vars(rates).items()}

    def hit(self, what: str, who: str) -> None:
        """Count one more, or refuse it."""
        for item in self._rates[what]:
            if not self._strategy.hit(item, what, who):
                self._refuse(item, what, who)

    def check(self, what: str, who: str) -> None:
        """Refuse where there have been too many, without counting this one."""
        for item in self._rates[what]:
            if not self._strategy.test(item, what, who):
                self._refuse(item, what, who)

    def _refuse(self, item: limits.RateLimitItem, what: str, who: str) -> None:
        wait = self._strategy.get_window_stats(item, what, who).reset_time - time.time()
        raise RequestError(429, "too_many", retry_after=max(1, int(wait) + 1))


def address(request: Request) -> str:
    """Where a request comes from; behind a trusted proxy the server has put the client's own address there."""
    return request.client.host if request.client else "unknown"


# ---- sessions


class Sessions:
    """The session is the cookie: signed, readable by no script, with nothing in it that its holder may not know."""

    def __init__(self, secret: str) -> None:
        self._serializer = URLSafeTimedSerializer(secret, salt="humanpref.annotate.session")

    def load(self, cookie: str | None) -> tuple[dict[str, Any], bool]:
        """Return the session and whether it is to be signed again; an empty one where the cookie is not ours."""
        if not cookie:
            return {}, False
        try:
            found, signed_at = self._serializer.loads(cookie, max_age=SESSION_SECONDS, return_timestamp=True)
        except BadSignature:  # an expired one too
            return {}, False
        return dict(found), time.time() - signed_at.timestamp() > RESIGN_SECONDS

    def header(self, session: Mapping[str, Any], *, https: bool) -> str:
        """Return the Set-Cookie header of a session."""
        value = self._serializer.dumps(dict(session))
        secure = "; Secure" if https else ""
        return f"{COOKIE}={value}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Lax{secure}"


def csrf_token(request: Request) -> str:
    """Return the session's CSRF token, made when it is first asked for."""
    token: str = request.session.setdefault("csrf", secrets.token_urlsafe(24))
    return token


def sign_in(request: Request, token: str) -> None:
    """Make this the session of whoever holds the link's token.

    The token itself is kept (in the signed cookie of the person who has the link anyway): looking it up with each
    request is what ends the session at once when the link is revoked or replaced.
    """
    if request.session.get("link") == token:
        return  # opened once more: what was read is read, and pages that are open stay good
    kept: dict[str, Any] = {key: request.session[key] for key in ("language", "admin") if key in request.session}
    request.session.clear()
    request.session.update(kept, link=token)


def sign_out(request: Request) -> None:
    """Forget who this is; only the language stays."""
    kept = {key: request.session[key] for key in ("language",) if key in request.session}
    request.session.clear()
    request.session.update(kept)


def who(request: Request, store: Store) -> Annotator:
    """Return who is signed in. Raises `RequestError` 401 where nobody is, 403 where their link is dead."""
    link = request.session.get("link")
    if not link:
        raise RequestError(401, "no_session")
    found = store.annotator_of_token(str(link))
    if found is None:
        raise RequestError(403, "revoked")
    return found


def sign_in_admin(request: Request, store: Store) -> None:
    """Make this an administrator's session, with a new CSRF token."""
    request.session["admin"] = [int(time.time()), store.admin_mark()]
    request.session["csrf"] = secrets.token_urlsafe(24)


def is_admin(request: Request, store: Store) -> bool:
    """Is this a session of who has the administrator's token now, not older than `ADMIN_SECONDS`?"""
    if not isinstance(found := request.session.get("admin"), list):
        return False
    since, mark = found
    return time.time() - since < ADMIN_SECONDS and hmac.compare_digest(mark, store.admin_mark())


# ---- the guard


class Guard:
    """ASGI middleware: headers on every response, the session, the size of bodies, Origin and CSRF token."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions, refuse: Any) -> None:
        self.app = app
        self._sessions = sessions
        self._refuse = refuse  # (request, error) -> Response, in the reader's language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        session, again = self._sessions.load(request.cookies.get(COOKIE))
        scope["session"] = session
        before = json.dumps(session, sort_keys=True)

        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                if again or json.dumps(session, sort_keys=True) != before:
                    headers.append("Set-Cookie", self._sessions.header(session, https=scope["scheme"] == "https"))
            await send(message)

        try:
            if request.method not in SAFE_METHODS:
                body = await _body(request)
                _check_origin(request)
                _check_csrf(request, body)
                receive = _replay(body, receive)
            await self.app(scope, receive, send_guarded)
        except RequestError as error:
            await self._refuse(request, error)(scope, receive, send_guarded)
        except Exception as error:  # here and not further out, so that this response has the headers too
            if started:
                raise
            logger.exception("%s failed", scope["route"].path if "route" in scope else "a request", exc_info=error)
            await self._refuse(request, RequestError(500, "internal"))(scope, receive, send_guarded)


async def _body(request: Request) -> bytes:
    """Read a body of at most `MAX_BODY` bytes, whatever its header says. Raises `RequestError` 413."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY:
        raise RequestError(413, "too_large")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RequestError(413, "too_large")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever reads it next."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _check_origin(request: Request) -> None:
    """Refuse what another site sends. Raises `RequestError` 403.

    Under Referrer-Policy: no-referrer browsers send the Origin `null` with forms, even to their own site; what they
    say in Sec-Fetch-Site then decides, and where an old browser says nothing, the CSRF token alone.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        raise RequestError(403, "csrf")
    origin = request.headers.get("origin", "null")
    if origin != "null" and urlsplit(origin).netloc != request.headers.get("host"):
        raise RequestError(403, "csrf")


def _check_csrf(request: Request, body: bytes) -> None:
    """Refuse what lacks the session's token (header of a fetch, hidden field of a form). Raises `RequestError` 403."""
    expected = request.session.get("csrf")
    given = request.headers.get("x-csrf-token") or form_fields(body).get("csrf", "")
    if not expected or not hmac.compare_digest(str(expected).encode(), given.encode()):
        raise RequestError(403, "csrf")


def form_fields(body: bytes) -> dict[str, str]:
    """Read a urlencoded form; of a field given twice the last counts. Empty for what is no form."""
    try:
        found = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=50)
    except ValueError:  # not UTF-8, or too many fields
        return {}
    return {name: values[-1] for name, values in found.items()}


async def form(request: Request) -> dict[str, str]:
    """Return the fields of the form that was sent: a dependency of routes."""
    return form_fields(await request.body())
