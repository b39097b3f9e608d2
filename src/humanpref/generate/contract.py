"""What flows through generation: a prompt, a request for one image of it, the outcome, and what a backend is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from PIL import Image

from humanpref.errors import HumanprefError
from humanpref.prompts.records import Prompt

Status: TypeAlias = Literal["done", "refused", "failed"]
Settings: TypeAlias = Mapping[str, Any]


class GenerateError(HumanprefError):
    """A run that cannot start or go on: a model that cannot be had, no memory, a key that is refused."""


@dataclass(frozen=True)
class Request:
    """One image to be made: the `number`-th (from 0) of a prompt. `index` is the prompt's place in its file."""

    prompt: Prompt
    number: int
    seed: int
    index: int


@dataclass(frozen=True)
class Outcome:
    """What became of a request. Done: `image`, or a `file` to be copied or linked as it is; otherwise `reason`, one
    line.

    `notes` are for the person who watches (a batch size that was halved); `seconds` is what the image took;
    `truncated` that the model read only the beginning of the prompt; `details` what else belongs in the image's row of
    the manifest.
    """

    request: Request
    status: Status
    image: Image.Image | None = None
    file: Path | None = None
    link: Literal["copy", "hard", "symbolic"] = "copy"
    reason: str | None = None
    seconds: float = 0.0
    truncated: bool = False
    notes: tuple[str, ...] = ()
    details: Settings = field(default_factory=dict)


class Backend(Protocol):
    """Something that makes images. Cheap to make and to send to another process; loads its model when first asked.

    `name` is the source of its images; `revision` pins the model; `settings` hold whatever else decides what an image
    looks like, and nothing that does not (batch size, device). `chunk` requests are handed over at a time. `local`
    says that it must run where the user's files are. `made_with` names libraries and device, once it has run.
    """

    name: str
    revision: str
    settings: Settings
    chunk: int
    local: bool
    made_with: str

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Look at all prompts of the run before it starts. Raises `HumanprefError` when it cannot be done."""
        ...

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """Yield one outcome for each request, in any order. Raises `GenerateError` when going on is of no use."""
        ...


@dataclass(frozen=True)
class GenerateReport:
    """What a run did. `already` were there before; `missing_prompts` have no image of any model;
    of `truncated` images the model read only the beginning of the prompt."""

    out: str
    models: tuple[str, ...]
    prompts: int
    wanted: int
    already: int
    made: int
    refused: int
    failed: int
    truncated: int
    missing_prompts: int
    seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def images_per_second(self) -> float:
        """Images made per second of this run, loading included."""
        return self.made / self.seconds if self.seconds > 0 else 0.0


def seed_of(base: int, prompt_id: str, number: int) -> int:
    """Return the seed of an image, in [0, 2**32): of the run's seed, the prompt and the image's number alone.

    Neither other prompts nor other models change it; every model gets the same seed, so that models are compared on
    the same noise where they share a latent space. 32 bits, because torch's CPU generator uses no more of a seed.
    """
    return int.from_bytes(hashlib.sha256(f"{base}\0{prompt_id}\0{number}".encode()).digest()[:4], "big")


def settings_hash(revision: str, settings: Settings) -> str:
    """Return 16 hexadecimal digits that stand for a model's revision and settings."""
    text = json.dumps({"revision": revision, **settings}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_name(name: str) -> str:
    """Return a name that every file system takes and that leads nowhere: what is safe stays as it is."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        return name
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80]
    return f"{safe or 'x'}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
