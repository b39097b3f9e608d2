"""The offline cleaner: leaves out artist lists, boosters, engines and contradictory media; adds no word.

The paper's cleaning (arXiv 2306.09341, section 3.1) asked ChatGPT; these rules stand in for it where there is none, and
are measured against labelled prompts (docs/prompts.md, which also states what counts as style).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from humanpref.prompts import artists
from humanpref.prompts.patterns import STRONG, WEAK
from humanpref.prompts.records import Cleaned
from humanpref.prompts.segments import Marked, Segment
from humanpref.prompts.vocabulary import CORE, GENERIC, LOOSE, is_booster, medium_family, normalise, words_of

_LONGEST = 20_000
_LONGEST_LIST = 600
_LEFTOVER = frozenset("and in with of the shot artwork art render 3d".split()) | {"3d render", "still image"}
_MEDIUM = re.compile(r"\b(?:painting|illustration)\b", re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d_]")


class RuleCleaner:
    """Cleans by rules; the same prompt gives the same result everywhere.

    Text that is surely in none of `languages` is for review; with none given, languages are not told apart, and the
    extra `prompts` is not needed.
    """

    name = "rules"

    def __init__(self, languages: tuple[str, ...] = ("en",)) -> None:
        from humanpref.prompts.filters import LanguageFilter

        self._language = LanguageFilter(languages, certainty=0.8) if languages else None

    def clean(self, prompts: Iterable[str]) -> Iterator[Cleaned]:
        """Clean prompts, one after another."""
        return map(self.clean_one, prompts)

    def clean_one(self, prompt: str) -> Cleaned:
        """Clean one prompt."""
        if not prompt.strip():
            return Cleaned(prompt, "", (), "empty", "no text")
        if len(prompt) > _LONGEST:
            return Cleaned(prompt, prompt, (), "review", f"longer than {_LONGEST} characters")
        if self._language is not None and (_other_script(prompt) or self._language.foreign(prompt)):
            return Cleaned(prompt, prompt, (), "review", "another language")
        marked = Marked(prompt)
        mark(marked)
        return _finish(marked)


def mark(marked: Marked) -> None:
    """Mark what is style in a prompt."""
    for found in STRONG.finditer(marked.text):
        marked.leave_out(*found.span())
    boosters = [segment for segment in marked.segments if _drop_booster(marked, segment)]
    if boosters or any(marked.cut):
        for found in WEAK.finditer(marked.text):
            if not _alone(marked, found.start(), found.end()):
                marked.leave_out(*found.span())
        boosters += [
            segment for segment in marked.segments if marked.normal(segment) and _drop_booster(marked, segment)
        ]
    _mark_artists(marked)
    lavish = sum(1 for segment in boosters if _MEDIUM.search(marked.text, segment.start, segment.end))
    _mark_media(marked, listing=bool(boosters), lavish=lavish)


def _drop_booster(marked: Marked, segment: Segment) -> bool:
    normal = marked.normal(segment)
    whole = not normal or is_booster(normal)
    if whole and (normal or marked.touched(segment)):
        marked.leave_out(segment.start, segment.end)
    elif not whole and marked.touched(segment):
        words = words_of(normal)  # what is left of a phrase that began or ended in boosters
        if normal in _LEFTOVER or (normal not in GENERIC and all(word in LOOSE or word in _LEFTOVER for word in words)):
            marked.leave_out(segment.start, segment.end)
    return whole


def _alone(marked: Marked, start: int, end: int) -> bool:
    return any(s.start == start and s.end == end for s in marked.segments)


# Artists ------------------------------------------------------------------------------------------------------------


def _mark_artists(marked: Marked) -> None:
    """Leave out lists of artists; a single one that stands within the content stays: it is what is asked for."""
    spans: list[tuple[int, int, bool]] = []  # start, end, whether it is inside a phrase of content
    names = 0
    listing = False  # the phrase before was of artists
    for number, segment in enumerate(marked.segments):
        if not marked.normal(segment):
            continue
        found = _by_clause(marked, number)
        if found is not None:
            start, count, embedded = found
            spans.append((start, segment.end, embedded))
            names, listing = names + count, True
        elif _is_names(marked, number, listing):
            spans.append((segment.start, segment.end, False))
            names, listing = names + len(artists.split_names(marked.rest(segment))), True
        else:
            listing = False
    left = sum(1 for segment in marked.segments if marked.normal(segment))
    if len(spans) >= left and not any(embedded for *_, embedded in spans):
        return  # nothing but artists: then they are the content
    for start, end, embedded in spans:
        if not (embedded and names == 1):
            marked.leave_out(start, end)


def _by_clause(marked: Marked, number: int) -> tuple[int, int, bool] | None:
    """Find "by A and B" in a phrase -> where it begins, how many names, and whether content stands before it."""
    segment = marked.segments[number]
    text = marked.text[segment.start : segment.end]
    for found in artists.BY.finditer(text):
        if len(text) - found.end() > _LONGEST_LIST:
            continue
        tail = "".join(c for c, cut in zip(text[found.end() :], marked.cut[segment.start + found.end() : segment.end],
                                           strict=True) if not cut)  # fmt: skip
        head = text[: found.start()]
        if (lead := artists.VERB.search(head)) is not None:
            head = head[: lead.start()]
        if artists.NOUN.match(head.lstrip(" (")):
            head = ""  # "art by ...": there is no other content in the phrase
        names = artists.split_names(tail)
        bare = not normalise(head) or is_booster(normalise(head))
        certain = any(artists.is_known(name) for name in names)
        follows = number + 1 < len(marked.segments) and _sure(marked, number + 1)
        by = "by" in found.group().lower()
        plausible = all(artists.looks_like_name(name) for name in names) and (by or follows)
        if names and (
            (certain and _mostly_names(names))
            or (plausible and (bare or follows or (by and artists.WORK.search(head) and len(names[0].split()) > 1)))
        ):
            return segment.start + (0 if bare else len(head.rstrip())), len(names), not bare
    return None


def _mostly_names(names: list[str]) -> bool:
    good = sum(artists.is_known(name) or artists.looks_like_name(name) for name in names)
    return good * 2 >= len(names)


def _sure(marked: Marked, number: int) -> bool:
    rest = marked.rest(marked.segments[number])
    return bool(rest) and artists.all_known(re.sub(r"^(?:and|by|&)\s+", "", rest, flags=re.IGNORECASE))


def _is_names(marked: Marked, number: int, listing: bool) -> bool:
    """Tell whether a phrase is of artists only: known ones, or names between artists."""
    segment = marked.segments[number]
    if _sure(marked, number):
        single = " " not in normalise(marked.rest(segment)) and number == 0 and len(marked.segments) > 1
        return not single or _sure(marked, 1)
    if not listing:
        return False
    if artists.titled(marked.rest(segment)) and artists.looks_like_name(marked.rest(segment)):
        return True
    rest = artists.split_names(marked.rest(segment))
    if not rest or not all(artists.is_known(name) or artists.part_of_list(name) for name in rest):
        return False
    ahead = number + 1 < len(marked.segments) and (
        _sure(marked, number + 1) or not marked.normal(marked.segments[number + 1])
    )
    familiar = all(_shares_name(name) for name in rest)
    return ahead or familiar or any(artists.is_known(name) for name in rest)


def _shares_name(name: str) -> bool:
    parts = normalise(name).replace("-", " ").split()
    return len(parts) >= 2 and any(part in artists.name_parts() for part in parts)


# Media --------------------------------------------------------------------------------------------------------------


def _mark_media(marked: Marked, *, listing: bool, lavish: int) -> None:
    """Of media as phrases of their own: leave out generic ones where there are several, and contradictory ones."""
    bare = [(segment, normal) for segment in marked.segments if (normal := marked.normal(segment))]
    generic = [segment for segment, normal in bare if normal in GENERIC]
    special = [(segment, family) for segment, normal in bare
               if normal not in GENERIC and (family := medium_family(normal)) is not None]  # fmt: skip
    if len(generic) + lavish > 1 or (generic and special) or (generic and listing and _says_medium(bare[0][1])):
        for segment in generic:
            if segment is not bare[0][0]:
                marked.leave_out(segment.start, segment.end)
    if special:
        first = special[0][1]
        for segment, family in special:
            if family != first and segment is not bare[0][0]:
                marked.leave_out(segment.start, segment.end)


def _says_medium(normal: str) -> bool:
    from humanpref.prompts.vocabulary import FAMILY

    return any(word in FAMILY for word in words_of(normal))


# The result ---------------------------------------------------------------------------------------------------------


def _finish(marked: Marked) -> Cleaned:
    removed, text = marked.removed(), marked.result()
    if not removed:
        return Cleaned(marked.text, marked.text, (), "unchanged")
    words = [word for word in words_of(normalise(text)) if word not in CORE and word not in LOOSE]
    if not _LETTERS.search(text):
        return Cleaned(marked.text, "", removed, "empty", "nothing but style words")
    if not words:
        return Cleaned(marked.text, marked.text, (), "review", "hardly anything but style words")
    return Cleaned(marked.text, text, removed, "clean")


def _other_script(text: str) -> bool:
    """Tell whether most letters are of another script than the Latin one."""
    letters = _LETTERS.findall(text)
    other = sum(1 for c in letters if ord(c) > 0x24F and "LATIN" not in unicodedata.name(c, ""))
    return other * 2 > len(letters)
