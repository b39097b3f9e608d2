"""Opening images: from whatever a user has to an RGB picture as a person would see it. The only module that decodes.

The official HPS v2 code crashes on, or mishandles, images with transparency, palettes, 16 bits or CMYK; here each is
converted to what an image viewer shows: transparency over white, 16 bits scaled to 8, EXIF orientation applied.
"""

from __future__ import annotations

import glob
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from humanpref.errors import ImageError
from humanpref.records import ImageRef

MAX_PIXELS = 89_478_485  # where Pillow itself starts to warn
"""Images with more pixels than this are refused before decoding: a small file can claim a picture that fills memory."""

PIXELS_AT_ONCE, SMALL_PIXELS = 100_000_000, 4_000_000
"""Most pixels that all threads decode at a time; pictures below the second do not count among them."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""The decoders that are used; others (PostScript, say) run programs or are rarely tested."""

MAX_REMOTE_SECONDS = 120
"""Longest time spent on one remote image."""

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


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image file that is in memory; it is decoded when somebody wants to see it, and once. `name`: for errors."""

    content: bytes
    name: str
    max_pixels: int = MAX_PIXELS

    def __str__(self) -> str:
        return self.name

    @property
    def picture(self) -> Image.Image:
        """The image, checked and converted as `open_image` does. Raises `ImageError`; also for more than `max_pixels`
        pixels, before any is decoded."""
        # by hand: before Python 3.12, cached_property has one lock for all, and one thread would decode at a time
        if (picture := self.__dict__.get("_picture")) is None:
            if not self.content:
                raise ImageError(f"{self.name}: the file is empty")
            picture = self.__dict__["_picture"] = _decode(BytesIO(self.content), self.name, self.max_pixels)
        return picture


ImageSource: TypeAlias = "str | Path | ImageRef | RemoteImage | EncodedImage | Image.Image"


def open_image(source: ImageSource) -> Image.Image:
    """Open, check and convert one image to 8-bit RGB.

    Raises `ImageError` naming the image when it is missing, empty, truncated, no image, or over `MAX_PIXELS`.
    """
    if isinstance(source, Image.Image):
        return _from_memory(source)
    if isinstance(source, RemoteImage):
        return read_image(source).picture
    if isinstance(source, EncodedImage):
        return source.picture
    with _open_file(source) as file:
        return _decode(file, describe(source))


def read_image(source: str | Path | ImageRef | RemoteImage) -> EncodedImage:
    """Read one image file, or fetch it, without decoding it. Raises `ImageError` naming it where that cannot be."""
    if isinstance(source, RemoteImage):
        return EncodedImage(_fetch(source.url), source.url)
    with _open_file(source) as file:
        return EncodedImage(file.read(), describe(source))


@contextmanager
def _open_file(source: object) -> Iterator[BinaryIO]:
    """Open an image's file. Raises `ImageError` naming it, also for what fails while it is read."""
    if isinstance(source, str) and is_url(source):
        raise ImageError(f"{source}: URLs are not fetched unless you allow it (--allow-url)")
    if not isinstance(source, (str, Path, ImageRef)):
        raise ImageError(
            f"{type(source).__name__} is not an image: give a path, a PIL image or a float tensor (3, H, W)"
        )
    path = source.path if isinstance(source, ImageRef) else Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not an image")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a path that cannot exist, no permission, a device error
        raise ImageError(f"{path}: cannot be read ({error})") from None


def describe(source: object) -> str:
    """Return the name an image goes by in reports: its path or URL, or its kind if it is only in memory."""
    if isinstance(source, (str, Path, ImageRef, RemoteImage, EncodedImage)):
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
        if not word or not _is_possible(path):
            raise ImageError(f"{word[:80]!r}: not a possible file name")
        if path.is_dir():
            found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()]
            hint = (
                f'; for its subfolders write "{path / "**" / "*.jpg"}"'
                if any(p.is_dir() for p in path.iterdir())
                else ""
            )
            if not found:
                raise ImageError(f"{path}: the folder holds no images ({', '.join(sorted(SUFFIXES))}){hint}")
            sources += sorted(found, key=natural)
        elif not path.exists() and glob.has_magic(word):
            matches = [Path(m) for m in glob.glob(word, recursive=True)]  # noqa: PTH207 - Path.glob refuses absolute patterns
            if not (files := [m for m in matches if m.is_file()]):
                raise ImageError(f"{word}: nothing matches this pattern")
            sources += sorted(files, key=natural)
        else:
            sources.append(path)
    return sources


def _is_possible(path: Path) -> bool:
    """Tell whether the system can be asked about a file of this name (not too long, no NUL)."""
    try:
        path.exists()
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:
        return isinstance(error, (PermissionError, NotADirectoryError))
    return True


def _remote(url: str, allow_url: bool) -> RemoteImage:
    if not url.lower().startswith(("http://", "https://")):
        raise ImageError(f"{url}: only http and https URLs can be fetched")
    if not allow_url:
        raise ImageError(f"{url}: URLs are not fetched unless you allow it (--allow-url)")
    return RemoteImage(url)


def natural(path: Path | RemoteImage | str) -> list[tuple[int, str]]:
    """A key to sort by that puts 2 before 10, and always one of 2 and 02 before the other."""
    parts = [part for part in re.split(r"([0-9]+)", str(path)) if part]
    return [*((int(part), "") if part.isdecimal() else (-1, part) for part in parts), (-2, str(path))]


def _fetch(url: str) -> bytes:
    import httpx

    content = bytearray()
    deadline = time.monotonic() + MAX_REMOTE_SECONDS
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > deadline:
                    raise ImageError(f"{url}: took over {MAX_REMOTE_SECONDS} seconds, not fetched further")
                if len(content) > MAX_REMOTE_BYTES:
                    raise ImageError(f"{url}: more than {MAX_REMOTE_BYTES // 2**20} MiB, not fetched further")
    except ImageError:
        raise
    except Exception as error:  # the network's errors, and those of proxies, certificates and odd host names
        raise ImageError(f"{url}: could not be fetched ({str(error) or type(error).__name__})") from None
    return bytes(content)


def _decode(file: object, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    try:
        with Image.open(file, formats=_decoders()) as image:  # type: ignore[arg-type]  # any binary file
            _check_size(image.size, name, max_pixels)
            with _large.holding(image.width * image.height):
                image.load()
                return _to_rgb(image)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image, or of a kind that cannot be read") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: far too many pixels; shrink it to under {max_pixels:,} pixels") from None
    except ImageError:
        raise
    except Exception as error:  # what a damaged file makes a decoder raise: almost anything
        raise ImageError(f"{name}: the image is damaged or incomplete ({error})") from None


@cache
def _decoders() -> list[str]:
    """Those of FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


class _Pixels:
    """Large pictures are decoded a few at a time, by however many threads: it takes 20 bytes a pixel."""

    def __init__(self, count: int) -> None:
        self._all = self._free = count
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        if count < SMALL_PIXELS:
            yield
            return
        count, me = min(count, self._all), object()
        with self._changed:
            self._line.append(me)  # in order: a large one would wait for ever behind ever more small ones
            self._changed.wait_for(lambda: self._line[0] is me and self._free >= count)
            self._line.popleft()
            self._free -= count
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


_large = _Pixels(PIXELS_AT_ONCE)

_memory_lock = threading.Lock()


def _from_memory(image: Image.Image) -> Image.Image:
    """Convert a PIL image, which may be a file not yet read, and which the caller may have given several times."""
    try:
        with _memory_lock:
            _check_size(image.size, "image in memory")
            image.load()
        return _to_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # as for files
        raise ImageError(f"image in memory: damaged, closed or incomplete ({error})") from None


def _check_size(size: tuple[int, int], name: str, max_pixels: int = MAX_PIXELS) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image is empty ({width}x{height} pixels)")
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width}x{height} is over {max_pixels:,} pixels; shrink the image first")


def _to_rgb(image: Image.Image) -> Image.Image:
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
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).any():
        raise ImageError("the image holds no finite numbers")
    if image.mode == "F":
        scale = 255.0 if values.size and np.nanmax(values) <= 1.0 else 1.0
    else:
        scale = 255.0 / 65535.0 if image.mode != "I" or values.max(initial=0) > 255 else 1.0
    return Image.fromarray(np.clip(np.nan_to_num(values * np.float32(scale)) + 0.5, 0, 255).astype(np.uint8), "L")
