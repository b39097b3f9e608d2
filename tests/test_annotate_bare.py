"""What an annotator's browser gets is the picture and nothing that tells where it comes from."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from humanpref.annotate.bare import bare
from humanpref.annotate.records import AnnotateError

SECRET = "a-model-that-is-to-stay-hidden"


def picture(mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def saved(kind: str, image: Image.Image, orientation: int = 1) -> bytes:
    out, exif = BytesIO(), Image.Exif()
    exif[0x0131] = SECRET  # Software
    exif[0x0112] = orientation
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    extra: dict[str, object] = {"exif": exif, "icc_profile": profile}
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("parameters", SECRET)
        texts.add_itxt("workflow", SECRET)
        texts.add_text("prompt", SECRET, zip=True)
        extra["pnginfo"] = texts
    if kind == "JPEG":
        extra |= {"comment": SECRET, "xmp": f"<x>{SECRET}</x>".encode()}
    if kind == "WEBP":
        extra |= {"xmp": f"<x>{SECRET}</x>".encode(), "lossless": True}
    image.save(out, kind, **extra)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("WEBP", "RGB")]
)
def test_the_picture_stays_and_its_story_goes(kind: str, mode: str) -> None:
    whole = saved(kind, picture(mode))
    assert kind == "PNG" or SECRET.encode() in whole
    content, media = bare(whole)
    assert media == f"image/{kind.lower()}"
    with Image.open(BytesIO(content)) as after, Image.open(BytesIO(whole)) as before:
        assert (after.tobytes(), after.mode) == (before.tobytes(), before.mode)
        assert after.info.get("icc_profile") == before.info["icc_profile"]  # colours are as they were
        assert SECRET not in repr(after.info)
        assert not after.getexif()
        if kind == "PNG":
            assert not after.text
    assert SECRET.encode() not in content
    assert bare(content) == (content, media)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_photograph_stays_the_right_way_up(orientation: int) -> None:
    whole = saved("JPEG", picture(), orientation)
    content, _ = bare(whole)
    with Image.open(BytesIO(content)) as after, Image.open(BytesIO(whole)) as before:
        assert dict(after.getexif()) == {0x0112: orientation}
        assert ImageOps.exif_transpose(after).tobytes() == ImageOps.exif_transpose(before).tobytes()


def test_what_is_no_picture_is_not_served() -> None:
    for content in (b"", b"<svg onload=alert(1)>", b"GIF", b"%PDF-1.7", b"RIFF0000WAVE"):
        with pytest.raises(AnnotateError, match="no JPEG"):
            bare(content)


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 400), st.binary(max_size=30))
def test_damaged_files_are_refused_or_passed_on_never_a_crash(kind: str, at: int, junk: bytes) -> None:
    whole = saved(kind, picture())
    with suppress(AnnotateError):
        bare(whole[:at] + junk)
