"""Drawing a scene: the one source of pictures that does all the caption says, sharply."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from humanpref.shapes.grammar import BACKGROUNDS, COLOURS, STYLES, Scene

RADII = {"small": (0.11, 0.135), None: (0.15, 0.19), "large": (0.205, 0.235)}
"""Half the width of an object as a share of the picture, by the size the caption names."""

CROWDED = (0.125, 0.15)  # of more than two objects, which name no size
AROUND = (0.30, 0.34)  # of the large object that another is inside
LINE = 0.032  # width of a line as a share of the picture
GAP = 0.035  # least room between objects, and between an object and the one inside it
APART = 0.15  # least distance of centres along the axis of a relation


@dataclass(frozen=True)
class Placed:
    """One object where it stands: centre and half width as shares of the picture, y downwards; `kind` its item."""

    shape: str
    colour: str
    x: float
    y: float
    r: float
    kind: int = 0


@dataclass(frozen=True)
class Layout:
    """All that is drawn: nothing is left open."""

    objects: tuple[Placed, ...]
    background: str
    style: str


def render(scene: Scene, size: int = 64, seed: int = 0) -> Image.Image:
    """Draw the scene -> RGB, size x size. What the caption leaves open (places, style ...) is drawn from the seed."""
    return draw(layout(scene, np.random.default_rng(seed)), size)


def layout(scene: Scene, rng: np.random.Generator) -> Layout:
    """Choose everything the caption leaves open, within what it says."""
    background = scene.background or str(rng.choice(list(BACKGROUNDS)))
    style = scene.style or str(rng.choice(list(STYLES)))
    # which item each object is of
    kinds = [k for k, item in enumerate(scene.items) for _ in range(item.count)]
    shrink = 1.0
    while True:
        for _ in range(60):
            objects = _place(scene, kinds, rng, shrink)
            if _fits(scene, objects):
                return Layout(tuple(objects), background, style)
        shrink *= 0.9  # ends: small enough objects always fit


def _place(scene: Scene, kinds: list[int], rng: np.random.Generator, shrink: float) -> list[Placed]:
    objects: list[Placed] = []
    for k in kinds:
        item = scene.items[k]
        radii = AROUND if scene.relation == "inside" and k == 1 else CROWDED if scene.total > 2 else RADII[item.size]
        a, b, c = rng.random(3).tolist()
        r = (radii[0] + (radii[1] - radii[0]) * a * shrink) * (shrink if item.size is None else 1.0)
        x, y = (r + 0.04 + (0.92 - 2 * r) * place for place in (b, c))
        objects.append(Placed(item.shape, item.colour, x, y, r, k))
    if scene.relation == "inside":
        inner, outer = objects
        x, y = (float(centre + rng.uniform(-0.1, 0.1) * outer.r) for centre in (outer.x, outer.y))
        objects = [Placed(inner.shape, inner.colour, x, y, min(inner.r, 0.4 * outer.r), 0), outer]
    return objects


def _fits(scene: Scene, objects: list[Placed]) -> bool:
    if scene.relation == "inside":
        return True
    for i, a in enumerate(objects):
        for b in objects[:i]:
            if max(abs(a.x - b.x), abs(a.y - b.y)) < a.r + b.r + GAP:
                return False
    return all(holds(scene.relation, a, b) for a in objects for b in objects if a.kind < b.kind)


def holds(relation: str | None, a: Placed, b: Placed) -> bool:
    """Does the first object stand to the second as drawn here? (`quality` judges more leniently.)"""
    right, down = a.x - b.x, a.y - b.y
    along, across = (right, down) if relation in {"left of", "right of"} else (down, right)
    if relation in {"left of", "above"}:
        along = -along
    return relation is None or (along >= APART and along >= 0.8 * abs(across))


def draw(plan: Layout, size: int) -> Image.Image:
    """Draw a layout -> RGB, size x size, anti-aliased: at four times the size, then reduced."""
    side = size * 4 if size >= 32 else 128
    picture = Image.new("RGB", (side, side), BACKGROUNDS[plan.background])
    for thing in sorted(plan.objects, key=lambda thing: -thing.r):  # what is inside comes last
        if any(_within(thing, other) for other in plan.objects):
            halo = _mask(thing.shape, thing.x * side, thing.y * side, (thing.r + GAP) * side, side)
            picture.paste(BACKGROUNDS[plan.background], mask=halo)
        _draw_object(picture, thing, plan.style)
    return picture.resize((size, size), Image.Resampling.BOX)


def _within(a: Placed, b: Placed) -> bool:
    return a is not b and a.r < b.r and max(abs(a.x - b.x), abs(a.y - b.y)) < b.r


def _draw_object(picture: Image.Image, thing: Placed, style: str) -> None:
    side = picture.width
    x, y, r = thing.x * side, thing.y * side, thing.r * side
    mask = _mask(thing.shape, x, y, r, side)
    colour = COLOURS[thing.colour]
    if style == "flat":
        picture.paste(colour, mask=mask)
    elif style == "shaded":
        picture.paste(_shade(colour, x, y, r, side), mask=mask)
    else:
        ink = _line(thing.shape, x, y, r, side)
        if style == "hatched":
            ink = np.maximum(ink, _stripes(side))
        picture.paste(colour, mask=Image.fromarray(np.minimum(ink, np.asarray(mask))))


def _turned(u: float, v: float, quarters: int) -> tuple[float, float]:
    for _ in range(quarters):
        u, v = -v, u
    return u, v


_ARM = 0.42  # half the width of a cross's arms
_QUARTER = [(-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM)]  # of a cross; the others are the same, turned
_CORNERS: Mapping[str, list[tuple[float, float]]] = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "cross": [turn for k in range(4) for turn in (_turned(u, v, k) for u, v in _QUARTER)],
    "circle": [(math.cos(math.tau * k / 48), math.sin(math.tau * k / 48)) for k in range(48)],
}


def outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """The corners of a shape of half width r about (x, y); all shapes fill the square of side 2 r."""
    return [(float(x + r * u), float(y + r * v)) for u, v in _CORNERS[shape]]


def _mask(shape: str, x: float, y: float, r: float, side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon(outline(shape, x, y, r), fill=255)
    return mask


def _line(shape: str, x: float, y: float, r: float, side: int) -> npt.NDArray[np.uint8]:
    line = Image.new("L", (side, side))
    corners = outline(shape, x, y, r)
    ImageDraw.Draw(line).line([*corners, corners[0], corners[1]], fill=255, width=round(2 * LINE * side), joint="curve")
    return np.asarray(line)


def _stripes(side: int) -> npt.NDArray[np.uint8]:
    along = np.add.outer(np.arange(side), np.arange(side)) / side
    return np.where(along % 0.11 < 0.05, 255, 0).astype(np.uint8)


def _shade(colour: tuple[int, int, int], x: float, y: float, r: float, side: int) -> Image.Image:
    """Light from the upper left: from a little lighter than the colour to less than half of it."""
    down = (np.add.outer(np.arange(side) - y, np.arange(side) - x) / (2 * r)).clip(-1, 1)[..., None]  # -1 ... 1
    base = np.asarray(colour, dtype=np.float64)
    light = base + (255 - base) * 0.35 * np.maximum(-down, 0)
    return Image.fromarray((light * (1 - 0.6 * np.maximum(down + 0.15, 0))).clip(0, 255).astype(np.uint8))
