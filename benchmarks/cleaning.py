"""How well the rules clean: precision and recall on labelled DiffusionDB prompts, and what they do to clean captions.

    python benchmarks/cleaning.py [--data ../shared/data/prompts] [--show dev]

tests/data/cleaning_labels.jsonl holds, for 240 lines of diffusiondb_sample.txt, which characters are style (what counts
as style: docs/prompts.md). Half ("dev") served to write the rules; the other half ("held") was labelled before the
rules were run and never tuned on. --show prints each difference of a half.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from humanpref.prompts.records import Cleaned, Cleaner

ROOT = Path(__file__).parents[1]
LABELS = ROOT / "tests" / "data" / "cleaning_labels.jsonl"
_WORD = re.compile(r"[^\W_]+")
_TERM_BREAK = re.compile(r"[,;|.]\s|\s(?:and|&|by)\s")
_FUNCTION = frozenset("a an the and or of in on at by with to from for as is are style art & s".split())


@dataclass(frozen=True)
class Agreement:
    """Counts over one half: words and terms labelled as style, left out, and both; content words, and those kept."""

    prompts: int
    labelled: int
    removed: int
    both: int
    terms: int
    terms_found: int
    cut_terms: int
    cut_terms_right: int
    content: int
    kept: int
    exact: int
    invented: int

    @property
    def precision(self) -> float:
        return self.both / max(1, self.removed)

    @property
    def recall(self) -> float:
        return self.both / max(1, self.labelled)

    @property
    def content_kept(self) -> float:
        return self.kept / max(1, self.content)


def labelled(data: Path, half: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield (prompt, spans of style) of one half; the prompts come from the data set, and must be those labelled."""
    prompts = (data / "diffusiondb_sample.txt").read_text(encoding="utf-8").split("\n")
    for line in LABELS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] == half:
            prompt = prompts[row["line"] - 1]
            assert hashlib.sha256(prompt.encode()).hexdigest() == row["sha256"], f"line {row['line']} is another prompt"
            yield prompt, [(start, end) for start, end in row["remove"]]


def removed_spans(cleaned: Cleaned) -> list[tuple[int, int]]:
    """Find the removed terms in the original, in order."""
    spans, at = [], 0
    for term in cleaned.removed:
        found = re.compile(r"\s+".join(map(re.escape, term.split()))).search(cleaned.original, at)
        assert found, f"{term!r} is not in the prompt"
        spans.append(found.span())
        at = found.end()
    return spans


def words(prompt: str, spans: list[tuple[int, int]]) -> tuple[set[int], set[int]]:
    """Return where the content-bearing words inside and outside of the spans begin."""
    inside, outside = set(), set()
    for word in _WORD.finditer(prompt):
        if word.group().lower() not in _FUNCTION:
            (inside if any(a <= word.start() < b for a, b in spans) else outside).add(word.start())
    return inside, outside


def terms(prompt: str, spans: list[tuple[int, int]]) -> list[set[int]]:
    """Cut spans at commas and "and" into terms, each the words it has."""
    found = []
    for start, end in spans:
        at = start
        for cut in [*_TERM_BREAK.finditer(prompt, start, end), None]:
            stop = cut.start() if cut else end
            if term := words(prompt, [(at, stop)])[0]:
                found.append(term)
            at = cut.end() if cut else end
    return found


def measure(cleaner: Cleaner, data: Path, half: str, show: bool = False) -> Agreement:
    total = [0] * 12
    for prompt, spans in labelled(data, half):
        cleaned = next(iter(cleaner.clean([prompt])))
        cuts = [(0, len(prompt))] if cleaned.status == "empty" else removed_spans(cleaned)
        style, content = words(prompt, spans)
        gone, left = words(prompt, cuts)
        wanted, cut = terms(prompt, spans), terms(prompt, cuts)
        invented = set(_WORD.findall(cleaned.text.lower())) - set(_WORD.findall(prompt.lower()))
        row = (1, len(style), len(gone), len(style & gone), len(wanted), sum(t <= gone for t in wanted),
               len(cut), sum(t <= style for t in cut), len(content), len(content & left), style == gone,
               len(invented))  # fmt: skip
        total = [a + int(b) for a, b in zip(total, row, strict=True)]
        if show and style != gone:
            marks = dict.fromkeys(style - gone, "+") | dict.fromkeys(gone - style, "-")
            text = " ".join(marks.get(word.start(), "") + word.group() for word in _WORD.finditer(prompt))
            print(f"  [{cleaned.status}] {text}\n      -> {cleaned.text}")
    return Agreement(*total)


def main() -> None:
    from humanpref.prompts.rules import RuleCleaner

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/prompts")
    parser.add_argument("--show", choices=("dev", "held"))
    options = parser.parse_args()
    cleaner = RuleCleaner()
    for half in ("dev", "held"):
        a = measure(cleaner, options.data, half, show=options.show == half)
        right, found = a.cut_terms_right / a.cut_terms, a.terms_found / a.terms
        print(f"{half}: {a.prompts} prompts, {a.exact} exactly as labelled, words invented {a.invented}")
        print(f"  style words: precision {a.precision:.1%}, recall {a.recall:.1%} (of {a.labelled})")
        print(f"  style terms: precision {right:.1%}, recall {found:.1%} (of {a.terms})")
        print(f"  content words kept: {a.content_kept:.1%}")
    captions = [line for line in (options.data / "hps_v2_photo_sample.txt").read_text().split("\n") if line.strip()]
    done = list(cleaner.clean(captions))
    same = sum(c.status == "unchanged" for c in done)
    print(f"COCO  {same} of {len(done)} captions unchanged ({same / len(done):.1%})")
    for c in done:
        if c.status != "unchanged":
            print(f"  [{c.status}] {c.original!r} -> {c.text!r}")
    prompts = (options.data / "diffusiondb_sample.txt").read_text(encoding="utf-8").split("\n")[:-1]
    start = time.perf_counter()
    done = list(cleaner.clean(prompts))
    took = time.perf_counter() - start
    status = {name: sum(c.status == name for c in done) for name in ("clean", "unchanged", "review", "empty")}
    print(f"{len(done)} prompts in {took:.1f} s ({len(done) / took:,.0f} a second): {status}")


if __name__ == "__main__":
    main()
