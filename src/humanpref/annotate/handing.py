"""Who gets which group next: leases, places, checks in between. Statements on a connection; the store makes
transactions of them.

A task takes one of its group's k places while it is open or answered; the database itself refuses two on one place.
The statements are made once: putting one together takes longer than running it.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import sqlalchemy as sa

from humanpref.annotate.answering import assignment_of, lock_person
from humanpref.annotate.database import ConflictError
from humanpref.annotate.places import count_taken, free_slot
from humanpref.annotate.records import Assignment, Kind, Progress, ProjectConfig
from humanpref.annotate.schema import assignments, groups, images

CANDIDATES = 32
"""How many groups the active order chooses among: a random handful, so that the search stays quick in any project."""

APART = 5
"""How many other groups lie between a group and its repeat, at least."""

MANY, COUNT_MS = 1000, 2000
"""From so many groups on, they are counted only so often."""

Prefer: TypeAlias = "Callable[[sa.Connection, Sequence[int]], int]"
"""Chooses one of several groups (their numbers)."""

# ---- the statements; `me` is an annotator's number, `k` how many rankings a group wants

_ME: sa.BindParameter[int] = sa.bindparam("me")
_K: sa.BindParameter[int] = sa.bindparam("k")
_START: sa.BindParameter[float] = sa.bindparam("start")
_EXPIRED: sa.ColumnClause[str] = sa.literal_column("'expired'")  # written out, so that the partial index is found
_GOOD = groups.c.problem.is_(None)
_MINE = sa.and_(assignments.c.annotator_id == _ME, assignments.c.state == "open")


def _seen(kind: Kind) -> sa.ColumnElement[bool]:
    own = assignments.alias("own")
    where = (own.c.group_id == groups.c.id, own.c.annotator_id == _ME, own.c.kind == kind)
    return sa.select(own.c.id).where(*where, own.c.state != _EXPIRED).correlate(groups).exists()


def _unseen(kind: Kind, order: sa.ColumnElement[Any]) -> sa.Select[Any]:
    return sa.select(groups.c.id).where(groups.c.role == kind, _GOOD, ~_seen(kind)).order_by(order).limit(1)


_WANTED = (groups.c.role == "task", _GOOD, groups.c.taken < _K)
_RENEW = assignments.update().where(_MINE).values(expires_at=sa.bindparam("expires"))
_HELD = (
    sa.select(assignments, groups.c.prompt)
    .join(groups, groups.c.id == assignments.c.group_id)
    .where(_MINE)
    .order_by(assignments.c.id)
    .limit(sa.bindparam("count"))
)
_HANDED = sa.select(sa.func.count()).where(
    assignments.c.annotator_id == _ME, assignments.c.kind != "practice", assignments.c.state != "expired"
)
_UNSEEN: Mapping[Kind, sa.Select[Any]] = MappingProxyType(
    {"practice": _unseen("practice", groups.c.id), "gold": _unseen("gold", groups.c.place)}
)
_RANKED_BEFORE = (
    sa.select(assignments.c.group_id)
    .join(groups, groups.c.id == assignments.c.group_id)
    .where(
        assignments.c.annotator_id == _ME,
        assignments.c.kind == "task",
        assignments.c.state == "done",
        _GOOD,
        ~_seen("repeat"),
    )
    .order_by(assignments.c.id.desc())
    .offset(APART)
    .limit(20)
)
_SEARCH = [  # from a random place on, then from the beginning; the second time those that others have in hand too
    sa.select(groups.c.id)
    .where(*_WANTED, ~_seen("task"), part)
    .order_by(groups.c.place)
    .limit(sa.bindparam("count"))
    .with_for_update(skip_locked=passing)
    for passing in (True, False)
    for part in (groups.c.place >= _START, groups.c.place < _START)
]
_IMAGES = sa.select(sa.func.count()).where(images.c.group_id == sa.bindparam("group"))
_TALLY = (
    sa.select(assignments.c.state, assignments.c.kind, sa.func.count())
    .where(assignments.c.annotator_id == _ME)
    .group_by(assignments.c.state, assignments.c.kind)
)
_ALL_WANTED = sa.select(sa.func.count()).select_from(groups).where(*_WANTED)
_WANTED_BUT_SEEN = (
    sa.select(sa.func.count())
    .select_from(assignments)
    .join(groups, groups.c.id == assignments.c.group_id)
    .where(assignments.c.annotator_id == _ME, assignments.c.kind == "task", assignments.c.state != _EXPIRED, *_WANTED)
)
_PRACTICE = sa.select(sa.func.count()).select_from(groups).where(groups.c.role == "practice", _GOOD)
_PRACTISED = (
    sa.select(sa.func.count())
    .select_from(assignments)
    .join(groups, groups.c.id == assignments.c.group_id)
    .where(
        assignments.c.annotator_id == _ME,
        assignments.c.kind == "practice",
        assignments.c.state.in_(("done", "skipped")),
        _GOOD,
    )
)


class Chooser:
    """What to hand out, by the project's config. `prefer` picks among candidates; without it any will do."""

    def __init__(self, config: ProjectConfig, prefer: Prefer | None = None) -> None:
        self.config = config
        self.prefer = prefer
        self._wanted = self._counted = 0  # how many groups want rankings, and when they were counted

    def hand_out(self, connection: sa.Connection, annotator: int, count: int, now: int) -> list[Assignment]:
        """Renew what someone holds and fill it up to `count`, in the order it is to be shown."""
        lock_person(connection, annotator)  # two tabs get the same groups, not twice as many
        expires = now + int(self.config.lease_minutes * 60_000)
        connection.execute(_RENEW, {"me": annotator, "expires": expires})
        held = self._held(connection, annotator, count)
        if len(held) < count:
            for _ in range(count - len(held)):
                if not self._one_more(connection, annotator, now, expires):
                    break
            held = self._held(connection, annotator, count)
        return held

    def _held(self, connection: sa.Connection, annotator: int, count: int) -> list[Assignment]:
        rows = connection.execute(_HELD, {"me": annotator, "count": count}).mappings().all()
        return [assignment_of(row) for row in rows]

    def _one_more(self, connection: sa.Connection, annotator: int, now: int, expires: int) -> bool:
        found = self._next(connection, annotator)
        if found is None:
            return False
        kind, group = found
        shown = list(range(connection.execute(_IMAGES, {"group": group}).scalar_one()))
        token = secrets.token_urlsafe(16)
        random.Random(token).shuffle(shown)  # noqa: S311 - an order, not a secret
        slot = free_slot(connection, group, self.config.rankings_per_group) if kind == "task" else None
        if kind == "task" and slot is None:
            raise ConflictError
        connection.execute(
            assignments.insert(),
            {
                "token": token,
                "group_id": group,
                "annotator_id": annotator,
                "kind": kind,
                "slot": slot,
                "shown": json.dumps(shown),
                "state": "open",
                "leased_at": now,
                "expires_at": expires,
            },
        )
        if kind == "task":
            count_taken(connection, [group])
        return True

    def _next(self, connection: sa.Connection, annotator: int) -> tuple[Kind, int] | None:
        """What someone is to be handed next, and the group."""
        task = None
        if self.config.practice and (practice := self._unseen(connection, annotator, "practice")) is not None:
            task = self._task(connection, annotator)
            if task is not None:  # nobody practises for nothing
                return "practice", practice
        count = connection.execute(_HANDED, {"me": annotator}).scalar_one()
        if count == 0 and (task := self._task(connection, annotator)) is None:
            return None
        drawn = _unit(f"{self.config.seed}\0{annotator}\0{count}\0kind")
        gold_share, share = self.config.gold_share, self.config.gold_share + self.config.repeat_share
        if drawn < gold_share and (gold := self._unseen(connection, annotator, "gold")) is not None:
            return "gold", gold
        if gold_share <= drawn < share and (repeat := self._repeat(connection, annotator)) is not None:
            return "repeat", repeat
        if task is None:
            task = self._task(connection, annotator)
        return None if task is None else ("task", task)

    def _unseen(self, connection: sa.Connection, annotator: int, kind: Kind) -> int | None:
        found: int | None = connection.execute(_UNSEEN[kind], {"me": annotator}).scalar_one_or_none()
        return found

    def _repeat(self, connection: sa.Connection, annotator: int) -> int | None:
        """A group that this person ranked some time ago and has not been shown again."""
        tasks = connection.execute(_RANKED_BEFORE, {"me": annotator}).scalars()
        return min(tasks, key=lambda group: _unit(f"{self.config.seed}\0{annotator}\0{group}"), default=None)

    def _task(self, connection: sa.Connection, annotator: int) -> int | None:
        """Search a group to rank; one that another transaction has in hand is passed over, and waited for only where
        there is no other."""
        values = {
            "me": annotator,
            "k": self.config.rankings_per_group,
            "start": secrets.randbelow(2**32) / 2**32,
            "count": CANDIDATES if self.prefer else 1,
        }
        for search in _SEARCH:
            if found := connection.execute(search, values).scalars().all():
                return self.prefer(connection, found) if self.prefer and len(found) > 1 else found[0]
        return None

    def progress(self, connection: sa.Connection, annotator: int, now: int) -> Progress:
        """How far someone is; in a large project, what others did in the last moments is not counted yet."""
        values = {"me": annotator, "k": self.config.rankings_per_group}
        done = held = 0
        for state, kind, count in connection.execute(_TALLY, values):
            if kind != "practice":
                done += count if state in {"done", "skipped"} else 0
                held += count if state == "open" else 0
        wanted = self._wanted
        if wanted < MANY or not 0 <= now - self._counted < COUNT_MS:
            self._wanted = wanted = connection.execute(_ALL_WANTED, values).scalar_one()
            self._counted = now
        seen = connection.execute(_WANTED_BUT_SEEN, values).scalar_one()
        practice = 0
        if self.config.practice:
            practice = connection.execute(_PRACTICE).scalar_one() - connection.execute(_PRACTISED, values).scalar_one()
        return Progress(done, max(0, wanted - seen) + held, practice)


_LATE = (assignments.c.state == "open", assignments.c.expires_at <= sa.bindparam("now"))
_ANY_LATE = sa.select(assignments.c.id).where(*_LATE).limit(1)


def any_late(connection: sa.Connection, now: int) -> bool:
    """Has any lease run out?"""
    return connection.execute(_ANY_LATE, {"now": now}).first() is not None


def release_late(connection: sa.Connection, now: int) -> None:
    """Let the leases that have run out go."""
    release(connection, assignments.c.expires_at <= now)


def release(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Let open leases go: their places are free again."""
    query = sa.select(assignments.c.id, assignments.c.group_id).where(assignments.c.state == "open", which)
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    numbers = [number for number, _ in rows]
    connection.execute(assignments.update().where(assignments.c.id.in_(numbers)).values(state="expired"))
    count_taken(connection, [group for _, group in rows])


def withdraw(connection: sa.Connection, group: int, problem: str) -> None:
    """Hand a group out no more, and let those who have it before them go on to another."""
    first = sa.and_(groups.c.id == group, groups.c.problem.is_(None))
    connection.execute(groups.update().where(first).values(problem=problem))
    release(connection, assignments.c.group_id == group)


def _unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
