"""A prompt cut at its commas, with a mask of what is left out, and the text that remains, put together again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from humanpref.prompts.vocabulary import normalise

_BREAK = re.compile(
    r"\s{0,3}(?:[,;|，、；\n]|::|(?<=[^\W\d_]{3})(?<!\bmrs)\.(?=\s|$))[\s,;|，、；]*"  # a full stop only after a longer word
)
_CONNECT = "and|with|by|in|of|on|at|from|the|a|an|or|as|to|for|style of|in the style of|&|\\+"
_DANGLING_END = re.compile(rf"(?:(?:^|\s)(?:{_CONNECT}|-|/|:|~)\s*){{1,4}}$", re.IGNORECASE)
_DANGLING_START = re.compile(r"^(?:(?:and|or|by|with|of|&|\+|-|/|:|~)\s+){1,4}", re.IGNORECASE)
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]|\{\s*\}")


@dataclass
class Segment:
    """What stands between two separators: `start` to `end`; `gap` is the separator before it."""

    start: int
    end: int
    gap: str


class Marked:
    """A prompt and what is to be left out of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.cut = bytearray(len(text))
        self.segments = list(_segments(text))

    def leave_out(self, start: int, end: int) -> None:
        """Mark characters; where a weight ends a bracket (":1.2)"), nothing is left in its place, else a space."""
        mark = b"\2" if self.text[start] == ":" else b"\1"
        self.cut[start:end] = mark * (end - start)

    def rest(self, segment: Segment) -> str:
        """Return what is left of a segment, with single spaces."""
        return " ".join(self._left(segment.start, segment.end).split())

    def normal(self, segment: Segment) -> str:
        """Return what is left of a segment, normalised."""
        return normalise(self.rest(segment))

    def touched(self, segment: Segment) -> bool:
        """Tell whether some of a segment is left out."""
        return any(self.cut[segment.start : segment.end])

    def removed(self) -> tuple[str, ...]:
        """Return the terms left out, as they were written."""
        found = []
        for segment in self.segments:
            start = None
            for at in range(segment.start, segment.end + 1):
                inside = at < segment.end and self.cut[at]
                if inside and start is None:
                    start = at
                elif not inside and start is not None:
                    if term := " ".join(self.text[start:at].split()).strip(" ,;|"):
                        found.append(term)
                    start = None
        return tuple(found)

    def result(self) -> str:
        """Put the rest together: words as they were written, and the separators that stood before what is kept."""
        if not any(self.cut):
            return self.text
        pieces: list[str] = []
        for segment in self.segments:
            piece = self.rest(segment)
            if self.touched(segment):
                piece = _DANGLING_START.sub("", _DANGLING_END.sub("", _EMPTY_BRACKETS.sub("", piece))).strip()
                piece = _balance(piece)
            if normalise(piece):
                pieces.append((segment.gap if pieces else "") + piece)
        text = "".join(pieces).strip()
        last = self.text.rstrip()[-1:]
        return text + last if last in {".", "”", '"'} and text and text[-1].isalnum() and last != text[-1] else text

    def _left(self, start: int, end: int) -> str:
        if not any(self.cut[start:end]):
            return self.text[start:end]
        return "".join(("", " ", "")[cut] if cut else letter
                       for letter, cut in zip(self.text[start:end], self.cut[start:end], strict=True))  # fmt: skip


def _segments(text: str) -> Iterator[Segment]:
    at, gap = 0, ""
    for found in _BREAK.finditer(text):
        if found.start() > at:
            yield Segment(at, found.start(), gap)
            gap = _tidy(found.group())
        at = found.end()
    if at < len(text):
        yield Segment(at, len(text), gap)


def _tidy(gap: str) -> str:
    mark = next((c for c in gap if not c.isspace() and c != ","), ",")
    if mark == ":":
        return ":: "
    return {"|": " | ", "，": "，", "、": "、"}.get(mark, f"{mark} ")


def _balance(piece: str) -> str:
    """Drop brackets whose partner is gone."""
    for left, right in ("()", "[]", "{}"):
        if piece.count(left) != piece.count(right):
            piece = piece.replace(left, " ").replace(right, " ")
    return " ".join(piece.split())
