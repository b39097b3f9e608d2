"""WebDataset shards: rankings with their images in tar files, read as a stream with a shuffle that is the same for
the same seed, worker by worker.

`write_shards` makes `shard-000000.tar` ... and `shards.json`, the index. A sample is `KEY.json` (our own rankings
format, image names "0", "1" ...) and `KEY.0.jpg`, `KEY.1.png` ..., the image files as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from humanpref.errors import DataError, MissingExtraError, TrainingError
from humanpref.images import EncodedImage
from humanpref.records import ImageRef, Ranking
from humanpref.training.batches import Batch, Inputs, Place, collate
from humanpref.training.config import TrainConfig
from humanpref.training.examples import Counts, Example

INDEX = "shards.json"


def write_shards(
    rankings: Iterable[Ranking],
    folder: str | Path,
    *,
    per_shard: int = 1000,
    on_ranking: Callable[[], None] | None = None,
) -> int:
    """Write rankings and their images as shards, index last -> how many rankings.

    Raises `DataError` for an image that is not on disk or a folder that holds something, `MissingExtraError`.
    """
    wds = _webdataset()
    place = Path(folder).expanduser()
    if place.exists() and any(place.iterdir()):
        raise DataError(f"{place}: is not empty; choose another folder for the shards")
    place.mkdir(parents=True, exist_ok=True)
    count, pairs = 0, 0
    names: list[tuple[str, int]] = []
    images: set[str] = set()
    prompts: set[str] = set()
    iterator = iter(rankings)
    while chunk := list(islice(iterator, per_shard)):
        name = f"shard-{len(names):06d}.tar"
        with wds.TarWriter(str(place / name), encoder=False) as writer:
            for ranking in chunk:
                writer.write({"__key__": f"{count:09d}", **_files(ranking)})
                count += 1
                pairs += len(ranking.images) * (len(ranking.images) - 1) // 2
                images.update(str(image.path) for image in ranking.images)
                prompts.add(ranking.prompt)
                if on_ranking is not None:
                    on_ranking()
        names.append((name, len(chunk)))
    if not count:
        raise DataError("there are no rankings to write as shards")
    index = {
        "version": 1,
        "shards": names,
        "rankings": count,
        "pairs": pairs,
        "images": len(images),
        "prompts": len(prompts),
    }
    (place / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    return count


def _files(ranking: Ranking) -> dict[str, bytes]:
    row: dict[str, Any] = {"prompt": ranking.prompt, "images": [str(i) for i in range(len(ranking.images))]}
    row |= {"ranks": list(ranking.ranks)}
    for key in ("annotator", "id", "first_preferred"):
        if (value := getattr(ranking, key)) is not None:
            row[key] = value
    files = {"json": json.dumps(row).encode()}
    for i, image in enumerate(ranking.images):
        suffix = image.path.suffix.lower().lstrip(".") or "img"
        try:
            files[f"{i}.{suffix}"] = image.path.read_bytes()
        except OSError as error:
            raise DataError(f"{image}: cannot be read into a shard ({error.strerror})") from None
    return files


def is_shards(path: Path) -> bool:
    """Tell whether a path is a folder of shards."""
    return (path / INDEX).is_file()


@dataclass(frozen=True)
class ShardData:
    """A folder of shards as training data."""

    folder: Path
    shards: tuple[tuple[str, int], ...]
    index: dict[str, int]
    fingerprint: str

    @classmethod
    def open(cls, folder: Path) -> ShardData:
        """Read the index. Raises `DataError`."""
        import hashlib

        try:
            text = (folder / INDEX).read_text()
            found = json.loads(text)
            names = tuple((str(name), int(count)) for name, count in found["shards"])
            index = {key: int(found[key]) for key in ("rankings", "pairs", "images", "prompts")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / INDEX}: not an index of shards ({error})") from None
        if gone := [name for name, _ in names if not (folder / name).is_file()]:
            raise DataError(f"{folder}: {len(gone)} of {len(names)} shards are missing (first: {gone[0]})")
        return cls(folder, names, index, hashlib.sha256(text.encode()).hexdigest())

    @property
    def examples(self) -> int:
        """How many rankings an epoch has."""
        return self.index["rankings"]

    def counts(self, config: TrainConfig) -> Counts:
        """What the index says."""
        examples = self.index["pairs"] if config.unit == "pairs" else self.index["rankings"]
        return Counts(
            self.index["rankings"], examples, self.index["pairs"], 0, self.index["prompts"], self.index["images"]
        )

    def batches(self, inputs: Inputs, config: TrainConfig, place: Place, start: int) -> Iterator[Batch]:
        """Yield this process's batches from step `start` on; going on reads past what was used, without decoding it.

        Raises `TrainingError` when there are fewer shards than readers, or labels would need the whole data.
        """
        if config.labels == "share":
            raise TrainingError(
                "labels=share needs all rankings of a group at once; train from the data file, not shards"
            )
        readers = place.world * max(1, config.workers)
        if len(self.shards) < readers:
            raise TrainingError(
                f"{self.folder}: {len(self.shards)} shards for {readers} readers ({place.world} processes x "
                f"{max(1, config.workers)} workers); write smaller shards, or set workers lower"
            )
        dataset = _Stream(self, inputs, config, place, start * config.accumulate)
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=config.workers,
            prefetch_factor=4 if config.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)


class _Stream(IterableDataset[Batch]):
    """Each worker's own shards, over and over, in an order and with a shuffle seeded by (seed, epoch, reader)."""

    def __init__(self, data: ShardData, inputs: Inputs, config: TrainConfig, place: Place, start: int) -> None:
        self._data, self._inputs, self._config, self._place, self._start = data, inputs, config, place, start

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        if worker is not None:
            torch.set_num_threads(1)
        # The loader takes one batch of each worker in turn. Going on after `start` batches it begins with its first
        # worker again, which therefore takes over from the one whose turn it was.
        number = (self._start + number) % workers
        made = (self._start - number + workers - 1) // workers
        samples = self._examples(self._place.rank * workers + number, self._place.world * workers)
        for _ in islice(samples, made * self._config.batch):
            pass
        while True:
            chosen = list(islice(samples, self._config.batch))
            files = {path: blob for example, own in chosen for path, blob in zip(example.images, own, strict=True)}
            yield collate([e for e, _ in chosen], self._inputs, self._config.bad_images, _Opened(files))

    def _examples(self, reader: int, readers: int) -> Iterator[tuple[Example, list[bytes]]]:
        wds = _webdataset()
        epoch = 0
        while True:
            order = np.random.default_rng([self._config.seed, epoch]).permutation(len(self._data.shards))
            mine = [str(self._data.folder / self._data.shards[i][0]) for i in order[reader::readers]]
            stream = wds.tariterators.tarfile_samples([{"url": url} for url in mine])
            rng = np.random.default_rng([self._config.seed, epoch, reader])
            yield from _shuffled(self._read(stream), self._config.shuffle_buffer, rng)
            epoch += 1

    def _read(self, stream: Iterable[dict[str, Any]]) -> Iterator[tuple[Example, list[bytes]]]:
        for sample in stream:
            row = json.loads(sample["json"])
            blobs = {int(k.split(".")[0]): v for k, v in sample.items() if re.fullmatch(r"\d+\.\w+", k)}
            images = tuple(ImageRef(Path(f"{sample['__key__']}.{i}")) for i in range(len(row["images"])))
            ranking = Ranking(
                row["prompt"],
                images,
                tuple(row["ranks"]),
                row.get("annotator"),
                row.get("id"),
                row.get("first_preferred"),
            )
            content = [blobs.get(i, b"") for i in range(len(images))]
            yield from _as_examples(ranking, content, self._config)


@dataclass(frozen=True)
class _Opened:
    """Images of a batch by the names its examples have for them."""

    files: dict[Path, bytes]

    def __call__(self, path: Path) -> Image.Image:
        return EncodedImage(self.files[path], str(path)).picture


def _as_examples(ranking: Ranking, content: list[bytes], config: TrainConfig) -> Iterator[tuple[Example, list[bytes]]]:
    paths = tuple(image.path for image in ranking.images)
    preferred = tuple(pair.first_preferred for pair in ranking.pairs())
    if config.unit != "pairs" or len(paths) == 2:
        yield Example(ranking.prompt, paths, ranking.ranks, preferred), content
        return
    for (i, j), p in zip(combinations(range(len(paths)), 2), preferred, strict=True):
        example = Example(ranking.prompt, (paths[i], paths[j]), (ranking.ranks[i], ranking.ranks[j]), (p,))
        yield example, [content[i], content[j]]


def _shuffled(
    samples: Iterable[tuple[Example, list[bytes]]], size: int, rng: np.random.Generator
) -> Iterator[tuple[Example, list[bytes]]]:
    """A shuffle buffer: each sample that leaves is drawn from `size` waiting ones."""
    if size < 2:
        yield from samples
        return
    waiting: list[tuple[Example, list[bytes]]] = []
    for sample in samples:
        if len(waiting) < size:
            waiting.append(sample)
            continue
        place = int(rng.integers(size))
        yield waiting[place]
        waiting[place] = sample
    for place in rng.permutation(len(waiting)):
        yield waiting[int(place)]


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError:
        raise MissingExtraError('shards need webdataset: pip install "humanpref[train]"') from None
    return webdataset
