"""WebDataset shards: tar files whose members of one name up to the first dot are one sample (image, text, JSON).

The tar file is read as a stream. Read by the standard library and not by the `webdataset` package, because a span must
know where in the file it starts, and because a damaged file must end in a row that says so.
"""

from __future__ import annotations

import gzip
import json
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from humanpref.batch.columns import PROMPTS, is_utf8
from humanpref.batch.places import filesystem, is_local, opened
from humanpref.batch.records import Problem, Reading, Row, Shard, Span
from humanpref.errors import DataError, reason_of
from humanpref.images import SUFFIXES

TEXTS = ("txt", "prompt", "caption", "text")
MAX_BYTES = 1 << 30

_GZIP = b"\x1f\x8b"

_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, OverflowError)
"""What a damaged file makes Python raise: `OSError` for gzip, `OverflowError` for sizes out of all bounds.
Errors of reading the file itself are none of these: `opened` gives them a class of their own."""


class _Strict(tarfile.TarInfo):
    """A header; one that is damaged or missing is an error, where Python would take it for the end of the file, or,
    looking beyond the mark of an end for another tar file (`ignore_zeros`), pass it over."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> Any:
        try:
            header = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            kind = type(error).__name__
            if kind == "EOFHeaderError":  # the mark of an end
                archive.ended = True
                raise
            if kind != "EmptyHeaderError":
                raise tarfile.ReadError(str(error)) from None
            if archive.offset and not getattr(archive, "ended", False):
                raise tarfile.ReadError("it ends without the mark of its end") from None
            raise
        archive.ended = False
        return header


@dataclass
class _Sample:
    key: str
    offset: int
    members: dict[str, bytes] = field(default_factory=dict)
    problem: str | None = None


def check(shard: Shard, reading: Reading, *, reads_prompt: bool) -> Reading:  # noqa: ARG001 - as the other kinds
    """See that a shard begins as a tar file; what its samples hold is seen sample by sample."""
    with _open(shard) as archive:
        try:
            archive.next()
        except _DAMAGE as error:
            raise DataError(f"{shard.name}: damaged, truncated or no tar file ({reason_of(error)})") from None
    return reading


def spans(shard: Shard, reading: Reading, rows: int) -> Iterator[Span]:  # noqa: ARG001
    """Yield spans of at most `rows` samples of a local file, whose headers are read for it; any other shard is one."""
    if not _is_seekable(shard):
        yield Span(shard, 0, 0, None, share=shard.size)
        return
    number = first = begin = held = 0
    with _open(shard) as archive:
        samples = _samples(archive, read=False)
        try:
            for sample in samples:
                if held == rows:
                    yield Span(shard, number, first, held, begin, share=sample.offset - begin)
                    number, first, begin, held = number + 1, first + held, sample.offset, 0
                held += 1
        except _DAMAGE:
            held = -1  # whoever reads it there will tell
    if held:
        yield Span(shard, number, first, None, begin, share=shard.size - begin)


def rows(span: Span, reading: Reading) -> Iterator[Row]:
    """Yield the samples of a span. Where the file is damaged, a last row says so; what follows there is lost."""
    number, left = span.first, span.count
    with _open(span.shard, span.offset) as archive:
        samples = _samples(archive, read=True)
        while left is None or number < span.first + left:
            try:
                sample = next(samples, None)
            except _DAMAGE as error:
                why = f"the tar file is damaged or cut off here ({reason_of(error)}); what follows is lost"
                yield Row(number, None, None, Problem("damaged-shard", why))
                return
            if sample is None:
                return
            yield _row(number, sample, reading)
            number += 1


def _samples(archive: Any, *, read: bool) -> Iterator[_Sample]:
    """Yield the samples, with what their members hold if `read`. Raises what a damaged tar file makes Python raise."""
    sample: _Sample | None = None
    while True:
        try:
            member = archive.next()
        except _DAMAGE:
            if sample is not None:  # what was read of it is whole
                yield sample
            raise
        if member is None:
            break
        archive.members = []  # or they would add up
        folder, name = posixpath.split(member.name)
        if member.isdir() or name.startswith("."):
            continue
        stem, _, extension = name.partition(".")
        extension = extension.lower()
        key = posixpath.join(folder, stem)
        if sample is not None and sample.key != key:
            yield sample
            sample = None
        if sample is None:
            sample = _Sample(key, member.offset)
        if extension in sample.members:
            sample.problem = f"the sample has two members .{extension}"
        if not member.isfile():
            sample.problem = f"{member.name}: is a link or a device, whose content the tar file does not hold here"
        sample.members[extension] = _content(archive, member, sample) if read and member.isfile() else b""
    if sample is not None:
        yield sample


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, sample: _Sample) -> bytes:
    if member.size > MAX_BYTES:
        sample.problem = f"{member.name}: is over {MAX_BYTES // 2**20} MiB"
        return b""
    file = archive.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _row(number: int, sample: _Sample, reading: Reading) -> Row:
    if sample.problem is not None:
        return Row(number, sample.key, None, Problem("bad-row", sample.problem))
    try:
        prompt = _prompt(sample.members, reading)
    except (ValueError, RecursionError) as error:  # RecursionError: JSON of a thousand brackets
        return Row(number, sample.key, None, Problem("bad-row", f"the prompt cannot be read ({reason_of(error)})"))
    return Row(number, sample.key, prompt, _image(sample.members, reading))


def _image(members: dict[str, bytes], reading: Reading) -> bytes | Problem:
    """The image: the member that the user names, or the only one that is an image, or the only one with nothing before
    its ending (.jpg beside .depth.png)."""
    if reading.image_column:
        found = [name for name in members if name == reading.image_column.lower()]
    else:
        images = [name for name in members if "." + name.rpartition(".")[2] in SUFFIXES]
        found = [name for name in images if "." not in name] or images
    if len(found) == 1:
        return members[found[0]]
    if found:
        why = f"the sample has several images (.{', .'.join(found)}); choose one by --image-column"
        return Problem("bad-row", why)
    return Problem("no-image", f"no image among .{', .'.join(members)}")


def _prompt(members: dict[str, bytes], reading: Reading) -> str | None:
    """The prompt: a text member, or a text in the JSON member. Raises `ValueError` for what is neither."""
    column = reading.prompt_column
    for name in TEXTS if column is None else (column,):
        if name.lower() in members and name.lower() != "json":
            return members[name.lower()].decode("utf-8-sig").strip()
    if "json" in members:
        values = json.loads(members["json"])
        if not isinstance(values, dict):
            raise ValueError("the .json holds no object")
        for name in PROMPTS if column is None else (column,):
            if values.get(name) is not None:
                if not isinstance(values[name], str):
                    raise ValueError(f"{name} in the .json is no text")
                if not is_utf8(values[name]):
                    raise ValueError(f"{name} in the .json has half a surrogate pair")
                return str(values[name])
    return reading.prompt


def _is_seekable(shard: Shard) -> bool:
    system, _ = filesystem(shard.url)
    return is_local(system) and shard.name.lower().endswith(".tar")


@contextmanager
def _open(shard: Shard, offset: int = 0) -> Iterator[Any]:
    seekable = _is_seekable(shard)
    with opened(shard.url, shard.name) as raw:
        is_packed = not seekable and raw.read(2) == _GZIP
        raw.seek(offset)
        file: Any = gzip.GzipFile(fileobj=raw) if is_packed else raw  # Python's own "r|gz" ends with the first member
        mode: Any = "r:" if seekable else "r|"
        try:
            archive: Any = tarfile.open(fileobj=file, mode=mode, tarinfo=_Strict, ignore_zeros=True)  # noqa: SIM115 - closed below
        except _DAMAGE as error:
            raise DataError(f"{shard.name}: damaged, truncated or no tar file ({reason_of(error)})") from None
        with archive:
            yield archive
