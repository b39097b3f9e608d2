"""The images of each method, each in a folder of `humanpref generate` of its own: same prompts, same seeds."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from humanpref.engines import Engine
from humanpref.errors import DataError
from humanpref.generate.contract import Backend, file_name, seed_of
from humanpref.generate.manifest import MadeImage, read_images
from humanpref.generate.run import generate
from humanpref.generate.store import RUN
from humanpref.improve.best_of.method import BestOf
from humanpref.improve.folder import IMAGES
from humanpref.improve.methods import ImproveError, Method, apply_methods, make_methods
from humanpref.progress import Track, no_note, no_track
from humanpref.prompts.records import Prompt

BASELINE = "none"

Key: TypeAlias = "tuple[str, int]"
"""Prompt id, number of the image."""


@dataclass(frozen=True)
class Prepared:
    """A method that can draw: its name, the methods it is made of, and an unloaded backend with them around it."""

    name: str
    backend: Backend
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class MethodImages:
    """All that a method made: {(prompt id, number): image}. `selectors` are the scorers that chose among candidates."""

    method: str
    folder: Path
    selectors: tuple[str, ...]
    images: Mapping[Key, MadeImage]

    @property
    def seconds_per_image(self) -> float | None:
        """Seconds spent for each image that is there, what was refused or failed included; None: not measured."""
        done = sum(made.status == "done" for made in self.images.values())
        seconds = sum(made.seconds for made in self.images.values())
        return seconds / done if done and seconds else None

    def count(self, status: str) -> int:
        """How many images have a status: done, refused or failed."""
        return sum(made.status == status for made in self.images.values())


def named_methods(specs: Sequence[str | tuple[str, Sequence[Method]]]) -> dict[str, tuple[Method, ...]]:
    """Make methods by their specs; a pair is a name and methods made already. The baseline is put first.

    Raises `ImproveError` for the same method twice, or none but the baseline.
    """
    found: dict[str, tuple[Method, ...]] = {}
    for spec in specs:
        name, methods = (spec, make_methods(spec)) if isinstance(spec, str) else (spec[0], tuple(spec[1]))
        if name in found:
            raise ImproveError(f"{name} is among the methods twice; name each method once")
        found[name] = methods
    if not set(found) - {BASELINE}:
        raise ImproveError("there is no method to compare with the baseline; name one, as best-of:4,model=lite")
    return {BASELINE: found.pop(BASELINE, make_methods(BASELINE)), **found}


def prepare_methods(
    prompts: Sequence[Prompt], backend: Backend, methods: Mapping[str, Sequence[Method]], out: Path
) -> list[Prepared]:
    """Put each method around an unloaded copy of the backend, and see that all can draw, before any has.

    Raises `ImproveError` for a method that this backend cannot do and where `out` holds a comparison of another
    backend, and what the backend's `prepare` raises.
    """
    prepared = [Prepared(name, apply_methods(own, copy.copy(backend)), tuple(own)) for name, own in methods.items()]
    for one in prepared:
        one.backend.prepare(prompts)
        _check_same(method_folder(out, one.name), one.backend.name)
    return prepared


def make_method_images(
    prompts: Sequence[Prompt],
    prepared: list[Prepared],
    out: Path,
    *,
    seed: int = 0,
    images_per_prompt: int = 1,
    engine: Engine | None = None,
    retry_failed: bool = False,
    track: Track = no_track,
    on_note: Callable[[str], None] = no_note,
) -> tuple[MethodImages, ...]:
    """Draw every prompt by every method, in `out`/images; what is there already is not made again.

    One model is in memory at a time: `prepared` is emptied as the methods draw. Raises as `generate` does.
    """
    found = []
    while prepared:
        one = prepared.pop(0)
        folder = method_folder(out, one.name)
        generate(
            prompts, [one.backend], folder, seed=seed, images_per_prompt=images_per_prompt, engine=engine,
            retry_failed=retry_failed, track=_titled(track, one.name), on_note=_named(on_note, one.name),
        )  # fmt: skip
        choosing = [method for method in one.methods if isinstance(method, BestOf) and method.chooses]
        selectors = tuple(dict.fromkeys(method.selector for method in choosing))
        wanted = [(prompt.id, number) for prompt in prompts for number in range(images_per_prompt)]
        found.append(MethodImages(one.name, folder, selectors, _read(folder, one.backend.name, wanted)))
        del one
        gc.collect()
    return tuple(found)


def _titled(track: Track, name: str) -> Track:
    return lambda title, total: track(f"{title} {name}", total)


def _named(on_note: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda note: on_note(f"{name}: {note}")


def method_folder(out: Path, method: str) -> Path:
    """Where the images of a method are: a folder as `humanpref generate` makes it."""
    return out / IMAGES / file_name(method)


def _check_same(folder: Path, name: str) -> None:
    try:
        models = list(json.loads((folder / RUN).read_text(encoding="utf-8"))["models"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{folder / RUN}: is damaged; choose another --out") from None
    if models and name not in models:
        raise ImproveError(f"{folder}: holds images of {models[0]}, not of {name}; choose another --out")


def _read(folder: Path, model: str, wanted: Sequence[Key]) -> dict[Key, MadeImage]:
    """Read what a run made, in the order that is wanted."""
    found = {(made.prompt_id, made.number): made for made in read_images(folder, model)}
    return {key: found[key] for key in wanted if key in found}


def seeds(prompts: Sequence[Prompt], images_per_prompt: int, seed: int) -> dict[Key, int]:
    """The seed of every image, which is the same for all methods."""
    return {(p.id, number): seed_of(seed, p.id, number) for p in prompts for number in range(images_per_prompt)}
