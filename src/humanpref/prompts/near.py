"""Near-duplicates among millions of short texts: MinHash signatures and LSH bands, on whole arrays by numpy.

A text is its set of words and pairs of neighbouring words. Two texts are near-duplicates when the sets' Jaccard
similarity reaches the threshold: one word changed among twenty is one, among six it is not. The bands only propose
pairs; every proposed pair is checked by its exact similarity, so that nothing is dropped on an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_PERMUTATIONS = 32
_LETTER = np.zeros(256, dtype=bool)
_LETTER[[*range(48, 58), *range(97, 123), *range(128, 256)]] = True  # text comes in lower case; UTF-8 beyond ASCII


class NearDuplicates:
    """Collects texts, then finds those that nearly repeat an earlier one."""

    def __init__(self, threshold: float = 0.8) -> None:
        self.threshold = threshold
        rows = 4 if threshold >= 0.7 else 2  # found at the threshold itself: 98.5 % of pairs (0.8), 99 % (0.5)
        self.bands, self.rows = _PERMUTATIONS // rows, rows
        chance = np.random.default_rng(20230609)
        self._scale = chance.integers(0, 2**63, _PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._shift = chance.integers(0, 2**63, _PERMUTATIONS, dtype=np.uint64)
        self._bytes = chance.integers(0, 2**63, 256, dtype=np.uint64)
        self._places = chance.integers(0, 2**63, 64, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._keys: list[Words] = []
        self._shingles: list[NDArray[np.uint32]] = []
        self._sizes: list[NDArray[np.int64]] = []

    def add(self, texts: Sequence[str]) -> None:
        """Take some more texts, in lower case and without line breaks."""
        if not texts:
            return
        docs, shingles = self._sets(texts)
        self._sizes.append(np.bincount(docs, minlength=len(texts)).astype(np.int64))
        self._shingles.append(shingles.astype(np.uint32))
        self._keys.append(self._band_keys(shingles, self._sizes[-1]))

    def find(self) -> NDArray[np.int64]:
        """Return, for each text, the index of the earlier kept text that it nearly repeats, or -1. Empties itself."""
        keys = np.concatenate(self._keys) if self._keys else np.zeros((0, self.bands), np.uint64)
        sizes = np.concatenate(self._sizes) if self._sizes else np.zeros(0, np.int64)
        shingles = np.concatenate(self._shingles) if self._shingles else np.zeros(0, np.uint32)
        self._keys, self._sizes, self._shingles = [], [], []
        of = np.full(len(sizes), -1, dtype=np.int64)
        pairs = self._candidates(keys, sizes)
        del keys
        starts = np.concatenate([[0], np.cumsum(sizes)])
        similar = np.concatenate([pairs[:0], *(self._check(piece, shingles, starts) for piece in _cut(pairs, 1 << 17))])
        for late, early in zip((similar & _MASK).tolist(), (similar >> _HALF).tolist(), strict=True):
            if of[late] < 0 and of[early] < 0:  # in the order of `late`, so that `early` is decided
                of[late] = early
        return of

    def _sets(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], Words]:
        """Return (text, shingle) pairs, sorted and distinct; shingles have 32 bits."""
        raw = np.frombuffer("\n".join(texts).encode("utf-8", errors="replace"), dtype=np.uint8)
        letter = _LETTER[raw]
        places = np.flatnonzero(letter)
        if not len(places):
            return np.zeros(0, np.int64), np.zeros(0, np.uint64)
        first = np.concatenate([[True], np.diff(places) > 1])  # where a word begins, among the letters
        starts = np.flatnonzero(first)
        word = np.cumsum(first) - 1
        within = np.minimum(places - places[starts][word], 63)
        words = _mix(np.add.reduceat(self._bytes[raw[places]] * self._places[within], starts))
        doc = np.cumsum(raw == 10)[places[starts]].astype(np.uint64)
        both = np.flatnonzero(doc[1:] == doc[:-1])
        pairs = _mix(words[both] * np.uint64(3) + words[both + 1])
        tagged = np.concatenate([words >> _HALF, pairs >> _HALF]) | (np.concatenate([doc, doc[both]]) << _HALF)
        tagged = _distinct(tagged)
        return (tagged >> _HALF).astype(np.int64), tagged & _MASK

    def _band_keys(self, shingles: Words, sizes: NDArray[np.int64]) -> Words:
        keys = np.zeros((len(sizes), self.bands), dtype=np.uint64)
        filled = np.flatnonzero(sizes)
        if not len(filled):
            return keys
        starts = np.concatenate([[0], np.cumsum(sizes[filled])[:-1]])
        for number in range(_PERMUTATIONS):
            hashed = shingles * self._scale[number]
            hashed += self._shift[number]
            least = np.minimum.reduceat(hashed, starts)
            band = number // self.rows
            keys[filled, band] = _mix(keys[filled, band] * np.uint64(31) + least)
        return keys

    def _candidates(self, keys: Words, sizes: NDArray[np.int64]) -> Words:
        """Pairs (earlier << 32 | later) of a common band, sorted by the later one: with the first and the previous."""
        filled = np.flatnonzero(sizes)
        found = []
        for band in range(self.bands):
            key = keys[filled, band]
            order = np.argsort(key, kind="stable")
            ordered, index = key[order], filled[order].astype(np.uint64)
            same = np.concatenate([[False], ordered[1:] == ordered[:-1]])
            head = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
            at = np.flatnonzero(same)
            for early in (index[head[at]], index[at - 1]):
                found.append((index[at] << _HALF) | early)
        pairs = _distinct(np.concatenate(found)) if found else np.zeros(0, np.uint64)
        swapped: Words = (pairs << _HALF) | (pairs >> _HALF)
        return swapped  # they are sorted by the later text

    def _check(self, pairs: Words, shingles: NDArray[np.uint32], starts: NDArray[np.int64]) -> Words:
        """Keep the pairs whose exact Jaccard similarity reaches the threshold."""
        early, late = (pairs >> _HALF).astype(np.int64), (pairs & _MASK).astype(np.int64)
        sizes = np.diff(starts)
        smaller, larger = np.minimum(sizes[early], sizes[late]), np.maximum(sizes[early], sizes[late])
        possible = smaller >= self.threshold * larger
        pairs, early, late = pairs[possible], early[possible], late[possible]
        if not len(pairs):
            return pairs
        both = []
        for side in (early, late):
            count = sizes[side]
            within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            number = np.repeat(np.arange(len(side), dtype=np.uint64), count)
            both.append((number << _HALF) | shingles[np.repeat(starts[side], count) + within])
        merged = np.sort(np.concatenate(both))
        shared = merged[1:][merged[1:] == merged[:-1]] >> _HALF
        common = np.bincount(shared.astype(np.int64), minlength=len(pairs))
        kept: Words = pairs[common >= self.threshold * (sizes[early] + sizes[late] - common) - 1e-9]
        return kept


def _mix(values: Words) -> Words:
    """Scramble 64 bits (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = values ^ (values >> np.uint64(31))
    return mixed


def _distinct(values: Words) -> Words:
    """Sort and drop repeats; on 64-bit numbers several times as fast as np.unique, which hashes them first."""
    values.sort()
    distinct: Words = values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values
    return distinct


def _cut(pairs: Words, size: int) -> Iterator[Words]:
    for start, end in pairwise([*range(0, len(pairs), size), len(pairs)]):
        yield pairs[start:end]
