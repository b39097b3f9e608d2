"""The image sources of the closed world: each draws captions with a weakness of its own, graded and known.

They stand in for ten and more text-to-image models. `clean` does what the caption says; some draw it worse (blur,
noise, too few pixels), some do something else (wrong colours, counts, places).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from humanpref.errors import UnknownNameError
from humanpref.shapes.grammar import COLOURS, MOST, SHAPES, Scene, parse, sample_scene
from humanpref.shapes.render import Layout, Placed, draw, layout

Draw: TypeAlias = "Callable[[Scene, int, np.random.Generator], Image.Image]"


@dataclass(frozen=True)
class ShapesSource:
    """One source: what it does wrong, how good it is (`total`: the mean `Quality.total` of its pictures of
    `captions(200, 1)` at 64 pixels) and `draw(scene, size, generator)`."""

    name: str
    summary: str
    total: float
    draw: Draw


def generate(source: str, prompts: Sequence[str], seeds: Sequence[int], size: int = 64) -> list[Image.Image]:
    """Draw captions with one source -> RGB pictures, size x size, in order.

    A picture depends on its caption, its seed and the size alone: not on what else is drawn with it, or in which order.
    Raises `UnknownNameError` for a source that is not in `SOURCES`, `DataError` for a text that is no caption of this
    world.
    """
    if source not in SOURCES:
        raise UnknownNameError(f"no source of the shapes world is called {source!r}; choose from: {', '.join(SOURCES)}")
    draw_one = SOURCES[source].draw
    pairs = zip(prompts, seeds, strict=True)
    return [draw_one(parse(prompt), size, np.random.default_rng(seed)) for prompt, seed in pairs]


def _damaged(damage: Callable[[Image.Image, np.random.Generator], Image.Image]) -> Draw:
    """Draw what is asked for, then spoil the picture."""
    return lambda scene, size, rng: damage(draw(layout(scene, rng), size), rng)


def _altered(alter: Callable[[Layout, np.random.Generator], Layout]) -> Draw:
    """Draw something else than what is asked for, sharply."""
    return lambda scene, size, rng: draw(alter(layout(scene, rng), rng), size)


def _blur(share: float) -> Draw:
    return _damaged(lambda picture, _: picture.filter(ImageFilter.GaussianBlur(share * picture.width)))


def _noise(deviation: float) -> Draw:
    def spoil(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        noisy = np.asarray(picture, dtype=np.float64) + rng.normal(0, deviation, (*picture.size[::-1], 3))
        return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))

    return _damaged(spoil)


def _jpeg(quality: int) -> Draw:
    def spoil(picture: Image.Image, _: np.random.Generator) -> Image.Image:
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=quality, subsampling=0)
        return Image.open(buffer).convert("RGB")

    return _damaged(spoil)


def _fade(colour: float, contrast: float) -> Draw:
    return _damaged(
        lambda picture, _: ImageEnhance.Contrast(ImageEnhance.Color(picture).enhance(colour)).enhance(contrast)
    )


def _coarse(pixels: int) -> Draw:
    def spoil(picture: Image.Image, _: np.random.Generator) -> Image.Image:
        return picture.resize((pixels, pixels), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BILINEAR)

    return _damaged(spoil)


def _smear(share: float) -> Draw:
    """Move every pixel by a smooth random field, up to `share` of the picture, and blur."""

    def spoil(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        side = picture.width
        field = rng.normal(size=(2, 5, 5)).astype(np.float32)
        moved = [
            np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC)) * share * side
            for part in field
        ]
        down, right = np.mgrid[:side, :side]
        rows = (down + moved[0]).round().clip(0, side - 1).astype(int)
        columns = (right + moved[1]).round().clip(0, side - 1).astype(int)
        return Image.fromarray(np.asarray(picture)[rows, columns]).filter(ImageFilter.GaussianBlur(0.025 * side))

    return _damaged(spoil)


def _other_colours(probability: float) -> Draw:
    def alter(plan: Layout, rng: np.random.Generator) -> Layout:
        objects = [
            replace(thing, colour=_other(COLOURS, thing.colour, rng)) if rng.random() < probability else thing
            for thing in plan.objects
        ]
        return replace(plan, objects=tuple(objects))

    return _altered(alter)


def _other_shapes(probability: float) -> Draw:
    def alter(plan: Layout, rng: np.random.Generator) -> Layout:
        objects = [
            replace(thing, shape=_other(SHAPES, thing.shape, rng)) if rng.random() < probability else thing
            for thing in plan.objects
        ]
        return replace(plan, objects=tuple(objects))

    return _altered(alter)


def _miscount(probability: float) -> Draw:
    """One object more or less than asked for; never none."""

    def alter(plan: Layout, rng: np.random.Generator) -> Layout:
        if rng.random() >= probability:
            return plan
        if len(plan.objects) > 1 and (len(plan.objects) >= MOST or rng.random() < 0.5):
            gone = int(rng.integers(len(plan.objects)))
            return replace(plan, objects=tuple(o for i, o in enumerate(plan.objects) if i != gone))
        return replace(plan, objects=(*plan.objects, _one_more(plan, rng)))

    return _altered(alter)


def _one_more(plan: Layout, rng: np.random.Generator) -> Placed:
    like = plan.objects[int(rng.integers(len(plan.objects)))]
    r = 0.09
    for _ in range(200):
        x, y = rng.uniform(r + 0.03, 0.97 - r, 2)
        if all(max(abs(x - o.x), abs(y - o.y)) > r + o.r + 0.02 for o in plan.objects):
            break
    return replace(like, x=float(x), y=float(y), r=r)


def _anywhere(scene: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """The right objects, wherever they fall."""
    return draw(layout(replace(scene, relation=None), rng), size)


def _deaf(_: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """A picture of something, whatever was asked for."""
    return draw(layout(sample_scene(rng), rng), size)


def _both(alter: Draw, share: float) -> Draw:
    return lambda scene, size, rng: alter(scene, size, rng).filter(ImageFilter.GaussianBlur(share * size))


def _other(names: Iterable[str], but: str, rng: np.random.Generator) -> str:
    return str(rng.choice([name for name in names if name != but]))


_ROWS = (
    ShapesSource("clean", "draws what the caption says", 1.00, _damaged(lambda picture, _: picture)),
    ShapesSource("anywhere", "the right objects, wherever they fall", 0.97, _anywhere),
    ShapesSource("soft", "a little out of focus", 0.97, _blur(0.012)),
    ShapesSource("blocky", "JPEG at quality 10", 0.93, _jpeg(10)),
    ShapesSource(
        "wrong-shapes", "half of the objects in another shape, blurred", 0.91, _both(_other_shapes(0.5), 0.008)
    ),
    ShapesSource("wrong-colours", "half of the objects in another colour", 0.91, _other_colours(0.5)),
    ShapesSource("grainy", "noise", 0.90, _noise(14.0)),
    ShapesSource("washed-out", "pale colours, little contrast", 0.90, _fade(0.5, 0.6)),
    ShapesSource("miscounting", "often one object more or less", 0.88, _miscount(0.7)),
    ShapesSource("coarse", "16 x 16 pixels, enlarged", 0.80, _coarse(16)),
    ShapesSource("smeared", "bent out of shape and blurred", 0.78, _smear(0.035)),
    ShapesSource("deaf", "a sharp picture of something else", 0.59, _deaf),
)

SOURCES: Mapping[str, ShapesSource] = MappingProxyType({row.name: row for row in _ROWS})
"""Every source by name, from best to worst."""
