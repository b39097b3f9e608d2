"""Names of artists: the known ones, and where "by A, B and C" begins and ends."""

from __future__ import annotations

import re
from functools import cache

from humanpref.prompts.vocabulary import CORE, LOOSE, lines, normalise, words_in

_AMBIGUOUS = frozenset("artist constant turner brom derf ino puru christo lovecraft bauhaus bourgeois jowonder".split())
_NOT_NAMES = words_in("not_names.txt")

_HANDLE = re.compile(r"[a-z0-9.'\-]+(?: [a-z0-9.'\-]+){0,4}")
SPLIT = re.compile(r"\s*(?:,|;|/|\+|&|\band\b|\bx\b|\bby\b|\bmixed with\b)\s*", re.IGNORECASE)
BY = re.compile(
    r"\b(?:by|in\s{1,3}(?:the\s{1,3})?(?:art\s{1,3})?style\s{1,3}of|style\s{1,3}of|in\s{1,3}style\s{1,3}of|"
    r"inspired\s{1,3}by|resembling\s{1,3}the\s{1,3}style\s{1,3}of|in\s{1,3}the\s{1,3}manner\s{1,3}of|à\s{1,3}la|a\s{1,3}la)\s+",
    re.IGNORECASE,
)
VERB = re.compile(
    r"\b(?:painted|drawn|made|created|illustrated|designed|directed|rendered|inspired)\s{1,3}$", re.IGNORECASE
)
NOUN = re.compile(r"^(?:(?:very|beautiful|incredible|stunning|amazing|detailed|digital|concept|character|art|arts|artwork|"
                  r"artworks|arte|work|works|style|design)\s{1,3}){1,5}$", re.IGNORECASE)  # fmt: skip
WORK = re.compile(r"\b(?:photo|photograph|photography|painting|portrait|illustration|drawing|artwork|sketch|poster)\s{1,3}$",
                  re.IGNORECASE)  # fmt: skip


@cache
def known() -> frozenset[str]:
    """All known names, normalised."""
    return frozenset({*lines("artists.txt"), *lines("more_artists.txt")} - {""})


@cache
def name_parts() -> frozenset[str]:
    """The words that occur in names, without those that are also words of content or style."""
    parts = {part for name in known() for part in name.replace("-", " ").split() if len(part) > 2}
    return frozenset(parts - _NOT_NAMES - CORE - LOOSE)


def is_known(name: str) -> bool:
    """Tell whether a phrase is the name of a known artist."""
    normal = normalise(name)
    return normal in known() or normal.removesuffix("'s") in known()


def split_names(text: str) -> list[str]:
    """Cut a list of names at commas and at "and"."""
    return [name for part in SPLIT.split(text) if (name := part.strip(" .!|"))]


def looks_like_name(text: str) -> bool:
    """Tell whether a phrase could be the name of someone who is not known: one to five words, none of them plain."""
    normal = normalise(text)
    if not _HANDLE.fullmatch(normal) or any(c.isdigit() for c in normal):
        return False
    words = normal.replace("-", " ").split()
    return not any(word in _NOT_NAMES or word in CORE or word in LOOSE for word in words)


def part_of_list(text: str) -> bool:
    """Tell whether an unknown phrase between artists is one of them: it looks like a name and shares a part of one."""
    return (
        looks_like_name(text)
        and len(text.split()) <= 3
        and (
            any(part in name_parts() for part in normalise(text).replace("-", " ").split())
            or " " not in normalise(text)
        )
    )


def all_known(text: str) -> bool:
    """Tell whether a phrase is a list of known artists, unambiguously."""
    names = split_names(re.sub(r"\s(?:art\s)?style$", "", text, flags=re.IGNORECASE))
    return bool(names) and all(is_known(name) and normalise(name) not in _AMBIGUOUS for name in names)


def titled(text: str) -> bool:
    """Tell whether a phrase is two or three words with capitals, as names are written."""
    words = text.split()
    return 2 <= len(words) <= 3 and all(word[:1].isupper() and word[1:].islower() for word in words)
