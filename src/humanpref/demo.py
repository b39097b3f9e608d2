"""Example images that the package draws itself, and a contact sheet of a ranking; for trying things out offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from humanpref.files import whole
from humanpref.records import ScoreReport

Array = npt.NDArray[np.float64]

PROMPT = "A lighthouse on a rocky coast at sunset."
SIZE = 512
_OVER = 2  # drawn at twice the size and reduced, for smooth edges


def make_examples(folder: Path) -> list[Path]:
    """Draw one scene and versions of it damaged as weak generators damage theirs -> the files, in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = _scene()
    paths = []
    for name, damage in DAMAGES.items():
        path = folder / f"{name}.png"
        save_image(damage(scene), path)
        paths.append(path)
    return paths


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all. Raises `OSError`."""
    with whole(path) as part:
        image.save(part, "PNG")


def contact_sheet(report: ScoreReport, columns: int = 3, cell: int = 256) -> Image.Image:
    """Lay the images of a report side by side, best first, with rank and win probability beneath each."""
    ordered = sorted(report.results, key=lambda result: result.rank)
    caption, gap = 34, 12
    rows = -(-len(ordered) // columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * (cell + caption + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for place, result in enumerate(ordered):
        x = gap + (place % columns) * (cell + gap)
        y = gap + (place // columns) * (cell + caption + gap)
        with Image.open(result.image) as image:
            sheet.paste(image.convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS), (x, y))
        chance = "" if result.win_probability is None else f"   wins {result.win_probability:.0%}"
        draw.text((x, y + cell + 6), f"{result.rank}. {Path(result.image).stem}{chance}", fill="black", font=font)
    return sheet


def _scene() -> Image.Image:
    """A lighthouse on a rocky coast at sunset (SIZE x SIZE), drawn from gradients, polygons and a little texture."""
    side = SIZE * _OVER
    generator = np.random.default_rng(7)
    y = np.linspace(0.0, 1.0, side)[:, None]
    x = np.linspace(0.0, 1.0, side)[None, :]
    sky = _gradient(y, [(0.0, (38, 42, 98)), (0.35, (178, 82, 122)), (0.55, (250, 150, 92)), (0.64, (255, 214, 140))])
    glow = np.exp(-(((x - 0.32) / 0.22) ** 2 + ((y - 0.6) / 0.14) ** 2))[..., None]
    sky = sky + glow * (np.array([255, 236, 190]) - sky) * 0.85
    waves = _waves(x, y)
    sea = _gradient(y, [(0.64, (236, 158, 120)), (0.75, (92, 74, 120)), (1.0, (24, 34, 70))]) + waves[..., None] * 26
    canvas = np.where((y < 0.64)[..., None], sky, sea)
    canvas = canvas + generator.normal(0.0, 2.0, canvas.shape)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8), "RGB")
    _clouds(image, generator)
    _coast(image, generator)
    _lighthouse(image)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _gradient(y: Array, stops: Sequence[tuple[float, tuple[int, int, int]]]) -> Array:
    places = [place for place, _ in stops]
    channels = [np.interp(y, places, [colour[c] for _, colour in stops]) for c in range(3)]
    return np.repeat(np.stack(channels, axis=-1), y.shape[0], axis=1)


def _waves(x: Array, y: Array) -> Array:
    depth = np.clip(y - 0.64, 1e-3, None)
    waves: Array = np.sin(26 * np.log(depth * 30 + 1) * 6 + 5 * np.sin(11 * x)) * np.sin(
        60 * x / (0.4 + 3 * depth) + 30 * y
    )
    return waves


def _clouds(image: Image.Image, generator: np.random.Generator) -> None:
    side = image.width
    layer = Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(layer)
    for _ in range(60):
        cx, cy = generator.uniform(0, side), generator.uniform(0.08, 0.45) * side
        w, h = generator.uniform(0.05, 0.2) * side, generator.uniform(0.008, 0.02) * side
        draw.ellipse((cx - w, cy - h, cx + w, cy + h), fill=int(generator.uniform(60, 150)))
    layer = layer.filter(ImageFilter.GaussianBlur(side / 90))
    image.paste(Image.new("RGB", image.size, (255, 196, 170)), (0, 0), layer)


def _coast(image: Image.Image, generator: np.random.Generator) -> None:
    side = image.width
    draw = ImageDraw.Draw(image)
    for layer, (base, colour) in enumerate([(0.72, (66, 50, 62)), (0.8, (46, 36, 48)), (0.88, (28, 24, 36))]):
        xs = np.linspace(0.42 - 0.08 * layer, 1.0, 40)
        rise = base - 0.16 * np.sin(np.clip((xs - xs[0]) / (1 - xs[0]), 0, 1) * 1.9) + generator.normal(0, 0.008, 40)
        outline = [(float(px) * side, float(py) * side) for px, py in zip(xs, rise, strict=True)]
        draw.polygon([*outline, (side, side), (xs[0] * side - 0.05 * side, side)], fill=colour)
        for _ in range(160):
            px = generator.uniform(xs[0], 1.0)
            py = np.interp(px, xs, rise) + generator.uniform(0.005, 0.12)
            r = generator.uniform(0.003, 0.012) * side
            shade = tuple(int(c + generator.uniform(-10, 22)) for c in colour)
            draw.polygon(
                [(px * side - r, py * side), (px * side, py * side - r), (px * side + r, py * side + r / 3)], fill=shade
            )


def _lighthouse(image: Image.Image) -> None:
    side = image.width
    draw = ImageDraw.Draw(image, "RGBA")
    cx, top, bottom = 0.72, 0.22, 0.60
    for beam in ((-0.75, -0.02, 0.07), (0.35, -0.08, -0.02)):
        draw.polygon(
            [
                (cx * side, (top - 0.025) * side),
                ((cx + beam[0]) * side, (top + beam[1]) * side),
                ((cx + beam[0]) * side, (top + beam[2]) * side),
            ],
            fill=(255, 244, 200, 46),
        )
    stripes = 7
    for k in range(stripes):
        y0, y1 = (top + (bottom - top) * t / stripes for t in (k, k + 1))
        w0, w1 = (0.028 + 0.026 * (y - top) / (bottom - top) for y in (y0, y1))
        body = (232, 226, 222) if k % 2 else (188, 50, 46)
        draw.polygon(
            [
                (side * (cx - w0), side * y0),
                (side * (cx + w0), side * y0),
                (side * (cx + w1), side * y1),
                (side * (cx - w1), side * y1),
            ],
            fill=(*body, 255),
        )
        draw.polygon(
            [
                (side * (cx + w0 * 0.25), side * y0),
                (side * (cx + w0), side * y0),
                (side * (cx + w1), side * y1),
                (side * (cx + w1 * 0.25), side * y1),
            ],
            fill=(20, 14, 40, 90),
        )
    draw.rectangle([side * (cx - 0.04), side * (top - 0.008), side * (cx + 0.04), side * top], fill=(40, 34, 44, 255))
    draw.rectangle(
        [side * (cx - 0.022), side * (top - 0.05), side * (cx + 0.022), side * (top - 0.008)], fill=(255, 240, 180, 255)
    )
    draw.polygon(
        [
            (side * (cx - 0.03), side * (top - 0.05)),
            (side * (cx + 0.03), side * (top - 0.05)),
            (side * cx, side * (top - 0.085)),
        ],
        fill=(120, 30, 34, 255),
    )


def _noise(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64) + np.random.default_rng(3).normal(0.0, 38.0, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8), "RGB")


def _low_quality_jpeg(image: Image.Image) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=4)
    return Image.open(buffer).convert("RGB")


DAMAGES: Mapping[str, Callable[[Image.Image], Image.Image]] = MappingProxyType(
    {
        "clean": lambda image: image.copy(),
        "washed_out": lambda image: ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(0.25)).enhance(0.45),
        "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(7)),
        "noisy": _noise,
        "jpeg_blocks": _low_quality_jpeg,
        "pixelated": lambda image: image.resize((40, 40), Image.Resampling.BOX).resize(
            image.size, Image.Resampling.NEAREST
        ),
    }
)
"""Name -> how the scene is damaged."""
