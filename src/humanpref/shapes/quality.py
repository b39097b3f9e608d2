"""The known truth of the shapes world: how far a picture does what its caption says, and how cleanly it is drawn.

    fulfilled = mean of the attributes the caption names, weighted by `WEIGHTS`          each in [0, 1]
    clean     = geometric mean of sharpness, stillness, regularity and vividness          each in [0, 1]
    total     = 0.6 * fulfilled + 0.4 * clean

The picture is looked at (`humanpref.shapes.vision`); where it comes from is never asked.

Attributes: `shape` and `colour`, the share of the wanted objects that a seen object is matched to with the right one;
`count`, 1 - |seen - wanted| / wanted, at least 0; `size`, the share of objects of a named size that have it;
`relation`, the share of pairs across the two kinds that stand as said; `background` and `style`, 1 or 0.

Cleanness: `sharpness`, how steep the steepest edges are; `stillness`, exp(-mean deviation of the empty background
from its own 3 x 3 median / 0.03); `regularity`, how well outlines agree with a shape; `vividness`, colour against
the palette's. All are 1 for what `render` draws, up to a few per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFilter

from humanpref.shapes.grammar import Item, Scene, parse
from humanpref.shapes.vision import Seen, View, look

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"shape": 1.0, "colour": 1.0, "count": 1.0, "relation": 1.0, "size": 0.5, "background": 0.5, "style": 0.5}
)
FULFILLED = 0.6
"""The weight of `fulfilled` in the total; that of `clean` is the rest."""


@dataclass(frozen=True)
class Quality:
    """The truth about one picture; all in [0, 1]. `attributes` has those the caption names, `cleanness` its four
    parts."""

    fulfilled: float
    clean: float
    total: float
    attributes: Mapping[str, float]
    cleanness: Mapping[str, float]

    @property
    def right(self) -> bool:
        """Does the picture do all that the caption says?"""
        return all(value == 1 for value in self.attributes.values())


def quality(image: Image.Image, caption: str | Scene) -> Quality:
    """Judge a picture by its caption. Raises `DataError` for text that is no caption of the shapes world."""
    return qualities(image, [caption])[0]


def qualities(image: Image.Image, captions: Sequence[str | Scene]) -> list[Quality]:
    """Judge a picture by each of several captions; it is looked at once. Raises `DataError` as `quality` does."""
    scenes = [parse(caption) if isinstance(caption, str) else caption for caption in captions]
    view = look(image)
    cleanness = cleanliness(view)
    clean = float(np.prod([max(value, 0.01) for value in cleanness.values()]) ** (1 / len(cleanness)))
    found = []
    for scene in scenes:
        attributes = fulfilment(view, scene)
        weight = sum(WEIGHTS[name] for name in attributes)
        fulfilled = sum(WEIGHTS[name] * value for name, value in attributes.items()) / weight
        total = FULFILLED * fulfilled + (1 - FULFILLED) * clean
        found.append(Quality(fulfilled, clean, total, MappingProxyType(attributes), MappingProxyType(cleanness)))
    return found


def fulfilment(view: View, scene: Scene) -> dict[str, float]:
    """How far each attribute that the scene names is there, in [0, 1]."""
    wanted = [item for item in scene.items for _ in range(item.count)]
    matched = _match(view.objects, wanted)
    n = len(wanted)
    values = {
        "shape": sum(seen is not None and seen.shape == item.shape for seen, item in matched) / n,
        "colour": sum(seen is not None and seen.colour == item.colour for seen, item in matched) / n,
        "count": max(0.0, 1 - abs(len(view.objects) - n) / n),
    }
    if scene.relation is not None:
        first, second = matched[: scene.items[0].count], matched[scene.items[0].count :]
        pairs = [stands(scene.relation, a, b) for a, _ in first for b, _ in second]
        values["relation"] = sum(pairs) / len(pairs)
    if sized := [(seen, item) for seen, item in matched if item.size]:
        values["size"] = sum(seen is not None and _has_size(seen, item) for seen, item in sized) / len(sized)
    if scene.background is not None:
        values["background"] = float(view.background == scene.background)
    if scene.style is not None:
        values["style"] = float(style_of(view) == scene.style)
    return values


def stands(relation: str, a: Seen | None, b: Seen | None) -> bool:
    """Does the first object stand to the second as said? Along the axis at least a twentieth of the picture apart, and
    no less than half as far as across it."""
    if a is None or b is None:
        return False
    if relation == "inside":
        return a.r < b.r and b.holds(a.x, a.y)
    right, down = a.x - b.x, a.y - b.y
    along, across = (right, down) if relation in {"left of", "right of"} else (down, right)
    if relation in {"left of", "above"}:
        along = -along
    return along >= 0.05 and along >= 0.5 * abs(across)


def style_of(view: View) -> str | None:
    """The style word that describes the picture best, None where nothing is seen."""
    within = [s for s in view.objects if not any(o is not s and o.r < s.r and s.holds(o.x, o.y) for o in view.objects)]
    if not within:
        return None
    areas = [seen.r**2 for seen in within]
    ink = float(np.average([seen.ink for seen in within], weights=areas))
    slope = float(np.average([seen.slope for seen in within], weights=areas))
    if ink > 0.93:
        return "shaded" if slope > 0.12 else "flat"
    return "hatched" if ink > 0.43 else "outlined"


def cleanliness(view: View) -> dict[str, float]:
    """Sharpness, stillness, regularity and vividness, each in [0, 1]."""
    pixels = view.pixels
    steps = np.concatenate([np.abs(np.diff(pixels, axis=axis)).max(axis=-1).ravel() for axis in (0, 1)])
    contrast = float(np.ptp(np.percentile(pixels.reshape(-1, 3), (1, 99), axis=0), axis=0).max())
    edge = float(np.sort(steps)[-40]) / max(contrast, 0.08)  # the smallest object has about 50 steps in its outline
    picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
    median = np.asarray(picture.filter(ImageFilter.MedianFilter(3)), dtype=np.float64) / 255
    rough = np.abs(pixels - median).mean(axis=-1)
    where = view.empty if view.empty.sum() >= 50 else np.ones_like(view.empty)
    areas = [seen.r**2 for seen in view.objects]
    overlap = float(np.average([seen.overlap for seen in view.objects], weights=areas)) if areas else 0.0
    vivid = float(np.average([seen.vivid for seen in view.objects], weights=areas)) if areas else 0.0
    return {
        "sharpness": float(np.clip(edge / 0.5, 0, 1)),
        "stillness": float(np.exp(-rough[where].mean() / 0.03)),
        "regularity": float(np.clip((overlap - 0.45) / 0.38, 0, 1)),
        "vividness": float(np.clip(vivid / 0.88, 0, 1)),
    }


def _has_size(seen: Seen, item: Item) -> bool:
    return seen.r < 0.165 if item.size == "small" else seen.r > 0.195


def _match(objects: tuple[Seen, ...], wanted: list[Item]) -> list[tuple[Seen | None, Item]]:
    """Give each wanted object one that is seen, the best fitting pairs first; what has neither its colour nor its shape
    is no match. Among equals, size decides, then place (from the upper left)."""

    def fit(seen: Seen, item: Item) -> float:
        right = (seen.colour == item.colour) + (seen.shape == item.shape) * (0.9 + 0.09 * seen.overlap)
        return right + (0.05 if right and item.size and _has_size(seen, item) else 0.0)

    pairs = [(-fit(s, w), s.y + s.x, i, j) for i, s in enumerate(objects) for j, w in enumerate(wanted) if fit(s, w)]
    found: dict[int, int] = {}
    for _, _, i, j in sorted(pairs):
        if i not in found.values() and j not in found:
            found[j] = i
    return [(objects[found[j]] if j in found else None, item) for j, item in enumerate(wanted)]
