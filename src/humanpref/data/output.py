"""What the data commands show: records to text. Pure: returns strings, prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from humanpref.data.stats import DataStats
from humanpref.data.validate import Validation
from humanpref.tables import to_json

SHOWN = 5
"""How many cases of each problem the table lists; the JSON lists all."""


def validation_json(found: Validation) -> str:
    """The record as it is, every case listed."""
    return to_json(asdict(found))


def validation_table(found: Validation) -> str:
    """Counts, then each kind of problem with its first cases."""
    lines = [
        f"{found.data} ({found.format}): {found.instances} instances, {found.rankings} rankings, {found.images} images"
    ]
    for problem in found.problems:
        lines.append(f"  {problem.count} {problem.title}{'' if problem.fatal else ' (allowed)'}")
        lines += [f"      {case}" for case in problem.cases[:SHOWN]]
        if problem.count > SHOWN:
            lines.append(f"      ... and {problem.count - SHOWN} more (--format json lists all)")
    lines.append("nothing is wrong" if found.ok else "something is wrong")
    return "\n".join(lines)


def stats_json(stats: DataStats) -> str:
    """The record as it is."""
    return to_json(asdict(stats))


def stats_table(stats: DataStats) -> str:
    """One count a line, then images per group and per source."""
    rows: list[tuple[str, str]] = [
        ("format", stats.format),
        ("prompts", f"{stats.prompts:,}"),
        ("instances", f"{stats.instances:,}"),
        ("images", f"{stats.images:,}"),
        ("pairs", f"{stats.pairs:,}"),
        ("rankings", f"{stats.rankings:,}"),
        ("annotators", f"{stats.annotators:,}"),
        ("judged pairs", f"{stats.judged_pairs:,} ({100 * stats.ties:.1f} % tied)"),
        ("one annotator with another", _percent(stats.between_annotators)),
        ("one annotator with the others", _percent(stats.with_others)),
        ("images per group", _counts([(f"{size}", n) for size, n in stats.images_per_group.items()], " groups")),
        ("image sources", _counts(list(stats.sources.items()), "")),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join([stats.data, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _counts(pairs: Sequence[tuple[str, int]], unit: str) -> str:
    return ", ".join(f"{name}: {count:,}{unit}" for name, count in pairs) or "-"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"agree on {100 * value:.1f} % of pairs"
