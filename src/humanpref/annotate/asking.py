"""The active order on a database: keeps count of the sources' wins, and prefers the group that tells most."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from humanpref.annotate.active import count_wins, group_values, pair_values
from humanpref.annotate.aggregate import Numbers
from humanpref.annotate.schema import answers, assignments, images

EVERY = 5
"""After so many new answers the values are worked out again."""


class MostTelling:
    """Prefers, among some groups, the one whose ranking tells most about the order of the sources.

    It counts each first answer to a task once, as it comes; corrections are rare and wait for the server's next start.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: dict[int, Numbers] | None = None
        self._wins = self._values = np.zeros((0, 0))
        self._seen = self._counted = 0

    def __call__(self, connection: sa.Connection, candidates: Sequence[int]) -> int:
        """Return one of the candidates, the first among equals."""
        with self._lock:
            if self._sources is None:
                self._sources = _sources(connection)
                count = 1 + max((int(own.max()) for own in self._sources.values()), default=-1)
                self._wins = np.zeros((count, count))
            self._count(connection, self._sources)
            worth = group_values(self._values, [self._sources[group] for group in candidates])
        return candidates[int(np.argmax(worth))]

    def _count(self, connection: sa.Connection, sources: dict[int, Numbers]) -> None:
        query = (
            sa.select(answers.c.id, assignments.c.group_id, answers.c.ranks)
            .join(assignments, assignments.c.id == answers.c.assignment_id)
            .where(answers.c.id > self._seen, answers.c.ranks.is_not(None), assignments.c.kind == "task")
            .order_by(answers.c.id)
        )
        rows = connection.execute(query).all()
        for number, group, ranks in rows:
            count_wins(json.loads(ranks), sources[group], self._wins)
            self._seen = number
        self._counted += len(rows)
        if self._counted >= EVERY or not self._values.size:
            self._values, self._counted = pair_values(self._wins), 0


def _sources(connection: sa.Connection) -> dict[int, Numbers]:
    """The sources of every group's images, as numbers; -1 where there is none."""
    names: dict[str, int] = {}
    found: dict[int, list[int]] = {}
    query = sa.select(images.c.group_id, images.c.source).order_by(images.c.group_id, images.c.position)
    for group, source in connection.execute(query):
        found.setdefault(group, []).append(-1 if source is None else names.setdefault(source, len(names)))
    return {group: np.asarray(own) for group, own in found.items()}
