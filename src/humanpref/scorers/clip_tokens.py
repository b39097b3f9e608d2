"""CLIP's tokens of a prompt, the same as open_clip's, in time that grows with the prompt and not with its square.

A service tokenizes what strangers send. open_clip's tokenizer splits all of a prompt, and a word of n letters in about
n^2 steps; here it ends when the text tower's context is full, and takes about n log n steps.
"""

from __future__ import annotations

import heapq
import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from open_clip.tokenizer import SimpleTokenizer

MOST_WORDS, LONGEST_WORD = 2**16, 64
"""Words that are remembered: how many, and of how many bytes at most. Longer ones are split by `merge`."""
MANY_MARKS = 32
"""More marks on a letter than any language has: 30 are the most in Unicode's stream-safe text (UAX 15)."""


class ClipTokenizer(SimpleTokenizer):  # type: ignore[misc]  # open_clip has no types
    """open_clip's tokenizer, which gives up nothing but the tokens beyond the context.

    Calling it with n texts -> int64 (n, context_length), as open_clip's.
    """

    def __init__(self, context_length: int) -> None:
        super().__init__(context_length=context_length)
        self.cache: dict[str, str] = _Words(vars(self)["cache"])

    def encode(self, text: str) -> list[int]:
        """Give the first `context_length` tokens of a text, without the marks of its start and end."""
        cleaned = self.clean_fn(in_canonical_order(text))
        return list(itertools.islice(self._tokens(cleaned), self.context_length))

    def bpe(self, token: str) -> str:
        """Split a word, given in the letters that stand for its bytes -> its parts, with spaces between them."""
        if len(token) <= LONGEST_WORD:
            parts: str = super().bpe(token)
            return parts
        return " ".join(merge([*token[:-1], token[-1] + "</w>"], self.bpe_ranks))

    def _tokens(self, text: str) -> Iterator[int]:
        for word in self.pat.finditer(text):
            letters = "".join(self.byte_encoder[byte] for byte in word[0].encode("utf-8"))
            yield from (self.encoder[part] for part in self.bpe(letters).split(" "))


class _Words(dict[str, str]):
    """What a tokenizer remembers of the words it has split: open_clip's own would grow as long as new ones come."""

    def __setitem__(self, word: str, parts: str) -> None:
        if len(self) < MOST_WORDS:
            super().__setitem__(word, parts)


def merge(symbols: Sequence[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Join pairs of neighbours, the pair of the lowest rank first, of equal ones the leftmost -> what is left.

    The same as byte pair encoding's loop over all pairs (Sennrich et al., arXiv 1508.07909, algorithm 1), where every
    pair was learned after the pairs its parts are made of, each part of one pair: then what a join makes possible
    ranks behind it. In CLIP's table that is so.
    """
    found: list[str | None] = list(symbols)
    end = len(found)
    after, before = list(range(1, end + 1)), list(range(-1, end - 1))
    todo = [(rank, i) for i, pair in enumerate(itertools.pairwise(symbols)) if (rank := ranks.get(pair)) is not None]
    heapq.heapify(todo)

    def consider(left: int) -> None:
        if left >= 0 and (right := after[left]) < end and (rank := ranks.get((found[left], found[right]))) is not None:  # type: ignore[arg-type]
            heapq.heappush(todo, (rank, left))

    while todo:
        rank, left = heapq.heappop(todo)
        one, right = found[left], after[left]
        if one is None or right >= end or (other := found[right]) is None or ranks.get((one, other)) != rank:
            continue  # one of the two has been joined to something else
        found[left], found[right] = one + other, None
        after[left] = after[right]
        if after[left] < end:
            before[after[left]] = left
        consider(left)
        consider(before[left])
    return [symbol for symbol in found if symbol is not None]


def in_canonical_order(text: str) -> str:
    """Put long runs of marks in canonical order, which changes no normal form of the text.

    Python's `unicodedata.normalize` takes n^2 steps to do so (10,000 of them hold the interpreter for seconds).
    """
    if text.isascii():
        return text
    found = ""
    for marks, letters in itertools.groupby(text, lambda letter: unicodedata.category(letter)[0] == "M"):
        run = "".join(letters)
        found += _ordered(run) if marks and len(run) >= MANY_MARKS else run
    return found


def _ordered(marks: str) -> str:
    single = "".join(unicodedata.normalize("NFD", mark) for mark in marks)
    runs = itertools.groupby(single, lambda mark: unicodedata.combining(mark) > 0)
    # sorting leaves the order of a run of class 0 alone, and nothing passes it
    return "".join("".join(sorted(run, key=unicodedata.combining)) for _, run in runs)
