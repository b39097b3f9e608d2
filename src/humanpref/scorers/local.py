"""Models on this machine that are in no table: what `humanpref train` exported, or a file in HPS v2's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from humanpref.errors import WeightsError
from humanpref.scorers.base import ScorerSpec

SPEC = "humanpref.json"
SUFFIXES = (".pt", ".pth", ".safetensors")


def is_local(name: str) -> bool:
    """Tell whether a scorer's name is the path of a folder or weights file that is there."""
    try:
        path = Path(name).expanduser()
        return path.is_dir() or (path.suffix in SUFFIXES and path.is_file())
    except (OSError, ValueError, RuntimeError):
        return False


def local_spec(name: str) -> ScorerSpec:
    """The row of a trained model: of its folder, of a weights file in one, or of a lone file taken for HPS v2's layout.

    Raises `WeightsError` for a folder without a trained model, or whose description is damaged.
    """
    path = Path(name).expanduser().absolute()
    folder = path if path.is_dir() else path.parent
    if not (folder / SPEC).is_file():
        if path.is_dir():
            raise WeightsError(
                f"{path}: holds no trained model ({SPEC} is missing); give the export folder of a training run"
            )
        return ScorerSpec(
            path.stem, "a checkpoint on this machine", "its author's", reads_prompt=True, arch="ViT-H-14",
            file=path.name, path=str(path), preprocess="hps-v2", scale="cosine",
        )  # fmt: skip
    found = read_description(folder)
    file = path if path.is_file() else folder / found["weights"]
    family = found["family"]
    return ScorerSpec(
        name=str(found["name"]),
        summary="trained by humanpref train",
        licence="its author's",
        reads_prompt=bool(found.get("head", {}).get("reads_prompt", True)),
        arch=str(folder / found["arch"]),
        file=file.name,
        path=str(file),
        preprocess=str(found["preprocess"]),
        scale=str(found["scale"]),
        family=family,
    )


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `humanpref.json`. Raises `WeightsError`."""
    try:
        found = json.loads((folder / SPEC).read_text())
        known = found["family"] in {"clip", "head"} and found["preprocess"] == "hps-v2"
        names = [found["weights"], found["arch"]]
        inside = all(isinstance(n, str) and n and Path(n).name == n for n in names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder / SPEC}: damaged ({error}); export the model again") from None
    if not known or not inside or not isinstance(found.get("name"), str):
        raise WeightsError(f"{folder / SPEC}: describes no model that this version can load")
    return dict(found)
