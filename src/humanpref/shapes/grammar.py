"""The captions of the closed world: a scene becomes a sentence, and the sentence the same scene again.

    [a flat picture of] a small red circle left of two blue squares [on a grey background]

What a caption does not name (a size, the background, the style) is free: any will do, and none is judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from humanpref.errors import DataError

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (220, 30, 35),
        "orange": (245, 130, 15),
        "yellow": (235, 215, 20),
        "green": (30, 160, 50),
        "blue": (25, 85, 220),
        "purple": (150, 40, 190),
    }
)
BACKGROUNDS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"white": (248, 248, 248), "grey": (132, 132, 132), "black": (14, 14, 14)}
)
STYLES: Mapping[str, str] = MappingProxyType(
    {"outlined": "anime", "hatched": "concept-art", "flat": "paintings", "shaded": "photo"}
)
"""Style word -> the style of the HPS v2 benchmark it stands for."""

SIZES = ("small", "large")
AROUND = ("circle", "square")
"""Shapes that another can be inside."""

RELATIONS = ("left of", "right of", "above", "below", "inside")
MOST = 4
"""Most objects in a scene."""

WORDINGS = 16
"""How many ways there are to say one scene."""

QUALITY_WORDS = ("good picture.", "bad picture.")
"""What `recipes/train_shapes_diffusion.py` trains as quality tokens, put before a caption; no part of the grammar."""

_NUMBERS = ("a", "two", "three", "four")
_TO_THE = {"left of": "to the left of", "right of": "to the right of", "inside": "within"}


@dataclass(frozen=True)
class Item:
    """`count` objects of one shape and colour; `size` None where any will do."""

    shape: str
    colour: str
    size: str | None = None
    count: int = 1

    def __post_init__(self) -> None:
        if self.shape not in SHAPES or self.colour not in COLOURS or self.size not in {None, *SIZES}:
            raise DataError(f"no such object in the shapes world: {self.size or ''} {self.colour} {self.shape}")
        if not 1 <= self.count <= MOST:
            raise DataError(f"a count must be 1 to {MOST}, got {self.count}")


@dataclass(frozen=True)
class Scene:
    """What a picture shows: one or two items; with two, how the first stands to the second (None: anyhow).

    Raises `DataError` for a scene that cannot be drawn or told apart: more than `MOST` objects, two items of the same
    shape and colour, a size where there are more than two objects, or something inside that is not one small object
    in one large circle or square of another colour.
    """

    items: tuple[Item, ...]
    relation: str | None = None
    background: str | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        if len(self.items) not in {1, 2} or self.total > MOST:
            raise DataError(f"a scene has one or two kinds of object and at most {MOST}, got {self.items}")
        if self.background not in {None, *BACKGROUNDS} or self.style not in {None, *STYLES}:
            raise DataError(f"no such background or style: {self.background}, {self.style}")
        if self.total > 2 and any(item.size for item in self.items):
            raise DataError("sizes are named only where there are at most two objects")
        first, last = self.items[0], self.items[-1]
        if len(self.items) == 2 and (first.shape, first.colour) == (last.shape, last.colour):
            raise DataError(f"two kinds of object must differ in shape or colour, got {first.colour} {first.shape}")
        if self.relation is not None and (len(self.items) != 2 or self.relation not in RELATIONS):
            raise DataError(f"{self.relation!r} is no relation of {len(self.items)} kinds of object")
        if self.relation == "inside" and (
            (first.size, last.size, self.total) != ("small", "large", 2)
            or first.colour == last.colour
            or last.shape not in AROUND
        ):
            raise DataError(
                "only one small object can be inside, and only one large circle or square of another colour"
            )

    @property
    def total(self) -> int:
        """How many objects there are in all."""
        return sum(item.count for item in self.items)


def caption(scene: Scene, wording: int = 0) -> str:
    """Say the scene in one of `WORDINGS` ways. `parse` gives the scene back whichever way it is said."""
    late, longer, against, one = (bool(wording % WORDINGS >> bit & 1) for bit in range(4))
    text = _phrase(scene.items[0], one)
    if len(scene.items) == 2:
        relation = scene.relation or "and"
        text += f" {_TO_THE.get(relation, relation) if longer else relation} {_phrase(scene.items[1], one)}"
    if scene.background:
        text += f" {'against' if against else 'on'} a {scene.background} background"
    if scene.style:
        text = f"{text} in {scene.style} style" if late else f"{_article(scene.style)} picture of {text}"
    return text


def parse(text: str) -> Scene:
    """Read a caption -> the scene it says. Raises `DataError` for text that is no caption of this world."""
    if (found := _CAPTION.fullmatch(text.strip().lower().removesuffix("."))) is None:
        raise DataError(f"not a caption of the shapes world: {text[:80]!r} (it reads like {caption(_EXAMPLE)!r})")
    part = found.groupdict()
    if part["style"] and part["late"]:
        raise DataError(f"{text[:80]!r} names two styles")
    said = {longer: short for short, longer in _TO_THE.items()}
    relation = part["relation"]
    items = [part["first"]] + ([part["second"]] if relation else [])
    return Scene(
        tuple(_read_item(item) for item in items),
        None if relation in {None, "and"} else said.get(relation, relation),
        part["background"],
        part["style"] or part["late"],
    )


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: about half with one kind of object; a third with more than two objects; all attributes alike."""
    background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.8 else None
    style = str(rng.choice(list(STYLES))) if rng.random() < 0.7 else None
    first = Item(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))))
    if rng.random() < 0.45:
        count = int(rng.choice(MOST, p=(0.4, 0.3, 0.2, 0.1))) + 1
        size = _any_size(rng) if count <= 2 else None
        return Scene((Item(first.shape, first.colour, size, count),), None, background, style)
    shape, colour = first.shape, first.colour
    while (shape, colour) == (first.shape, first.colour):
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
    relation = str(rng.choice(RELATIONS)) if rng.random() < 0.8 else None
    if relation == "inside" and colour != first.colour and shape in AROUND:
        items = (Item(first.shape, first.colour, "small"), Item(shape, colour, "large"))
        return Scene(items, relation, background, style)
    relation = None if relation == "inside" else relation
    counts = ((1, 1), (2, 1), (1, 2))[int(rng.choice(3, p=(0.7, 0.15, 0.15)))]
    sizes = (_any_size(rng), _any_size(rng)) if sum(counts) == 2 else (None, None)
    items = (Item(first.shape, first.colour, sizes[0], counts[0]), Item(shape, colour, sizes[1], counts[1]))
    return Scene(items, relation, background, style)


def captions(n: int, seed: int) -> list[str]:
    """Draw `n` captions of random scenes in random wordings; the same for the same seed, and no two alike."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        found[caption(sample_scene(rng), int(rng.integers(WORDINGS)))] = None
    return list(found)


def _any_size(rng: np.random.Generator) -> str | None:
    return str(rng.choice(SIZES)) if rng.random() < 0.4 else None


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _phrase(item: Item, one: bool) -> str:
    words = f"{item.size} {item.colour}" if item.size else item.colour
    if item.count > 1:
        return f"{_NUMBERS[item.count - 1]} {words} {_plural(item.shape)}"
    return f"one {words} {item.shape}" if one else f"{_article(words)} {item.shape}"


def _one_of(words: object) -> str:
    return "|".join(words)  # type: ignore[arg-type]


_OBJECT = (
    rf"(?:(?:a|an|one) (?:(?:{_one_of(SIZES)}) )?(?:{_one_of(COLOURS)}) (?:{_one_of(SHAPES)})"
    rf"|(?:{_one_of(_NUMBERS[1:])}) (?:(?:{_one_of(SIZES)}) )?(?:{_one_of(COLOURS)})"
    rf" (?:{_one_of(map(_plural, SHAPES))}))"
)
_CAPTION = re.compile(
    rf"(?:an? (?P<style>{_one_of(STYLES)}) picture of )?(?P<first>{_OBJECT})"
    rf"(?: (?P<relation>{_one_of((*_TO_THE.values(), *RELATIONS, 'and'))}) (?P<second>{_OBJECT}))?"
    rf"(?: (?:on|against) a (?P<background>{_one_of(BACKGROUNDS)}) background)?"
    rf"(?: in (?P<late>{_one_of(STYLES)}) style)?"
)
_EXAMPLE = Scene((Item("circle", "red", "small"), Item("square", "blue")), "left of", "grey")


def _read_item(text: str) -> Item:
    number, *size, colour, shape = text.split()
    count = _NUMBERS.index(number) + 1 if number in _NUMBERS else 1
    single = {_plural(name): name for name in SHAPES}
    return Item(single.get(shape, shape), colour, size[0] if size else None, count)
