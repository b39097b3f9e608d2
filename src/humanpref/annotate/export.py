"""What people said, as preference data: judgements to `Ranking` records to a file of any dataset's format.

Nobody's name leaves: annotators are called by their handles. Whatever is left out is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from humanpref.annotate import aggregate
from humanpref.annotate.quality import Groups, checked_ranks
from humanpref.annotate.records import Annotator, Judgement, ProjectGroup
from humanpref.data.formats import DROPPABLE, Format, get_format, write_rankings
from humanpref.data.pairs import explode
from humanpref.errors import DataError, UnknownNameError
from humanpref.records import ImageRef, Ranking

LAYOUTS = ("rankings", "hpdv2-train", "hpdv2-test", "pickapic", "pairs")
"""The layouts that can be exported, each in any of its containers (`rankings-parquet`)."""

DEFAULT_CONSENSUS = "mean_rank"


@dataclass(frozen=True)
class ExportReport:
    """What was written and what was not. Every judgement is counted once:

    judgements = rankings + skips + of_excluded + of_unsafe + without_consensus + gold + repeats + practice.

    `rankings` were written, of `groups` groups by `annotators` people, with `consensuses` common orders by `consensus`
    (None where the format has none) as `rows` records (pairs where the format has pairs; one for each order otherwise).
    Left out are skips, the rankings of excluded annotators (`excluded` people) and of groups marked as unsafe, both
    unless asked for, and what checks annotators: gold, repeats, practice. `unsafe_groups` were marked, kept or not;
    `empty_groups` task groups have nothing in the file. `without_consensus`: rankings of groups without a common order
    (see `aggregate.consensus`), where the format needs one. `fields` are what the format cannot hold.
    """

    path: Path
    format: str
    consensus: str | None
    judgements: int
    groups: int
    annotators: int
    rankings: int
    consensuses: int
    rows: int
    skips: int
    excluded: int
    of_excluded: int
    unsafe_groups: int
    of_unsafe: int
    without_consensus: int
    gold: int
    repeats: int
    practice: int
    empty_groups: int
    fields: tuple[str, ...]


def export(
    judgements: Sequence[Judgement],
    groups: Groups,
    annotators: Iterable[Annotator],
    path: str | Path,
    *,
    image_folder: str | Path,
    format: str = "rankings",  # noqa: A002 - as in write_rankings
    consensus: str | None = None,
    keep_excluded: bool = False,
    keep_unsafe: bool = False,
) -> ExportReport:
    """Write the task rankings in a format, whole or not at all, images named relative to `image_folder`.

    format: of `LAYOUTS`; those that hold pairs get every pair of every ranking. consensus (`aggregate.METHODS`): also
    the common order of each group, as a ranking without an annotator; "hpdv2-test" always has one, by default the mean
    rank, and pairs never. keep_excluded, keep_unsafe: also rankings by excluded annotators, and of groups in which one
    who counts marked an image as unsafe. Raises `DataError` where an answer does not fit its group or annotators, there
    is nothing to write, or the file cannot be; `UnknownNameError`, `MissingExtraError`.
    """
    chosen = _format(format)
    pairs = "groups" not in chosen.layout.holds
    if pairs and consensus is not None:
        raise DataError(f"{chosen.name} holds pairs, each by one person; a consensus goes into rankings or hpdv2-test")
    if chosen.layout.name == "hpdv2-test":
        consensus = consensus or DEFAULT_CONSENSUS
    handles, excluded = _people(annotators)
    gone = frozenset[int]() if keep_excluded else excluded
    found = _sort(judgements, groups, handles, gone, keep_unsafe=keep_unsafe)
    if consensus is not None:
        found = _with_orders(found, groups, consensus, needed=chosen.layout.name == "hpdv2-test")
    if not found.kept:
        left = ", ".join(f"{name.replace('_', ' ')}: {n}" for name, n in sorted(found.counts.items()) if n)
        raise DataError(f"{path}: there is nothing to export ({left or 'there are no answers'})")
    root, lost = Path(image_folder).expanduser(), set(DROPPABLE) - chosen.layout.holds - {"soft"}
    rankings = _rankings(found, groups, handles, root, numbered=chosen.layout.name == "pickapic")
    rows = (pair for ranking in rankings for pair in explode(ranking)) if pairs else rankings
    written = write_rankings(rows, path, chosen.name, image_root=root, drop=lost)
    keys = {j.group for j in found.kept}
    return ExportReport(
        path=Path(path),
        format=chosen.name,
        consensus=consensus,
        judgements=len(judgements),
        groups=len(keys),
        annotators=len({j.annotator for j in found.kept}),
        consensuses=len(found.orders),
        rows=written,
        excluded=found.excluded,
        unsafe_groups=found.unsafe,
        empty_groups=sum(g.role == "task" and g.key not in keys for g in groups.values()),
        fields=tuple(name for name in DROPPABLE if name in lost),
        **{name: found.counts[name] for name in _FATES},
    )


_FATES = ("rankings", "skips", "of_excluded", "of_unsafe", "without_consensus", "gold", "repeats", "practice")


@dataclass(frozen=True)
class _Sorted:
    """What is to be written, and how many judgements had which of `_FATES`."""

    kept: list[Judgement]
    counts: Counter[str]
    excluded: int
    unsafe: int
    orders: Mapping[str, aggregate.Consensus]


def _sort(
    judgements: Sequence[Judgement],
    groups: Groups,
    handles: Mapping[int, str],
    gone: Collection[int],
    *,
    keep_unsafe: bool,
) -> _Sorted:
    unsafe = {j.group for j in judgements if j.unsafe and j.kind != "practice" and j.annotator not in gone}
    fates = [_fate(j, groups, handles, gone, () if keep_unsafe else unsafe) for j in judgements]
    excluded = {j.annotator for j, fate in zip(judgements, fates, strict=True) if fate == "of_excluded"}
    kept = [j for j, fate in zip(judgements, fates, strict=True) if fate == "rankings"]
    return _Sorted(kept, Counter(fates), len(excluded), len(unsafe), {})


def _with_orders(found: _Sorted, groups: Groups, method: str, *, needed: bool) -> _Sorted:
    """Add the common orders; where the format needs one, rankings of groups without are left out."""
    orders = aggregate.consensus(found.kept, groups, method)
    kept = [j for j in found.kept if j.group in orders or not needed]
    lost = len(found.kept) - len(kept)
    counts = found.counts + Counter(without_consensus=lost) - Counter(rankings=lost)
    return replace(found, kept=kept, counts=counts, orders=orders)


def _format(name: str) -> Format:
    chosen = get_format(name)
    if chosen.layout.name not in LAYOUTS:
        raise UnknownNameError(f"annotations are not exported as {name}; choose from: {', '.join(LAYOUTS)}")
    return chosen


def _people(annotators: Iterable[Annotator]) -> tuple[dict[int, str], frozenset[int]]:
    """Handles by number, and who is excluded."""
    people = list(annotators)
    handles = {one.number: one.handle for one in people}
    if len(set(handles.values())) < len(people):
        raise DataError("two annotators have the same handle or number: what they said could not be told apart")
    return handles, frozenset(one.number for one in people if one.excluded is not None)


def _fate(
    judgement: Judgement, groups: Groups, handles: Mapping[int, str], gone: Collection[int], unsafe: Collection[str]
) -> str:
    """Under what a judgement is counted."""
    ranks = checked_ranks(judgement, groups)
    if judgement.annotator not in handles:
        raise DataError(f"judgement {judgement.number}: there is no annotator {judgement.annotator}")
    if judgement.kind != "task":
        return "repeats" if judgement.kind == "repeat" else judgement.kind
    if ranks is None:
        return "skips"
    if judgement.annotator in gone:
        return "of_excluded"
    return "of_unsafe" if judgement.group in unsafe else "rankings"


def _rankings(
    found: _Sorted, groups: Groups, handles: Mapping[int, str], root: Path, *, numbered: bool
) -> Iterator[Ranking]:
    """Group by group: the common order, where there is one, then what each one said, in the order of the answers.

    numbered: with whole numbers for ids, as Pick-a-Pic has them: of the ranking, and of the annotator by the handle.
    """
    by_group: dict[str, list[Judgement]] = {}
    for judgement in found.kept:
        by_group.setdefault(judgement.group, []).append(judgement)
    numbers = _numbers(handles) if numbered else {}
    for key, group in groups.items():
        if key in found.orders:
            yield _ranking(group, found.orders[key].ranks, root)
        for judgement in by_group.get(key, ()):
            ranking = replace(_ranking(group, judgement.ranks or (), root), annotator=handles[judgement.annotator])
            if numbered:
                who = str(numbers[judgement.annotator])
                ranking = replace(ranking, annotator=who, id=str(judgement.number))
            yield ranking


def _ranking(group: ProjectGroup, ranks: tuple[int, ...], root: Path) -> Ranking:
    images = tuple(ImageRef(root / image.path, image.source) for image in group.images)
    return Ranking(group.prompt, images, ranks, id=group.key, prompt_source=group.prompt_source, style=group.style)


def _numbers(handles: Mapping[int, str]) -> dict[int, int]:
    """A whole number for each handle, the same in every export: of its SHA-256, below 2^53 so that every reader of
    numbers keeps it."""
    found = {who: int.from_bytes(hashlib.sha256(h.encode()).digest()[:8], "big") >> 11 for who, h in handles.items()}
    if len(set(found.values())) < len(found):
        raise DataError("two handles have the same number; export rankings instead")
    return found
