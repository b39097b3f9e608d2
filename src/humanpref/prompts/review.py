"""A page of what cleaning did, for a person to look through: one file, no scripts, nothing from outside.

The filter is made of radio buttons and style sheets, so that the page's policy can forbid scripts altogether.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from difflib import SequenceMatcher
from hashlib import sha256
from html import escape
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO

from humanpref.errors import DataError
from humanpref.files import whole
from humanpref.prompts.records import STATUSES, Cleaned, Prompt

_LIMIT = 20_000  # prompts on one page; a browser has to hold them
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1b19; --paper: #fbfaf7; --card: #fff; --line: #dedad0; --soft: #5f5b52;
  --gone: #9c2f1f; --gone-back: #fbe6e0; --new: #14603a; --new-back: #dff3e6; --accent: #24507e; }
@media (prefers-color-scheme: dark) { :root { --ink: #eceae4; --paper: #171614; --card: #211f1c; --line: #3a372f;
  --soft: #aaa599; --gone: #ffab9b; --gone-back: #4a221b; --new: #9be3b6; --new-back: #17402a; --accent: #9cc3ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; text-wrap: balance; }
p.lead { margin: 0 0 1.25rem; color: var(--soft); }
.filter { position: absolute; opacity: 0; }
nav { position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: .4rem; padding: .6rem 0; background: var(--paper);
  border-bottom: 1px solid var(--line); margin-bottom: 1rem; }
nav label { padding: .25rem .7rem; border: 1px solid var(--line); border-radius: 999px; cursor: pointer;
  background: var(--card); }
nav b { font-variant-numeric: tabular-nums; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem .9rem;
  margin: 0 0 .75rem; }
article header { display: flex; flex-wrap: wrap; gap: .25rem .75rem; color: var(--soft); font-size: .82rem;
  margin-bottom: .35rem; }
article p { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
article p.after { margin-top: .5rem; padding-top: .5rem; border-top: 1px dashed var(--line); }
article p.why { margin-top: .4rem; color: var(--soft); font-size: .9rem; }
del { color: var(--gone); background: var(--gone-back); text-decoration-thickness: 1px; }
ins { color: var(--new); background: var(--new-back); text-decoration: none; border-bottom: 1px solid; }
.status { font-weight: 600; color: var(--ink); }
"""


class ReviewPage:
    """Writes the page as results come; it appears under its name when it is whole."""

    def __init__(self, path: str | Path, cleaner: str) -> None:
        self.path, self.cleaner = Path(path).expanduser(), cleaner
        self.counts: Counter[str] = Counter()
        self._body: IO[str] | None = None

    def __enter__(self) -> ReviewPage:
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path}: there is no folder {self.path.parent}")
        self._body = TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")
        return self

    def add(self, prompt: Prompt, cleaned: Cleaned) -> None:
        """Add one result."""
        self.counts[cleaned.status] += 1
        if sum(self.counts.values()) > _LIMIT:
            return
        assert self._body is not None
        before, after = difference(cleaned.original, cleaned.text if cleaned.status != "review" else cleaned.original)
        source = escape(prompt.source or "")
        parts = [
            f'<article class="{cleaned.status}"><header><span class="status">{cleaned.status}</span>',
            f"<span>{source}</span><span>{escape(prompt.id)}</span></header><p>{before}</p>",
        ]
        if cleaned.status == "clean":
            parts.append(f'<p class="after">{after}</p>')
        if cleaned.reason:
            parts.append(f'<p class="why">{escape(cleaned.reason)}</p>')
        self._body.write("".join(parts) + "</article>\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._body is not None
        with self._body:
            if kind is None:
                self._write(self._body)

    def _write(self, body: IO[str]) -> None:
        body.seek(0)
        try:
            with whole(self.path) as part, part.open("w", encoding="utf-8") as file:
                file.write(self._head())
                for line in body:
                    file.write(line)
                file.write("</main>\n</body>\n</html>\n")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def _head(self) -> str:
        total, shown = sum(self.counts.values()), min(_LIMIT, sum(self.counts.values()))
        names = ["all", *STATUSES]
        rules = [f"#f-{name}:checked ~ main article:not(.{name}) {{ display: none; }}" for name in STATUSES]
        for name in names:
            label = f'~ nav label[for="f-{name}"]'
            rules.append(
                f"#f-{name}:checked {label} {{ border-color: var(--accent); color: var(--accent); font-weight: 600; }}"
            )
            rules.append(
                f"#f-{name}:focus-visible {label} {{ outline: 2px solid var(--accent); outline-offset: 2px; }}"
            )
        style = _STYLE + "\n".join(rules) + "\n"
        trust = b64encode(sha256(style.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{trust}'; base-uri 'none'; form-action 'none'"
        counts = {**self.counts, "all": total}
        radios = "".join(
            f'<input class="filter" type="radio" name="status" id="f-{name}"{" checked" if name == "all" else ""}>'
            for name in names
        )
        labels = "".join(f'<label for="f-{name}">{name} <b>{counts.get(name, 0):,}</b></label>' for name in names)
        note = "" if shown == total else f" The first {shown:,} are shown."
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cleaned prompts</title>
<style>{style}</style>
</head>
<body>
<h1>{total:,} prompts, cleaned by {escape(self.cleaner)}</h1>
<p class="lead">What was left out is <del>struck through</del>, what was written anew is <ins>underlined</ins>. \
Prompts for review are as they were, and not among the cleaned ones.{note}</p>
{radios}
<nav aria-label="Show">{labels}</nav>
<main>
"""


def difference(before: str, after: str) -> tuple[str, str]:
    """Mark what differs between two texts, word by word -> HTML of the first, HTML of the second."""
    if before == after:
        return escape(before), escape(after)
    if not after:
        return f"<del>{escape(before)}</del>", ""
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    left: list[str] = []
    right: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=len(old) > 2000).get_opcodes():
        was, now = escape("".join(old[a:b])), escape("".join(new[c:d]))
        left.append(was if kind == "equal" or not was else f"<del>{was}</del>")
        right.append(now if kind == "equal" or not now else f"<ins>{now}</ins>")
    return "".join(left), "".join(right)
