from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from humanpref.errors import ScoreError
from humanpref.preprocess import CLIP_MEAN, CLIP_STD, PREPROCESS, check_pixels, preprocess, to_pixels
from tests.toys import picture

HPS = PREPROCESS["hps-v2"]


def by_torchvision(pixels: torch.Tensor, antialias: bool) -> torch.Tensor:
    """The official steps written with torchvision: resize the longest side, pad, normalise."""
    height, width = pixels.shape[1:]
    scale = 224 / max(height, width)
    new = [max(1, round(height * scale)), max(1, round(width * scale))]
    if scale != 1:
        pixels = tv.resize(pixels, new, InterpolationMode.BICUBIC, antialias=antialias)
    extra_h, extra_w = 224 - pixels.shape[1], 224 - pixels.shape[2]
    padded = tv.pad(pixels, [extra_w // 2, extra_h // 2, extra_w - extra_w // 2, extra_h - extra_h // 2])
    return tv.normalize(padded, CLIP_MEAN, CLIP_STD)


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(1, 400), st.booleans())
@example(1, 400, True)
@example(400, 1, True)
@example(1, 224, False)
def test_equals_the_official_steps_for_any_size(width: int, height: int, antialias: bool) -> None:
    pixels = to_pixels(picture(width, height))
    ours = preprocess(pixels[None], HPS, "antialias" if antialias else "no-antialias")[0]
    assert ours.shape == (3, 224, 224)
    assert torch.allclose(ours, by_torchvision(pixels, antialias), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (20_000, 50), (224, 150), (224, 224)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    out = preprocess(to_pixels(picture(*size))[None], HPS, "antialias")
    assert out.shape == (1, 3, 224, 224)
    assert torch.isfinite(out).all()


def test_a_picture_of_longest_side_224_is_padded_not_resized() -> None:
    pixels = to_pixels(picture(224, 150))
    out = preprocess(pixels[None], HPS, "antialias")[0]
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.allclose(out[:, 37:187], (pixels - mean) / std)
    assert torch.allclose(out[:, :37], (-mean / std).expand(3, 37, 224))


def test_bicubic_overshoot_is_not_clamped() -> None:
    edge = torch.zeros(1, 3, 100, 100)
    edge[..., 50:] = 1.0
    out = preprocess(edge, HPS, "antialias")
    assert out.max() > (1 - min(CLIP_MEAN)) / min(CLIP_STD)


def test_stays_in_fp32_under_autocast() -> None:
    pixels = to_pixels(picture(300, 200))[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = preprocess(pixels, HPS, "antialias")
    assert torch.equal(inside, preprocess(pixels, HPS, "antialias"))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 8, 8), r"shape \(n, 3, H, W\)"),
        (torch.zeros(1, 4, 8, 8), r"shape \(n, 3, H, W\)"),
        (torch.zeros(1, 3, 0, 8), r"shape \(n, 3, H, W\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "floating point"),
        (torch.full((1, 3, 8, 8), 200.0), "divide 8-bit values"),
        (torch.full((1, 3, 8, 8), float("nan")), "finite"),
    ],
)
def test_pixels_that_are_none_are_refused(pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        check_pixels(pixels)
