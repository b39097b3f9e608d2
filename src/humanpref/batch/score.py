"""What a worker does: rows of a span are read, decoded and prepared ahead of the models; the scores become a part."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, cast

from humanpref.batch.ahead import ReadAhead
from humanpref.batch.parts import Judged, encode_part
from humanpref.batch.places import ReadStoppedError, is_passing, join, read_bytes
from humanpref.batch.readers import READERS
from humanpref.batch.records import BatchError, Part, Problem, Reading, Row, Span
from humanpref.errors import ImageError, reason_of

if TYPE_CHECKING:
    from humanpref.images import EncodedImage
    from humanpref.preprocess import Resize
    from humanpref.scorers import Decode, Precision
    from humanpref.scorers.base import BatchScorer, Scores

READ_AHEAD = 32
"""Rows that are read before they are decoded, by a thread of their own: reading must not keep a model waiting."""

MAX_FILE_BYTES = 1 << 30

MAX_PATH = 4096
"""Signs of a path or URL. What is longer is something else, an image in base64 perhaps, and not to be kept as a key."""

SHOWN = 300
"""Signs of it in a message, and in the key of a row where it is longer than any path."""


@dataclass(frozen=True)
class Model:
    """A scorer and its options: what `load_scorer` takes."""

    name: str
    weights: str | None = None
    arch: str | None = None
    resize: Resize = "antialias"
    precision: Precision = "auto"
    device: str = "auto"
    decode: Decode = "exact"
    compiled: bool = False

    def load(self) -> BatchScorer[Any]:
        """Load it. Raises what `load_scorer` does."""
        from humanpref.scorers import load_scorer

        return cast("BatchScorer[Any]", load_scorer(**vars(self)))


@dataclass(frozen=True)
class MakeScoring:
    """Makes the function that a worker runs; travels to other processes, and loads the scorers there. `threads` decode
    images and multiply matrices (None: as many as this machine has cores)."""

    reading: Reading
    models: tuple[Model, ...]
    part_rows: int
    embeddings: Literal["float16", "float32"] | None = None
    prompts: bool = True
    threads: int | None = None

    def __call__(self) -> Callable[[Sequence[Span]], Iterator[Part]]:
        """Load the scorers -> the worker: spans to their parts. Raises what `load_scorer` does, and `BatchError`."""
        import torch

        from humanpref.scorers import get_spec
        from humanpref.scorers.devices import one_core_a_thread

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        one_core_a_thread((get_spec(model.name), model.device) for model in self.models)
        return _Scoring(self, [model.load() for model in self.models])


@dataclass(frozen=True)
class _Prepared:
    """A row without its image's bytes; `inputs` has what each scorer makes of the picture, by the scorer's place."""

    row: Row
    inputs: dict[int, Any]
    truncated: bool
    problem: Problem | None


class _Scoring:
    def __init__(self, make: MakeScoring, scorers: Sequence[BatchScorer[Any]]) -> None:
        from humanpref.scorers.clip import ClipScorer

        self.make, self.scorers = make, scorers
        self.identities = tuple(scorer.identity for scorer in scorers)
        self.embeds = {
            i: (make.embeddings, s.embedding_width)
            for i, s in enumerate(scorers)
            if make.embeddings and isinstance(s, ClipScorer)
        }
        if make.embeddings and not self.embeds:
            names = ", ".join(model.name for model in make.models)
            raise BatchError(f"--embeddings are of scorers that are a CLIP; none of {names} is one")
        self.names = [model_name(scorer.spec.name) for scorer in scorers]
        self.vectors = {self.names[i]: what for i, what in self.embeds.items()}
        readers = [scorer for scorer in scorers if scorer.spec.reads_prompt]
        self.truncated = lru_cache(4096)(lambda prompt: any(scorer.truncated(prompt) for scorer in readers))

    def __call__(self, spans: Sequence[Span]) -> Iterator[Part]:
        """Score spans one after the other; while the end of one is scored, the next is already read and decoded.

        No batch of a scorer has rows of two spans, so that the last digits of a score do not depend on what else a
        worker was given.
        """
        with closing(ReadAhead(self._read(spans), READ_AHEAD)) as rows:
            yield from self._score(rows)

    def _score(self, rows: Iterable[tuple[Span, Row | None]]) -> Iterator[Part]:
        from humanpref.scorers.base import map_ahead, overlapped

        size = max(scorer.batch_size for scorer in self.scorers)
        prepared = map_ahead(self._prepare_marked, rows, ahead=2 * size, threads=self.make.threads)
        began, piece = time.monotonic(), 0
        judged: list[Judged] = []
        in_flight = max(scorer.in_flight for scorer in self.scorers)
        for span, found, ended in overlapped(self._begun(prepared, size), in_flight):
            judged += found
            while ended or len(judged) > self.make.part_rows:
                now, judged = judged[: self.make.part_rows], judged[self.make.part_rows :]
                last = ended and not judged
                content, counts = encode_part(
                    span, now, self.names, self.vectors, prompts=self.make.prompts, before=piece if last else 0
                )
                seconds, began = time.monotonic() - began, time.monotonic()
                yield Part(span, None if last else piece, content, counts, self.identities, seconds)
                piece += 1
                if last:
                    piece = 0
                    break

    def _begun(
        self, prepared: Iterable[tuple[Span, _Prepared | None]], size: int
    ) -> Iterator[Callable[[], tuple[Span, list[Judged], bool]]]:
        """Begin to judge rows, so many at a time -> what waits for each time's, and whether their span ends."""
        chunk: list[_Prepared] = []
        for span, one in prepared:
            if one is not None:
                chunk.append(one)
            if one is None or len(chunk) == size:
                yield partial(_of_span, span, self._judge(chunk), ended=one is None)
                chunk = []

    def _read(self, spans: Sequence[Span]) -> Iterator[tuple[Span, Row | None]]:
        """Yield all rows, and None at the end of each span."""
        for span in spans:
            for row in READERS[span.shard.kind].rows(span, self.make.reading):
                yield span, row
            yield span, None

    def _prepare_marked(self, marked: tuple[Span, Row | None]) -> tuple[Span, _Prepared | None]:
        span, row = marked
        return span, None if row is None else self._prepare(row, span)

    def _prepare(self, row: Row, span: Span) -> _Prepared:
        key = row.key if row.key is None or len(row.key) <= MAX_PATH else f"{row.key[:SHOWN]}..."
        bare = Row(row.number, key, row.prompt, "")
        has_prompt = bool(row.prompt and row.prompt.strip())
        truncated = has_prompt and self.truncated(cast("str", row.prompt))
        wanted = [i for i, scorer in enumerate(self.scorers) if has_prompt or not scorer.spec.reads_prompt]
        problem = None if len(wanted) == len(self.scorers) else Problem("no-prompt", "the row has no prompt")
        if isinstance(row.image, Problem):
            return _Prepared(bare, {}, truncated, row.image)
        if not wanted:
            return _Prepared(bare, {}, truncated, problem)
        image = read_row(row, span, allow_url=self.make.reading.allow_url)
        if isinstance(image, Problem):
            return _Prepared(bare, {}, truncated, image)
        inputs = {}
        for i in wanted:
            made = self.scorers[i].prepare(image)
            if isinstance(made, ImageError):
                problem = Problem("unreadable-image", str(made))
            else:
                inputs[i] = made
        return _Prepared(bare, inputs, truncated, problem)

    def _judge(self, chunk: Sequence[_Prepared]) -> Callable[[], list[Judged]]:
        """Begin to judge rows by all scorers; what is returned waits."""
        begun: list[tuple[int, list[int], Callable[[], tuple[list[float | ImageError], Any]]]] = []
        for i, scorer in enumerate(self.scorers):
            todo = [n for n, one in enumerate(chunk) if i in one.inputs]
            for start in range(0, len(todo), scorer.batch_size):
                batch = todo[start : start + scorer.batch_size]
                inputs, prompts = [chunk[n].inputs[i] for n in batch], [chunk[n].row.prompt or "" for n in batch]
                if i in self.embeds:
                    begun.append((i, batch, cast("Any", scorer).begin_with_vectors(inputs, prompts)))
                else:
                    begun.append((i, batch, partial(_without_vectors, scorer.begin(inputs, prompts))))
        rows = [(one.row, one.truncated, one.problem) for one in chunk]
        return lambda: self._judged(rows, begun)

    def _judged(
        self,
        rows: Sequence[tuple[Row, bool, Problem | None]],
        begun: Sequence[tuple[int, list[int], Callable[[], tuple[list[float | ImageError], Any]]]],
    ) -> list[Judged]:
        scores: list[dict[int, float]] = [{} for _ in rows]
        vectors: list[dict[int, Any]] = [{} for _ in rows]
        problems = [problem for _, _, problem in rows]
        for i, batch, wait in begun:
            found, embedded = wait()
            good = [n for n, score in zip(batch, found, strict=True) if not isinstance(score, ImageError)]
            if embedded is not None:
                for n, vector in zip(good, embedded.numpy(), strict=True):
                    vectors[n][i] = vector
            for n, score in zip(batch, found, strict=True):
                if isinstance(score, ImageError):
                    problems[n] = Problem("unreadable-image", str(score))
                elif math.isfinite(score):
                    scores[n][i] = score
                else:
                    problems[n] = Problem("no-number", f"{self.scorers[i].spec.name} says {score}")
        every = range(len(self.scorers))
        return [
            Judged(
                row,
                tuple(scores[n].get(i) for i in every),
                truncated,
                problems[n],
                tuple(vectors[n].get(i) for i in self.embeds),
            )
            for n, (row, truncated, _) in enumerate(rows)
        ]


def _of_span(span: Span, wait: Callable[[], list[Judged]], *, ended: bool) -> tuple[Span, list[Judged], bool]:
    return span, wait(), ended


def _without_vectors(wait: Scores) -> tuple[list[float | ImageError], None]:
    return wait(), None


def model_name(name: str) -> str:
    """A scorer's name as part of a column's name: letters, digits and _ alone, so that SQL needs no quotes."""
    return "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in name)


def read_row(  # noqa: PLR0911 - each way to fail says so
    row: Row, span: Span, *, allow_url: bool
) -> EncodedImage | Problem:
    """Read the image of a row, its bytes or what its path leads to -> not yet decoded, or why there is none.

    Raises `ReadStoppedError` where reading fails for a reason that may pass. Not so for http(s): of images on the open
    web some are always out of reach.
    """
    from humanpref.images import EncodedImage, RemoteImage, read_image

    image = row.image
    assert not isinstance(image, Problem)
    name = (image if isinstance(image, str) else row.key or f"row {row.number}")[:SHOWN]
    if isinstance(image, str) and (len(image) > MAX_PATH or image.startswith("data:")):
        return Problem("bad-row", f"{name[:60]!r}... is no path; images in base64 are not read, bytes in Parquet are")
    try:
        if isinstance(image, bytes):
            return EncodedImage(image, name)
        if "://" in image and not allow_url:
            return Problem("url-not-allowed", f"{name}: URLs are not fetched unless you allow it (--allow-url)")
        if image.startswith(("http://", "https://")):
            return read_image(RemoteImage(image))
        return EncodedImage(read_bytes(join(span.shard.root, image), MAX_FILE_BYTES), name)
    except ImageError as error:
        return Problem("unreadable-image", str(error))
    except (FileNotFoundError, NotADirectoryError):
        return Problem("missing-file", f"{name}: no such file")
    except Exception as error:  # stores far away raise errors of their own
        if is_passing(error):
            raise ReadStoppedError(f"{span.shard.name}: {name}", error) from None
        return Problem("unreadable-image", f"{name}: cannot be read ({reason_of(error)})")
