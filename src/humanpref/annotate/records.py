"""What flows through annotation: how a project asks, its groups, what people answered. Frozen; no database, no web."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from humanpref.errors import DataError, HumanprefError, UnknownNameError

Kind: TypeAlias = Literal["task", "gold", "repeat", "practice"]
"""Why a group is shown: to be ranked; to check the annotator (its order is known); once more, to see whether they say
the same again; to learn how it works."""

Role: TypeAlias = Literal["task", "gold", "practice"]
"""What a group is for; a task may be repeated."""

LEAST, MOST = 2, 10
"""How many images a group may have."""

PRACTICE = 3
"""How many groups are for practice."""


class AnnotateError(HumanprefError):
    """What an annotator or an administrator asked for cannot be done; `code` is a short word for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ProjectConfig:
    """How people are asked.

    `rankings_per_group` (k) people rank each group: 10 as in HPD v2's test set, 1 as in its training set. `ties` allows
    equal places. A group that was handed out and not answered is free again after `lease_minutes`. Of what an annotator
    sees, the share `gold_share` are groups whose order is known and `repeat_share` their own earlier groups again.
    `minimum_seconds` is what a careful ranking takes at least (quicker ones are kept, and counted against them).
    `self_registration` lets anyone with the address join. `order` is "random" or "active" (what is most informative
    about the sources first).
    """

    title: str = "Which pictures do you prefer?"
    rankings_per_group: int = 10
    ties: bool = False
    lease_minutes: float = 30.0
    gold_share: float = 0.05
    repeat_share: float = 0.05
    minimum_seconds: float = 3.0
    practice: bool = True
    self_registration: bool = False
    order: Literal["random", "active"] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rankings_per_group < 1:
            raise DataError(f"rankings_per_group must be at least 1, got {self.rankings_per_group}")
        if not 0 < self.lease_minutes <= 7 * 24 * 60:
            raise DataError(f"lease_minutes must be above 0 and at most a week, got {self.lease_minutes}")
        for name in ("gold_share", "repeat_share"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise DataError(f"{name} must be in [0, 0.5], got {getattr(self, name)}")
        if self.minimum_seconds < 0:
            raise DataError(f"minimum_seconds cannot be negative, got {self.minimum_seconds}")
        if self.order not in {"random", "active"}:
            raise UnknownNameError(f"order is random or active, not {self.order!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProjectConfig:
        """Make a config of plain values. Raises `UnknownNameError` for a key that there is not."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise UnknownNameError(f"no setting is called {unknown[0]!r}; there are {', '.join(known)}")
        return cls(**values)


@dataclass(frozen=True)
class ProjectImage:
    """An image of a project: `path` is relative to the project's image folder, with forward slashes."""

    path: str
    sha256: str
    source: str | None = None


@dataclass(frozen=True)
class ProjectGroup:
    """A group of images of one prompt. `gold_ranks` (1 = best, in the order of `images`) where the answer is known;
    `role` says what it is for."""

    key: str
    prompt: str
    images: tuple[ProjectImage, ...]
    role: Role = "task"
    gold_ranks: tuple[int, ...] | None = None
    prompt_source: str | None = None
    style: str | None = None


@dataclass(frozen=True)
class Assignment:
    """A group handed to one annotator. `images` are numbers of images in the order they are shown: position i shows
    `images[i]`. `token` names the assignment to the page; `kind` is not shown."""

    token: str
    prompt: str
    images: tuple[int, ...]
    kind: Kind
    expires_at: datetime
    answered: Answer | None = None


@dataclass(frozen=True)
class Progress:
    """How far one annotator is: answers given, groups left for them (as things stand), practice groups left."""

    done: int
    left: int
    practice_left: int


@dataclass(frozen=True)
class Work:
    """What one annotator has before them: the current group and the next (fewer when little is left)."""

    tasks: tuple[Assignment, ...]
    progress: Progress


@dataclass(frozen=True)
class Answer:
    """What an annotator said: `ranks[i]` is the place (1 = best) of the image shown at position i; `unsafe` are
    positions. Or `skip`: the reason why there is no order."""

    ranks: tuple[int, ...] | None = None
    unsafe: tuple[int, ...] = ()
    skip: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """One answer as it is kept, the latest of its assignment (corrections replace what was said before).

    `ranks` and `unsafe` are in the order of the group's own images, whatever order was shown; `shown[i]` is the
    index (in the group) of the image shown at position i. `ranks` is None for a skip. `seconds` from showing to the
    first answer, as the server measured it. `corrected`: how many times it was changed.
    """

    number: int
    group: str
    kind: Kind
    annotator: int
    ranks: tuple[int, ...] | None
    shown: tuple[int, ...]
    seconds: float
    unsafe: tuple[int, ...]
    skip: str | None
    submitted_at: datetime
    corrected: int = 0


@dataclass(frozen=True)
class Annotator:
    """Someone who ranks. `name` is for the administrator alone and leaves the database in no export; `handle` is the
    random name that exports and reports use."""

    number: int
    name: str
    handle: str
    active: bool
    created_at: datetime
    excluded: str | None = None
    """The rule or reason by which what they said is left out, None where it counts."""
