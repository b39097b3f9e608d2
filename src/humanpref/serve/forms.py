"""Multipart forms (RFC 7578) that lie whole in memory, cut at their boundaries.

Parsers of streams go through a form byte by byte, or from one half of a boundary to the next, in Python: seconds for a
few MiB that are made for it. Where all of the form is here, `bytes.find` does it; a boundary within a file is refused,
as RFC 2046 (5.1.1) forbids it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

MOST_HEADERS = 8192
"""Bytes of the headers of a part, at the most."""
CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii"})
AS_IT_IS = frozenset({b"binary", b"8bit", b"7bit"})


class FormError(ValueError):
    """The form cannot be read; says why."""


class TooManyPartsError(FormError):
    """The form has more parts than there may be."""


@dataclass(frozen=True)
class Part:
    """A field of a form. filename: None for a text."""

    name: str
    filename: str | None
    content: bytes

    def text(self) -> str:
        """Its content as text. Raises `FormError`."""
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError:
            raise FormError(f"{self.name[:80]}: is not UTF-8") from None


def read_parts(content: bytes, content_type: str, most: int) -> list[Part]:
    """Cut a form into its parts, in its order. Raises `FormError`, `TooManyPartsError` for more than `most`."""
    _, options = parse_options_header(content_type)
    _check_charset(options)
    if not (boundary := options.get(b"boundary")):
        raise FormError("Content-Type names no boundary")
    parts: list[Part] = []
    for start, end in _places(content, b"\r\n--" + boundary):
        if len(parts) == most:
            raise TooManyPartsError(f"over {most:,} parts")
        parts.append(_part(content, start, end))
    return parts


def _places(content: bytes, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each part begins, with its headers, and ends. What is before the first or after the last is left."""
    if content.startswith(delimiter[2:]):
        start = len(delimiter) - 2
    elif (first := content.find(delimiter)) >= 0:
        start = first + len(delimiter)
    else:
        raise FormError("its boundary is nowhere in the body")
    while not content.startswith(b"--", start):
        while content[start : start + 1] in {b" ", b"\t"}:  # padding, which RFC 2046 (5.1.1) allows
            start += 1
        if not content.startswith(b"\r\n", start):
            raise FormError("the form is incomplete, or its boundary is within a file: choose another")
        end = content.find(delimiter, start)
        if end < 0:
            raise FormError("the form is incomplete")
        yield start, end
        start = end + len(delimiter)


def _part(content: bytes, start: int, end: int) -> Part:
    head = content.find(b"\r\n\r\n", start, min(end, start + MOST_HEADERS))
    if head < 0:
        raise FormError(f"a part has no headers, or over {MOST_HEADERS:,} bytes of them")
    headers = {}
    for line in content[start:head].split(b"\r\n"):
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    kind, options = parse_options_header(headers.get(b"content-disposition"))
    if kind != b"form-data" or b"name" not in options:
        raise FormError('a part has no Content-Disposition: form-data; name="..."')
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in AS_IT_IS:
        raise FormError("a part has a Content-Transfer-Encoding; send its bytes as they are")
    filename = options.get(b"filename")
    if filename is None:
        _check_charset(parse_options_header(headers.get(b"content-type"))[1], content[head + 4 : end])
    return Part(
        options[b"name"].decode("utf-8", "replace"),
        None if filename is None else filename.decode("utf-8", "replace"),
        content[head + 4 : end],
    )


def _check_charset(options: dict[bytes, bytes], text: bytes = b"\x80") -> None:
    """Some clients name ISO-8859-1 whatever the text is: where that is ASCII, it is no matter."""
    charset = options.get(b"charset", b"utf-8").lower()
    if charset not in CHARSETS and not (charset == b"iso-8859-1" and text.isascii()):
        raise FormError("the charset must be utf-8")
