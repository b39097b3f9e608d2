from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from humanpref import images
from humanpref.errors import ImageError
from humanpref.images import MAX_PIXELS, RemoteImage, expand_sources, open_image
from tests.toys import picture


def rgb(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_transparency_is_shown_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 1))
    image.putdata([(200, 0, 0, 255), (200, 0, 0, 0), (0, 0, 0, 128), (10, 20, 30, 255)])
    image.save(tmp_path / "a.png")
    found = rgb(open_image(tmp_path / "a.png"))[0]
    assert found.tolist() == [[200, 0, 0], [255, 255, 255], [127, 127, 127], [10, 20, 30]]


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png")
    assert rgb(open_image(tmp_path / "p.png"))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    image.save(tmp_path / "t.png", transparency=1)
    assert rgb(open_image(tmp_path / "t.png"))[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    image.save(tmp_path / "t.gif", transparency=1)
    assert rgb(open_image(tmp_path / "t.gif"))[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "d.png")
    assert rgb(open_image(tmp_path / "d.png"))[0, :, 0].tolist() == [0, 100, 255]
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "d.tiff")
    assert rgb(open_image(tmp_path / "d.tiff"))[0, :, 0].tolist() == [0, 100, 255]
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "f.tiff")
    assert rgb(open_image(tmp_path / "f.tiff"))[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_greyscale_and_one_bit(tmp_path: Path) -> None:
    picture().convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    assert np.abs(rgb(open_image(tmp_path / "c.jpg")) - rgb(picture())).mean() < 6
    grey = picture().convert("L")
    grey.save(tmp_path / "g.png")
    assert (rgb(open_image(tmp_path / "g.png")) == np.asarray(grey)[..., None]).all()
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "b.png")
    assert rgb(open_image(tmp_path / "b.png"))[0, :, 0].tolist() == [255, 0]
    grey_alpha = Image.new("LA", (1, 1), (40, 0))
    assert rgb(open_image(grey_alpha))[0, 0].tolist() == [255, 255, 255]


def test_orientation_is_as_a_person_sees_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    picture(64, 48).save(tmp_path / "o.png", exif=exif)
    assert (rgb(open_image(tmp_path / "o.png")) == rgb(picture(64, 48).rotate(-90, expand=True))).all()


def test_rgb_files_are_left_as_decoded(tmp_path: Path) -> None:
    picture().save(tmp_path / "x.jpg")
    with Image.open(tmp_path / "x.jpg") as direct:
        assert (rgb(open_image(tmp_path / "x.jpg")) == rgb(direct)).all()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of data do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    picture(300, 200).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, I am text", "not an image"),
        (jpeg_bytes()[: len(jpeg_bytes()) // 2], "damaged or incomplete"),
        (jpeg_bytes()[:40], "damaged or incomplete|not an image"),
        (png_claiming(10_000, 10_000), "over 89,478,485 pixels"),
        (png_claiming(60_000, 60_000), "over 89,478,485 pixels|too many pixels"),
        (png_claiming(0, 10), "damaged or incomplete|empty|not an image"),
        (png_claiming(50, 50), "damaged or incomplete"),
    ],
)
def test_bad_files_say_what_is_wrong_and_where(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_url(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="allow-url"):
        open_image("https://example.org/a.png")
    with pytest.raises(ImageError, match=r"empty \(0x5"):
        open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match="cannot be read|no such file"):
        open_image("a\0b.png")


def suppress_image_error(path: Path) -> str:
    try:
        return open_image(path).mode
    except ImageError as error:
        return str(error)


def test_decoders_that_run_programs_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(ImageError, match="not an image"):
        open_image(tmp_path / "x.png")


@pytest.mark.filterwarnings("ignore:::PIL")  # what it says of damage besides
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_damage_anywhere_is_an_image_error_or_an_image(kind: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    buffer = io.BytesIO()
    picture(40, 30).save(buffer, kind)
    for number in range(150):
        content = bytearray(buffer.getvalue())
        for place in generator.integers(0, len(content), 1 + number % 8):
            content[place] = generator.integers(0, 256)
        path = tmp_path / "damaged"
        path.write_bytes(content[: len(content) if number % 3 else generator.integers(1, len(content))])
        outcome = suppress_image_error(path)
        assert "RGB" in outcome or str(path) in outcome


def test_the_largest_allowed_side_is_not_a_problem() -> None:
    assert open_image(Image.new("L", (20_000, 3))).size == (20_000, 3)
    assert MAX_PIXELS < 20_000 * 20_000


def test_expanding_words(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.png", "notes.txt", "sub/deep.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = lambda words: [Path(str(s)).name for s in expand_sources(words)]  # noqa: E731
    assert names([str(tmp_path)]) == ["img2.png", "img10.png"]
    assert names([str(tmp_path / "*.png")]) == ["img2.png", "img10.png"]
    assert names([str(tmp_path / "**" / "*.jpg")]) == ["deep.jpg"]
    assert names([str(tmp_path / "gone.png"), str(tmp_path / "notes.txt")]) == ["gone.png", "notes.txt"]
    (tmp_path / "a[1].png").write_bytes(b"x")
    assert names([str(tmp_path / "a[1].png")]) == ["a[1].png"]
    (tmp_path / "empty").mkdir()
    for word, message in (
        (str(tmp_path / "empty"), "holds no images"),
        (str(tmp_path / "*.bmp"), "nothing matches"),
        ("https://example.org/a.png", "--allow-url"),
        ("file:///etc/passwd", "only http and https"),
    ):
        with pytest.raises(ImageError, match=message):
            expand_sources([word])
    assert expand_sources(["http://x.org/a.png"], allow_url=True) == [RemoteImage("http://x.org/a.png")]
    with pytest.raises(ImageError, match="only http and https"):
        expand_sources(["ftp://x.org/a.png"], allow_url=True)


def test_remote_images_over_real_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "r.png")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        assert (rgb(open_image(RemoteImage(f"{base}/r.png"))) == rgb(picture())).all()
        with pytest.raises(ImageError, match="404"):
            open_image(RemoteImage(f"{base}/absent.png"))
        monkeypatch.setattr("humanpref.images.MAX_REMOTE_BYTES", 10)
        with pytest.raises(ImageError, match="not fetched further"):
            open_image(RemoteImage(f"{base}/r.png"))
        server.shutdown()
    with pytest.raises(ImageError, match="could not be fetched"):
        open_image(RemoteImage(f"{base}/r.png"))


def test_large_pictures_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads: what is being decoded has no more pixels together than may be, and all get their turn."""
    monkeypatch.setattr(images, "_large", images._Pixels(20_000_000))
    buffer = io.BytesIO()
    Image.new("L", (2000, 3000), 9).save(buffer, "PNG")
    lock, now, most = threading.Lock(), 0, 0
    convert = images._to_rgb

    def watched(picture: Image.Image) -> Image.Image:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        try:
            return convert(picture)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(images, "_to_rgb", watched)
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda n: images.EncodedImage(buffer.getvalue(), f"{n}").picture, range(12)))
    assert [picture.size for picture in opened] == [(2000, 3000)] * 12
    assert most == 3
