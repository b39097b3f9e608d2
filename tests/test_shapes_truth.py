"""The known truth as a scorer: the figures of `quality`, by name, from files, pictures and pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from humanpref import load_scorer
from humanpref.cache import ScoreCache
from humanpref.errors import ImageError, ScoreError
from humanpref.scorers.base import Scorer
from humanpref.scorers.cached import CachedScorer
from humanpref.shapes import sources
from humanpref.shapes.grammar import captions
from humanpref.shapes.quality import quality
from humanpref.shapes.truth import TruthScorer

CAPTIONS = captions(6, 12)


def pictures() -> list[Image.Image]:
    return [
        sources.generate(source, [caption], [7])[0]
        for caption, source in zip(CAPTIONS, ("clean", "coarse", "deaf") * 2, strict=True)
    ]


def test_it_is_the_quality_of_each_picture_by_its_caption(tmp_path: Path) -> None:
    scorer = load_scorer("shapes-truth")
    assert isinstance(scorer, TruthScorer)
    assert isinstance(scorer, Scorer)
    assert scorer.logit_scale is None
    assert not scorer.truncated("a " * 500)
    made = pictures()
    expected = [quality(picture, caption).total for picture, caption in zip(made, CAPTIONS, strict=True)]
    assert max(expected) - min(expected) > 0.2
    assert scorer.score(made, CAPTIONS).tolist() == pytest.approx(expected)
    assert scorer.score(torch.stack([to_tensor(picture) for picture in made]), CAPTIONS).tolist() == pytest.approx(
        expected
    )
    files = [tmp_path / f"{i}.png" for i in range(len(made))]
    for picture, file in zip(made, files, strict=True):
        picture.save(file)
    with ScoreCache(tmp_path / "scores.sqlite") as cache:
        for _ in range(2):
            assert CachedScorer(scorer, cache).score(files, CAPTIONS).tolist() == pytest.approx(expected)
        assert cache.info().scores == len(files)
    outcomes = list(scorer.score_each([files[0], tmp_path / "none.png"], CAPTIONS[0]))
    assert isinstance(outcomes[1], ImageError)


def test_what_it_does_not_take() -> None:
    scorer = TruthScorer()
    with pytest.raises(ScoreError, match="shapes-truth knows only captions of the shapes world: "):
        scorer.score(pictures()[0], "a cat on the moon")
    with pytest.raises(ScoreError, match="not differentiable"):
        scorer.score(torch.rand(1, 3, 64, 64, requires_grad=True), CAPTIONS[0])
    with pytest.raises(ScoreError, match="has no weights"):
        load_scorer("shapes-truth", weights="x.pt")
    with pytest.raises(ScoreError, match="leave these options out"):
        load_scorer("shapes-truth", device="cuda")
