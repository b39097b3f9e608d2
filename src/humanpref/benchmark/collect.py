"""Which image answers which prompt: images in the official layout, or of a run of `humanpref generate`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from humanpref.benchmark.suites import Suite
from humanpref.errors import DataError
from humanpref.generate.manifest import MANIFEST, read_images
from humanpref.images import SUFFIXES

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class PromptImage:
    """An image of the prompt at place `prompt` of the suite; `number` counts a prompt's images from 0 (its seeds)."""

    prompt: int
    number: int
    path: Path


@dataclass(frozen=True)
class GeneratorImages:
    """All that one generator made. `missing` are the places of prompts without an image."""

    generator: str
    images: tuple[PromptImage, ...]
    missing: tuple[int, ...]


def collect(path: str | Path, suite: Suite, name: str | None = None) -> list[GeneratorImages]:
    """Find the images of one or several generators below a folder.

    path: a folder with `<style>/00000.jpg` (jpg, png or webp; the number is the prompt's place in its style), or with
    `00000.jpg` directly (the place in the suite), or with such folders by generator, or one that `humanpref generate`
    wrote. name: what a single generator is called (default: its folder's name).

    Raises `DataError` for a folder that is none of these, a style that the suite does not have, more images than
    prompts, two images of one place, and for a run whose prompts are not (or no longer) those of the suite.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise DataError(f"{path}: is not a folder of images (<style>/00000.jpg ..., or made by humanpref generate)")
    if (path / MANIFEST).is_file():
        found = _from_manifest(path, suite)
    else:
        found = [_from_folder(folder, suite) for folder in _generator_folders(path, suite)]
    if name is not None:
        if len(found) > 1:
            raise DataError(f"{path}: holds {len(found)} generators, {name} can name only one")
        return [GeneratorImages(name, found[0].images, found[0].missing)]
    return found


def _generator_folders(path: Path, suite: Suite) -> list[Path]:
    """The folder itself, or those in it, each of one generator."""
    inside = _folders(path)
    if any(folder.name in suite.styles for folder in inside) or _has_images(path):
        return [path]
    own = [folder for folder in inside if _has_images(folder) or any(f.name in suite.styles for f in _folders(folder))]
    if not own:
        raise DataError(
            f"{path}: holds no images of the suite {suite.name}: expected folders {', '.join(suite.styles)} with "
            f"00000.jpg and so on (or .png, .webp)" + (f"; it has {_names(inside)}" if inside else "")
        )
    if strange := [folder for folder in inside if folder not in own]:
        raise DataError(f"{path}: {_names(strange)} holds no images of the suite {suite.name}; move it elsewhere")
    return own


def _from_folder(folder: Path, suite: Suite) -> GeneratorImages:
    places = {(prompt.style, prompt.index): place for place, prompt in enumerate(suite.prompts)}
    found: dict[int, Path] = {}
    inside = _folders(folder)
    if not inside:
        for number, file in _numbered(folder, len(suite.prompts), f"the suite {suite.name}"):
            _put(found, number, file)
    elif _has_images(folder):
        raise DataError(f"{folder}: holds both images and folders; use <style>/00000.jpg, or 00000.jpg alone")
    for style in inside:
        if style.name not in suite.styles:
            raise DataError(
                f"{folder}: {style.name!r} is no style of the suite {suite.name} (it has {', '.join(suite.styles)}); "
                "rename or move the folder"
            )
        for number, file in _numbered(style, suite.styles[style.name], f"style {style.name}"):
            _put(found, places[style.name, number], file)
    images = tuple(PromptImage(place, 0, found[place]) for place in sorted(found))
    name = folder.name or folder.resolve().name
    return GeneratorImages(name, images, tuple(p for p in range(len(suite.prompts)) if p not in found))


def _numbered(folder: Path, prompts: int, what: str) -> Iterator[tuple[int, Path]]:
    for file in sorted(_images(folder)):
        if not re.fullmatch(r"[0-9]{1,9}", file.stem) or file.suffix.lower() not in ENDINGS:
            raise DataError(
                f"{file}: an image of a benchmark is named by its prompt's place, as 00000.jpg (or png, webp)"
            )
        number = int(file.stem)
        if number >= prompts:
            raise DataError(f"{file}: more images than prompts: {what} has {prompts}, so the last is {prompts - 1:05d}")
        yield number, file


def _put(found: dict[int, Path], place: int, file: Path) -> None:
    if place in found:
        raise DataError(f"{file}: {found[place].name} is of the same prompt; leave one of the two")
    found[place] = file


def _from_manifest(folder: Path, suite: Suite) -> list[GeneratorImages]:
    by_id = {prompt.id: place for place, prompt in enumerate(suite.prompts)}
    by_text = {prompt.text: place for place, prompt in enumerate(suite.prompts)}
    found: dict[str, list[PromptImage]] = {}
    for made in read_images(folder):
        place = by_id.get(made.prompt_id)
        if place is None or suite.prompts[place].text != made.prompt:
            if place is not None and made.prompt not in by_text:
                raise DataError(
                    f"{folder}: prompt {made.prompt_id!r} has changed since the run: it was {made.prompt[:60]!r}, "
                    f"in the suite {suite.name} it is {suite.prompts[place].text[:60]!r}; generate it again"
                )
            place = by_text.get(made.prompt)
        if place is None:
            raise DataError(
                f"{folder}: {made.prompt[:60]!r} is not in the suite {suite.name}; name the suite the run was made "
                "from, or generate the suite's prompts"
            )
        own = found.setdefault(made.model, [])
        if made.path is not None and made.path.is_file():  # else it is missing
            own.append(PromptImage(place, made.number, made.path))
    if not found:
        raise DataError(f"{folder}: the run has made no image yet")
    return [_complete(model, images, suite) for model, images in found.items()]


def _complete(model: str, images: Sequence[PromptImage], suite: Suite) -> GeneratorImages:
    ordered = tuple(sorted(images, key=lambda image: (image.prompt, image.number)))
    there = {image.prompt for image in ordered}
    return GeneratorImages(model, ordered, tuple(p for p in range(len(suite.prompts)) if p not in there))


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(path: Path) -> list[Path]:
    return [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file() and not f.name.startswith(".")]


def _has_images(path: Path) -> bool:
    return bool(_images(path))


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(folder.name for folder in folders[:5]) + (", ..." if len(folders) > 5 else "")
