"""An image file without what is not picture: generators write their name, prompt and settings into their files.

The pixels are not decoded or encoded again. What a browser needs to show the same colours the same way up stays.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO

from PIL import Image

from humanpref.annotate.records import AnnotateError

PNG, JPEG, GIF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"GIF87a", b"GIF89a")
PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT"}
)
JPEG_GONE = frozenset({0xE1, *range(0xE3, 0xEE), 0xEF, 0xFE})
"""APP1 (Exif, XMP), APP3 to APP13, APP15 and comments; what stays says how to read the picture."""
ORIENTATION = 0x0112


def bare(content: bytes) -> tuple[bytes, str]:
    """Return a file's picture alone and its media type. Raises `AnnotateError` "image_gone" for what is no JPEG, PNG,
    WebP or GIF, or ends too soon."""
    try:
        if content.startswith(PNG):
            return b"".join(_png(content)), "image/png"
        if content.startswith(JPEG):
            return b"".join(_jpeg(content)), "image/jpeg"
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            body = b"".join(_webp(content))
            return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, "image/webp"
    except (struct.error, IndexError):
        raise AnnotateError("image_gone", "the image ends too soon") from None
    if content.startswith(GIF):
        return content, "image/gif"
    raise AnnotateError("image_gone", "the file is no JPEG, PNG, WebP or GIF")


def _png(content: bytes) -> Iterator[bytes]:
    yield PNG
    at = len(PNG)
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        if kind in PNG_KEPT:
            yield content[at : at + size + 12]
        if kind == b"IEND":
            return
        at += size + 12


def _jpeg(content: bytes) -> Iterator[bytes]:
    yield content[:2]
    if (turned := _orientation(content)) != 1:
        exif = Image.Exif()
        exif[ORIENTATION] = turned
        own = exif.tobytes()
        yield b"\xff\xe1" + struct.pack(">H", len(own) + 2) + own
    at = 2
    while True:
        lead, marker, size = struct.unpack_from(">BBH", content, at)
        if lead != 0xFF or marker == 0xDA:  # the picture begins
            yield content[at:]
            return
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker not in JPEG_GONE:
            yield content[at : at + size + 2]
        at += size + 2


def _orientation(content: bytes) -> int:
    try:
        with Image.open(BytesIO(content)) as image:
            found = image.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1
    return found if found in range(1, 9) else 1


def _webp(content: bytes) -> Iterator[bytes]:
    at = 12
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        chunk = content[at : at + 8 + size + size % 2]
        if kind == b"VP8X":  # no metadata is announced
            chunk = chunk[:8] + bytes([chunk[8] & ~0b0000_1100]) + chunk[9:]
        if kind not in {b"EXIF", b"XMP "}:
            yield chunk
        at += 8 + size + size % 2
