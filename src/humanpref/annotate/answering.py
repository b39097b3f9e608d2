"""Taking and reading answers. Statements on a connection; the store makes transactions of them.

The page speaks of positions (the order shown to one person), the database of the group's own order of images: only
here is one turned into the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from humanpref.annotate.places import count_taken, free_slot
from humanpref.annotate.records import AnnotateError, Answer, Assignment, Judgement, ProjectConfig
from humanpref.annotate.schema import annotators, answers, assignments, groups, images
from humanpref.metrics import competition_ranks

LONGEST_REASON = 500

# Statements are made once: putting one together takes longer than running it. `me` is an annotator's number.
_ME: sa.BindParameter[int] = sa.bindparam("me")
_OWN = (assignments.c.token == sa.bindparam("token"), assignments.c.annotator_id == _ME)
_I_AM_ACTIVE = sa.select(annotators.c.active).where(annotators.c.id == _ME).with_for_update()
_MINE = sa.select(assignments).where(*_OWN).with_for_update()
_LATEST = (
    sa.select(answers)
    .where(answers.c.assignment_id == sa.bindparam("assignment"))
    .order_by(answers.c.id.desc())
    .limit(1)
)
_LAST_TIME = (
    sa.select(sa.func.max(answers.c.at))
    .join(assignments, assignments.c.id == answers.c.assignment_id)
    .where(assignments.c.annotator_id == _ME)
)
_CHANGE = (
    assignments.update()
    .where(assignments.c.id == sa.bindparam("number"))
    .values(state=sa.bindparam("state"), slot=sa.bindparam("slot"))
)
_PICTURES = (
    sa.select(images, assignments.c.shown).join(assignments, assignments.c.group_id == images.c.group_id).where(*_OWN)
)


def lock_person(connection: sa.Connection, annotator: int) -> None:
    """Let one transaction of a person go on at a time. Raises `AnnotateError` "revoked"."""
    if not connection.execute(_I_AM_ACTIVE, {"me": annotator}).scalar_one_or_none():
        raise AnnotateError("revoked", "this link is not valid any more")


def submit(
    connection: sa.Connection, config: ProjectConfig, annotator: int, token: str, answer: Answer, now: int
) -> None:
    """Keep an answer, see `Store.submit`."""
    lock_person(connection, annotator)
    row = connection.execute(_MINE, {"me": annotator, "token": token}).mappings().one_or_none()
    if row is None:
        raise AnnotateError("unknown", "there is no such group for you")
    shown = json.loads(row["shown"])
    said = _checked(answer, shown, ties=config.ties)
    last = _latest(connection, row["id"])
    if last is not None and all(last[name] == said[name] for name in said):
        return
    state = "skipped" if answer.skip is not None else "done"
    changed: dict[str, Any] = {"state": state}
    if row["kind"] == "task" and state == "done" and row["state"] in {"expired", "skipped"}:
        group = sa.select(groups.c.id).where(groups.c.id == row["group_id"]).with_for_update()
        connection.execute(group)
        changed["slot"] = free_slot(connection, row["group_id"], config.rankings_per_group)
        if changed["slot"] is None or _has_another(connection, row):
            raise AnnotateError("expired", "the time for this group is over and someone else has ranked it")
    elif row["state"] == "expired" and _has_another(connection, row):
        raise AnnotateError("expired", "the time for this group is over; you have it before you anew")
    seconds = _seconds(connection, row, now)
    connection.execute(answers.insert(), {"assignment_id": row["id"], "seconds": seconds, "at": now, **said})
    connection.execute(_CHANGE, {"slot": row["slot"], "number": row["id"], **changed})
    if row["kind"] == "task" and (state == "done") != (row["state"] in {"open", "done"}):
        count_taken(connection, [row["group_id"]])


def _checked(answer: Answer, shown: Sequence[int], *, ties: bool) -> dict[str, Any]:
    """Turn an answer by positions into one by the group's own order; raises `AnnotateError` for one that is none."""
    n = len(shown)
    if any(type(p) is not int or not 0 <= p < n for p in answer.unsafe):
        raise AnnotateError("bad_answer", f"unsafe images are named by positions from 0 to {n - 1}")
    unsafe = json.dumps(sorted(shown[p] for p in set(answer.unsafe)))
    if answer.skip is not None:
        if answer.ranks is not None or not (reason := " ".join(answer.skip.split())[:LONGEST_REASON]):
            raise AnnotateError("bad_answer", "to skip a group takes a reason and no ranks")
        return {"ranks": None, "unsafe": unsafe, "skip": reason}
    ranks = answer.ranks
    if ranks is None or len(ranks) != n or any(type(r) is not int or not 1 <= r <= n for r in ranks):
        raise AnnotateError("bad_answer", f"each of the {n} images needs one place from 1 to {n}")
    if not ties and len(set(ranks)) < n:
        raise AnnotateError("bad_answer", "no two images may have the same place")
    places = competition_ranks([-float(r) for r in ranks])
    own = [0] * n
    for position, image in enumerate(shown):
        own[image] = places[position]
    return {"ranks": json.dumps(own), "unsafe": unsafe, "skip": None}


def _latest(connection: sa.Connection, assignment: int) -> sa.RowMapping | None:
    return connection.execute(_LATEST, {"assignment": assignment}).mappings().one_or_none()


def _has_another(connection: sa.Connection, row: sa.RowMapping) -> bool:
    """Has this person been handed the same group again since?"""
    query = sa.select(assignments.c.id).where(
        assignments.c.annotator_id == row["annotator_id"],
        assignments.c.group_id == row["group_id"],
        assignments.c.kind == row["kind"],
        assignments.c.state != "expired",
        assignments.c.id != row["id"],
    )
    return connection.execute(query.limit(1)).first() is not None


def _seconds(connection: sa.Connection, row: sa.RowMapping, now: int) -> float:
    """How long it took, as the server saw it: since it was handed out or, as the next group is handed out ahead, since
    this person's last answer."""
    before: int = connection.execute(_LAST_TIME, {"me": row["annotator_id"]}).scalar_one_or_none() or 0
    begun: int = max(before, row["leased_at"])
    return max(0, now - begun) / 1000


def assignment_of(row: sa.RowMapping, answer: sa.RowMapping | None = None) -> Assignment:
    """Make the record of a row of `assignments` with its group's prompt, with its answer by positions."""
    shown = json.loads(row["shown"])
    said = None
    if answer is not None:
        ranks = None if answer["ranks"] is None else json.loads(answer["ranks"])
        unsafe = set(json.loads(answer["unsafe"]))
        said = Answer(
            None if ranks is None else tuple(ranks[image] for image in shown),
            tuple(position for position, image in enumerate(shown) if image in unsafe),
            answer["skip"],
            answer["seconds"],
        )
    return Assignment(row["token"], row["prompt"], tuple(shown), row["kind"], when(row["expires_at"]), said)


def recent(connection: sa.Connection, annotator: int, count: int) -> list[Assignment]:
    """What someone answered last, newest first; practice is over when it is over."""
    order = sa.select(sa.func.min(answers.c.id)).where(answers.c.assignment_id == assignments.c.id).scalar_subquery()
    query = (
        sa.select(assignments, groups.c.prompt)
        .join(groups, groups.c.id == assignments.c.group_id)
        .where(
            assignments.c.annotator_id == annotator,
            assignments.c.state.in_(("done", "skipped")),
            assignments.c.kind != "practice",
        )
        .order_by(order.desc())
        .limit(count)
    )
    rows = connection.execute(query).mappings().all()
    return [assignment_of(row, _latest(connection, row["id"])) for row in rows]


def image_row(connection: sa.Connection, annotator: int, token: str, position: int) -> sa.RowMapping | None:
    """The row of an image shown at a position of someone's own assignment."""
    rows = connection.execute(_PICTURES, {"me": annotator, "token": token}).mappings().all()
    if not 0 <= position < len(rows):
        return None
    wanted = json.loads(rows[0]["shown"])[position]
    return next(row for row in rows if row["position"] == wanted)


def judgements(connection: sa.Connection) -> list[Judgement]:
    """Every answer that counts now, see `Store.judgements`."""
    span = (
        sa.select(
            answers.c.assignment_id,
            sa.func.min(answers.c.id).label("first"),
            sa.func.max(answers.c.id).label("last"),
            sa.func.count().label("times"),
        )
        .group_by(answers.c.assignment_id)
        .subquery()
    )
    first = answers.alias("first_answer")
    query = (
        sa.select(
            assignments.c.id,
            groups.c.key,
            assignments.c.kind,
            assignments.c.annotator_id,
            assignments.c.shown,
            answers.c.ranks,
            answers.c.unsafe,
            answers.c.skip,
            first.c.seconds,
            first.c.at,
            span.c.times,
        )
        .join(span, span.c.assignment_id == assignments.c.id)
        .join(answers, answers.c.id == span.c.last)
        .join(first, first.c.id == span.c.first)
        .join(groups, groups.c.id == assignments.c.group_id)
        .where(assignments.c.state.in_(("done", "skipped")))
        .order_by(span.c.first)
    )
    return [
        Judgement(
            number=row["id"],
            group=row["key"],
            kind=row["kind"],
            annotator=row["annotator_id"],
            ranks=None if row["ranks"] is None else tuple(json.loads(row["ranks"])),
            shown=tuple(json.loads(row["shown"])),
            seconds=row["seconds"],
            unsafe=tuple(json.loads(row["unsafe"])),
            skip=row["skip"],
            submitted_at=when(row["at"]),
            corrected=row["times"] - 1,
        )
        for row in connection.execute(query).mappings()
    ]


def when(milliseconds: int) -> datetime:
    """Turn a time of the database into one of Python, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
