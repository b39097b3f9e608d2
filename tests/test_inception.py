"""FID and Inception Score against torchmetrics and torch-fidelity, with random weights in the official layout."""

from __future__ import annotations

import hashlib
import socket
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from humanpref.errors import DataError, DownloadError, ImageError, MissingExtraError, ScoreError, WeightsError
from humanpref.evaluation import inception
from humanpref.evaluation.inception import (
    Features,
    Inception,
    frechet_inception_distance,
    inception_score,
    inception_splits,
    load_inception,
)
from tests.hub import FakeHub, serving
from tests.toys import picture

SIZES = [(64, 48), (64, 48), (320, 200), (64, 48), (1, 1), (299, 299), (320, 200)]


@pytest.fixture(scope="session")
def weights(inception_weights: Path) -> Path:
    return inception_weights


@pytest.fixture(scope="module")
def network(weights: Path) -> Inception:
    return load_inception(weights, "cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [picture(*size, seed=seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def features(network: Inception, pictures: list[Image.Image]) -> Features:
    return network.features(pictures)


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


@pytest.mark.slow
def test_features_are_those_of_torch_fidelity(
    weights: Path, features: Features, pictures: list[Image.Image], tmp_path: Path
) -> None:
    from torch_fidelity import FeatureExtractorInceptionV3

    extractor = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    assert features.pool.shape == (7, 2048)
    assert features.logits.shape == (7, 1008)
    assert len(features) == 7
    for i, image in enumerate(pictures):  # one by one: in their order, whatever was batched with what
        pool, logits = extractor(as_tensor(image))
        torch.testing.assert_close(features.pool[i], pool[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.logits[i], logits[0], rtol=1e-4, atol=1e-5)
    assert features.pool.std(dim=0).mean() > 1e-3  # the weights tell images apart


@pytest.mark.slow
def test_numbers_are_those_of_torchmetrics_fed_with_the_images(
    weights: Path, features: Features, pictures: list[Image.Image]
) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
    from torchmetrics.image.inception import InceptionScore

    theirs = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights), antialias=False)
    for i, image in enumerate(pictures):
        theirs.update(as_tensor(image), real=i < 3)
    expected = float(theirs.compute())
    assert expected > 1
    found = frechet_inception_distance(features.select(range(3, 7)), features.select(range(3)))
    assert found == pytest.approx(expected, rel=1e-6)

    logits = NoTrainInceptionV3("inception-v3-compat", ["logits_unbiased"], str(weights), antialias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = InceptionScore(logits, splits=3)
        for image in pictures:
            score.update(as_tensor(image))
        torch.manual_seed(4)
        expected = float(score.compute()[0])
    assert expected > 1.001
    assert inception_score(features, splits=3, seed=4) == pytest.approx(expected, rel=1e-6)


def test_fid_by_hand() -> None:
    """Two Gaussians with diagonal covariances: |difference of means|^2 + sum of (difference of deviations)^2."""
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * (3 / 4) ** 0.5  # covariance 1
    one = Features(square, square)
    two = Features(square * torch.tensor([3.0, 1.0]) + torch.tensor([0.0, 2.0]), square)
    assert frechet_inception_distance(two, one) == pytest.approx(2**2 + (3 - 1) ** 2, rel=1e-5)
    assert frechet_inception_distance(one, two) == pytest.approx(8, rel=1e-5)
    assert frechet_inception_distance(one, one) == pytest.approx(0, abs=1e-5)


def test_inception_score_by_hand() -> None:
    """Images that are surely of k different classes, equally often, score k; images that are all alike score 1."""
    sure = torch.eye(4).repeat(25, 1) * 100
    assert inception_score(Features(sure, sure), splits=1) == pytest.approx(4, rel=1e-4)
    alike = torch.ones(100, 4)
    assert inception_score(Features(alike, alike)) == pytest.approx(1)


def test_splits() -> None:
    assert [inception_splits(n) for n in (2, 49, 99, 100, 499, 500, 50_000)] == [1, 1, 1, 2, 9, 10, 10]
    logits = torch.randn(100, 20, generator=torch.Generator().manual_seed(0)) * 2
    images = Features(logits, logits)
    assert inception_score(images) == inception_score(images, splits=2)
    assert inception_score(images, seed=1) == inception_score(images, seed=1) != inception_score(images, seed=2)
    # fewer images a split, a lower score, and never more than there are images
    assert inception_score(images, splits=50) < inception_score(images, splits=1)
    assert inception_score(images, splits=50) <= 2


def test_the_global_random_state_and_warnings_are_left_alone() -> None:
    before = torch.get_rng_state()
    images = Features(torch.eye(3), torch.eye(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inception_score(images)
        frechet_inception_distance(images, images)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_few_images() -> None:
    one, two = Features(torch.ones(1, 4), torch.ones(1, 4)), Features(torch.eye(2), torch.eye(2))
    for left, right, counts in ((one, two, "1 and 2"), (two, one, "2 and 1")):
        with pytest.raises(DataError, match=f"FID needs at least 2 images on each side, got {counts}"):
            frechet_inception_distance(left, right)
    with pytest.raises(DataError, match="Inception Score needs at least 2 images, got 1"):
        inception_score(one)
    for splits in (0, 2):
        with pytest.raises(DataError, match="of 2 images takes 1 to 1 splits"):
            inception_score(two, splits=splits)


class Recorder(torch.nn.Module):
    """Stands in for the network: says what it was given, and gives the mean back."""

    def __init__(self, value: float | None = None) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.value = value

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert batch.dtype == torch.uint8
        self.seen.append(tuple(batch.shape))
        mean = (
            batch.double().mean(dim=(1, 2, 3))[:, None]
            if self.value is None
            else torch.full((len(batch), 1), self.value)
        )
        return mean.expand(-1, 2048), mean.expand(-1, 1008)


def test_images_of_a_size_go_together_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    shades = [Image.new("RGB", (20 + i % 3, 10), (i, i, i)) for i in range(30)]
    recorder = Recorder()
    called: list[int] = []
    found = Inception(recorder, torch.device("cpu"), official=False).features(shades, lambda: called.append(1))
    assert found.pool[:, 0].tolist() == found.logits[:, 5].tolist() == list(range(30))
    assert len(called) == 30
    assert sorted(recorder.seen) == sorted([(n, 3, 10, w) for w in (20, 21, 22) for n in (8, 2)])

    monkeypatch.setattr(inception, "MAX_WAITING_PIXELS", 500)  # two of these
    odd = [Image.new("RGB", (20, 10 + i), (i, i, i)) for i in range(10)]
    recorder = Recorder()
    assert Inception(recorder, torch.device("cpu"), official=False).features(odd).pool[:, 0].tolist() == list(range(10))
    assert len(recorder.seen) == 10
    monkeypatch.setattr(inception, "MAX_BATCH_PIXELS", 300)
    recorder = Recorder()
    Inception(recorder, torch.device("cpu"), official=False).features(shades[:1] * 4)
    assert recorder.seen == [(2, 3, 10, 20)] * 2
    assert len(Inception(recorder, torch.device("cpu"), official=False).features([])) == 0


def test_images_are_opened_as_everywhere(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")  # transparency is shown over white
    blank = Inception(Recorder(), torch.device("cpu"), official=False)
    assert blank.features([tmp_path / "clear.png"]).pool[0, 0] == 255
    with pytest.raises(ImageError, match=r"absent\.png: no such file"):
        blank.features([tmp_path / "clear.png", tmp_path / "absent.png"])


def test_what_is_no_number_is_an_error() -> None:
    damaged = Inception(Recorder(float("nan")), torch.device("cpu"), official=False)
    with pytest.raises(ScoreError, match="no finite numbers"):
        damaged.features([picture()])


def test_only_the_published_bytes_are_official(
    weights: Path, network: Inception, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not network.official
    monkeypatch.setattr(inception, "INCEPTION_SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())
    assert load_inception(weights, "cpu").official


def test_the_published_file_is_the_one_torch_fidelity_names() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert inception.INCEPTION_URL == URL_INCEPTION_V3
    assert inception.INCEPTION_SHA256.startswith("6726825d")


def test_other_ways_to_save_the_same_weights(weights: Path, network: Inception, tmp_path: Path) -> None:
    """As a zip, under `state_dict`, and without the counters that batch normalisation got later."""
    state = {k: v for k, v in torch.load(weights).items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": state}, tmp_path / "again.pth")
    again = load_inception(str(tmp_path / "again.pth"), "cpu").network.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in network.network.state_dict().items())


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_wrong_files(tmp_path: Path) -> None:
    def refused(name: str, match: str) -> None:
        with pytest.raises(WeightsError, match=match) as caught:
            load_inception(tmp_path / name, "cpu")
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("absent.pth", "no such file")
    (tmp_path / "empty.pth").touch()
    refused("empty.pth", "empty")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    refused("page.pth", "refused|not a|damaged")
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.pth")
    refused("other.pth", "does not hold the Inception-v3 of FID .*get it from https://github.com/toshas")
    torch.save({"fc.weight": RunsCode(tmp_path / "ran")}, tmp_path / "evil.pth")
    refused("evil.pth", "refused, because loading it could run code")
    assert not (tmp_path / "ran").exists()


def test_a_missing_extra_says_what_to_install(
    features: Features, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torchmetrics", "torch_fidelity"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module, None)
            for call in (
                lambda: load_inception(weights),
                lambda: frechet_inception_distance(features, features),
                lambda: inception_score(features),
            ):
                with pytest.raises(MissingExtraError, match=r'pip install "humanpref\[fid\]"'):
                    call()


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_no_network(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/{inception.INCEPTION_FILE}"
    monkeypatch.setattr(inception, "INCEPTION_URL", url)
    said: list[str] = []
    with pytest.raises(DownloadError, match=r"\(96 MB\).*could not be downloaded") as caught:
        load_inception(device="cpu", on_download=said.append)
    assert f"Get it from {url} and pass it with --inception-weights FILE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert said == [f"downloading Inception-v3 (96 MB) from {url} to {hub_folder}"]
    assert [*hub_folder.iterdir()] == []


@pytest.mark.slow  # a file of 96 MB
def test_downloaded_once_and_checked(
    weights: Path, features: Features, pictures: list[Image.Image], hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Release(FakeHub):
        content = weights.read_bytes()
        ranges: list[str | None] = []

    with serving(Release, hub_folder) as environment:
        monkeypatch.setattr(inception, "INCEPTION_URL", f"{environment['HF_ENDPOINT']}/{inception.INCEPTION_FILE}")
        with pytest.raises(DownloadError, match="what was sent is not the published file"):
            load_inception(device="cpu")
        assert [*hub_folder.iterdir()] == []
        monkeypatch.setattr(inception, "INCEPTION_SHA256", hashlib.sha256(Release.content).hexdigest())
        monkeypatch.setattr(inception, "INCEPTION_BYTES", len(Release.content))
        first = load_inception(device="cpu")
        asked = len(Release.ranges)
        assert first.official
    said: list[str] = []
    second = load_inception(device="cpu", on_download=said.append)  # the server is gone: this is the cached file
    assert (asked, said) == (2, [])
    torch.testing.assert_close(second.features(pictures[:2]).pool, features.pool[:2], rtol=1e-4, atol=1e-5)

    # pytorch-fid's name of it, and a file that is not it
    cached = hub_folder / inception.INCEPTION_FILE
    cached.rename(hub_folder / inception.CACHED_FILES[1])
    assert load_inception(device="cpu").official
    cached.write_bytes(b"half a download")
    with pytest.raises(WeightsError, match="delete it and download again"):
        load_inception(device="cpu")
