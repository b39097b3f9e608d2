"""Simulated annotation for the tests: groups of known quality, people who rank them as `shapes.annotators` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import numpy as np

from humanpref.annotate.records import Annotator, Judgement, ProjectGroup, ProjectImage
from humanpref.metrics import competition_ranks
from humanpref.shapes.annotators import TEMPERATURE, people

SPREAD = 2.3 * TEMPERATURE
"""The deviation of quality with which two people agree on about four pairs in five."""
SOURCES = ("alpha", "beta", "gamma", "delta")
START = datetime(2025, 3, 1, 9, tzinfo=timezone.utc)


def group(key: str, images: int = 4, **fields: object) -> ProjectGroup:
    made = tuple(ProjectImage(f"{key}/{i}.png", f"{key}{i}", SOURCES[i % len(SOURCES)]) for i in range(images))
    return ProjectGroup(key, f"prompt {key}", made, **fields)  # type: ignore[arg-type]


def judgement(number: int, key: str, who: int, ranks: Sequence[int] | None, **fields: object) -> Judgement:
    values: dict[str, object] = {
        "kind": "task",
        "shown": tuple(range(len(ranks or (1, 2)))),
        "seconds": 10.0,
        "unsafe": (),
        "skip": None if ranks else "broken",
        "submitted_at": START + timedelta(minutes=number),
        **fields,
    }
    return Judgement(number=number, group=key, annotator=who, ranks=tuple(ranks) if ranks else None, **values)  # type: ignore[arg-type]


def annotator(number: int, **fields: object) -> Annotator:
    values: dict[str, object] = {"active": True, "created_at": START, **fields}
    return Annotator(number, f"Real Name {number}", f"handle-{number:02d}", **values)  # type: ignore[arg-type]


@dataclass
class World:
    """A project that simulated people have worked on. `temperatures` by annotator: infinite for one who ranks at
    random, negative for one who ranks in reverse. Each group goes to `per_group` of them; gold ones to everybody."""

    temperatures: dict[int, float]
    count: int = 60
    images: int = 4
    per_group: int = 10
    gold: int = 0
    repeats: int = 0
    seed: int = 0
    groups: dict[str, ProjectGroup] = field(default_factory=dict)
    quality: dict[str, np.ndarray] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        everybody = sorted(self.temperatures)
        for number in range(self.count + self.gold):
            key = f"g{number}"
            self.quality[key] = appeal = self._random.normal(0, SPREAD, self.images)
            is_gold = number >= self.count
            known = tuple(competition_ranks(list(appeal))) if is_gold else None
            self.groups[key] = group(key, self.images, role="gold" if is_gold else "task", gold_ranks=known)
            few = self._random.choice(everybody, min(self.per_group, len(everybody)), replace=False)
            for who in everybody if is_gold else few:
                self._answer(key, int(who), "gold" if is_gold else "task")
        for who in everybody:
            for key in [j.group for j in self.judgements if j.annotator == who and j.kind == "task"][: self.repeats]:
                self._answer(key, who, "repeat")

    def _answer(self, key: str, who: int, kind: str) -> None:
        felt = self.quality[key] / self.temperatures[who] + self._random.gumbel(size=self.images)
        shown = tuple(int(i) for i in self._random.permutation(self.images))
        ranks = competition_ranks(list(felt))
        self.judgements.append(judgement(len(self.judgements) + 1, key, who, ranks, kind=kind, shown=shown))


def crowd(honest: int, careless: int = 0, reversed_: int = 0, seed: int = 0) -> dict[int, float]:
    """Temperatures of honest people from half to twice the usual one (numbers from 1), then careless, then reversed."""
    usual = [p.temperature for p in people(honest, seed)]
    return dict(enumerate([*usual, *[np.inf] * careless, *[-TEMPERATURE] * reversed_], 1))
