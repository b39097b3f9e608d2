"""On a CUDA device: the scores of the official implementation, by the fast paths too. Run with: pytest -m gpu"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from humanpref.errors import ImageError
from humanpref.images import EncodedImage
from tests.conftest import TINY_ARCH
from tests.toys import damaged_jpeg, picture

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


# fp32 on a GPU is not bit for bit: cuDNN may take TF32 for the patch convolution
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("auto", 5e-3), ("bf16", 2e-2)])
def test_parity(load_tiny, gallery: Path, expected_rows, precision: str, tolerance: float) -> None:
    scorer = load_tiny(device="cuda", precision=precision)
    assert scorer.precision == {"auto": "fp16"}.get(precision, precision)
    found = scorer.score([gallery / "test" / r["image"] for r in expected_rows], [r["prompt"] for r in expected_rows])
    assert (found - torch.tensor([r["score"] for r in expected_rows])).abs().max() < tolerance


def test_gradients(load_tiny) -> None:
    scorer = load_tiny(device="cuda", precision="auto")
    pixels = torch.rand(2, 3, 224, 224, device="cuda", requires_grad=True)
    (gradient,) = torch.autograd.grad(scorer.score(pixels, "a cat").sum(), pixels)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    assert scorer.score([picture()], "a cat").device.type == "cpu"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("jpeg")
    found = [folder / f"{n}.jpg" for n in range(200)]
    for n, path in enumerate(found):
        picture(width=512 if n % 3 else 300, height=512, seed=n).save(path, quality=90)
    (folder / "cut.jpg").write_bytes(found[0].read_bytes()[:-500])
    (folder / "not.jpg").write_bytes(b"\xff\xd8 no image \xff\xd9")
    return [*found, folder / "cut.jpg", folder / "not.jpg"]


def same(one: list[float | ImageError], other: list[float | ImageError], tolerance: float) -> None:
    assert [str(a) for a in one if isinstance(a, ImageError)] == [str(b) for b in other if isinstance(b, ImageError)]
    numbers = [(a, b) for a, b in zip(one, other, strict=True) if not isinstance(a, ImageError)]
    assert len(numbers) == 200
    assert max(abs(a - b) for a, b in numbers) < tolerance


def test_begin_does_not_wait(load_tiny, files: list[Path]) -> None:
    """The next batch is queued while the GPU is busy, and scores are asked for when it is not."""
    for options in ({}, {"decode": "device"}):
        scorer = load_tiny(device="cuda", **options)
        assert scorer.in_flight == 1
        batch = [scorer.prepare(path) for path in files[: scorer.batch_size]]
        expected = scorer.begin(batch, [f"prompt {n}" for n in range(len(batch))])()
        for name in ("another", "prompt"):  # the first time memory is set aside, which waits
            torch.cuda.synchronize()
            torch.cuda._sleep(3_000_000_000)  # a second or two
            began = time.perf_counter()
            waits = [scorer.begin(batch, [f"{name} {n} {k}" for n in range(len(batch))]) for k in range(2)]
            waits.append(scorer.begin(batch, [f"prompt {n}" for n in range(len(batch))]))
            begun = time.perf_counter() - began
            assert waits[-1]() == pytest.approx(expected, abs=1e-5)
            assert time.perf_counter() - began > 0.5
        assert begun < 0.5


def test_batches_in_flight(load_tiny, files: list[Path]) -> None:
    """Scores are those of one batch after the other: no buffer is used again too early."""
    scorer = load_tiny(device="cuda")
    prompts = [f"prompt {n % 50}" for n in range(len(files))]
    found = [list(scorer.score_each(files, prompts)) for _ in range(3)]
    scorer.in_flight = 0
    for one in found:
        same(one, list(scorer.score_each(files, prompts)), 1e-5)


def test_decoding_on_the_device(load_tiny, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    exact, fast = load_tiny(device="cuda"), load_tiny(device="cuda", decode="device")
    prompts = [f"prompt {n % 50}" for n in range(len(files))]
    expected = list(exact.score_each(files, prompts))
    monkeypatch.setattr("humanpref.scorers.device_decoding._exactly", None)  # nvJPEG decodes them all
    for _ in range(3):
        same(expected, list(fast.score_each(files, prompts)), 1e-2)


def test_damage_among_good_files_of_one_size(load_tiny, files: list[Path]) -> None:
    """Damaged files are errors or pictures, as nvJPEG sees it; they move nobody else's score."""
    exact, fast = load_tiny(device="cuda"), load_tiny(device="cuda", decode="device")
    contents = [path.read_bytes() for path in files[1:200:3]]
    bad = {5, 20, 41}
    for n in bad:
        middle = len(contents[n]) // 2
        scan = contents[n][:middle] + b"\xff" * 50 + contents[n][middle + 50 :]
        contents[n] = damaged_jpeg(contents[n]) if n == 5 else scan
    images = [EncodedImage(content, str(n)) for n, content in enumerate(contents)]
    pairs = zip(exact.score_each(images, "a"), fast.score_each(images, "a"), strict=True)
    for n, (one, other) in enumerate(pairs):
        if n not in bad:
            assert other == pytest.approx(one, abs=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_compiled(load_tiny, files: list[Path], precision: str) -> None:
    plain = load_tiny(device="cuda", precision=precision)
    compiled = load_tiny(device="cuda", precision=precision, compiled=True)
    tolerance = 1e-3 if precision == "fp32" else 1e-2
    same(list(plain.score_each(files, "a")), list(compiled.score_each(files, "a")), tolerance)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_batch_run(load_tiny, tiny_checkpoint: Path, files: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from humanpref.batch.records import Reading
    from humanpref.batch.run import batch
    from humanpref.batch.score import Model
    from tests.batching import scores

    model = Model("hps-v2.1", str(tiny_checkpoint), str(TINY_ARCH), device="cuda", decode="device", compiled=True)
    out = tmp_path / "out"
    report = batch(
        [str(files[0].parent)], str(out), [model], part_rows=70, reading=Reading(prompt="a"), embeddings="float32"
    )
    assert report.errors == {"unreadable-image": 2}
    expected = dict(zip([file.name for file in files], load_tiny(device="cuda").score_each(files, "a"), strict=True))
    for row in scores(out):
        if row["error"] is None:
            assert row["score_hps_v2_1"] == pytest.approx(expected[row["key"]], abs=1e-2)
