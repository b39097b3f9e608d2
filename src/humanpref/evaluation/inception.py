"""Frechet Inception Distance and Inception Score of sets of images: torch-fidelity's network, torchmetrics' numbers.

The two measure a generator by its whole set of images, without reading a prompt. Both depend on how many images there
are, so compare generators by the same number of images each, and report it:

- FID (arXiv 1706.08500; lower is better) is biased upwards where images are few, by an amount that differs between
  generators (arXiv 1911.07023). Its 2048 x 2048 covariances have full rank from 2049 images a side; the usual number
  is 10,000 to 50,000. Under some thousands read it as a ranking at equal n, not as a value.
- Inception Score (arXiv 1606.03498; higher is better) of a split cannot exceed the number of images in it, and rises
  with it.

The network is the Inception-v3 of 2015-12-05 that both were defined with, as converted by torch-fidelity, which resizes
as TensorFlow 1 did (bilinear, not antialiased). torchmetrics' own default network filters before it shrinks
(`antialias=True` in 1.9) and gives other numbers.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humanpref.errors import DataError, DownloadError, MissingExtraError, ScoreError, WeightsError
from humanpref.scorers.base import map_ahead
from humanpref.scorers.weights import file_sha256, given_file, read_state_dict, verify

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from humanpref.images import ImageSource

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_BYTES = 95_628_359

CACHED_FILES = (INCEPTION_FILE, "pt_inception-2015-12-05-6726825d.pth")
"""What torch-fidelity and pytorch-fid call the same file in the torch hub cache."""

LAYERS = ("2048", "logits_unbiased")
"""What FID and Inception Score are computed from: pooled features (2048) and logits without the bias (1008)."""

BATCH = 8
MAX_BATCH_PIXELS = 2**24
MAX_WAITING_PIXELS = 2**26
"""Images of one size go through the network together; those that wait for more of their size take 192 MiB at most."""

SPLITS = 10
MIN_SPLIT = 50
"""Inception Score's usual number of splits, and how many images each needs: fewer images are split less."""


@dataclass(frozen=True, eq=False)
class Features:
    """What the network sees of n images: `pool` (n, 2048) and `logits` (n, 1008), float32 on the CPU."""

    pool: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.pool)

    def select(self, indices: Sequence[int]) -> Features:
        """Return those of some images, for example of one generator."""
        chosen = list(indices)
        return Features(self.pool[chosen], self.logits[chosen])


class Inception:
    """The network. `official` tells whether its weights are the published ones, byte for byte: only with these is a
    number a FID or an Inception Score that can be compared with another."""

    def __init__(self, network: torch.nn.Module, device: torch.device, *, official: bool) -> None:
        self.network = network
        self.device = device
        self.official = official

    def features(self, images: Sequence[ImageSource], on_image: Callable[[], None] | None = None) -> Features:
        """Look at n images once -> their `Features`, in order; `on_image` is called once per image.

        Images are opened as everywhere (`humanpref.images.open_image`) and given to the network as 8-bit RGB of their
        own size; it resizes them to 299 x 299. Raises `ImageError` for the first image that cannot be read,
        `ScoreError` when the network returns what are no numbers.
        """
        import torch

        pool, logits = torch.empty(len(images), 2048), torch.empty(len(images), 1008)
        for places, batch in _batches(map_ahead(_open, images, ahead=2 * BATCH)):
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                found = self.network(batch.to(self.device))
            pool[places], logits[places] = (values.float().cpu() for values in found)
            if not (pool[places].isfinite().all() and logits[places].isfinite().all()):
                raise ScoreError("Inception-v3 returned what are no finite numbers; its weights may be damaged")
            if on_image is not None:
                for _ in places:
                    on_image()
        return Features(pool, logits)


def load_inception(
    weights: str | Path | None = None,
    device: str = "auto",
    *,
    on_download: Callable[[str], None] | None = None,
) -> Inception:
    """Load Inception-v3 from the user's file, else the torch hub cache, else torch-fidelity's release (96 MB).

    `on_download` is told, in one sentence, before anything is downloaded. The published file's SHA-256 is checked; a
    file of the user's own may be another one of the same layout, which `Inception.official` then says.
    Raises `MissingExtraError` without torchmetrics or torch-fidelity, `DownloadError` when the weights cannot be had,
    `WeightsError` for a file that holds others, is damaged, or would run code.
    """
    _check_extra()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from humanpref.scorers.devices import resolve_device

    place = resolve_device(device)
    path = _published(on_download) if weights is None else given_file(weights)
    official = weights is None or file_sha256(path) == INCEPTION_SHA256
    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", list(LAYERS), feature_extractor_weights_path=_repacked(path)
        )
    except RuntimeError as error:  # names or shapes do not fit: pages of them
        raise WeightsError(
            f"{path}: does not hold the Inception-v3 of FID ({str(error)[:160]}...); get it from {INCEPTION_URL}"
        ) from None
    return Inception(network.to(place).eval(), place, official=official)


def frechet_inception_distance(images: Features, reference: Features) -> float:
    """FID between two sets of images, as torchmetrics computes it (float64, unbiased covariances). Lower is better.

    See the head of this module for how it depends on the number of images. Raises `DataError` for fewer than 2 images
    on a side.
    """
    _check_extra()
    if min(len(images), len(reference)) < 2:
        raise DataError(f"FID needs at least 2 images on each side, got {len(images)} and {len(reference)}")
    from torchmetrics.image.fid import FrechetInceptionDistance

    with _quiet():
        metric = FrechetInceptionDistance(feature=_handed_over(images.pool.shape[1]))
        metric.update(reference.pool, real=True)
        metric.update(images.pool, real=False)
        return float(metric.compute())


def inception_splits(n: int) -> int:
    """How many splits Inception Score takes by default for n images: 10, fewer where a split would have under 50."""
    return max(1, min(SPLITS, n // MIN_SPLIT))


def inception_score(images: Features, *, splits: int | None = None, seed: int = 0) -> float:
    """Inception Score of a set of images, as torchmetrics computes it: the mean over random splits. Higher is better.

    `splits`: None for `inception_splits`, 10 from 500 images on. `seed` draws the splits; the global random state is
    left alone. See the head of this module for how it depends on the number of images. Raises `DataError` for fewer
    than 2 images, or more splits than would leave 2 images each.
    """
    _check_extra()
    if len(images) < 2:
        raise DataError(f"Inception Score needs at least 2 images, got {len(images)}")
    parts = inception_splits(len(images)) if splits is None else splits
    if not 1 <= parts <= len(images) // 2:
        raise DataError(f"Inception Score of {len(images)} images takes 1 to {len(images) // 2} splits, got {parts}")
    import torch
    from torchmetrics.image.inception import InceptionScore

    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        metric = InceptionScore(feature=_handed_over(images.logits.shape[1]), splits=parts)
        metric.update(images.logits)
        mean, _ = metric.compute()  # the spread over splits says nothing of the sampling error: they share the images
    return float(mean)


def _handed_over(size: int) -> Any:
    """Make the feature extractor of a metric that is handed features instead of images."""
    import torch

    module: Any = torch.nn.Identity()
    module.num_features = size
    return module


def _open(source: ImageSource) -> Tensor:
    """Decode an image -> uint8 (3, H, W)."""
    import numpy as np
    import torch

    from humanpref.images import open_image

    return torch.from_numpy(np.array(open_image(source), dtype=np.uint8)).permute(2, 0, 1)


def _batches(images: Iterator[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Gather images (3, H, W) by size -> their places and batches (n, 3, H, W). Each comes once, not in order."""
    import torch

    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}

    def taken(size: tuple[int, ...]) -> tuple[list[int], Tensor]:
        places, pixels = zip(*waiting.pop(size), strict=True)
        return list(places), torch.stack(pixels)

    for place, image in enumerate(images):
        size = tuple(image.shape[1:])
        alike = waiting.setdefault(size, [])
        alike.append((place, image))
        if len(alike) == BATCH or len(alike) * math.prod(size) >= MAX_BATCH_PIXELS:
            yield taken(size)
        while (pixels := {s: len(members) * math.prod(s) for s, members in waiting.items()}) and (
            sum(pixels.values()) > MAX_WAITING_PIXELS
        ):
            yield taken(max(pixels, key=pixels.__getitem__))
    while waiting:
        yield taken(next(iter(waiting)))


def _repacked(path: Path) -> BytesIO:
    """Read a checkpoint safely and write its tensors anew: torch-fidelity unpickles whatever it is given."""
    import torch

    packed = BytesIO()
    torch.save(read_state_dict(path), packed)
    packed.seek(0)
    return packed


def _published(on_download: Callable[[str], None] | None) -> Path:
    """Return the published file, verified: from the torch hub cache, or downloaded into it."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in CACHED_FILES:
        if (path := folder / name).is_file():
            verify(path, INCEPTION_SHA256)
            return path
    if on_download is not None:
        on_download(f"downloading Inception-v3 ({INCEPTION_BYTES / 1e6:.0f} MB) from {INCEPTION_URL} to {folder}")
    try:
        return _download(folder)
    except Exception as error:  # the network's errors, those of proxies and certificates, and the disk's
        full = getattr(error, "errno", None) == errno.ENOSPC
        why = "no space left on the disk" if full else (str(error).strip() or type(error).__name__).splitlines()[0]
    raise DownloadError(
        f"FID and Inception Score need {INCEPTION_FILE} ({INCEPTION_BYTES / 1e6:.0f} MB), which is not here and could "
        f"not be downloaded ({why}). Get it from {INCEPTION_URL} and pass it with --inception-weights FILE"
    )


def _download(folder: Path) -> Path:
    import httpx

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{INCEPTION_FILE}.{os.getpid()}.part"
    digest, size = hashlib.sha256(), 0
    try:
        with (
            httpx.stream("GET", INCEPTION_URL, follow_redirects=True, timeout=30) as response,
            partial.open("wb") as file,
        ):
            response.raise_for_status()
            for block in response.iter_bytes(2**20):
                file.write(block)
                digest.update(block)
                size += len(block)
                if size > INCEPTION_BYTES:
                    break  # it is something else: the checksum says so
        if (found := digest.hexdigest()) != INCEPTION_SHA256:
            raise DownloadError(
                f"what was sent is not the published file: {size:,} bytes with SHA-256 {found[:16]}..., "
                f"not {INCEPTION_BYTES:,} with {INCEPTION_SHA256[:16]}..."
            )
        return partial.replace(folder / INCEPTION_FILE)
    finally:
        partial.unlink(missing_ok=True)


def _check_extra() -> None:
    try:
        import torch_fidelity  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            'FID and Inception Score need torchmetrics and torch-fidelity: pip install "humanpref[fid]"'
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back torchmetrics' warnings: that it keeps features in memory, and that one split has no spread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
