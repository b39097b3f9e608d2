"""The processes of a Ray cluster that a test started."""

from __future__ import annotations

import os
from pathlib import Path


def actors() -> list[int]:
    """The processes of the actors of this process's cluster."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.joinpath("cmdline").read_bytes().startswith(b"ray::Holder") and os.getpid() in ancestors(path):
                found.append(int(path.name))
        except (OSError, ValueError):  # it ended meanwhile
            continue
    return found


def ancestors(path: Path) -> list[int]:
    found = [int(path.name)]
    while found[-1] > 1:
        found.append(int(Path(f"/proc/{found[-1]}/stat").read_text().rsplit(")", 1)[1].split()[1]))
    return found
