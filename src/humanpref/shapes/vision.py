"""What is in a picture of the shapes world, found by looking: colour by hue, objects by connected components, shape by
comparison with the four silhouettes. Knows pixels only, not how or from what they were made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from humanpref.shapes.grammar import BACKGROUNDS, COLOURS, SHAPES
from humanpref.shapes.render import outline

SIDE = 64
"""Every picture is looked at in this size."""

LEAST = 36  # pixels of an object with its holes filled; the smallest triangle has about 100
_GRID = 24
Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """One object as seen: lengths as shares of the picture. `overlap` is the intersection over union with the
    silhouette of `shape`, `vivid` its colourfulness over that of the palette; `ink` is the share of its interior that
    is coloured, `slope` how much lighter its upper left is than its lower right (share of the mean, 0 = even)."""

    shape: str
    colour: str
    x: float
    y: float
    r: float
    overlap: float
    vivid: float
    ink: float
    slope: float
    mask: Mask

    def holds(self, x: float, y: float) -> bool:
        """Is this place in the object, its holes filled?"""
        return bool(self.mask[min(SIDE - 1, int(y * SIDE)), min(SIDE - 1, int(x * SIDE))])


@dataclass(frozen=True)
class View:
    """All that is seen: objects (largest first), the background (None when it is none of the three), and the pixels."""

    objects: tuple[Seen, ...]
    background: str | None
    pixels: Array  # (SIDE, SIDE, 3) in [0, 1]
    empty: Mask  # where there is nothing but background


def look(image: Image.Image) -> View:
    """Look at a picture of any size."""
    small = image.convert("RGB")
    if small.size != (SIDE, SIDE):
        reduce = min(small.size) > SIDE
        small = small.resize((SIDE, SIDE), Image.Resampling.BOX if reduce else Image.Resampling.LANCZOS)
    pixels = np.asarray(small, dtype=np.float64) / 255
    blur = 0.6 if min(image.size) >= SIDE else 0.0  # enlarged, it is soft already
    soft = np.asarray(small.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float64) / 255
    chroma = _chroma(soft)
    strength = chroma / (0.45 + 0.55 * soft.max(axis=-1))  # so that the dark side of a shaded object counts
    coloured = strength > max(0.07, 0.3 * float(np.percentile(strength, 98)))
    names = list(COLOURS)
    hues = np.where(coloured, _nearest_hue(soft), -1)
    objects = []
    for mask, colour in _components(hues):
        if (filled := _fill(mask)).sum() >= LEAST:
            objects.append(_describe(filled, mask, names[colour], pixels, chroma))
    objects.sort(key=lambda seen: -int(seen.mask.sum()))
    covered = coloured.copy()
    for seen in objects:
        covered |= seen.mask
    empty = ~_grow(_grow(covered))
    return View(tuple(objects), _background(pixels, empty, coloured), pixels, empty)


def _chroma(pixels: Array) -> Array:
    difference: Array = pixels.max(axis=-1) - pixels.min(axis=-1)
    return difference


def _hue(pixels: Array) -> Array:
    # angle in the plane of chromaticities, so that mixtures with black, grey and white keep it
    r, g, b = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    angle: Array = np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)
    return angle


def _nearest_hue(pixels: Array) -> npt.NDArray[np.int64]:
    palette = _hue(np.array(list(COLOURS.values()), dtype=np.float64))
    apart = np.abs(np.angle(np.exp(1j * (_hue(pixels)[..., None] - palette))))
    nearest: npt.NDArray[np.int64] = apart.argmin(axis=-1)
    return nearest


def _background(pixels: Array, empty: Mask, coloured: Mask) -> str | None:
    if coloured.mean() > 0.7 or not empty.any():
        return None
    here = np.median(pixels[empty], axis=0)
    if np.ptp(here) > 0.15:
        return None
    return min(BACKGROUNDS, key=lambda name: float(np.abs(np.array(BACKGROUNDS[name]) / 255 - here).sum()))


def _components(classes: npt.NDArray[np.int64]) -> list[tuple[Mask, int]]:
    """Connected regions (4 neighbours) of one class each; class -1 is left out."""
    labels = np.where(classes >= 0, np.arange(1, classes.size + 1).reshape(classes.shape), 0)
    labels = _spread(labels, classes)
    found = []
    for label in np.unique(labels[labels > 0]):
        mask: Mask = labels == label
        if mask.sum() >= LEAST // 3:
            found.append((mask, int(classes[mask][0])))
    return found


def _spread(labels: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Let the largest label of a connected region fill it."""
    down, right = classes[1:] == classes[:-1], classes[:, 1:] == classes[:, :-1]
    while True:
        old = labels.copy()
        for _ in range(4):
            np.maximum(labels[1:], labels[:-1], out=labels[1:], where=down)
            np.maximum(labels[:-1], labels[1:], out=labels[:-1], where=down)
            np.maximum(labels[:, 1:], labels[:, :-1], out=labels[:, 1:], where=right)
            np.maximum(labels[:, :-1], labels[:, 1:], out=labels[:, :-1], where=right)
        if np.array_equal(old, labels):
            return labels


def _fill(mask: Mask) -> Mask:
    """A region with its holes: all that cannot be reached from the rim of the picture."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    padded = np.pad(mask[box], 1)
    labels = np.zeros(padded.shape, dtype=np.int64)
    labels[0, 0] = 1
    outside = _spread(labels, padded.astype(np.int64)) > 0
    filled = np.zeros_like(mask)
    filled[box] = ~outside[1:-1, 1:-1]
    return filled


def _grow(mask: Mask) -> Mask:
    grown: Mask = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _shrink(mask: Mask, times: int) -> Mask:
    for _ in range(times):
        mask = np.logical_not(_grow(np.logical_not(np.pad(mask, 1)))[1:-1, 1:-1])
    return mask


@cache
def _silhouette(shape: str) -> Mask:
    canvas = Image.new("L", (_GRID * 8, _GRID * 8))
    ImageDraw.Draw(canvas).polygon(outline(shape, _GRID * 4, _GRID * 4, _GRID * 4), fill=255)
    silhouette: Mask = np.asarray(canvas.resize((_GRID, _GRID), Image.Resampling.BOX)) > 127
    return silhouette


def _describe(filled: Mask, inked: Mask, colour: str, pixels: Array, chroma: Array) -> Seen:
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    half = max(bottom - top, right - left) / 2
    y, x = (top + bottom) / 2, (left + right) / 2
    picture = Image.fromarray(filled.astype(np.uint8) * 255)
    box = (x - half, y - half, x + half, y + half)  # a square: what is squeezed overlaps less
    grid = np.asarray(picture.resize((_GRID, _GRID), Image.Resampling.BILINEAR, box=_clip(box))) > 127
    overlaps = {shape: float((grid & _silhouette(shape)).sum() / (grid | _silhouette(shape)).sum()) for shape in SHAPES}
    shape = max(overlaps, key=overlaps.__getitem__)
    core = _shrink(filled, 3)
    ink = float(inked[core].mean()) if core.sum() >= 6 else float(inked[filled].mean())
    full = np.ptp(np.array(COLOURS[colour])) / 255
    strongest = np.sort(chroma[inked])[-max(1, int(inked.sum()) // 3) :]
    return Seen(
        shape,
        colour,
        float(x / SIDE),
        float(y / SIDE),
        float(half / SIDE),
        overlaps[shape],
        float(strongest.mean() / full),
        ink,
        _slope(pixels, inked & (core if core.sum() >= 6 else filled)),
        filled,
    )


def _clip(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return max(0.0, left), max(0.0, top), min(float(SIDE), right), min(float(SIDE), bottom)


def _slope(pixels: Array, where: Mask) -> float:
    ys, xs = np.nonzero(where)
    if len(ys) < 6:
        return 0.0
    light = pixels.max(axis=-1)[ys, xs]
    along = (ys + xs).astype(np.float64)
    low, high = np.percentile(along, (30, 70))
    return float((light[along <= low].mean() - light[along >= high].mean()) / max(0.05, light.mean()))
