"""CLIP's tokens: those of open_clip's own tokenizer, whatever the text, with work that grows as the text does."""

from __future__ import annotations

import itertools
import string
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import SimpleTokenizer

from humanpref.scorers.clip import transformers_clean
from humanpref.scorers.clip_tokens import ClipTokenizer, in_canonical_order

THEIRS, OURS = SimpleTokenizer(), ClipTokenizer(77)
MARKS = "\u0301\u0323\u0f73\u0f71\u0345\u20dd"  # of several classes; one of two classes at once; one of none
LETTERS = ("a", "ab", "etaoinshr", string.ascii_lowercase, "!?.-_=", "é漢字üßΣİ", "😂❤️", "'sdtrem", string.digits)
WORDS = st.sampled_from(LETTERS).flatmap(lambda letters: st.text(letters, max_size=400))
TEXTS = st.one_of(
    st.text(max_size=400),
    st.lists(st.one_of(WORDS, st.sampled_from(["a", "red fox", "&amp;", "â€œ", "<end_of_text>"])), max_size=90).map(" ".join),
    st.text("ae" + MARKS, max_size=300),
)  # fmt: skip


@pytest.mark.parametrize("clean", [None, transformers_clean])
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_tokens_are_open_clips(clean: object, text: str) -> None:
    theirs, ours = SimpleTokenizer.__new__(SimpleTokenizer), ClipTokenizer.__new__(ClipTokenizer)
    theirs.__dict__, ours.__dict__ = dict(THEIRS.__dict__), dict(OURS.__dict__)
    if clean is not None:
        theirs.clean_fn = ours.clean_fn = clean
    try:
        expected = theirs.encode(text)
    except UnicodeEncodeError:  # a lone surrogate
        with pytest.raises(UnicodeEncodeError):
            ours.encode(text)
        return
    assert ours.encode(text) == expected[:77]
    assert torch.equal(ours([text]), theirs([text]))
    assert (len(ours.encode(text)) + 2 > 77) == (len(expected) + 2 > 77)  # as `truncated` asks


@pytest.mark.parametrize("letters", LETTERS)
def test_a_long_word_is_split_as_open_clip_does(letters: str) -> None:
    numbers = torch.randint(len(letters), (4, 500), generator=torch.Generator().manual_seed(len(letters)))
    for row in numbers.tolist():
        word = "".join(OURS.byte_encoder[byte] for n in row for byte in letters[n].encode())
        assert OURS.bpe(word) == THEIRS.bpe(word)


def test_what_merging_relies_on() -> None:
    """Each part of a pair was made by one pair, and by one of a lower rank."""
    made = {}
    for pair, rank in OURS.bpe_ranks.items():
        assert all(made.get(part, -1) < rank for part in pair)
        assert made.setdefault("".join(pair), rank) == rank
    assert all(part in made or len(part.removesuffix("</w>")) == 1 for pair in OURS.bpe_ranks for part in pair)


class CountingRanks(dict[tuple[str, str], int]):
    looked_up = 0

    def get(self, *args: object) -> object:  # type: ignore[override]
        self.looked_up += 1
        return super().get(*args)  # type: ignore[call-overload]


def work(prompt: str) -> int:
    """How often the table of pairs is asked while a prompt is tokenized."""
    tokenizer = ClipTokenizer(77)
    tokenizer.bpe_ranks = CountingRanks(tokenizer.bpe_ranks)
    assert len(tokenizer.encode(prompt)) == 77
    return tokenizer.bpe_ranks.looked_up


def test_work_grows_as_the_prompt_does() -> None:
    numbers = torch.randint(26, (20_000,), generator=torch.Generator().manual_seed(0)).tolist()
    letters = "".join(chr(97 + n) for n in numbers)
    assert work(letters) < 5 * len(letters)  # open_clip's own asks 10 million times for a word of 1,000
    words = " ".join(letters[start : start + 1000] for start in range(0, 19_000, 1000))
    assert work(words) < 5000  # the first fills the context


def test_marks_are_in_order_before_they_are_normalised() -> None:
    for text in ("a" + "\u0301\u0323" * 5000, "\u0f73" * 5000, "a" + MARKS * 800):
        ordered = in_canonical_order(text)
        assert ordered == unicodedata.normalize("NFD", text)
        classes = [unicodedata.combining(mark) for mark in ordered]
        assert not any(one > other > 0 for one, other in itertools.pairwise(classes))  # nothing is left to sort
    assert in_canonical_order("a\u0301\u0323é") == "a\u0301\u0323é"
