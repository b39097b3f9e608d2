"""What a search for tokens found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from humanpref.improve.gains import Gain
from humanpref.improve.tokens.halving import Schedule
from humanpref.improve.tokens.templates import Template

Verdict: TypeAlias = Literal["holds", "suspect", "no gain", "harms", "unknown", "eliminated"]


@dataclass(frozen=True)
class Candidate:
    """What became of one candidate.

    `images` asked for, of which `missing` are not there (refused or failed) and of `truncated` the model read only the
    beginning of the prompt. `left_in` is the round, from 1, after which it was left, None for a finalist; `why` says
    so. `selection` is the gain on the pairs that chose it and so too good for what was chosen; `holdout`, on other
    pairs, is not; its p values are corrected for the number of finalists. `check_*` are the second scorer's on the same
    pictures.
    """

    template: Template
    images: int
    missing: int
    truncated: int
    left_in: int | None
    why: str
    selection: Gain | None
    check_selection: Gain | None
    holdout: Gain | None
    check_holdout: Gain | None
    verdict: Verdict
    spec: str | None


@dataclass(frozen=True)
class SearchReport:
    """A search: finalists first, best first, then the others, last left first.

    `spent` images of the `budget`, `baseline_images` of them without tokens. `held_out_prompts`: the holdout is of
    other prompts than the selection, not only of other seeds. With fewer holdout prompts than `needed_prompts` no
    gain can be said to hold ("unknown"). `notes` are for the person who reads.
    """

    out: str
    backend: str
    scorer: str
    check: str | None
    budget: int
    spent: int
    made: int
    baseline_images: int
    schedule: Schedule
    selection_prompts: int
    holdout_prompts: int
    needed_prompts: int
    held_out_prompts: bool
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def suspects(self) -> tuple[Candidate, ...]:
        """Finalists whose gain the second scorer does not see: the first one may be fooled (reward hacking)."""
        return tuple(one for one in self.candidates if one.verdict == "suspect")
