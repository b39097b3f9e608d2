"""For the API pages: the lines `argument: what it is` of a docstring become a list. Loaded by mkdocstrings (griffe)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import griffe


class ArgumentLists(griffe.Extension):
    """Turns runs of lines that begin with a parameter's name and a colon into Markdown lists."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Rewrite the docstring of a function or method, if it has one."""
        if func.docstring is not None:
            func.docstring.value = as_list(func.docstring.value, {parameter.name for parameter in func.parameters})


def as_list(text: str, names: Collection[str]) -> str:
    """Make each line `name: ...` of a known name, with the indented ones that go on with it, an item of a list."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        match = re.match(r"`?(\w+)`?: (.*)", line)
        if match and match[1] in names:
            if not inside:
                lines.append("")
            lines.append(f"- `{match[1]}`: {match[2]}")
            inside = True
            continue
        if inside and line and not line.startswith(" "):
            lines.append("")
            inside = False
        lines.append(line)
    return "\n".join(lines)
