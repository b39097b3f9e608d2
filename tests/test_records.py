from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref import HumanprefError, ImageRef, Ranking
from tests.toys import ranking


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_pairs_cover_every_unordered_pair_once_and_agree_with_the_ranks(ranks: list[int]) -> None:
    judged = ranking("p", ranks)
    pairs = list(judged.pairs())
    rank_of = dict(zip(judged.images, ranks, strict=True))
    assert len({frozenset((p.first, p.second)) for p in pairs}) == len(pairs) == len(ranks) * (len(ranks) - 1) // 2
    for pair in pairs:
        difference = rank_of[pair.second] - rank_of[pair.first]
        assert pair.first_preferred == (0.5 if difference == 0 else float(difference > 0))
        assert pair.swap().swap() == pair
        assert pair.swap().first_preferred == 1 - pair.first_preferred


@pytest.mark.parametrize(
    ("ranks", "message"),
    [((1,), "at least two"), ((1, 2, 3), "2 images but 3 ranks"), ((0, 1), "from 1"), ((1.5, 2), "whole numbers")],
)
def test_a_ranking_that_is_none_is_refused(ranks: tuple[int, ...], message: str) -> None:
    images = tuple(ImageRef(Path(f"{i}.png")) for i in range(min(2, len(ranks))))
    with pytest.raises(HumanprefError, match=message):
        Ranking("p", images, ranks)
