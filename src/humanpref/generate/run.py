"""A run: every prompt by every model; what is there already is left alone, each image is kept as soon as it is made."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from io import BytesIO
from itertools import islice
from pathlib import Path

from humanpref.engines import Engine, run_map
from humanpref.errors import DataError
from humanpref.generate.contract import (
    Backend,
    GenerateError,
    GenerateReport,
    Outcome,
    Request,
    Settings,
    file_name,
    seed_of,
    settings_hash,
)
from humanpref.generate.groups import write_groups
from humanpref.generate.manifest import Key
from humanpref.generate.store import RunFolder
from humanpref.images import open_image
from humanpref.progress import Track, no_note, no_track
from humanpref.prompts.records import Prompt

FAILURES_IN_A_ROW = 25
"""After so many failed images, one after the other, the run stops: the fault is not the prompts'."""


@dataclass(frozen=True)
class Made:
    """An outcome as it travels from a worker: the image as the bytes of a PNG, or a file to take."""

    request: Request
    status: str
    content: bytes | None
    file: Path | None
    link: str
    size: tuple[int, int] | None
    reason: str | None
    started: float
    seconds: float
    truncated: bool
    made_with: str
    notes: tuple[str, ...]
    details: Settings


@dataclass(frozen=True)
class MakeWorker:
    """Makes the function that a worker runs. The backend travels unloaded, and loads its model in the worker."""

    backend: Backend

    def __call__(self) -> Callable[[Sequence[Request]], Iterator[Made]]:
        """Return the worker."""
        return self._work

    def _work(self, requests: Sequence[Request]) -> Iterator[Made]:
        for outcome in self.backend.generate(requests):
            yield _pack(outcome, self.backend.made_with)


def generate(
    prompts: Sequence[Prompt],
    backends: Sequence[Backend],
    out: str | Path,
    *,
    seed: int = 0,
    images_per_prompt: int = 1,
    engine: Engine | None = None,
    retry_failed: bool = False,
    track: Track = no_track,
    on_note: Callable[[str], None] = no_note,
) -> GenerateReport:
    """Make `images_per_prompt` images of each prompt with each backend, in `out`: images, manifest and groups.

    What `out` holds of the same run is kept and not made again, failed images too unless `retry_failed`. Raises
    `GenerateError` when the folder is another run's or in use, when a model cannot be had, or when nothing works any
    more; what was made until then is kept, and the same call goes on.
    """
    began, out = time.monotonic(), Path(out).expanduser()
    _check(prompts, backends, images_per_prompt)
    for backend in backends:
        backend.prepare(prompts)
    try:
        with RunFolder(out) as folder:
            models = folder.agree(seed, backends)
            texts = {prompt.id: prompt.text for prompt in prompts}
            names = {backend.name for backend in backends}

            def again(key: Key) -> bool:
                model, prompt, number = key
                return retry_failed and model in names and prompt in texts and number < images_per_prompt

            state, notes = folder.read_state(texts, again=again)
            for note in notes:
                on_note(note)
            run = _Run(folder, prompts, seed, images_per_prompt, state, on_note)
            wanted = len(prompts) * len(backends) * images_per_prompt
            todo = sum(1 for backend in backends for _ in run.requests(backend))
            already = wanted - todo
            try:
                with track("Generating", todo) as advance:
                    for backend in backends:
                        run.make(backend, engine or Engine(), advance)
            except BaseException:  # what was made until then is for the other stages too
                with suppress(DataError, OSError):
                    write_groups(out, folder.manifest.path, prompts, models)
                raise
            with_images = write_groups(out, folder.manifest.path, prompts, models)
    except OSError as error:
        raise _of_the_disk(error, out) from None
    return GenerateReport(
        out=str(out),
        models=tuple(backend.name for backend in backends),
        prompts=len(prompts),
        wanted=wanted,
        already=already,
        made=run.counts["done"],
        refused=run.counts["refused"],
        failed=run.counts["failed"],
        truncated=run.truncated,
        missing_prompts=sum(prompt.id not in with_images for prompt in prompts),
        seconds=time.monotonic() - began,
        notes=(*notes, *run.notes),
    )


class _Run:
    """One run over an open folder: what is to be made, and putting away what was."""

    def __init__(
        self,
        folder: RunFolder,
        prompts: Sequence[Prompt],
        seed: int,
        images_per_prompt: int,
        state: Mapping[tuple[str, str, int], str],
        on_note: Callable[[str], None],
    ) -> None:
        self.folder, self.prompts, self.seed, self.state = folder, prompts, seed, state
        self.images_per_prompt, self.on_note = images_per_prompt, on_note
        self.counts = {"done": 0, "refused": 0, "failed": 0}
        self.truncated = 0
        self.notes: list[str] = []
        self._failed_in_a_row = 0

    def requests(self, backend: Backend) -> Iterator[Request]:
        """Yield what a backend is still to make, in the order of the prompts."""
        for index, prompt in enumerate(self.prompts):
            for number in range(self.images_per_prompt):
                if (backend.name, prompt.id, number) not in self.state:
                    yield Request(prompt, number, seed_of(self.seed, prompt.id, number), index)

    def make(self, backend: Backend, engine: Engine, advance: Callable[[], None]) -> None:
        """Make all images of a backend. This process alone writes."""
        remaining = self.requests(backend)
        batches = iter(lambda: list(islice(remaining, backend.chunk)), [])
        engine = Engine() if backend.local else engine
        with closing(run_map(engine, MakeWorker(backend), batches, self._note)) as results:
            for made in results:
                self._put(backend, made)
                advance()
                for note in made.notes:
                    self._note(f"{backend.name}: {note}")
                failed = made.status == "failed" and not backend.local  # a folder may lack the images of many prompts
                self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0
                if self._failed_in_a_row >= FAILURES_IN_A_ROW:
                    raise GenerateError(
                        f"{backend.name}: {FAILURES_IN_A_ROW} images in a row failed, the last one: {made.reason}; "
                        "mend it, then run again with --retry-failed"
                    )

    def _put(self, backend: Backend, made: Made) -> None:
        prompt, image = made.request.prompt, {}
        if made.status == "done":
            suffix = made.file.suffix.lower() if made.file is not None else ".png"
            stem = f"{file_name(prompt.id)}-{made.request.number}"
            path, digest = self.folder.put(backend.name, stem, suffix, lambda part: _write(made, part))
            assert made.size is not None
            image = {"path": path, "width": made.size[0], "height": made.size[1], "sha256": digest}
        row = {
            "prompt": prompt.text,
            "prompt_id": prompt.id,
            "prompt_source": prompt.source,
            "style": prompt.style,
            "number": made.request.number,
            "model": backend.name,
            "revision": backend.revision,
            "settings": dict(backend.settings),
            "settings_hash": settings_hash(backend.revision, backend.settings),
            "seed": made.request.seed,
            "status": made.status,
            **image,
            "reason": made.reason,
            "started": datetime.fromtimestamp(made.started, timezone.utc).isoformat(timespec="milliseconds"),
            "seconds": round(made.seconds, 4),
            "truncated": made.truncated or None,
            "made_with": made.made_with,
            "details": dict(made.details) or None,
        }
        self.folder.manifest.append({key: value for key, value in row.items() if value is not None})
        self.counts[made.status] += 1
        self.truncated += made.truncated

    def _note(self, note: str) -> None:
        self.notes.append(note)
        self.on_note(note)


def _check(prompts: Sequence[Prompt], backends: Sequence[Backend], images_per_prompt: int) -> None:
    if not prompts or not backends:
        raise GenerateError("nothing to generate: a run needs prompts and at least one backend")
    if images_per_prompt < 1:
        raise GenerateError(f"images per prompt must be at least 1, got {images_per_prompt}")
    for what, how, names in (
        ("models", "(,name=...)", [backend.name for backend in backends]),
        ("prompts", "id", [prompt.id for prompt in prompts]),
    ):
        files: dict[str, str] = {}
        for name in names:
            if (file := file_name(name)) in files:
                raise GenerateError(
                    f"two {what} have the name {name!r} ({files[file]!r}); give one of them another {how}"
                )
            files[file] = name


def _pack(outcome: Outcome, made_with: str) -> Made:
    content, size = None, None
    if outcome.image is not None:
        buffer = BytesIO()
        outcome.image.save(buffer, "PNG")
        content, size = buffer.getvalue(), outcome.image.size
    elif outcome.file is not None:
        size = open_image(outcome.file).size
    seconds = max(0.0, outcome.seconds)
    return Made(
        outcome.request,
        outcome.status,
        content,
        outcome.file,
        outcome.link,
        size,
        outcome.reason,
        time.time() - seconds,
        seconds,
        outcome.truncated,
        made_with,
        outcome.notes,
        outcome.details,
    )


def _write(made: Made, part: Path) -> None:
    if made.content is not None:
        part.write_bytes(made.content)
    else:
        assert made.file is not None
        file = made.file.resolve()
        if made.link == "symbolic":
            part.symlink_to(file)
        elif made.link == "hard":
            part.hardlink_to(file)
        else:
            shutil.copyfile(file, part)


def _of_the_disk(error: OSError, out: Path) -> DataError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DataError(f"{out}: the disk is full; what was made is kept: make room and run the same command again")
    where = error.filename if isinstance(error.filename, (str, os.PathLike)) else out
    return DataError(f"{where}: cannot be written ({error.strerror or error})")
