"""The folder of a search: what it was begun with, so that no other is mixed in; its report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """Begin a search in a folder that is held, or go on with the same one.

    Raises `ImproveError` naming what differs.
    """
    file = out / PLAN
    text = json.dumps(wanted, indent=1, ensure_ascii=False)
    if file.exists():
        now = json.loads(text)
        try:
            before = dict(json.loads(file.read_text(encoding="utf-8")))
            if not now.keys() <= before.keys():
                raise ValueError("parts are missing")
        except (OSError, ValueError, TypeError):
            raise ImproveError(f"{file}: is damaged; choose another --out") from None
        if different := [name for name in now if before[name] != now[name]]:
            what = _difference(different[0], before[different[0]], now[different[0]])
            raise ImproveError(f"{out}: holds another search: {what}; choose another --out")
        return
    write_text(file, text)


def _difference(what: str, was: Any, now: Any) -> str:
    """Say how one part of a plan differs, by its name and its two values, as far as a line can."""
    if what == "prompts":  # of which only the hash is known
        return "its prompts were others"
    if what == "backend":
        return _of_parts("the backend", was, now)
    special = {"tokens": _tokens_differ, "scorers": _scorers_differ}.get(what)
    return special(was, now) if special is not None else f"{what} was {was}, is now {now}"


def _tokens_differ(was: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> str:
    old, new = ({name: texts for name, *texts in tokens} for tokens in (was, now))
    other = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    if not other:
        return "its tokens were in another order"
    how = "is missing now" if other[0] not in new else "is new" if other[0] not in old else "had another text"
    return f"the token {other[0]!r} {how}"


def _scorers_differ(was: Sequence[str], now: Sequence[str]) -> str:
    old, new = ([dict(word.partition("=")[::2] for word in one.split()) for one in own] for own in (was, now))
    names, now_names = ([one.get("scorer", "?") for one in own] for own in (old, new))
    if names != now_names:
        return f"its scorers were {', '.join(names)}, are now {', '.join(now_names)}"
    before, after = next((a, b) for a, b in zip(old, new, strict=True) if a != b)
    return _of_parts(after["scorer"], before, after)


def _of_parts(of: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    name = next(name for name in (*was, *now) if was.get(name) != now.get(name))
    return f"{name} of {of} was {str(was.get(name))[:60]}, is now {str(now.get(name))[:60]}"


def write_text(file: Path, text: str) -> None:
    """Write a file whole. Raises `ImproveError`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ImproveError(f"{file}: cannot be written ({error.strerror or error})") from None
