"""The `lite` model: the mean of a Gaussian process over the features of `lite_features`, evaluated with numpy alone.

A score is a weighted sum of similarities to the training images and to damaged copies of them, which it was taught to
rank below, less a constant that makes the mean score of the images 0.
Similarity adds up one Gaussian kernel per block of features (texture, normalised texture). `recipes/train_lite.py` fits
the model and writes its file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LiteModel:
    """Arrays of the fitted model; d features, m training images and copies, b blocks of features."""

    centre: Doubles  # (d,) median of each feature
    spread: Doubles  # (d,) robust standard deviation of each feature
    limit: Doubles  # (1,) features are cut off this many spreads from the centre
    blocks: Doubles  # (b, 4) first feature, end, sharpness and weight of each kernel
    support: Doubles  # (m, d) features of the training images and copies, normalised
    weights: Doubles  # (m,) their weights in a score, logits
    offset: Doubles  # (1,) what is subtracted from every score, logits

    def __post_init__(self) -> None:
        d, m = len(self.centre), len(self.weights)
        shapes = {"centre": (d,), "spread": (d,), "limit": (1,), "support": (m, d), "weights": (m,), "offset": (1,)}
        for name, shape in shapes.items():
            array: Doubles = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"lite model: {name} should be finite numbers of shape {shape}, is {array.shape}")
        ends_fit = self.blocks.ndim == 2 and self.blocks.shape[1] == 4 and self.blocks[:, 1].max(initial=0) <= d
        if not ends_fit or (self.spread <= 0).any():
            raise ValueError("lite model: blocks lie outside the features, or a spread is not positive")

    @classmethod
    def load(cls, path: Path) -> "LiteModel":
        """Read a safetensors file. Raises OSError, safetensors.SafetensorError or ValueError if it is not such."""
        from safetensors.numpy import load_file

        return cls.from_arrays(load_file(path), str(path))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.floating]], origin: str = "lite model") -> "LiteModel":
        """The model of named arrays of any float type."""
        wanted = list(cls.__dataclass_fields__)
        if sorted(arrays) != sorted(wanted):
            raise ValueError(f"{origin}: expected the arrays {', '.join(wanted)}; found {', '.join(sorted(arrays))}")
        return cls(**{name: np.asarray(arrays[name], dtype=np.float64) for name in wanted})

    def predict(self, features: npt.NDArray[np.floating]) -> Doubles:
        """(n, d) features -> (n,) scores in logits: sigmoid(a - b) is the probability that a is preferred to b."""
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise ValueError(f"expected features of shape (n, {len(self.centre)}), got {features.shape}")
        normal = normalise(np.asarray(features, dtype=np.float64), self.centre, self.spread, self.limit)
        # One image at a time: products too small for BLAS to start threads of its own. These go on turning a core for a
        # while, in case more work comes, and it always does (measured: a third of the time); nor do other images of a
        # batch change the last digits of a score.
        lengths = self._lengths
        each = [similarity(one, self.support, self.blocks, lengths) @ self.weights for one in normal[:, None]]
        scores: Doubles = np.concatenate([*each, np.zeros(0)]) - self.offset
        return scores

    @cached_property
    def _lengths(self) -> list[Doubles]:
        return squared_lengths(self.support, self.blocks)


def normalise(features: Doubles, centre: Doubles, spread: Doubles, limit: Doubles) -> Doubles:
    """(n, d) features -> (n, d), in spreads from the centre, cut off at plus and minus the limit."""
    normal: Doubles = np.clip((features - centre) / spread, -limit, limit)
    return normal


def squared_lengths(features: Doubles, blocks: Doubles) -> list[Doubles]:
    """(n, d) normalised features -> for each block (n,), the sums of the squares of its features."""
    parts = (features[:, int(first) : int(end)] for first, end, *_ in blocks)
    return [(part * part).sum(axis=1) for part in parts]


def similarity(left: Doubles, right: Doubles, blocks: Doubles, lengths: list[Doubles] | None = None) -> Doubles:
    """(n, d) and (m, d) normalised features -> (n, m): the sum over blocks of weight * exp(-sharpness * d2 / 2), with
    d2 the mean squared difference of the block's features. `lengths`: `squared_lengths` of `right`, where known."""
    total = np.zeros((len(left), len(right)))
    of_left = squared_lengths(left, blocks)
    of_right = squared_lengths(right, blocks) if lengths is None else lengths
    for (first, end, sharpness, weight), l2, r2 in zip(blocks.tolist(), of_left, of_right, strict=True):
        a, b = left[:, int(first) : int(end)], right[:, int(first) : int(end)]
        squares = l2[:, None] + r2 - 2.0 * a @ b.T
        total += weight * np.exp(-0.5 * sharpness * np.maximum(squares, 0.0) / (end - first))
    return total
