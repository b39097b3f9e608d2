"""What a batch run is made of: shards, spans of their rows, rows, and what came of a span. Frozen; nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from humanpref.errors import HumanprefError

ErrorKind: TypeAlias = Literal[
    "missing-file",
    "unreadable-image",
    "no-image",
    "no-prompt",
    "bad-row",
    "damaged-shard",
    "url-not-allowed",
    "no-number",
]
"""Why a row has no score, or not all: the file is not there; it is no image, or a damaged or too large one; the row
names none; has no prompt; cannot be read; lies in a damaged part of its shard; names a URL; a scorer said NaN."""


class BatchError(HumanprefError):
    """A batch run that cannot start, or an output folder that is another run's."""


@dataclass(frozen=True)
class Reading:
    """How rows are read. The columns are guessed where they are None; `prompt` is that of rows without one;
    `image_root` is what image paths are relative to (None: the folder of their shard)."""

    image_column: str | None = None
    prompt_column: str | None = None
    prompt: str | None = None
    image_root: str | None = None
    allow_url: bool = False


@dataclass(frozen=True)
class Shard:
    """One file of the input, or one folder of images. `name` is the path as it was given, `size` in bytes (of a folder:
    its images), `root` the folder that its image paths are relative to, `digest` of the names in a folder."""

    name: str
    url: str
    kind: str
    size: int
    root: str
    digest: str = ""

    @property
    def state(self) -> str:
        """What must stay as it is while an output is made of it, in words."""
        return f"{self.size:,} images of digest {self.digest}" if self.kind == "folder" else f"{self.size:,} bytes"


@dataclass(frozen=True)
class Span:
    """Consecutive rows of a shard, the unit of work: `count` rows from the row `first` (None: all that follow).

    `offset` is where they start in bytes, `items` what they are where the driver alone knows (the files of a folder),
    `share` their part of the shard's size, for progress; `last` says that the shard has no more, once that is known.
    """

    shard: Shard
    number: int
    first: int
    count: int | None
    offset: int = 0
    share: float = 0.0
    items: tuple[tuple[str, str | None], ...] = ()
    last: bool = False


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be scored."""

    kind: ErrorKind
    message: str


@dataclass(frozen=True)
class Row:
    """A row as it was read. `image`: the bytes of an image file, the path of one, or why there is none; `key`: the
    name it goes by in its shard, if any."""

    number: int
    key: str | None
    prompt: str | None
    image: bytes | str | Problem


@dataclass(frozen=True)
class Counts:
    """Rows, those with a score of every scorer, those whose prompt was cut by a scorer, and errors by kind."""

    rows: int = 0
    scored: int = 0
    truncated: int = 0
    errors: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __add__(self, other: Counts) -> Counts:
        kinds = sorted({*self.errors, *other.errors})
        errors = {kind: self.errors.get(kind, 0) + other.errors.get(kind, 0) for kind in kinds}
        return Counts(self.rows + other.rows, self.scored + other.scored, self.truncated + other.truncated, errors)


@dataclass(frozen=True)
class Part:
    """What came of a span, or of some of its rows: the bytes of a Parquet file, the identities of the scorers that made
    it, and the seconds that it took one worker. `piece`: which it is of those that come before the span's last or only
    part, from 0; None: that one."""

    span: Span
    piece: int | None
    content: bytes
    counts: Counts
    identities: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class BatchReport:
    """What the output holds, and how fast this run was. `rows`, `scored`, `truncated`, `errors` and `parts` count the
    whole output, `new_rows` and `new_parts` what this run added; `seconds` is this run's time, loading included.
    `empty_shards` were known to be empty without being read through."""

    out: str
    models: tuple[str, ...]
    shards: int
    empty_shards: int
    parts: int
    rows: int
    scored: int
    truncated: int
    errors: Mapping[str, int]
    new_rows: int
    new_parts: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def rows_per_second(self) -> float:
        """Rows of this run per second."""
        return self.new_rows / self.seconds if self.seconds > 0 else 0.0
