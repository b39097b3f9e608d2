"""An annotation project in its database: people, what they are handed, what they answered. Knows no web page.

Every method is one short transaction; an answer is on the disk before `submit` returns. Several servers may share one
database. What was answered is never changed or removed: a correction is a new row, and the latest one counts.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from humanpref.annotate import answering, handing
from humanpref.annotate.answering import when
from humanpref.annotate.asking import MostTelling
from humanpref.annotate.database import Database
from humanpref.annotate.project_rows import image_problem, put_groups
from humanpref.annotate.records import (
    AnnotateError,
    Annotator,
    Answer,
    Assignment,
    Judgement,
    Progress,
    ProjectConfig,
    ProjectGroup,
    ProjectImage,
    Work,
)
from humanpref.annotate.schema import annotators, answers, assignments, exclusions, groups, images, project
from humanpref.errors import DataError

HOUR = 3600 * 1000
LOOK_MS = 1000
"""How often to look for leases that have run out."""

_REASON = (
    sa.select(exclusions.c.reason)
    .where(exclusions.c.annotator_id == annotators.c.id)
    .order_by(exclusions.c.id.desc())
    .limit(1)
    .scalar_subquery()
    .label("reason")
)
_EVERYONE = sa.select(annotators, _REASON).order_by(annotators.c.id)
_HOLDER = _EVERYONE.where(annotators.c.token_hash == sa.bindparam("hash"), annotators.c.active == 1)
_NUMBER = _EVERYONE.where(annotators.c.id == sa.bindparam("number"))


@dataclass(frozen=True)
class Counts:
    """How far the project is. `wanted` is groups x rankings per group; `hours` how many rankings were first given in
    each hour (UTC) that has any; `problems` why groups are not handed out any more, by their key."""

    groups: int
    wanted: int
    done: int
    complete_groups: int
    skipped: int
    open: int
    hours: tuple[tuple[datetime, int], ...]
    problems: tuple[tuple[str, str], ...]


class Store:
    """One project. Raises `AnnotateError` for what cannot be done, `UnreachableError` while the database is away."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.database = Database(url)
        self._clock = clock
        now, known = self.database.version() if self.database.exists() else (None, None)
        if now is None:
            raise DataError(f"{self.database}: holds no project; make one with: humanpref annotate init")
        if now != known:
            raise DataError(f"{self.database}: is of version {now}, not {known}; run: humanpref annotate upgrade")
        with self.database.read() as connection:
            row = connection.execute(sa.select(project)).mappings().one_or_none()
        if row is None:
            raise DataError(f"{self.database}: holds no project; make one with: humanpref annotate init")
        self.config = ProjectConfig.from_dict(json.loads(row["config"]))
        self.image_root = Path(row["image_root"])
        self.secret: str = row["secret"]
        self._looked = 0  # when leases were looked after last
        self._chooser = handing.Chooser(self.config, MostTelling() if self.config.order == "active" else None)

    @classmethod
    def create(
        cls, url: str, config: ProjectConfig, image_root: Path, found: Sequence[ProjectGroup]
    ) -> tuple[Store, str]:
        """Make a project in an empty database -> the store, and the administrator's token, which is kept nowhere."""
        if not any(group.role == "task" for group in found):
            raise DataError("a project needs at least one group to rank")
        database, token = Database(url), secrets.token_urlsafe(24)
        database.upgrade()
        row = {
            "id": 1,
            "config": json.dumps(asdict(config)),
            "image_root": str(image_root.resolve()),
            "admin_hash": _hash(token),
            "secret": secrets.token_hex(32),
            "created_at": int(time.time() * 1000),
        }
        with database.write() as connection:
            if connection.execute(sa.select(sa.func.count()).select_from(project)).scalar_one():
                raise DataError(f"{database}: holds a project already; choose another --db")
            connection.execute(project.insert().values(row))
            put_groups(connection, found, image_root, config.seed)
        database.dispose()
        return cls(url), token

    def close(self) -> None:
        """Close all connections."""
        self.database.dispose()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    # ---- people

    def invite(self, name: str) -> tuple[Annotator, str]:
        """Add a person -> who they are, and the token of their link, which is stored only as a hash."""
        if not (name := " ".join(name.split())[:100]):
            raise AnnotateError("bad_name", "a name is needed")
        token, now = secrets.token_urlsafe(24), self._now()
        values = {"name": name, "handle": secrets.token_hex(6), "token_hash": _hash(token), "active": 1}
        row = annotators.insert().values({**values, "created_at": now}).returning(annotators.c.id)
        number: int = self.database.attempt(lambda c: c.execute(row).scalar_one())
        return Annotator(number, name, str(values["handle"]), True, when(now)), token

    def revoke(self, number: int) -> None:
        """End someone's access at once. What they said stays; what they hold is free again."""

        def end(connection: sa.Connection) -> None:
            _must_change(connection, number, {"active": 0})
            handing.release(connection, assignments.c.annotator_id == number)

        self.database.attempt(end)

    def renew(self, number: int) -> str:
        """Give someone a new link -> its token. The old link is dead from now on."""
        token = secrets.token_urlsafe(24)
        self.database.attempt(lambda c: _must_change(c, number, {"token_hash": _hash(token), "active": 1}))
        return token

    def annotator_of_token(self, token: str) -> Annotator | None:
        """Who holds this link? None where nobody does, or no longer."""
        return next(iter(self._annotators(_HOLDER, {"hash": _hash(token)})), None)

    def annotator(self, number: int) -> Annotator | None:
        """Look someone up by number."""
        return next(iter(self._annotators(_NUMBER, {"number": number})), None)

    def annotators(self) -> list[Annotator]:
        """Everyone, in the order they were invited."""
        return self._annotators(_EVERYONE, {})

    def _annotators(self, query: sa.Select[Any], values: dict[str, Any]) -> list[Annotator]:
        with self.database.read() as connection:
            rows = connection.execute(query, values).mappings().all()
        return [
            Annotator(r["id"], r["name"], r["handle"], bool(r["active"]), when(r["created_at"]), r["reason"])
            for r in rows
        ]

    def exclude(self, number: int, reason: str | None) -> None:
        """Leave out what someone said, for a stated reason; None counts it again. Both stay on record."""
        with self.database.write() as connection:
            if connection.execute(sa.select(annotators.c.id).where(annotators.c.id == number)).first() is None:
                raise AnnotateError("unknown", f"there is no annotator {number}")
            connection.execute(exclusions.insert().values(annotator_id=number, reason=reason, at=self._now()))

    def check_admin(self, token: str) -> bool:
        """Is this the administrator's token? Compared in constant time."""
        return hmac.compare_digest(_hash(token), self._admin_hash())

    def renew_admin(self) -> str:
        """Make a new token for the administrator. The old one, and sessions that it opened, are dead from now on."""
        token = secrets.token_urlsafe(24)
        self.database.attempt(lambda c: c.execute(project.update().values(admin_hash=_hash(token))))
        return token

    def admin_mark(self) -> str:
        """What an administrator's session carries, to know when the token is another one."""
        return _hash(self._admin_hash())[:16]

    def _admin_hash(self) -> str:
        with self.database.read() as connection:
            found: str = connection.execute(sa.select(project.c.admin_hash)).scalar_one()
        return found

    # ---- work

    def open_assignments(self, annotator: int, count: int = 2) -> list[Assignment]:
        """What this person has before them: the current group and the next, up to `count`; fewer when little is left.

        What they hold comes first, its lease renewed. Raises `AnnotateError` "revoked".
        """
        self._expire()
        return self.database.attempt(lambda c: self._chooser.hand_out(c, annotator, count, self._now()))

    def work(self, annotator: int) -> Work:
        """What this person has before them and how far they are. Raises as `open_assignments` does."""
        self._expire()
        return self.database.attempt(lambda c: self._work(c, annotator))

    def _work(self, connection: sa.Connection, annotator: int) -> Work:
        now = self._now()
        tasks = self._chooser.hand_out(connection, annotator, 2, now)
        return Work(tuple(tasks), self._chooser.progress(connection, annotator, now))

    def _expire(self) -> None:
        now = self._now()
        if 0 <= now - self._looked < LOOK_MS:
            return
        self._looked = now
        with self.database.read() as connection:
            if not handing.any_late(connection, now):
                return
        self.database.attempt(lambda c: handing.release_late(c, now))

    def submit(self, annotator: int, token: str, answer: Answer) -> None:
        """Keep an answer; it is on the disk when this returns. The same again changes nothing, another one corrects it.

        Raises `AnnotateError`: "unknown" (no such assignment of theirs), "bad_answer", "expired" (the lease ran out or
        it was skipped, and others have taken its place), "revoked".
        """
        self.database.attempt(lambda c: answering.submit(c, self.config, annotator, token, answer, self._now()))

    def submit_and_go_on(self, annotator: int, token: str, answer: Answer) -> Work:
        """`submit` and `work` in one transaction, so that the disk is waited for only once."""
        self._expire()

        def both(connection: sa.Connection) -> Work:
            answering.submit(connection, self.config, annotator, token, answer, self._now())
            return self._work(connection, annotator)

        return self.database.attempt(both)

    def recent(self, annotator: int, count: int = 5) -> list[Assignment]:
        """What someone answered last, newest first, with the answers."""
        with self.database.read() as connection:
            return answering.recent(connection, annotator, count)

    def progress(self, annotator: int) -> Progress:
        """How far someone is."""
        with self.database.read() as connection:
            return self._chooser.progress(connection, annotator, self._now())

    def image(self, annotator: int, token: str, position: int) -> Path:
        """Where an image of someone's own assignment is. Raises `AnnotateError` "unknown", "image_gone" or
        "image_changed"; a group whose image is not as it was is not handed out any more."""
        with self.database.read() as connection:
            row = answering.image_row(connection, annotator, token, position)
        if row is None:
            raise AnnotateError("unknown", "there is no such image")
        path: Path = self.image_root / row["path"]
        problem = image_problem(path, self.image_root, row)
        if problem is None:
            return path
        self.database.attempt(lambda c: handing.withdraw(c, row["group_id"], f"{row['path']} {problem[1]}"))
        raise AnnotateError(problem[0], "this image is not there any more; the group is left out")

    # ---- everything, for quality control, export and reports

    def groups(self) -> dict[str, ProjectGroup]:
        """Every group by its key."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(groups).order_by(groups.c.id)).mappings().all()
            pictures = connection.execute(sa.select(images).order_by(images.c.group_id, images.c.position)).mappings()
            by_group: dict[int, list[ProjectImage]] = {}
            for image in pictures:
                by_group.setdefault(image["group_id"], []).append(
                    ProjectImage(image["path"], image["sha256"], image["source"])
                )
        return {
            row["key"]: ProjectGroup(
                row["key"],
                row["prompt"],
                tuple(by_group[row["id"]]),
                row["role"],
                None if row["gold_ranks"] is None else tuple(json.loads(row["gold_ranks"])),
                row["prompt_source"],
                row["style"],
            )
            for row in rows
        }

    def judgements(self) -> list[Judgement]:
        """Every answer that counts now, one for each answered assignment, in the order they were first given."""
        with self.database.read() as connection:
            return answering.judgements(connection)

    def counts(self) -> Counts:
        """How far the project is."""
        k = self.config.rankings_per_group
        task = groups.c.role == "task"
        with self.database.read() as connection:
            total = connection.execute(sa.select(sa.func.count()).select_from(groups).where(task)).scalar_one()
            states = sa.select(assignments.c.state, sa.func.count()).where(assignments.c.kind == "task")
            by_state: dict[str, int] = dict(connection.execute(states.group_by(assignments.c.state)).all())
            done = sa.select(assignments.c.group_id).where(assignments.c.kind == "task", assignments.c.state == "done")
            full = done.group_by(assignments.c.group_id).having(sa.func.count() >= k).subquery()
            complete = connection.execute(sa.select(sa.func.count()).select_from(full)).scalar_one()
            first = sa.select(sa.func.min(answers.c.at).label("at")).group_by(answers.c.assignment_id).subquery()
            hour = (first.c.at - first.c.at % HOUR).label("hour")
            hours = connection.execute(sa.select(hour, sa.func.count()).group_by(hour).order_by(hour)).all()
            problems = connection.execute(
                sa.select(groups.c.key, groups.c.problem).where(groups.c.problem.is_not(None)).order_by(groups.c.id)
            ).all()
        return Counts(
            total,
            total * k,
            by_state.get("done", 0),
            complete,
            by_state.get("skipped", 0),
            by_state.get("open", 0),
            tuple((when(at), n) for at, n in hours),
            tuple((key, str(problem)) for key, problem in problems),
        )


def _must_change(connection: sa.Connection, number: int, values: dict[str, Any]) -> None:
    if not connection.execute(annotators.update().where(annotators.c.id == number).values(values)).rowcount:
        raise AnnotateError("unknown", f"there is no annotator {number}")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()  # tokens are random and long: no salt or stretching is needed
