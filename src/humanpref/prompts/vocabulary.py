"""The words of style: which phrases only ask for quality, a renderer or a camera, and which name a medium.

A phrase between two commas is a booster when all of its words are in these classes and one of them is of the first
kind. So "highly detailed face" is one and "intricate outfit" is not, without a list of all that people have written.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from importlib import resources


def words_in(name: str) -> frozenset[str]:
    """The words of a word list."""
    return frozenset(_read(name).split())


def phrases_in(name: str) -> frozenset[str]:
    """The lines of a word list, as they are."""
    return frozenset(line.strip() for line in _read(name).splitlines() if line.strip())


def _read(name: str) -> str:
    return resources.files("humanpref.prompts.words").joinpath(name).read_text(encoding="utf-8")


_BEAUTY = frozenset(
    "smooth beautiful gorgeous stunning amazing awesome incredible magnificent impressive elegant".split()
)

_BODY = frozenset("face faces facial eyes body skin features feature".split())
_ENDS = frozenset("light lights lighting features details composition".split())
_GLUE = frozenset("in on of and with by a an the for from to at & + / - as no without not is it its are".split())
CORE = words_in("core.txt")
LOOSE = words_in("loose.txt")

PHRASES = phrases_in("phrases.txt")
GENERIC = phrases_in("media.txt")
"""Media that are put at the end of any prompt: one of them may be meant, several are not."""

_PHOTO = "photo still stills photograph photography photorealism dslr polaroid daguerreotype snapshot photoshoot"
_DRAWN = (
    "painting watercolor watercolour gouache acrylic oil canvas sketch drawing pencil charcoal ink engraving etching "
    "woodcut pastel lithograph impasto airbrush comic manga anime cartoon illustration crayon impressionist fresco"
)
_MADE = "sculpture felting clay claymation origami lego plasticine knitted statue carving"
FAMILY = {
    word: name for name, words in (("photo", _PHOTO), ("drawn", _DRAWN), ("made", _MADE)) for word in words.split()
}
_FAMILY_LOOSE = frozenset(
    "macro on a an the in paper style children's children childrens color colour black white and movie film cinematic "
    "surreal analog vintage old 35mm digital art fine soft volumetric wool stop motion".split()
)

_NUMBER = re.compile(r"\d+(?:\.\d+)?|\d+k(?:uhd|hd|hdr)?|\d+mm|f/?\d*\.?\d*|1/\d+s?|iso\d+|\d+p|\d+fps|\d+bit|ue\d|v\d")
_SHARP_NUMBER = re.compile(r"\d+k(?:uhd|hd|hdr)?|\d+mm|f/?\d+\.?\d*|1/\d+s?|iso\d+|\d{3,4}p|ue\d")


@cache
def lines(name: str) -> frozenset[str]:
    """The lines of a word list, normalised."""
    return frozenset(map(normalise, phrases_in(name)))


_LETTERS = str.maketrans({"ł": "l", "ø": "o", "œ": "oe", "’": "'", "`": "'", **dict.fromkeys('!"“”()[]{}*_#', " ")})
_TIGHT = re.compile(r"\s?([-&'])\s?")
_DIGIT = re.compile(r"\d")
_RAY = re.compile(r"\bray[ -]trac(?:ing|ed)\b")
_SPACED = re.compile(r"(?<![^\W_])\d(?: \d){1,12}(?![^\W_])")
_UNIT = re.compile(r"\b(\d+) (k|mm|d|p|s|fps|bit)\b")
_APERTURE = re.compile(r"\bf ?/? ?(\d+)\.? ?(\d?)\b")


@lru_cache(1 << 16)  # the same phrases come again and again
def normalise(text: str) -> str:
    """Lower case, without accents, brackets and exclamation marks; "8 k" as 8k, "hyper - real" as hyper-real."""
    text = text.lower()
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = _TIGHT.sub(r"\1", text.translate(_LETTERS))
    if _DIGIT.search(text):
        text = _SPACED.sub(lambda found: found.group().replace(" ", ""), text)
        text = _APERTURE.sub(r"f\1.\2", _UNIT.sub(r"\1\2", text))
    return " ".join(text.split()).strip(" .,:;|/-")


def words_of(normal: str) -> list[str]:
    """The words of a normalised phrase; a hyphen parts them, unless the joined word is known."""
    found: list[str] = []
    for word in _RAY.sub("raytracing", normal).replace("&", " & ").split():
        bare = word.strip(".,:;?'")
        joined = bare.replace("-", "")
        found.extend([joined] if joined in CORE or "-" not in bare else bare.split("-"))
    return [word for word in found if word]


def is_booster(normal: str) -> bool:
    """Tell whether a phrase asks for nothing but quality, a renderer, a site, a camera or light."""
    if normal in PHRASES:
        return True
    words = words_of(normal)
    if words and words[-1] in _ENDS and all(word in LOOSE or word in CORE or word in _GLUE for word in words):
        return len(words) > 1
    cores = [word for word in words if word in CORE or _SHARP_NUMBER.fullmatch(word)]
    if not cores or len(words) > 14:
        return False
    if not all(word in CORE or word in LOOSE or word in _GLUE or _NUMBER.fullmatch(word) for word in words):
        return False
    return not (any(word in _BODY for word in words) and all(word in _BEAUTY for word in cores))


def medium_family(normal: str) -> str | None:
    """Return the family of a phrase that only names a medium (photo, drawn, made), else None."""
    words = words_of(normal)
    families = [FAMILY[word] for word in words if word in FAMILY]
    if not families or len(words) > 4 or not all(word in FAMILY or word in _FAMILY_LOOSE for word in words):
        return None
    return families[-1]
