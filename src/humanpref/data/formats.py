"""Foreign preference formats to `Ranking`; the only module that knows their field names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from humanpref.errors import DataError
from humanpref.records import ImageRef, Ranking


def read_rankings(data: str | Path, image_root: str | Path | None = None) -> list[Ranking]:
    """Read human rankings from an HPD v2 `test.json`, or a folder that holds one -> consensus and raw rankings.

    Each instance gives its consensus (`annotator` None) followed by its raw annotations. Images are looked for in
    `image_root`, else in a folder named like the file (`test/` beside `test.json`, as published), else beside it.
    Raises `DataError` when the data is not there or is not what the format says.
    """
    path = _find(Path(data).expanduser())
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: expected a list of instances, as in HPD v2's test.json")
    root = _image_root(path, image_root)
    rankings: list[Ranking] = []
    for number, row in enumerate(rows):
        rankings.extend(_hpdv2_test(row, root, f"{path}: instance {number}"))
    return rankings


def _find(path: Path) -> Path:
    if path.is_dir():
        if (path / "test.json").is_file():
            return path / "test.json"
        raise DataError(f"{path}: looked for test.json (HPD v2) in this folder and found none")
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    return path


def _image_root(path: Path, image_root: str | Path | None) -> Path:
    if image_root is not None:
        root = Path(image_root).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: the image root is not a folder")
        return root
    beside = path.with_suffix("")
    return beside if beside.is_dir() else path.parent


def _hpdv2_test(row: object, root: Path, where: str) -> list[Ranking]:
    """Official layout: {prompt, image_path, rank, raw_annotations: [{rank, user_hash}]}.

    rank[i] belongs to image_path[i]; 1 = best.
    """
    if not isinstance(row, Mapping) or not {"prompt", "image_path", "rank"} <= row.keys():
        raise DataError(f"{where}: expected prompt, image_path and rank, as in HPD v2's test.json")
    if not isinstance(row["image_path"], list) or not isinstance(row["rank"], list):
        raise DataError(f"{where}: image_path and rank must be lists")
    images = tuple(ImageRef(_inside(root, str(name), where)) for name in row["image_path"])
    judgements: list[tuple[object, str | None]] = [(row["rank"], None)]
    annotations = row.get("raw_annotations") or []
    try:
        judgements += [(a["rank"], str(a["user_hash"])) for a in annotations]
        return [Ranking(str(row["prompt"]), images, tuple(ranks), who) for ranks, who in judgements]  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: raw_annotations need rank and user_hash ({error})") from None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _inside(root: Path, name: str, where: str) -> Path:
    """Join, refusing names that lead out of the image folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{where}: image path {name!r} leads out of the image folder")
    return root / name
