"""The groups and images of a project as rows, and whether an image is still as its row says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from humanpref.annotate.records import ProjectGroup
from humanpref.annotate.schema import groups, images


def image_problem(path: Path, root: Path, row: sa.RowMapping) -> tuple[str, str] | None:
    """Return the code of what is wrong with an image, and words for it; None where it is as it was."""
    try:
        if not path.resolve().is_relative_to(root):
            return "image_changed", "leads out of the image folder"
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) == (row["size"], row["modified_ns"]):
            return None
        if hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]:
            return None
    except OSError:
        return "image_gone", "cannot be read"
    return "image_changed", "is another picture than it was"


def put_groups(connection: sa.Connection, found: Sequence[ProjectGroup], root: Path, seed: int) -> None:
    """Insert groups and their images. Raises `OSError` for an image that is not there."""
    connection.execute(groups.insert(), [_group_row(group, seed) for group in found])
    numbers = {key: number for number, key in connection.execute(sa.select(groups.c.id, groups.c.key))}
    rows = []
    for group in found:
        for position, image in enumerate(group.images):
            state = (root / image.path).stat()
            rows.append(
                {
                    "group_id": numbers[group.key],
                    "position": position,
                    "path": image.path,
                    "sha256": image.sha256,
                    "size": state.st_size,
                    "modified_ns": state.st_mtime_ns,
                    "source": image.source,
                }
            )
    connection.execute(images.insert(), rows)


def _group_row(group: ProjectGroup, seed: int) -> dict[str, Any]:
    digest = hashlib.sha256(f"{seed}\0{group.key}".encode()).digest()
    return {
        "key": group.key,
        "role": group.role,
        "prompt": group.prompt,
        "prompt_source": group.prompt_source,
        "style": group.style,
        "gold_ranks": None if group.gold_ranks is None else json.dumps(group.gold_ranks),
        "place": int.from_bytes(digest[:6], "big") / 2**48,
        "taken": 0,
    }
