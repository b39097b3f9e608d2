"""Opening images: from whatever a user has to an RGB picture as a person would see it. The only module that decodes.

The official HPS v2 code crashes on, or mishandles, images with transparency, palettes, 16 bits or CMYK; here each is
converted to what an image viewer shows: transparency over white, 16 bits scaled to 8, EXIF orientation applied.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from humanpref.errors import ImageError
from humanpref.records import ImageRef

MAX_PIXELS = 89_478_485  # where Pillow itself starts to warn
"""Images with more pixels than this are refused before decoding: a small file can claim a picture that fills memory."""

MAX_REMOTE_BYTES = 64 * 2**20
"""Most bytes fetched for one remote image."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jfif", ".avif"})
"""File endings taken from a folder (a file named on its own is opened whatever its ending)."""


@dataclass(frozen=True)
class RemoteImage:
    """An image to be fetched over http(s) when it is opened. Only made where the user has allowed URLs."""

    url: str

    def __str__(self) -> str:
        return self.url


ImageSource: TypeAlias = "str | Path | ImageRef | RemoteImage | Image.Image"


def open_image(source: ImageSource) -> Image.Image:
    """Open, check and convert one image to 8-bit RGB.

    Raises `ImageError` naming the image when it is missing, empty, truncated, no image, or over `MAX_PIXELS`.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "image in memory")
    if isinstance(source, RemoteImage):
        return _decode(BytesIO(_fetch(source.url)), source.url)
    if isinstance(source, str) and is_url(source):
        raise ImageError(f"{source}: URLs are not fetched unless you allow it (--allow-url)")
    path = source.path if isinstance(source, ImageRef) else Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not an image")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty")
        with path.open("rb") as file:
            return _decode(file, str(path))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a path that cannot exist, no permission, a device error
        raise ImageError(f"{path}: cannot be read ({error})") from None


def describe(source: object) -> str:
    """Return the name an image goes by in reports: its path or URL, or its kind if it is only in memory."""
    if isinstance(source, (str, Path, ImageRef, RemoteImage)):
        return str(source)
    return f"<{type(source).__name__}>"


def is_url(text: str) -> bool:
    """Tell whether a command-line word is a URL rather than a path."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def expand_sources(words: Iterable[str], *, allow_url: bool = False) -> list[Path | RemoteImage]:
    """Turn command-line words (files, folders, globs, URLs) into images, in the order given.

    A folder stands for the image files directly in it and a glob for what it matches, both in natural order
    (2 before 10). A file that does not exist is kept, so that it is reported beside the others. Raises `ImageError`
    for a folder or glob without images, and for a URL unless `allow_url`.
    """
    sources: list[Path | RemoteImage] = []
    for word in words:
        if is_url(word):
            sources.append(_remote(word, allow_url))
            continue
        path = Path(word)
        if path.is_dir():
            found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()]
            hint = (
                f'; for its subfolders write "{path / "**" / "*.jpg"}"'
                if any(p.is_dir() for p in path.iterdir())
                else ""
            )
            if not found:
                raise ImageError(f"{path}: the folder holds no images ({', '.join(sorted(SUFFIXES))}){hint}")
            sources += sorted(found, key=_natural)
        elif not path.exists() and glob.has_magic(word):
            matches = [Path(m) for m in glob.glob(word, recursive=True)]  # noqa: PTH207 - Path.glob refuses absolute patterns
            if not (files := [m for m in matches if m.is_file()]):
                raise ImageError(f"{word}: nothing matches this pattern")
            sources += sorted(files, key=_natural)
        else:
            sources.append(path)
    return sources


def _remote(url: str, allow_url: bool) -> RemoteImage:
    if not url.lower().startswith(("http://", "https://")):
        raise ImageError(f"{url}: only http and https URLs can be fetched")
    if not allow_url:
        raise ImageError(f"{url}: URLs are not fetched unless you allow it (--allow-url)")
    return RemoteImage(url)


def _natural(path: Path | RemoteImage) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", str(path)) if part]


def _fetch(url: str) -> bytes:
    import httpx

    content = bytearray()
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_REMOTE_BYTES:
                    raise ImageError(f"{url}: more than {MAX_REMOTE_BYTES // 2**20} MiB, not fetched further")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ImageError(f"{url}: could not be fetched ({str(error) or type(error).__name__})") from None
    return bytes(content)


def _decode(file: object, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:  # type: ignore[arg-type]  # any binary file
            _check_size(image.size, name)
            image.load()
            return _to_rgb(image, name)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image, or of a kind that cannot be read") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: far too many pixels; shrink it to under {MAX_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:  # what damaged files raise
        raise ImageError(f"{name}: the image is damaged or incomplete ({error})") from None


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image is empty ({width}x{height} pixels)")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width}x{height} is over {MAX_PIXELS:,} pixels; shrink the image first")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.mode in {"LA", "PA", "La", "RGBa", "RGBA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit ("I;16", "I") and floating-point ("F") greyscale to 8 bits; Pillow's own conversion would clip."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        scale = 255.0 if values.size and np.nanmax(values) <= 1.0 else 1.0
    else:
        scale = 255.0 / 65535.0 if image.mode != "I" or values.max(initial=0) > 255 else 1.0
    return Image.fromarray(np.clip(np.nan_to_num(values) * scale + 0.5, 0, 255).astype(np.uint8), "L")
