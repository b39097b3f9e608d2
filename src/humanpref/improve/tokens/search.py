"""Which tokens raise the score? Successive halving on disk, and the finalists' gains on pictures that chose nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from humanpref.cache import ScoreCache
from humanpref.engines import Engine
from humanpref.generate.contract import Backend
from humanpref.improve.folder import check_out, held
from humanpref.improve.gains import Gain, corrected
from humanpref.improve.methods import ImproveError
from humanpref.improve.tokens.folder import PLAN, REPORT, agree, describe, write_text
from humanpref.improve.tokens.halving import Schedule, plan
from humanpref.improve.tokens.method import takes_negatives
from humanpref.improve.tokens.records import SearchReport, Verdict
from humanpref.improve.tokens.stage import Shared, Stage, State
from humanpref.improve.tokens.templates import Template
from humanpref.improve.tokens.vocabulary import check_vocabulary
from humanpref.progress import Track, no_note, no_track
from humanpref.prompts.records import Prompt
from humanpref.ranking import scorer_notes
from humanpref.resampling import MIN_CLUSTERS
from humanpref.scorers.base import Scorer
from humanpref.scorers.together import Together
from humanpref.tables import to_json

HOLD_OUT_FROM = 10
"""With so many prompts, half of them are kept for the holdout; with fewer it has other seeds of the same prompts."""
ALPHA = 0.05


def search_tokens(
    prompts: Sequence[Prompt],
    backend: Backend,
    vocabulary: Sequence[Template],
    scorer: Scorer,
    out: str | Path,
    *,
    check: Scorer | None = None,
    budget: int = 1000,
    seeds: int = 4,
    finalists: int = 3,
    seed: int = 0,
    cache: ScoreCache,
    engine: Engine | None = None,
    retry_failed: bool = False,
    track: Track = no_track,
    on_note: Callable[[str], None] = no_note,
) -> SearchReport:
    """Search the tokens that raise `scorer` most on these prompts, at `budget` images in all, those without included.

    Rounds try fewer and fewer candidates on more and more (prompt, seed) pairs (`humanpref.improve.tokens.halving`), at
    most `seeds` images a prompt. The `finalists` are then measured on pairs that chose nothing, since the best of many
    is partly the luckiest: of half the prompts from ten on, of other seeds with fewer. `check` scores the same
    pictures; a gain that it does not see makes a finalist suspect. Everything is in `out`: a call that was stopped,
    made again, goes on and makes no image twice.

    Raises `ImproveError` for a budget that is too small (naming the smallest), for negative prompts on a backend that
    takes none, for a folder of another search and where another run is writing, `DataError` for a vocabulary that is
    empty or repeats itself and for a folder of other files, `ScoreError` for a score that is no number, and what
    `generate` raises.
    """
    out = Path(out).expanduser()
    _check(prompts, backend, vocabulary, scorer, check, seeds, finalists)
    chosen = len(vocabulary) > finalists
    order = [prompts[i] for i in np.random.default_rng(seed).permutation(len(prompts))]
    apart = chosen and len(order) >= HOLD_OUT_FROM
    half = len(order) // 2 if apart else len(order)
    first, last = order[:half], order[half:] if apart else order
    schedule = plan(len(vocabulary), budget, len(first) * seeds, len(last) * seeds, finalists)
    scorers = [scorer] if check is None else [scorer, check]
    wanted = describe(prompts, backend, vocabulary, scorers, budget, seeds, finalists, seed)
    check_out(out, PLAN)
    with held(out):
        agree(out, wanted)
        search = Shared(backend, out, Together(scorers, cache), engine, retry_failed, track, on_note)
        selection = Stage(search, out / "selection", first, seed)
        holdout = Stage(search, out / "holdout", last, seed + 1)

        states = [State(template) for template in vocabulary]
        _hold_out(holdout, _select(selection, states, schedule), schedule)
        for text in _notes(schedule, budget, prompts, scorers, states, apart=apart, chosen=chosen):
            search.note(text)
        report = SearchReport(
            out=str(out),
            backend=backend.name,
            scorer=scorer.spec.name,
            check=None if check is None else check.spec.name,
            budget=budget,
            spent=selection.asked + holdout.asked,
            made=search.made,
            baseline_images=selection.baseline_images + holdout.baseline_images,
            schedule=schedule,
            selection_prompts=len(first) if chosen else 0,
            holdout_prompts=len(last),
            needed_prompts=prompts_needed(schedule.finalists),
            held_out_prompts=apart,
            candidates=tuple(state.report() for state in sorted(states, key=State.place)),
            notes=tuple(search.notes),
        )
        write_text(out / REPORT, to_json(asdict(report)))
        return report


def _select(stage: Stage, states: list[State], schedule: Schedule) -> list[State]:
    """Go through the rounds -> the finalists."""
    alive = states
    for number, one in enumerate(schedule.rounds, start=1):
        title = f"Round {number} of {len(schedule.rounds)}, {len(alive)} tokens"
        alive = stage.run(title, alive, one.pairs, number)
        for state in alive:
            state.selection, state.check_selection = stage.gains(state)
        alive = sorted(alive, key=lambda state: -state.gain)
        keep = schedule.rounds[number].candidates if number < len(schedule.rounds) else schedule.finalists
        for state in alive[keep:]:
            state.left_in, state.why = number, f"not among the best {keep}"
        alive = alive[:keep]
    return alive


def _hold_out(stage: Stage, finalists: list[State], schedule: Schedule) -> None:
    """Measure the finalists on pairs that chose nothing."""
    number = len(schedule.rounds) + 1
    finalists = stage.run(f"Holdout, {len(finalists)} tokens", finalists, schedule.holdout_pairs, number)
    found = [stage.gains(state) for state in finalists]
    checks = corrected([own for _, own in found if own is not None])
    for i, (state, gain) in enumerate(zip(finalists, corrected([gain for gain, _ in found]), strict=True)):
        state.holdout, state.check_holdout = gain, checks[i] if checks else None
        state.verdict = _verdict(gain, state.check_holdout, len(finalists))


def _verdict(gain: Gain, check: Gain | None, finalists: int) -> Verdict:
    if gain.ci is None or gain.prompts < prompts_needed(finalists):
        return "unknown"
    if gain.p_holm > ALPHA or not (gain.holds or gain.harms):
        return "no gain"
    if gain.harms:
        return "harms"
    return "suspect" if check is not None and not check.holds else "holds"


def prompts_needed(finalists: int) -> int:
    """Return how many prompts the holdout takes: with fewer not even gains on all could pass the sign-flip test."""
    return max(MIN_CLUSTERS, math.ceil(math.log2(2 * finalists / ALPHA)))


def _check(
    prompts: Sequence[Prompt],
    backend: Backend,
    vocabulary: Sequence[Template],
    scorer: Scorer,
    check: Scorer | None,
    seeds: int,
    finalists: int,
) -> None:
    check_vocabulary(vocabulary)
    if not prompts:
        raise ImproveError("no prompts to search on")
    if seeds < 1 or finalists < 1:
        raise ImproveError(f"seeds and finalists must be at least 1, got {seeds} and {finalists}")
    if check is not None and check.identity == scorer.identity:
        raise ImproveError(f"{scorer.spec.name} cannot check itself; name another scorer as the second")
    for template in vocabulary:
        if template.negative.strip() and not takes_negatives(backend):
            raise ImproveError(
                f"{template.name!r} has a negative prompt, which is for diffusers:MODEL alone, not {backend.name}"
            )


def _notes(
    schedule: Schedule,
    budget: int,
    prompts: Sequence[Prompt],
    scorers: Sequence[Scorer],
    states: Sequence[State],
    *,
    apart: bool,
    chosen: bool,
) -> list[str]:
    notes = [
        f"{state.template.name!r}: of {state.truncated} of {state.images} images the model read only the beginning of "
        "the prompt with its tokens"
        for state in states
        if state.truncated
    ]
    if chosen and not apart:
        notes.append(
            f"with fewer than {HOLD_OUT_FROM} prompts the holdout has other seeds of the same prompts: its gains are "
            "these prompts', no others'"
        )
    if schedule.used_up and schedule.images < budget:
        notes.append(
            f"prompts and seeds are used up: {budget - schedule.images} images of the budget are not needed; for more "
            "certainty give more prompts, or more seeds (--seeds)"
        )
    return [*notes, *scorer_notes(scorers, [prompt.text for prompt in prompts])]
