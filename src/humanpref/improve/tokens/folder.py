"""The folder of a search: what it was begun with, so that no other is mixed in; its report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from humanpref.files import whole
from humanpref.generate.contract import Backend
from humanpref.improve.methods import ImproveError
from humanpref.improve.tokens.templates import Template
from humanpref.prompts.records import Prompt
from humanpref.scorers.base import Scorer

PLAN, REPORT = "search.json", "report.json"


def describe(
    prompts: Sequence[Prompt],
    backend: Backend,
    vocabulary: Sequence[Template],
    scorers: Sequence[Scorer],
    budget: int,
    seeds: int,
    finalists: int,
    seed: int,
) -> dict[str, object]:
    """All that decides which images are made: a folder holds one search."""
    asked = json.dumps([(prompt.id, prompt.text) for prompt in prompts])
    return {
        "version": 1,
        "backend": {"name": backend.name, "revision": backend.revision, **backend.settings},
        "scorers": [scorer.identity for scorer in scorers],
        "budget": budget,
        "seeds": seeds,
        "finalists": finalists,
        "seed": seed,
        "prompts": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "tokens": [[template.name, *template.texts] for template in vocabulary],
    }


def agree(out: Path, wanted: Mapping[str, object]) -> None:
    """Begin a search in a folder, or go on with the same one. Raises `ImproveError` naming what differs."""
    file = out / PLAN
    text = json.dumps(wanted, indent=1, ensure_ascii=False)
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ImproveError(f"{file}: is damaged; choose another --out") from None
        now = json.loads(text)
        if different := [name for name in now if before.get(name) != now[name]]:
            what = different[0]
            raise ImproveError(f"{out}: holds another search: its {what} differ; choose another --out")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ImproveError(f"{out}: holds other files and no {PLAN}; choose an empty or new folder for --out")
    write_text(file, text)


def write_text(file: Path, text: str) -> None:
    """Write a file whole. Raises `ImproveError`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ImproveError(f"{file}: cannot be written ({error.strerror or error})") from None
