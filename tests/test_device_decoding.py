"""The fast path `decode="device"`, here on a CPU, where its decoder is libjpeg too: the same scores, the same errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from humanpref import load_scorer
from humanpref.errors import ImageError, MissingExtraError, ScoreError, UnknownNameError
from humanpref.images import EncodedImage
from humanpref.preprocess import PREPROCESS, to_pixels
from humanpref.scorers import device_decoding
from humanpref.scorers.device_decoding import decode_on_device, is_ordinary
from tests.toys import damaged_jpeg, picture

CPU = torch.device("cpu")
TURNED = Image.Exif()
TURNED[0x0112] = 6


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = BytesIO()
    (image or picture(width=90, height=60)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def png() -> bytes:
    buffer = BytesIO()
    picture().save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def scorers(load_tiny: Callable[..., Any]) -> tuple[Any, Any]:
    return load_tiny(), load_tiny(decode="device")


@pytest.mark.parametrize(
    ("content", "ordinary"),
    [
        (jpeg(), True),
        (jpeg(picture().convert("L")), True),
        (jpeg(progressive=True), True),
        (jpeg(subsampling=0), True),
        (jpeg(picture().convert("CMYK")), False),
        (jpeg(exif=TURNED), False),
        (jpeg()[:-700], False),
        (jpeg() + b"more", False),
        (jpeg(Image.new("RGB", (2100, 2100))), False),
        (jpeg(Image.new("RGB", (20, 400))), False),
        (jpeg(keep_rgb=True), False),
        (jpeg()[:2] + b"\xff\xfe\xff\xff".ljust(65537, b"x") * 65 + jpeg()[2:], False),
        (b"\xff\xd8\xff\xd9", False),
        (png(), False),
        (b"", False),
    ],
    ids=[
        "colour",
        "grey",
        "progressive",
        "4:4:4",
        "cmyk",
        "turned",
        "cut-off",
        "trailing",
        "large",
        "elongated",
        "red-green-blue",
        "padded",
        "empty-jpeg",
        "png",
        "empty",
    ],
)
def test_what_is_ordinary(content: bytes, ordinary: bool) -> None:
    assert is_ordinary(EncodedImage(content, "x")) is ordinary
    assert not is_ordinary(EncodedImage(content, "x", max_pixels=50))


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=20), st.data())
def test_damage_never_raises(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    content = bytearray(jpeg())
    for place, value in changes:
        content[place % len(content)] = value
    image = EncodedImage(bytes(content), "x")
    if is_ordinary(image):
        (found,) = decode_on_device([image], PREPROCESS["hps-v2"], "antialias", CPU)
        assert isinstance(found, ImageError) or found.shape == (3, 224, 224)


def test_a_mixed_list_scores_as_it_does_exactly(scorers: tuple[Any, Any], tmp_path: Path) -> None:
    exact, fast = scorers
    sizes = [(90, 60), (60, 90), (90, 60), (300, 300), (1, 40)]
    images: list[Any] = []
    for n, (width, height) in enumerate(sizes):
        path = tmp_path / f"{n}.jpg"
        picture(width=width, height=height, seed=n).save(path, quality=90)
        images.append(path)
    for name, content in {
        "turned": jpeg(exif=TURNED),
        "png": png(),
        "damaged": damaged_jpeg(jpeg()),
        "cut": jpeg()[:900],
    }.items():
        (tmp_path / name).write_bytes(content)
        images.append(tmp_path / name)
    images += [picture(seed=8), to_pixels(picture(seed=9)), tmp_path / "absent.jpg", EncodedImage(jpeg(), "in memory")]
    images += images[:5]
    one, other = (list(scorer.score_each(images, [f"prompt {n % 3}" for n in range(18)])) for scorer in scorers)
    assert [type(outcome) for outcome in one] == [type(outcome) for outcome in other]
    assert [str(a) for a in one if isinstance(a, ImageError)] == [str(b) for b in other if isinstance(b, ImageError)]
    assert sum(isinstance(outcome, ImageError) for outcome in one) == 3
    for a, b in zip(one, other, strict=True):
        if not isinstance(a, ImageError):
            assert b == pytest.approx(a, abs=1e-6)
    assert "decode=device" in fast.identity
    assert "decode" not in exact.identity


def test_what_the_decoder_refuses_is_decoded_exactly(scorers: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import torchcodec.decoders as library

    whole, asked = library.decode_jpeg, []

    def picky(files: list[bytes], **options: Any) -> list[torch.Tensor]:
        asked.append(len(files))
        if any(file == images[2].content for file in files):
            raise RuntimeError("nvjpegDecodeBatched failed: 6")
        return whole(files, **options)

    images = [EncodedImage(jpeg(picture(seed=n)), str(n)) for n in range(5)]
    exact = scorers[0].score(images, "a")
    monkeypatch.setattr(library, "decode_jpeg", picky)
    assert torch.allclose(scorers[1].score(images, "a"), exact, atol=1e-6)
    assert asked == [5, 1, 1, 1, 1, 1]


def test_large_pictures_are_resized_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [EncodedImage(jpeg(picture(seed=n)), str(n)) for n in range(5)]
    spec = PREPROCESS["clip"]
    whole = decode_on_device(images, spec, "antialias", CPU)
    pixels = images[0].picture.width * images[0].picture.height
    monkeypatch.setattr(device_decoding, "TOGETHER", 2 * pixels)
    for one, other in zip(whole, decode_on_device(images, spec, "antialias", CPU), strict=True):
        assert isinstance(one, torch.Tensor)
        assert isinstance(other, torch.Tensor)
        assert torch.allclose(one, other, atol=1e-5)


def test_pil_scorers_move_by_about_an_8_bit_step() -> None:
    from humanpref.preprocess import prepare_picture

    image = EncodedImage(jpeg(picture(width=500, height=400), quality=95), "x")
    spec = PREPROCESS["clip"]
    (found,) = decode_on_device([image], spec, "antialias", CPU)
    difference = (found - prepare_picture(image.picture, spec, "antialias")).abs().max() * min(spec.std) * 255
    assert 0 < difference < 2.5


def test_it_is_not_for_all() -> None:
    with pytest.raises(UnknownNameError, match="no decode is called 'gpu'; choose from: exact, device"):
        load_scorer("hps-v2.1", decode="gpu")  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match=r"lite has no .*decode or compiled to choose"):
        load_scorer("lite", decode="device")
    with pytest.raises(ScoreError, match="leave --compiled out"):
        load_scorer("imagereward", compiled=True)


def test_a_device_that_cannot_decode_is_said_when_the_scorer_is_loaded(
    load_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchcodec.decoders as library

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Failed to initialize nvjpeg with hardware backend: 3\nmore")

    monkeypatch.setattr(library, "decode_jpeg", fails)
    with pytest.raises(ScoreError, match=r"no JPEG file can be decoded on cpu \(Failed to .*: 3\); leave --decode out"):
        load_tiny(decode="device")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(MissingExtraError, match=r'pip install "humanpref\[gpu\]"'):
        load_tiny(decode="device")
