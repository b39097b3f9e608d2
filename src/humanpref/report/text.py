"""The tables of a report as Markdown and as LaTeX, escaped for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from humanpref.report.cells import Cell, Table

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$#!&@])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
    "’": "'",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "[": "{[}",  # after \\ it would be read as an option
    "]": "{]}",
}


def one_line(text: str) -> str:
    """Text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def markdown(text: str) -> str:
    """Escape text for GitHub's Markdown, inside tables too."""
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def markdown_table(table: Table) -> str:
    """A table with its caption as a heading and its note below."""
    heads = [markdown(c.title if c.group is None else f"{table.groups[c.group]}: {c.title}") for c in table.columns]
    lines = [
        f"| {' | '.join(heads)} |",
        f"|{'|'.join('---' if c.words else '---:' for c in table.columns)}|",
        *(f"| {' | '.join(_markdown_cell(cell) for cell in row.cells)} |" for row in table.rows),
    ]
    return "\n".join(lines) + (f"\n\n{markdown(table.note)}" if table.note else "")


def _markdown_cell(cell: Cell) -> str:
    return " ".join(markdown(part) for part in cell if part)


def latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(c, c) for c in one_line(text))


def latex_table(table: Table) -> str:
    """A booktabs table."""
    columns = "".join("l" if c.words else "r" for c in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(table.caption)}. {latex(table.note)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_latex_head(table),
        r"\midrule",
    ]
    kind = ""
    for row in table.rows:
        if row.kind != kind and row is not table.rows[0]:
            lines.append(r"\midrule")
        kind = row.kind
        lines.append(" & ".join(_latex_cell(cell) for cell in row.cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _latex_head(table: Table) -> list[str]:
    lines = []
    if table.groups:
        cells, rules, at = [], [], 1
        for group, members in groupby(table.columns, key=lambda c: c.group):
            width = len(list(members))
            if group is None:
                cells += [""] * width
            else:
                cells.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(table.groups[group])}}}")
                rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
            at += width
        lines += [" & ".join(cells) + r" \\", " ".join(rules)]
    return [*lines, " & ".join(latex(c.title) for c in table.columns) + r" \\"]


def _latex_cell(cell: Cell) -> str:
    value, interval = cell
    return latex(value) + (rf" {{\scriptsize {latex(interval)}}}" if interval else "")


def latex_document(tables: Sequence[Table], comment: str) -> str:
    """A file that compiles by itself; characters that pdfLaTeX does not know are shown by their number there."""
    body = "\n\n".join(latex_table(table) for table in tables)
    unknown = sorted({c for c in body if ord(c) > 0xFF})
    declared = [rf"  \DeclareUnicodeCharacter{{{ord(c):04X}}}{{[U+{ord(c):04X}]}}" for c in unknown]
    head = [
        f"% {one_line(comment)}",
        r"\documentclass{article}",
        r"\usepackage[margin=2cm]{geometry}",
        r"\usepackage{booktabs, iftex, textcomp}",
        r"\ifPDFTeX",
        r"  \usepackage[T1]{fontenc}",
        r"  \usepackage[utf8]{inputenc}",
        *declared,
        r"\else",
        r"  \usepackage{fontspec}",
        r"\fi",
        r"\begin{document}",
    ]
    return "\n".join([*head, body, r"\end{document}", ""])
