"""What annotation reads: all images of a prompt together, without ranks (then it would be a `Ranking`).

groups.jsonl, one prompt a line, paths below its folder:
{"prompt", "id", "prompt_source", "style", "images": [{"path", "source"}]}; what is not known is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from humanpref.data.folder import ImageFolder
from humanpref.data.layout import optional_text, text
from humanpref.data.rows import read_rows, write_rows
from humanpref.errors import DataError
from humanpref.generate.manifest import read_manifest
from humanpref.prompts.records import Prompt
from humanpref.records import Group

GROUPS = "groups.jsonl"


def write_groups(folder: Path, manifest: Path, prompts: Iterable[Prompt], models: Sequence[str]) -> set[str]:
    """Write the groups of all images in a manifest -> the ids that have any.

    `prompts` come first, in their order, then those of earlier runs; the images in the order of `models`.
    """
    known = {prompt.id: prompt for prompt in prompts}
    found: dict[str, list[tuple[int, int, str, str]]] = {name: [] for name in known}
    place = {model: n for n, model in enumerate(models)}
    for row in read_manifest(manifest):
        if row["status"] == "done":
            name, model = row["prompt_id"], row["model"]
            if name not in known:
                known[name] = Prompt(row["prompt"], name, row.get("prompt_source"), row.get("style"))
            found.setdefault(name, []).append((place.get(model, len(place)), row["number"], model, row["path"]))
    rows = (_row(known[name], images) for name, images in found.items() if images)
    write_rows(rows, folder / GROUPS, "jsonl", {})
    return {name for name, images in found.items() if images}


def _row(prompt: Prompt, images: list[tuple[int, int, str, str]]) -> dict[str, Any]:
    row = {"prompt": prompt.text, "id": prompt.id, "prompt_source": prompt.source, "style": prompt.style}
    entries = [{"path": path, "source": model} for _, _, model, path in sorted(images)]
    return {**{key: value for key, value in row.items() if value is not None}, "images": entries}


def read_groups(path: str | Path) -> Iterator[Group]:
    """Yield the groups of a run's folder (or of a groups file). Paths that lead out of the folder are refused."""
    path = Path(path).expanduser()
    file = path / GROUPS if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; `humanpref generate` writes it")
    folder = ImageFolder(file.parent)
    for number, row in read_rows(file, "jsonl"):
        try:
            if not isinstance(row, dict) or not {"prompt", "id", "images"} <= row.keys():
                raise DataError("expected prompt, id and images")
            images = tuple(folder.ref(image["path"], optional_text(image, "source")) for image in row["images"])
            yield Group(
                text(row, "prompt"),
                images,
                text(row, "id"),
                optional_text(row, "prompt_source"),
                optional_text(row, "style"),
            )
        except (DataError, TypeError, KeyError) as error:
            raise DataError(f"{file}: line {number}: {error}") from None
