"""One stage of a search: candidates and the baseline on the same (prompt, seed) pairs, made, kept, scored, compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from humanpref.engines import Engine
from humanpref.errors import ImageError
from humanpref.generate.contract import Backend, GenerateError, file_name
from humanpref.generate.manifest import MadeImage, read_images
from humanpref.generate.run import generate
from humanpref.improve.gains import Gain, paired_gain
from humanpref.improve.methods import ImproveError
from humanpref.improve.tokens.halving import split_pairs
from humanpref.improve.tokens.method import spec_of, with_tokens
from humanpref.improve.tokens.records import Candidate, Verdict
from humanpref.improve.tokens.templates import Template
from humanpref.progress import Track
from humanpref.prompts.records import Prompt
from humanpref.scorers.together import Together

Pair: TypeAlias = "tuple[str, int]"
"""A prompt's id and the number of its image."""

BASELINE = "baseline"
MOST_MISSING = 0.25
"""A candidate that lacks more of its images is left: the others shall not be compared on what remains."""


@dataclass
class State:
    """A candidate on its way."""

    template: Template
    images: int = 0
    missing: int = 0
    truncated: int = 0
    left_in: int | None = None
    why: str = ""
    selection: Gain | None = None
    check_selection: Gain | None = None
    holdout: Gain | None = None
    check_holdout: Gain | None = None
    verdict: Verdict = "eliminated"

    @property
    def gain(self) -> float:
        """The gain that counts: on the holdout, else on the pairs that chose."""
        found = self.holdout or self.selection
        return -math.inf if found is None else found.gain

    def place(self) -> tuple[float, float]:
        """Finalists first, then who was left last; the better gain first."""
        return (-math.inf if self.left_in is None else -self.left_in, -self.gain)

    def report(self) -> Candidate:
        """What is told of it."""
        return Candidate(
            self.template,
            self.images,
            self.missing,
            self.truncated,
            self.left_in,
            self.why,
            self.selection,
            self.check_selection,
            self.holdout,
            self.check_holdout,
            self.verdict,
            spec_of(self.template),
        )


@dataclass
class Shared:
    """What both stages share."""

    backend: Backend
    out: Path
    together: Together
    engine: Engine | None
    retry_failed: bool
    track: Track
    on_note: Callable[[str], None]
    made: int = 0
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Tell it now, and keep it for the report."""
        self.notes.append(text)
        self.on_note(text)


class Stage:
    """Selection or holdout: its prompts in a fixed order, its pictures and their scores."""

    def __init__(self, shared: Shared, folder: Path, prompts: Sequence[Prompt], seed: int) -> None:
        self.shared, self.folder, self.prompts, self.seed = shared, folder, prompts, seed
        self.texts = {prompt.id: prompt.text for prompt in prompts}
        self.scores: dict[str, list[dict[Pair, float]]] = {}  # by candidate, then by scorer
        self.made: dict[str, dict[Pair, MadeImage]] = {}
        self.pairs: list[Pair] = []
        self.count = 0

    @property
    def asked(self) -> int:
        """All images that were asked for."""
        return sum(map(len, self.made.values()))

    @property
    def baseline_images(self) -> int:
        """Those without tokens."""
        return len(self.made.get(BASELINE, ()))

    def run(self, title: str, states: Sequence[State], count: int, number: int) -> list[State]:
        """Make and score the first `count` pairs of the baseline and the candidates -> those that have their images."""
        names = [BASELINE, *(_key(state.template) for state in states)]
        new, self.count = count - self.count, count
        with self.shared.track(title, new * len(names)) as advance:
            self._make(BASELINE, self.shared.backend, count, new, advance)
            for state in states:  # made of the backend one at a time: each may hold a pipeline of its own
                tokens = with_tokens(self.shared.backend, state.template)
                self._make(_key(state.template), tokens, count, new, advance)
        self._score(names)
        wanted = [
            (prompt.id, place)
            for first, images in split_pairs(count, len(self.prompts))
            for prompt in self.prompts[:first]
            for place in range(images)
        ]
        wanted = list(dict.fromkeys(wanted))
        kept = [state for state in states if self._has_images(state, wanted, number)]
        found = [self.scores[name][0] for name in (BASELINE, *(_key(state.template) for state in kept))]
        self.pairs = [pair for pair in wanted if all(pair in scores for scores in found)]  # none has easier ones
        if not kept or not self.pairs:
            raise ImproveError(
                f"{self.folder}: too many images failed or were refused to compare anything; the reasons are in the "
                f"manifests there; --retry-failed makes failed ones again"
            )
        if dropped := len(wanted) - len(self.pairs):
            self.shared.note(f"{title}: {dropped} of {len(wanted)} pairs are left out for all: an image is missing")
        return kept

    def gains(self, state: State) -> tuple[Gain, Gain | None]:
        """Return a candidate's gain by the first scorer and, where there is one, by the second."""
        prompts, found = [prompt for prompt, _ in self.pairs], []
        for scorer, base, own in zip(
            self.shared.together.scorers, self.scores[BASELINE], self.scores[_key(state.template)], strict=True
        ):
            without, with_it = (np.array([scores[pair] for pair in self.pairs]) for scores in (base, own))
            gain = paired_gain(state.template.name, scorer.spec.name, without, with_it, prompts)
            assert gain is not None  # there is at least one pair, and every score is a number
            found.append(gain)
        return found[0], found[1] if len(found) > 1 else None

    def _make(self, name: str, backend: Backend, count: int, new: int, advance: Callable[[], None]) -> None:
        folder = self.folder / name
        made = 0
        for first, images in split_pairs(count, len(self.prompts)):
            try:
                report = generate(
                    self.prompts[:first],
                    [backend],
                    folder,
                    seed=self.seed,
                    images_per_prompt=images,
                    engine=self.shared.engine,
                    retry_failed=self.shared.retry_failed and name not in self.made,  # once, not in every round
                    track=lambda _, __: nullcontext(advance),
                    on_note=lambda note: self.shared.note(f"{name}: {note}"),
                )
            except GenerateError as error:
                raise GenerateError(f"{name}: {error}") from None
            made += report.made + report.refused + report.failed
        self.shared.made += made
        for _ in range(new - made):  # there already
            advance()
        self.made[name] = {(one.prompt_id, one.number): one for one in read_images(folder, backend.name)}

    def _score(self, names: Sequence[str]) -> None:
        todo: list[tuple[str, Pair, Path]] = []
        for name in names:
            scores = self.scores.setdefault(name, [{} for _ in self.shared.together.scorers])
            paths = ((pair, made.path) for pair, made in self.made[name].items())
            todo += [(name, pair, path) for pair, path in paths if path is not None and pair not in scores[0]]
        with self.shared.track("Scoring", len(todo)) as advance:
            judged = self.shared.together.score([(path, self.texts[pair[0]]) for _, pair, path in todo])
            for (name, pair, _), one in zip(todo, judged, strict=True):
                for known, score in zip(self.scores[name], one.outcomes, strict=True):
                    if isinstance(score, ImageError):
                        raise score
                    known[pair] = score
                advance()

    def _has_images(self, state: State, wanted: Sequence[Pair], number: int) -> bool:
        made = self.made[_key(state.template)]
        before = self.folder.name == "holdout"
        state.images = len(made) + (state.images if before else 0)
        missing = sum(pair not in made or made[pair].path is None for pair in wanted)
        state.missing = missing + (state.missing if before else 0)
        state.truncated = sum(one.truncated for one in made.values()) + (state.truncated if before else 0)
        if missing > MOST_MISSING * len(wanted):
            state.left_in, state.why = number, f"{missing} of {len(wanted)} images are missing"
            self.shared.note(f"{state.template.name!r} is left: {state.why}")
            return False
        return True


def _key(template: Template) -> str:
    """The folder of a candidate's images."""
    return f"tokens-{file_name(template.name)}"
