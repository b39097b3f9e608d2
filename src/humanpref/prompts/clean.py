"""Cleaning a file of prompts: what is clean goes on, what needs a person is put aside, all of it can be reviewed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from humanpref.errors import DataError
from humanpref.prompts.files import PromptWriter, iter_prompts
from humanpref.prompts.records import STATUSES, Cleaned, Cleaner, Prompt

if TYPE_CHECKING:
    from humanpref.prompts.llm import Usage


@dataclass(frozen=True)
class CleanReport:
    """What became of the prompts: how many of each status, and why prompts were put aside (`held`)."""

    out: str
    held: str
    cleaner: str
    prompts: int
    status: Mapping[str, int]
    reasons: Mapping[str, int]
    usage: Usage | None


def count_prompts(path: str | Path) -> int:
    """How many prompts a file has."""
    return sum(1 for _ in iter_prompts(path))


def clean_prompts(prompts: Iterator[Prompt], cleaner: Cleaner) -> Iterator[tuple[Prompt, Cleaned]]:
    """Yield each prompt, with its text cleaned and its original kept, beside what was done to it."""
    ahead: list[Prompt] = []

    def texts() -> Iterator[str]:
        for prompt in prompts:
            ahead.append(prompt)
            yield prompt.text

    for cleaned in cleaner.clean(texts()):
        prompt = ahead.pop(0)
        yield replace(prompt, text=cleaned.text, original=prompt.original or cleaned.original), cleaned


def clean_file(
    path: str | Path,
    out: str | Path,
    cleaner: Cleaner,
    *,
    held: str | Path | None = None,
    review: str | Path | None = None,
    on_prompt: Callable[[], None] = lambda: None,
) -> CleanReport:
    """Clean the prompts of a file -> what became of them.

    `out` gets the prompts that are "clean" or "unchanged"; `held` (by default OUT.review.jsonl) those for "review", as
    they were, and the "empty" ones, with the reason; `review` a page of all. All are written whole or not at all.
    """
    from humanpref.prompts.review import ReviewPage

    out = Path(out).expanduser()
    held = Path(held).expanduser() if held is not None else out.with_name(f"{out.stem}.review.jsonl")
    given = Path(path).expanduser()
    if given.resolve() in {out.resolve(), held.resolve()} or out.resolve() == held.resolve():
        raise DataError(f"{out}: would overwrite the prompts that are read; name another file")
    status: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with ExitStack() as stack:
        good = stack.enter_context(PromptWriter(out))
        aside = stack.enter_context(PromptWriter(held))
        page = None if review is None else stack.enter_context(ReviewPage(review, cleaner.name))
        for prompt, cleaned in clean_prompts(iter_prompts(given), cleaner):
            status[cleaned.status] += 1
            extra = {"status": cleaned.status, "removed": list(cleaned.removed)}
            if cleaned.status in {"clean", "unchanged"}:
                good.write(prompt, extra)
            else:
                reasons[cleaned.reason.split(":")[0].split(" (")[0]] += 1
                aside.write(prompt, {**extra, "reason": cleaned.reason})
            if page is not None:
                page.add(prompt, cleaned)
            on_prompt()
        for writer in (good, aside):  # a full disk shows before one of them has its name
            writer.flush()
    counts: dict[str, int] = {name: status[name] for name in STATUSES}
    usage = getattr(cleaner, "usage", None)
    return CleanReport(str(out), str(held), cleaner.name, sum(counts.values()), counts,
                       dict(reasons.most_common()), usage)  # fmt: skip
