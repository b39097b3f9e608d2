"""Reports about prompts, as tables and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from humanpref.prompts.filters import REASONS
from humanpref.tables import add_row, make_table, render, to_json

if TYPE_CHECKING:
    from humanpref.prompts.clean import CleanReport
    from humanpref.prompts.collect import CollectReport


def collect_json(report: CollectReport) -> str:
    """The counts for programs."""
    sources = [
        {"source": s.source, "read": s.read, "dropped": dict(s.dropped), "kept": s.kept, "quota": s.quota,
         "short": s.short}
        for s in report.sources
    ]  # fmt: skip
    return to_json({"out": report.out, "read": report.read, "kept": report.kept, "seed": report.seed,
                    "sources": sources})  # fmt: skip


def collect_table(report: CollectReport) -> str:
    """The counts for people: what became of every row, by source."""
    table = make_table(f"{report.out}: {report.kept:,} of {report.read:,} prompts", ">",
                       *(source.source for source in report.sources))  # fmt: skip
    add_row(table, "read", *(f"{source.read:,}" for source in report.sources))
    for reason, title in REASONS.items():
        counts = [source.dropped.get(reason, 0) for source in report.sources]
        if any(counts):
            add_row(table, title, *(f"{count:,}" if count else "-" for count in counts))
    add_row(table, "kept", *(f"{source.kept:,}" for source in report.sources))
    if any(source.short for source in report.sources):
        add_row(table, "fewer than the quota by", *(f"{source.short:,}" for source in report.sources))
    return render(table)


def clean_json(report: CleanReport) -> str:
    """The counts of cleaning for programs."""
    usage = report.usage
    return to_json(
        {
            "out": report.out,
            "held": report.held,
            "cleaner": report.cleaner,
            "prompts": report.prompts,
            "status": dict(report.status),
            "reasons": dict(report.reasons),
            "usage": None if usage is None else {**usage.as_dict()},
        }
    )


def clean_table(report: CleanReport) -> str:
    """The counts of cleaning for people."""
    table = make_table(f"{report.out}: {report.prompts:,} prompts, cleaned by {report.cleaner}", ">", "prompts")
    for status, count in report.status.items():
        add_row(table, status, f"{count:,}")
    for reason, count in report.reasons.items():
        add_row(table, f"  {reason}", f"{count:,}")
    if report.usage is not None:
        for name, value in report.usage.as_dict().items():
            add_row(table, name.replace("_", " "), "-" if value is None else f"{value:,}")
    return render(table)
