"""A prompt with where it comes from, what cleaning made of one, and what a cleaner is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

Status: TypeAlias = Literal["clean", "unchanged", "review", "empty"]
STATUSES: tuple[Status, ...] = ("clean", "unchanged", "review", "empty")

MetaValue: TypeAlias = str | int | float | bool


@dataclass(frozen=True)
class Prompt:
    """One prompt. `id` is its name, in the set it comes from (`source`: coco, diffusiondb ...) where it has one there.

    `style` is what it asks for (anime, photo ...) where the set says so; `original` the text before cleaning; `meta`
    its provenance: the file, the row, the seed of its image and the like.
    """

    text: str
    id: str
    source: str | None = None
    style: str | None = None
    original: str | None = None
    meta: Mapping[str, MetaValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Cleaned:
    """What cleaning made of a prompt.

    `text` is the content: the original, character for character, where `status` is "unchanged" or "review"; "" where
    it is "empty" (nothing but style words). `removed` are the terms left out, in order, as they were written.
    `reason` says why a person should look ("review"), or why there is nothing left.
    """

    original: str
    text: str
    removed: tuple[str, ...]
    status: Status
    reason: str = ""


class Cleaner(Protocol):
    """Rewrites prompts to their content. Yields one result for each prompt, in their order, as they come."""

    name: str

    def clean(self, prompts: Iterable[str]) -> Iterator[Cleaned]:
        """Clean prompts one after another; reads only a little ahead."""
        ...
