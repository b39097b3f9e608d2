"""The administrator's pages: how far the project is, who to look at, links for people. Routes over a `Store`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from humanpref.annotate import security
from humanpref.annotate.exclusion import suspects
from humanpref.annotate.pages import Site, site_of
from humanpref.annotate.quality import AnnotatorQuality, annotator_quality
from humanpref.annotate.records import AnnotateError, Annotator
from humanpref.annotate.security import address
from humanpref.annotate.store import Counts, Store

HOURS = 48
"""How many hours the plot of throughput shows."""

router = APIRouter(prefix="/admin")
Form = Annotated[dict[str, str], Depends(security.form)]


def must_be_admin(request: Request) -> None:
    """Raise `RequestError` 401 unless an administrator is signed in: a dependency of every administrator's route."""
    if not security.is_admin(request, site_of(request).store):
        raise security.RequestError(401, "admin")


ONLY_ADMIN = [Depends(must_be_admin)]


@dataclass(frozen=True)
class Row:
    """One annotator in the table: who, how good, and why to look at them."""

    person: Annotator
    quality: AnnotatorQuality
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Bar:
    """One hour of the plot: where its bar stands, in a drawing of 960 x 120."""

    at: datetime
    count: int
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Overview:
    """All that the dashboard shows. Rows: those to look at first, then by number."""

    counts: Counts
    rows: tuple[Row, ...]
    bars: tuple[Bar, ...]
    most: int
    last_hour: int
    at: datetime


@dataclass
class Overviews:
    """Makes overviews, each kept for a while: comparing everybody with everybody takes time in a large project, and
    several dashboards may be open."""

    store: Store
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept: tuple[float, Mapping[int, AnnotatorQuality], Mapping[int, tuple[str, ...]]] | None = None

    def make(self) -> Overview:
        """Return how things stand: counts as of now, quality as of a few seconds ago."""
        counts, people = self.store.counts(), self.store.annotators()
        quality, reasons = self._quality(people)
        rows = [Row(p, quality.get(p.number, AnnotatorQuality(p.number)), reasons.get(p.number, ())) for p in people]
        rows.sort(key=lambda row: (row.person.excluded is not None, not row.reasons, row.person.number))
        now = datetime.now(timezone.utc)
        bars = _bars(counts.hours, now)
        return Overview(counts, tuple(rows), bars, max(bar.count for bar in bars), bars[-1].count, now)

    def forget(self) -> None:
        """Compare everybody anew next time."""
        with self._lock:
            self._kept = None

    def _quality(
        self, people: Sequence[Annotator]
    ) -> tuple[Mapping[int, AnnotatorQuality], Mapping[int, tuple[str, ...]]]:
        with self._lock:  # one at a time: who waits gets what the other made
            if self._kept is None or time.monotonic() > self._kept[0]:
                began = time.monotonic()
                judgements, groups, config = self.store.judgements(), self.store.groups(), self.store.config
                excluded = {person.number for person in people if person.excluded is not None}
                quality = annotator_quality(judgements, groups, config, excluded=excluded)
                reasons = suspects(judgements, groups, config, excluded=excluded)
                took = time.monotonic() - began
                self._kept = (time.monotonic() + max(5.0, 10 * took), quality, reasons)
            return self._kept[1], self._kept[2]


def _bars(hours: Sequence[tuple[datetime, int]], now: datetime) -> tuple[Bar, ...]:
    """Draw the last `HOURS` hours, the current one last."""
    this = now.replace(minute=0, second=0, microsecond=0)
    found = dict(hours)
    times = [this - timedelta(hours=back) for back in range(HOURS - 1, -1, -1)]
    counts = [found.get(at, 0) for at in times]
    scale = 120 / max(1, *counts)
    return tuple(
        Bar(at, count, 960 / HOURS * i, 120 - count * scale, count * scale)
        for i, (at, count) in enumerate(zip(times, counts, strict=True))
    )


def overviews_of(request: Request) -> Overviews:
    """Return the maker of overviews that belongs to the application."""
    found: Overviews = request.app.state.overviews
    return found


# ---- signing in


@router.get("/login")
def login_form(request: Request) -> Response:
    """Show the form that asks for the administrator's token."""
    return site_of(request).page(request, "admin_login.html", problem=None)


@router.post("/login")
def login(request: Request, form: Form) -> Response:
    """Sign in by the administrator's token; failures are counted by address."""
    site = site_of(request)
    site.limiter.check("admin", address(request))
    if not site.store.check_admin(form.get("token", "").strip()):
        site.limiter.hit("admin", address(request))
        return site.page(request, "admin_login.html", 403, problem="error.admin_token")
    security.sign_in_admin(request, site.store)
    return RedirectResponse("/admin", 303)


@router.post("/logout")
def logout(request: Request) -> Response:
    """Stop being the administrator on this device."""
    request.session.pop("admin", None)
    return RedirectResponse("/admin/login", 303)


# ---- looking


@router.get("")
def dashboard(request: Request) -> Response:
    """Show how far the project is."""
    if not security.is_admin(request, site_of(request).store):
        return RedirectResponse("/admin/login", 303)
    return _dashboard(request)


@router.get("/live", dependencies=ONLY_ADMIN)
def live(request: Request) -> Response:
    """Return the part of the dashboard that changes, for its script."""
    return site_of(request).page(request, "admin_live.html", overview=overviews_of(request).make())


def _dashboard(request: Request, **values: Any) -> Response:
    overview = overviews_of(request).make()
    return site_of(request).page(request, "admin.html", overview=overview, **({"link": None, "name": None} | values))


# ---- changing


@router.post("/invite", dependencies=ONLY_ADMIN)
def invite(request: Request, form: Form) -> Response:
    """Add a person and show their link, once."""
    person, token = site_of(request).store.invite(form.get("name", ""))
    return _dashboard(request, link=_link(request, token), name=person.name)


@router.post("/annotators/{number}/renew", dependencies=ONLY_ADMIN)
def renew(request: Request, number: int) -> Response:
    """Replace someone's link and show the new one, once."""
    person = _person(site_of(request), number)
    token = site_of(request).store.renew(number)
    return _dashboard(request, link=_link(request, token), name=person.name)


@router.post("/annotators/{number}/revoke", dependencies=ONLY_ADMIN)
def revoke(request: Request, number: int) -> Response:
    """End someone's access; what they said stays."""
    site_of(request).store.revoke(number)
    return RedirectResponse("/admin", 303)


@router.post("/annotators/{number}/exclude", dependencies=ONLY_ADMIN)
def exclude(request: Request, number: int, form: Form) -> Response:
    """Leave out what someone said, for a stated reason."""
    reason = " ".join(form.get("reason", "").split())[:300]
    if not reason:
        raise AnnotateError("bad_reason", "to leave someone out takes a reason")
    return _exclude(request, number, reason)


@router.post("/annotators/{number}/readmit", dependencies=ONLY_ADMIN)
def readmit(request: Request, number: int) -> Response:
    """Count again what someone said."""
    return _exclude(request, number, None)


def _exclude(request: Request, number: int, reason: str | None) -> Response:
    site_of(request).store.exclude(number, reason)
    overviews_of(request).forget()
    return RedirectResponse("/admin", 303)


def _person(site: Site, number: int) -> Annotator:
    found = site.store.annotator(number)
    if found is None:
        raise AnnotateError("unknown", f"there is no annotator {number}")
    return found


def _link(request: Request, token: str) -> str:
    return str(request.url_for("join", token=token))
