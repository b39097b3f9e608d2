"""Which examples make which batch, and what a batch is. The plan is a pure function of seed and step, so that a run
that goes on takes the same batches as one that never stopped, with any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from humanpref.errors import ImageError, TrainingError
from humanpref.images import ImageSource, open_image
from humanpref.preprocess import PreprocessSpec, Resize, prepare_picture
from humanpref.training.config import TrainConfig
from humanpref.training.examples import Example


class Inputs(Protocol):
    """How images and prompts become what the model takes: pixels and tokens, or cached embeddings."""

    def image(self, image: ImageSource) -> Tensor:
        """One image -> its input. Raises `ImageError`."""
        ...

    def prompts(self, prompts: list[str]) -> Tensor:
        """Prompts -> (prompts, ...)."""
        ...


@dataclass(frozen=True)
class PixelInputs:
    """Images preprocessed as at test time (no augmentation), prompts as tokens."""

    spec: PreprocessSpec
    resize: Resize
    tokenizer: Callable[[list[str]], Tensor]

    def image(self, image: ImageSource) -> Tensor:
        """One image -> (3, size, size), float32."""
        return prepare_picture(open_image(image), self.spec, self.resize)

    def prompts(self, prompts: list[str]) -> Tensor:
        """Prompts -> tokens (prompts, context)."""
        return self.tokenizer(prompts)


@dataclass(frozen=True)
class Batch:
    """Examples as tensors; each image and each prompt is there once, however many examples name it.

    images: (u, ...), prompts: (v, ...). An entry is an image of an example: `image_of`, `prompt_of` and `ranks` are
    (entries,), `sizes` how many entries each example has. `first` and `second` are entries, `preferred`
    P(first preferred), each (pairs,). `texts` and `paths` name what is in it; `skipped` says what is not, and why.
    """

    images: Tensor
    prompts: Tensor
    image_of: Tensor
    prompt_of: Tensor
    ranks: Tensor
    sizes: tuple[int, ...]
    first: Tensor
    second: Tensor
    preferred: Tensor
    texts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Move the tensors."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Put the tensors where a GPU can fetch them while it computes; called by the loader."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **changed)


def collate(
    examples: Sequence[Example],
    inputs: Inputs,
    bad_images: str,
    read: Callable[[Path], ImageSource] = lambda path: path,
) -> Batch:
    """Read the images of examples and make a batch of them.

    An example with an image that cannot be read raises `TrainingError`, or with bad_images="skip" is left out and said
    to be (`Batch.skipped`); nothing takes its place. A batch with nothing in it has one blank image and no pairs, so
    that all processes of a distributed run take the same steps.
    """
    images: dict[Path, Tensor] = {}
    failed: dict[Path, str] = {}
    for path in dict.fromkeys(path for example in examples for path in example.images):
        try:
            images[path] = inputs.image(read(path))
        except ImageError as error:
            if bad_images == "stop":
                raise TrainingError(
                    f"an image of the training data cannot be read: {error}; mend it, or leave such images out with "
                    "bad_images=skip"
                ) from None
            failed[path] = str(error)
    good = [example for example in examples if not any(path in failed for path in example.images)]
    skipped = tuple(
        next(failed[path] for path in example.images if path in failed)
        for example in examples
        if any(path in failed for path in example.images)
    )
    used = list(dict.fromkeys(path for example in good for path in example.images))
    texts = list(dict.fromkeys(example.prompt for example in good))
    if not good:
        blank = torch.zeros_like(next(iter(images.values()))) if images else _blank(inputs)
        nothing, zero = torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        prompts = inputs.prompts([examples[0].prompt if examples else ""])
        return Batch(
            blank[None], prompts, zero, zero, zero + 1, (1,), nothing, nothing, torch.zeros(0), skipped=skipped
        )
    place, text = {path: i for i, path in enumerate(used)}, {prompt: i for i, prompt in enumerate(texts)}
    first, second = [], []
    begin = 0
    for example in good:
        for i, j in combinations(range(len(example.images)), 2):
            first.append(begin + i)
            second.append(begin + j)
        begin += len(example.images)
    return Batch(
        images=torch.stack([images[path] for path in used]),
        prompts=inputs.prompts(texts),
        image_of=torch.tensor([place[path] for example in good for path in example.images]),
        prompt_of=torch.tensor([text[example.prompt] for example in good for _ in example.images]),
        ranks=torch.tensor([rank for example in good for rank in example.ranks]),
        sizes=tuple(len(example.images) for example in good),
        first=torch.tensor(first),
        second=torch.tensor(second),
        preferred=torch.tensor([p for example in good for p in example.preferred], dtype=torch.float32),
        texts=tuple(texts),
        paths=tuple(str(path) for path in used),
        skipped=skipped,
    )


def _blank(inputs: Inputs) -> Tensor:
    from PIL import Image

    return (
        torch.zeros_like(inputs.image(Image.new("RGB", (8, 8)))) if isinstance(inputs, PixelInputs) else torch.zeros(1)
    )


@dataclass(frozen=True)
class Place:
    """Which process of how many this is."""

    rank: int = 0
    world: int = 1


def planned(number: int, micro: int, config: TrainConfig, place: Place, seed_stream: int = 0) -> list[int]:
    """Indices of the examples of one forward pass: `micro` counts forward passes of this process from 0 on.

    The stream of examples is one permutation after the other, each seeded by (seed, epoch). A step takes the next
    batch x accumulate x processes of it, so that 2 processes with batch 8 take the steps that 1 with batch 16 takes.
    """
    step, part = divmod(micro, config.accumulate)
    begin = step * config.groups_per_step * place.world + (part * place.world + place.rank) * config.batch
    found = []
    for position in range(begin, begin + config.batch):
        epoch, index = divmod(position, number)
        found.append(int(_permutation(number, config.seed + seed_stream, epoch)[index]))
    return found


@lru_cache(maxsize=4)
def _permutation(number: int, seed: int, epoch: int) -> Any:
    return np.random.default_rng([seed, epoch]).permutation(number)


class PlannedBatches(Dataset[Batch]):
    """Forward pass number -> its batch."""

    def __init__(self, data: TableData, inputs: Inputs, config: TrainConfig, place: Place) -> None:
        self._data, self._inputs, self._config, self._place = data, inputs, config, place

    def __len__(self) -> int:
        return self._config.steps * self._config.accumulate

    def __getitem__(self, micro: int) -> Batch:
        chosen = planned(self._data.examples, micro, self._config, self._place)
        if self._data.groups is not None:
            chosen = [example for group in chosen for example in self._data.groups[group]]
        return collate([self._data.table[i] for i in chosen], self._inputs, self._config.bad_images)


class TrainData(Protocol):
    """Where batches come from: an example table, or shards."""

    @property
    def fingerprint(self) -> str:
        """What differs when the data does."""
        ...

    @property
    def examples(self) -> int:
        """How many examples an epoch has."""
        ...

    def batches(self, inputs: Inputs, config: TrainConfig, place: Place, start: int) -> Iterator[Batch]:
        """Yield the batches of this process, forward pass by forward pass, from step `start` on."""
        ...


@dataclass(frozen=True)
class TableData:
    """Examples in memory, images on disk. `groups`: indices of the examples that a batch takes together, if any."""

    table: Sequence[Example]
    fingerprint: str
    groups: Sequence[Sequence[int]] | None = None

    @property
    def examples(self) -> int:
        """How many examples an epoch has."""
        return len(self.table) if self.groups is None else len(self.groups)

    def batches(self, inputs: Inputs, config: TrainConfig, place: Place, start: int) -> Iterator[Batch]:
        """Yield this process's batches from step `start` on, prepared ahead by `config.workers` processes."""
        dataset = PlannedBatches(self, inputs, config, place)
        micro = range(start * config.accumulate, config.steps * config.accumulate)
        return iter(_loader(dataset, config, micro))


def _loader(dataset: Dataset[Batch], config: TrainConfig, sampler: Sequence[int] | None) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread if config.workers else None,
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
