"""Drop-in for the official package `hpsv2` (1.2.0): its functions, arguments and results over humanpref's scorers.

    import humanpref.compat.hpsv2 as hpsv2

    hpsv2.score(["a.png", "b.png"], "A cat with two horns on its head", hps_version="v2.1")
    hpsv2.evaluate("images/")  # images/<style>/00000.jpg ...

The numbers are the official ones (fp32 on a CPU, fp16 on CUDA, antialiased resize). What differs: a model is loaded
once, not at each call; and a `CompatWarning` says what the official package leaves unsaid. `use` puts another scorer
in place: weights of your own, the other resize, another precision.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from humanpref.compat import hpsv2_data as data
from humanpref.errors import DataError, ScoreError, UnknownNameError
from humanpref.scorers import Scorer, load_scorer
from humanpref.scorers.base import BatchScorer

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = [
    "CompatWarning",
    "benchmark_prompts",
    "evaluate",
    "evaluate_benchmark",
    "get_available_models",
    "score",
    "use",
]

CHUNK = 80
"""Images over which the benchmark's means are taken; the deviation printed is between these means."""

VERSIONS = {"v2.0": "hps-v2.0", "v2.1": "hps-v2.1", "v2": "hps-v2.0"}  # the official README says v2, its code v2.0

_loaded: dict[str, Scorer] = {}


class CompatWarning(UserWarning):
    """Something that makes a number mean less than it seems, about which the official package says nothing."""


class IllegalValueError(UnknownNameError, ValueError):
    """A style, model or version that does not exist; a `ValueError`, as callers of the official package expect."""


class IllegalTypeError(ScoreError, TypeError):
    """An argument that is no image and no path; a `TypeError`, as callers of the official package expect."""


def score(
    imgs_path: list[str | Path | Image.Image] | str | Path | Image.Image, prompt: str, hps_version: str = "v2.0"
) -> list[np.float32]:
    """Score images for one prompt -> raw cosines in [-1, 1], one per image, in order; an empty list of none.

    imgs_path: a path, a PIL image, or a list of them. hps_version: "v2.0" (the official default here, while that of
    `evaluate` is v2.1) or "v2.1"; their scores are not comparable.
    Raises `IllegalTypeError` (a `TypeError`) for anything else, `IllegalValueError` (a `ValueError`) for another
    version, `ImageError` for an image that cannot be read, `DownloadError` or `WeightsError` for weights not to be had.
    """
    import numpy as np
    from PIL import Image

    images = imgs_path if isinstance(imgs_path, list) else [imgs_path]
    for image in images:
        if not isinstance(image, (str, Path, Image.Image)):
            raise IllegalTypeError(f"imgs_path must be paths or PIL images, one or a list of them, got {type(image)}")
    scorer = _scorer(hps_version)
    _tell_truncated(scorer, [prompt])
    return [np.float32(value) for value in scorer.score(images, prompt).tolist()] if images else []


def evaluate(imgs_path: str | Path, batch_size: int = 20, hps_version: str = "v2.1") -> None:
    """Print a generator's rows of the benchmark: per style the mean over chunks of 80 and their deviation; the average.

    imgs_path: a folder of `<style>/00000.jpg ...`, numbered as in `benchmark_prompts`; its name stands for the model.
    batch_size: images that go through the model at a time; the figures do not depend on it.
    Figures are cosine x 100; "Average" is that of all images. Images that are missing are left out, as officially, and
    counted in a `CompatWarning`; so is what else makes the row incomparable.
    Raises `DataError` for a folder that is not so, `ImageError` for an image that cannot be read, and as `score` does.
    """
    folder = Path(imgs_path)
    found = _styles(folder)
    texts = data.prompts(found)
    chosen = {style: _present(folder / style, texts[style]) for style in found}
    scorer = _scorer(hps_version)
    if batch_size < 1:
        raise IllegalValueError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(scorer, BatchScorer):
        scorer.batch_size = batch_size
    _tell_truncated(scorer, [texts[style][index] for style in found for index in chosen[style]])
    scores = {
        style: _score_style(scorer, folder / style, [(index, texts[style][index]) for index in chosen[style]])
        for style in found
    }
    _print_rows(folder.resolve().name, scores)


def evaluate_benchmark(model_id: str, batch_size: int = 20, hps_version: str = "v2.1") -> None:
    """Fetch a published model's images (hundreds of MB) and print its rows as `evaluate` does.

    model_id: one of `get_available_models()`, or its archive's name. Raises `IllegalValueError` (a `ValueError`) for
    another, `DownloadError` where the images cannot be had, and as `evaluate` does.
    """
    models = data.available()
    archive = data.published(models, model_id)
    if archive is None:
        raise IllegalValueError(f"there are no images of {model_id!r}; choose from: {', '.join(models)}")
    evaluate(data.images(archive), batch_size, hps_version)


def benchmark_prompts(style: str = "all") -> dict[str, list[str]] | list[str]:
    """Return {style: its 800 prompts}, or the prompts of one style, found on disk or fetched once.

    Raises `IllegalValueError` (a `ValueError`) for another style, `DownloadError` where they cannot be had.
    """
    if style != "all" and style not in data.STYLES:
        raise IllegalValueError(f"no style is called {style!r}; choose from: all, {', '.join(data.STYLES)}")
    return data.prompts() if style == "all" else data.prompts([style])[style]


def get_available_models() -> list[str]:
    """Ask the Hub which published models' images can be had -> their names. Raises `DownloadError`."""
    return list(data.available())


def use(scorer: Scorer, hps_version: str = "v2.1") -> None:
    """Let `score` and `evaluate` work with this scorer for a version, in place of the published weights.

    For example `use(humanpref.load_scorer("hps-v2.1", weights="my.pt", resize="no-antialias"))`.
    Raises `IllegalValueError` for a version that does not exist.
    """
    _loaded[_name(hps_version)] = scorer


def _name(hps_version: str) -> str:
    if hps_version not in VERSIONS:
        raise IllegalValueError(f"no hps_version is called {hps_version!r}; choose from: v2.0, v2.1")
    return VERSIONS[hps_version]


def _scorer(hps_version: str) -> Scorer:
    """The scorer of a version, loaded at its first use and kept: the official package reads 2 GB at each call."""
    name = _name(hps_version)
    if name not in _loaded:
        import torch

        # "auto" would be bf16 on some CPUs: faster, but not the official numbers
        _loaded[name] = load_scorer(name, precision="auto" if torch.cuda.is_available() else "fp32")
        if len(_loaded) > 1:
            _warn("scores of v2.0 and v2.1 are both in use; they are not comparable (score defaults to v2.0)")
    return _loaded[name]


def _styles(folder: Path) -> list[str]:
    """The styles a folder of images has, in the benchmark's order. Raises `DataError`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; evaluate takes a folder of <style>/00000.jpg")
    inside = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if strange := sorted(inside - set(data.STYLES)):
        raise DataError(
            f"{folder}: {strange[0]} is not a style of the benchmark; it takes only folders called "
            f"{', '.join(data.STYLES)}"
        )
    found = [style for style in data.STYLES if style in inside]
    if not found:
        raise DataError(f"{folder}: is empty; it takes folders called {', '.join(data.STYLES)}")
    if len(found) < len(data.STYLES):
        _warn(
            f"{folder}: only {', '.join(found)}; the average is of {len(found)} of {len(data.STYLES)} styles, not "
            "comparable with published ones"
        )
    return found


def _present(folder: Path, prompts: Sequence[str]) -> list[int]:
    """The numbers of the images that are there, warning of those that are missing and of files that are not used."""
    if not folder.is_dir():
        raise DataError(f"{folder}: must be a folder of images 00000.jpg to {len(prompts) - 1:05d}.jpg")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    wanted = [_file(index) for index in range(len(prompts))]
    present = [index for index, name in enumerate(wanted) if name in names]
    if not present:
        raise DataError(f"{folder}: has none of the images {wanted[0]} to {wanted[-1]}")
    if missing := [name for name in wanted if name not in names]:
        _warn(
            f"{folder}: {len(missing)} of {len(wanted)} images are missing ({_some(missing)}); they are left out, "
            "so the figures are not comparable with those of complete sets"
        )
    if extra := sorted(names - set(wanted)):
        _warn(
            f"{folder}: {len(extra)} files are not looked at ({_some(extra)}); images are {wanted[0]} to {wanted[-1]}"
        )
    return present


def _file(index: int) -> str:
    return f"{index:05d}.jpg"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _score_style(scorer: Scorer, folder: Path, items: Sequence[tuple[int, str]]) -> list[float]:
    """Score one style's images, each for its own prompt -> cosine x 100, in order. Raises `ImageError`."""
    scores = scorer.score([folder / _file(index) for index, _ in items], [prompt for _, prompt in items])
    return [100 * value for value in scores.tolist()]


def chunk_statistics(scores: Sequence[float], size: int = CHUNK) -> tuple[float, float]:
    """Mean of the means of successive chunks, and the (population) standard deviation of these; the last may be short.

    As the official `evaluation.py` reports; for complete sets the first is the plain mean.
    """
    import numpy as np

    means = [np.mean(scores[start : start + size]) for start in range(0, len(scores), size)]
    return float(np.mean(means)), float(np.std(means))


def _print_rows(model: str, scores: dict[str, list[float]]) -> None:
    print("-----------benchmark score ---------------- ")
    for style, values in scores.items():
        mean, deviation = chunk_statistics(values)
        print(f"{model} {style:<15} {mean:.2f} \t {deviation:.4f}")
    every = [value for values in scores.values() for value in values]
    print(f"{model} {'Average':<15} {sum(every) / len(every):.2f} \t")


def _tell_truncated(scorer: Scorer, prompts: Sequence[str]) -> None:
    if long := sum(map(scorer.truncated, prompts)):
        which = "the prompt has" if len(prompts) == 1 else f"{long} of {len(prompts)} prompts have"
        _warn(f"{which} more than {scorer.spec.tokens} tokens; only the first {scorer.spec.tokens} are read")


def _warn(message: str) -> None:
    frame, depth = sys._getframe(1), 2
    while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, CompatWarning, stacklevel=depth)  # names the line that called this module
