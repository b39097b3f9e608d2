"""Who gets which group next: leases, places, checks in between. Statements on a connection; the store makes
transactions of them.

A task takes one of its group's k places while it is open or answered; the database itself refuses two on one place.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from collections.abc import Callable, Sequence
from typing import TypeAlias

import sqlalchemy as sa

from humanpref.annotate.answering import assignment_of
from humanpref.annotate.database import ConflictError
from humanpref.annotate.places import count_taken, free_slot
from humanpref.annotate.records import AnnotateError, Assignment, Kind, ProjectConfig
from humanpref.annotate.schema import annotators, assignments, groups, images

CANDIDATES = 32
"""How many groups the active order chooses among: a random handful, so that the search stays quick in any project."""

APART = 5
"""How many other groups lie between a group and its repeat, at least."""

Prefer: TypeAlias = "Callable[[sa.Connection, Sequence[int]], int]"
"""Chooses one of several groups (their numbers)."""


class Chooser:
    """What to hand out, by the project's config. `prefer` picks among candidates; without it any will do."""

    def __init__(self, config: ProjectConfig, prefer: Prefer | None = None) -> None:
        self.config = config
        self.prefer = prefer

    def hand_out(self, connection: sa.Connection, annotator: int, count: int, now: int) -> list[Assignment]:
        """Renew what someone holds and fill it up to `count`, in the order it is to be shown."""
        # one transaction of a person at a time: two tabs get the same groups, not twice as many
        me = sa.select(annotators.c.active).where(annotators.c.id == annotator).with_for_update()
        if not connection.execute(me).scalar_one_or_none():
            raise AnnotateError("revoked", "this link is not valid any more")
        expires = now + int(self.config.lease_minutes * 60_000)
        mine = sa.and_(assignments.c.annotator_id == annotator, assignments.c.state == "open")
        connection.execute(assignments.update().where(mine).values(expires_at=expires))
        held = connection.execute(sa.select(sa.func.count()).where(mine)).scalar_one()
        while held < count and self._one_more(connection, annotator, now, expires):
            held += 1
        rows = connection.execute(sa.select(assignments).where(mine).order_by(assignments.c.id).limit(count))
        return [assignment_of(connection, row) for row in rows.mappings().all()]

    def _one_more(self, connection: sa.Connection, annotator: int, now: int, expires: int) -> bool:
        task = self._task(connection, annotator, secrets.randbelow(2**32) / 2**32)
        practice = self._practice(connection, annotator)
        if practice is not None and task is not None:  # nobody practises for nothing
            return self._assign(connection, annotator, practice, "practice", now, expires)
        count = connection.execute(
            sa.select(sa.func.count()).where(
                assignments.c.annotator_id == annotator,
                assignments.c.kind != "practice",
                assignments.c.state != "expired",
            )
        ).scalar_one()
        drawn = _unit(f"{self.config.seed}\0{annotator}\0{count}\0kind")
        if task is None and count == 0:
            return False
        if drawn < self.config.gold_share and (group := self._gold(connection, annotator)) is not None:
            return self._assign(connection, annotator, group, "gold", now, expires)
        share = self.config.gold_share + self.config.repeat_share
        if self.config.gold_share <= drawn < share and (group := self._repeat(connection, annotator)) is not None:
            return self._assign(connection, annotator, group, "repeat", now, expires)
        return task is not None and self._assign(connection, annotator, task, "task", now, expires)

    def practice_left(self, connection: sa.Connection, annotator: int) -> int:
        """How many practice groups someone has not answered yet."""
        if not self.config.practice:
            return 0
        answered = sa.select(assignments.c.group_id).where(
            assignments.c.annotator_id == annotator,
            assignments.c.kind == "practice",
            assignments.c.state.in_(("done", "skipped")),
        )
        query = sa.select(sa.func.count()).select_from(groups)
        return connection.execute(
            query.where(groups.c.role == "practice", groups.c.problem.is_(None), groups.c.id.not_in(answered))
        ).scalar_one()

    def _practice(self, connection: sa.Connection, annotator: int) -> int | None:
        if not self.config.practice:
            return None
        return self._unseen(connection, annotator, "practice", groups.c.id)

    def _gold(self, connection: sa.Connection, annotator: int) -> int | None:
        return self._unseen(connection, annotator, "gold", groups.c.place)

    def _unseen(
        self, connection: sa.Connection, annotator: int, kind: Kind, order: sa.ColumnElement[object]
    ) -> int | None:
        query = sa.select(groups.c.id).where(groups.c.role == kind, groups.c.problem.is_(None), ~_seen(annotator, kind))
        return connection.execute(query.order_by(order).limit(1)).scalar_one_or_none()

    def _repeat(self, connection: sa.Connection, annotator: int) -> int | None:
        """A group that this person ranked some time ago and has not been shown again."""
        tasks = connection.execute(
            sa.select(assignments.c.group_id)
            .join(groups, groups.c.id == assignments.c.group_id)
            .where(
                assignments.c.annotator_id == annotator,
                assignments.c.kind == "task",
                assignments.c.state == "done",
                groups.c.problem.is_(None),
                ~_seen(annotator, "repeat"),
            )
            .order_by(assignments.c.id.desc())
            .offset(APART)
            .limit(20)
        ).scalars()
        return min(tasks, key=lambda group: _unit(f"{self.config.seed}\0{annotator}\0{group}"), default=None)

    def available(self, annotator: int) -> tuple[sa.ColumnElement[bool], ...]:
        """Which groups someone could be handed as a task now."""
        return (
            groups.c.role == "task",
            groups.c.problem.is_(None),
            groups.c.taken < self.config.rankings_per_group,
            ~_seen(annotator, "task"),
        )

    def _task(self, connection: sa.Connection, annotator: int, start: float) -> int | None:
        """Search from a random place on, then from the beginning; a group that another transaction has in hand is
        passed over, and waited for only where there is no other."""
        limit = CANDIDATES if self.prefer else 1
        for passing in (True, False):
            for part in (groups.c.place >= start, groups.c.place < start):
                query = sa.select(groups.c.id).where(*self.available(annotator), part).order_by(groups.c.place)
                query = query.limit(limit).with_for_update(skip_locked=passing)
                if found := connection.execute(query).scalars().all():
                    return self.prefer(connection, found) if self.prefer and len(found) > 1 else found[0]
        return None

    def _assign(
        self, connection: sa.Connection, annotator: int, group: int, kind: Kind, now: int, expires: int
    ) -> bool:
        token = secrets.token_urlsafe(16)
        count = connection.execute(sa.select(sa.func.count()).where(images.c.group_id == group)).scalar_one()
        shown = list(range(count))
        random.Random(token).shuffle(shown)  # noqa: S311 - an order, not a secret
        slot = free_slot(connection, group, self.config.rankings_per_group) if kind == "task" else None
        if kind == "task" and slot is None:
            raise ConflictError
        connection.execute(
            assignments.insert().values(
                token=token,
                group_id=group,
                annotator_id=annotator,
                kind=kind,
                slot=slot,
                shown=json.dumps(shown),
                state="open",
                leased_at=now,
                expires_at=expires,
            )
        )
        count_taken(connection, [group])
        return True


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


def _seen(annotator: int, kind: Kind) -> sa.ColumnElement[bool]:
    own = assignments.alias("own")
    return (
        sa.select(own.c.id)
        .where(
            own.c.group_id == groups.c.id,
            own.c.annotator_id == annotator,
            own.c.kind == kind,
            own.c.state != "expired",
        )
        .correlate(groups)
        .exists()
    )


def _unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
