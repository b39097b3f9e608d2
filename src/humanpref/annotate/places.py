"""The k places of a group: which are held, by an open task or an answered one. Statements on a connection."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from humanpref.annotate.schema import assignments, groups


def _holding(group: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    return sa.and_(
        assignments.c.group_id == group,
        assignments.c.kind == "task",
        assignments.c.state.in_(("open", "done")),
    )


_SLOTS = sa.select(assignments.c.slot).where(_holding(sa.bindparam("group")))
_LOCK = sa.select(groups.c.id).where(groups.c.id == sa.bindparam("group")).with_for_update()
_COUNT = (
    groups.update()
    .where(groups.c.id == sa.bindparam("group"))
    .values(taken=sa.select(sa.func.count()).where(_holding(groups.c.id)).scalar_subquery())
)


def free_slot(connection: sa.Connection, group: int, k: int) -> int | None:
    """The lowest place of a group that nobody holds, None where all are taken. The group's row must be locked."""
    used = connection.execute(_SLOTS, {"group": group})
    return min(set(range(k)) - set(used.scalars()), default=None)


def count_taken(connection: sa.Connection, numbers: Sequence[int]) -> None:
    """Count again how many places of these groups are taken."""
    for number in sorted(set(numbers)):  # in one order everywhere, so that transactions do not wait in a circle
        connection.execute(_LOCK, {"group": number})  # first, because PostgreSQL counts what was there before it waited
        connection.execute(_COUNT, {"group": number})
