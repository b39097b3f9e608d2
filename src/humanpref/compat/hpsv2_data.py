"""What the benchmark of the drop-in needs on disk: the four styles' prompts, and the published models' images.

`$HPS_ROOT` (default `~/.cache/hpsv2`) is where the official package keeps them, in `datasets/benchmark`: what is there
is used. What is not is fetched from the pinned commit and verified (`humanpref.data.fetch`) into `humanpref/` beside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from humanpref.benchmark.suites import HPS_STYLES
from humanpref.compat.models import ARCHIVES
from humanpref.data.fetch import fetch, list_files, plan_download
from humanpref.data.sources import DATASETS, Dataset
from humanpref.errors import DataError, DownloadError

STYLES = HPS_STYLES
"""The styles of the HPS v2 benchmark, in the order of its tables (animation, concept-art, painting, photo)."""

_IMAGES = "benchmark/benchmark_imgs/"


def root() -> Path:
    """Return the folder of the drop-in's data: `$HPS_ROOT`, as for the official package, or `~/.cache/hpsv2`."""
    return Path(os.environ.get("HPS_ROOT") or "~/.cache/hpsv2").expanduser()


def prompts(styles: Iterable[str] = STYLES) -> dict[str, list[str]]:
    """Return {style: prompts}, found on disk or fetched; prompt i of a style is that of its image `{i:05d}.jpg`.

    Raises `DownloadError` where they are not here and cannot be had, `DataError` for a file that is no list of texts.
    """
    own, official = root() / "humanpref" / "prompts", root() / "datasets" / "benchmark"
    folder = next((place for place in (own, official) if _has_prompts(place)), None)
    if folder is None:
        dataset = _part("prompts", "benchmark/", [f"benchmark/{style}.json" for style in STYLES])
        try:
            folder = fetch(plan_download(dataset, own))
        except DownloadError as error:
            raise DownloadError(f"{error}, and put {', '.join(f'{s}.json' for s in STYLES)} in {official}") from None
    return {style: _read(folder / f"{style}.json") for style in styles}


def available() -> dict[str, str]:
    """Ask the Hub -> {model name: archive name} of every model whose images are published. Raises `DownloadError`."""
    files = list_files(_part("images", _IMAGES, [f"{_IMAGES}*.tar.gz"]))
    names = [file.path.removeprefix(_IMAGES).removesuffix(".tar.gz") for file in files]
    return {ARCHIVES.get(name, name): name for name in names}


def images(archive: str) -> Path:
    """Return the folder of a published model's images (`<style>/00000.jpg`), fetched and verified if need be.

    Raises `DownloadError` where they cannot be had, `DataError` for an archive that is damaged or unsafe.
    """
    official = root() / "datasets" / _IMAGES / archive
    if official.is_dir():
        return official
    dataset = _part(f"images of {archive}", _IMAGES, [f"{_IMAGES}{archive}.tar.gz"])
    return fetch(plan_download(dataset, root() / "humanpref" / "images" / archive)) / archive


def _part(name: str, strip: str, files: Iterable[str]) -> Dataset:
    """Some of the benchmark's files as a dataset of their own, at its commit and with its checksums."""
    whole = DATASETS["hps-benchmark"]
    return replace(whole, name=f"{whole.name} ({name})", files=tuple(files), strip=strip)


def _has_prompts(folder: Path) -> bool:
    return all((folder / f"{style}.json").is_file() for style in STYLES)


def _read(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); delete it, and it is fetched anew") from None
    if not isinstance(found, list) or not found or not all(isinstance(prompt, str) for prompt in found):
        raise DataError(f"{path}: must be a list of prompts; delete it, and it is fetched anew")
    return found


def published(models: Mapping[str, str], model_id: str) -> str | None:
    """Return the archive of a model given by its name or its archive's name; None where there is none."""
    return models.get(model_id, model_id if model_id in models.values() else None)
