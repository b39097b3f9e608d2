"""Leaderboards and comparisons as text: for a terminal, Markdown, LaTeX, CSV, JSON. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from humanpref.benchmark.leaderboard import Board, BoardRow
from humanpref.benchmark.published import SOURCE
from humanpref.benchmark.statistics import Components, Estimate, Paired, RankInterval, Stability
from humanpref.report.cells import NBSP, NONE, Cell, Column, Table, brackets, minus, percent, row
from humanpref.report.text import latex_document, markdown, markdown_table
from humanpref.tables import add_row, make_table, render, to_csv, to_json

PUBLISHED = "published"


def board_table(board: Board) -> Table:
    """Generators by styles; the published rows, of kind "published", below the measured ones."""
    styles = board.styles if len(board.styles) > 1 else ()
    rows = [
        row(
            place(entry.rank),
            entry.result.generator + ("" if entry.result.complete else " (incomplete)"),
            *(mean(style) for style in entry.styles[: len(styles)]),
            mean(entry.overall),
            number(entry.overall.chunk_std),
            f"{entry.overall.prompts:,}",
        )
        for entry in board.rows
    ]
    rows += [
        row(
            NONE,
            f"{known.generator} (published)",
            *(f"{known.styles[style]:.2f}" for style in styles),
            f"{known.average:.2f}",
            NONE,
            NONE,
            kind=PUBLISHED,
        )
        for known in board.published
    ]
    columns = (
        Column("Place"),
        Column("Generator", words=True),
        *(Column(style) for style in styles),
        Column("average"),
        Column("std of chunks"),
        Column("prompts"),
    )
    return Table(
        f"board-{board.label}", f"{board.label} on {board.suite.name}", columns, tuple(rows), note=_note(board)
    )


def _note(board: Board) -> str:
    scale = "cosine x 100" if board.scorer.factor == 100 else board.scorer.scale
    parts = [
        f"{scale}; 95 % intervals by a bootstrap over prompts; places that hold at once with 95 % confidence",
        provenance(board.rows),
        *board.notes,
    ]
    if board.published:
        parts.append(f"published: as in {SOURCE}")
    return ". ".join(part for part in parts if part) + "."


def provenance(rows: Sequence[BoardRow]) -> str:
    """What the rows were made with."""
    result = rows[0].result
    scorer = result.scorer
    dates = sorted({one.result.date[:10] for one in rows})
    parts = [
        f"{scorer.name}, weights {scorer.weights[:12] or 'unknown'}",
        f"resize {scorer.resize}" if scorer.resize else "",
        f"precision {', '.join(sorted({one.result.scorer.precision for one in rows}))}" if scorer.precision else "",
        f"suite {result.suite.name} {result.suite.revision}",
        f"{sum(len(one.result.images) for one in rows):,} images",
        " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    ]
    return ", ".join(part for part in parts if part)


def summary_table(boards: Sequence[Board]) -> Table:
    """Generators by scorers, each in a column of its own: no two scorers are ever averaged."""
    names = list(dict.fromkeys(entry.result.generator for board in boards for entry in board.rows))
    cells = [{entry.result.generator: entry for entry in board.rows} for board in boards]

    def cell(entry: BoardRow | None) -> Cell:
        return (NONE, "") if entry is None else (number(entry.overall.mean), f"({place(entry.rank)})")

    rows = tuple(row(name, *(cell(own.get(name)) for own in cells)) for name in names)
    columns = (Column("Generator", words=True), *(Column(board.label) for board in boards))
    note = "Average over all prompts on each scorer's own scale, in brackets the place: scorers cannot be averaged."
    return Table("summary", f"Every scorer on {boards[0].suite.name}", columns, rows, note=note)


def tables(boards: Sequence[Board]) -> list[Table]:
    """All tables of leaderboards."""
    return [*([summary_table(boards)] if len(boards) > 1 else []), *map(board_table, boards)]


def comparison_table(label: str, pairs: Sequence[Paired]) -> Table:
    """Every two generators, the clearest difference first, the better one named first."""
    rows = []
    for one in sorted(pairs, key=lambda pair: (pair.p_holm, -abs(pair.effect_size or 0.0))):
        ahead = one.difference >= 0
        low_high = None if one.ci is None else (one.ci if ahead else (-one.ci[1], -one.ci[0]))
        won = one.win_rate if ahead else 1 - one.win_rate
        rows.append(
            row(
                f"{one.first} – {one.second}" if ahead else f"{one.second} – {one.first}",
                (number(abs(one.difference)), brackets(low_high, number)),
                p_text(one.p_value),
                p_text(one.p_holm),
                percent(won),
                number(None if one.effect_size is None else abs(one.effect_size)),
                NONE if one.prompts_needed is None else f"{one.prompts_needed:,}",
            )
        )
    columns = (
        Column("Generators", words=True),
        *map(Column, ("difference", "p", "p (Holm)", "wins, %", "effect size", "prompts needed")),
    )
    note = (
        f"On the same {pairs[0].prompts:,} prompts. p by flipping signs of prompts, corrected for {len(pairs)} "
        "comparisons; effect size: Cohen's d of paired samples; prompts needed to find it with 80 % power at 5 %."
    )
    return Table(f"pairs-{label}", f"Differences by {label}", columns, tuple(rows), note=note)


def stability_table(label: str, rows: Sequence[Stability], parts: Components | None) -> Table:
    """What fewer prompts would have said."""
    cells = tuple(
        row(
            f"{one.prompts:,}", number(one.spread), number(one.kendall), percent(one.pairs_kept), percent(one.same_best)
        )
        for one in rows
    )
    columns = tuple(map(Column, ("prompts", "std of a mean", "Kendall's tau-b", "pairs kept, %", "same best, %")))
    note = "Over random subsets of the prompts, against the order on all of them."
    if parts is not None:
        note += (
            f" A prompt's images by other seeds vary with a standard deviation of {parts.seeds:.3f}, "
            f"prompts with {parts.prompts:.3f}."
        )
    return Table(f"stability-{label}", f"Stability by {label}", columns, cells, note=note)


def terminal(found: Sequence[Table]) -> str:
    """Tables for a terminal, each with its note; of many columns' intervals only that of the average is shown."""
    parts = []
    for table in found:
        heads = [f">{column.title}" if column.words else column.title for column in table.columns]
        many = sum(any(one.cells[i][1] for one in table.rows) for i in range(len(heads))) > 3
        shown, kind = make_table(table.caption, *heads), ""
        for one in table.rows:
            if one.kind != kind:
                add_row(shown, *("" for _ in heads))
                kind = one.kind
            cells = [
                value if many and title != "average" else NBSP.join(part for part in (value, interval) if part)
                for title, (value, interval) in zip(heads, one.cells, strict=True)
            ]
            add_row(shown, *cells)
        parts.append(render(shown).rstrip() + (f"\n\n{table.note}" if table.note else ""))
    return "\n\n".join(parts)


def to_markdown(found: Sequence[Table]) -> str:
    """Tables in Markdown."""
    return "\n\n".join(f"## {markdown(table.caption)}\n\n{markdown_table(table)}" for table in found)


def to_latex(found: Sequence[Table]) -> str:
    """Tables as a LaTeX file that compiles by itself."""
    from humanpref import __version__

    return latex_document(found, f"humanpref {__version__}")


def boards_json(boards: Sequence[Board]) -> str:
    """{"suite", "scorers": [{"scorer", "rows", "published"}]}; means as tables show them."""
    suite = boards[0].suite
    return to_json(
        {
            "suite": {**asdict(suite), "styles": dict(suite.styles)},
            "scorers": [
                {
                    "label": board.label,
                    "scorer": asdict(board.scorer),
                    "factor": board.scorer.factor,
                    "notes": list(board.notes),
                    "rows": [_row_json(board, entry) for entry in board.rows],
                    "published": {
                        "source": SOURCE if board.published else None,
                        "rows": [
                            {"generator": p.generator, "styles": dict(p.styles), "average": p.average}
                            for p in board.published
                        ],
                    },
                }
                for board in boards
            ],
        }
    )


def _row_json(board: Board, entry: BoardRow) -> dict[str, Any]:
    result = entry.result
    return {
        "generator": result.generator,
        **asdict(entry.rank),
        "styles": {
            style: None if own is None else asdict(own) for style, own in zip(board.styles, entry.styles, strict=True)
        },
        "average": asdict(entry.overall),
        "complete": result.complete,
        "missing": len(result.missing),
        "unreadable": len(result.unreadable),
        "images": len(result.images),
        "precision": result.scorer.precision,
        "date": result.date,
    }


def boards_csv(boards: Sequence[Board]) -> str:
    """One row per scorer, generator and style ("average" last); `origin` is measured or published."""
    names = ("scorer", "generator", "origin", "style", "mean", "low", "high", "chunk_std", "prompts", "complete")
    return to_csv(names, (cells for board in boards for cells in _csv_rows(board)))


def _csv_rows(board: Board) -> Iterator[tuple[object, ...]]:
    for entry in board.rows:
        for style, own in zip((*board.styles, "average"), (*entry.styles, entry.overall), strict=True):
            if own is not None:
                ends = own.ci or ("", "")
                std = "" if own.chunk_std is None else own.chunk_std
                head = (board.label, entry.result.generator, "measured", style)
                yield (*head, own.mean, *ends, std, own.prompts, entry.result.complete)
    for known in board.published:
        for style, value in (*known.styles.items(), ("average", known.average)):
            yield board.label, known.generator, PUBLISHED, style, value, "", "", "", "", ""


def place(rank: RankInterval) -> str:
    """A place and those it may be, as "3 (2–4)"."""
    return str(rank.rank) if rank.first == rank.last else f"{rank.rank} ({rank.first}–{rank.last})"


def mean(own: Estimate | None) -> Cell:
    """A mean and its interval."""
    return (NONE, "") if own is None else (number(own.mean), brackets(own.ci, number))


def number(value: float | None) -> str:
    """A score with two digits."""
    return NONE if value is None else minus(f"{value:.2f}")


def p_text(p: float) -> str:
    """A p value; what 10,000 random patterns cannot resolve is "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
