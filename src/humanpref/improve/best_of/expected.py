"""What the best of k is worth, without bias, from one pool of n images: pure functions on arrays.

Every k of the n images are as likely drawn as any other k, so the expected score of the best of k is the mean of the
maximum over all C(n, k) subsets. Sorted, s_1 <= ... <= s_n, the i-th is the best of C(i - 1, k - 1) of them:

    E(k) = sum_i  s_i C(i - 1, k - 1) / C(n, k)

which is unbiased for the best of k fresh images (a U-statistic). Taking the maximum of the first k images instead is
unbiased too but uses a fraction of what is known; the maximum over bootstrap samples of the pool is too low, as these
hold an image twice. For a second scorer's value v of the image that the first would choose, v_i stands in the place of
s_i. (Of the estimators in use for pass@k, Chen et al. 2021, arXiv 2107.03374, this is the one for any score.)
"""

from __future__ import annotations

import numpy as np

from humanpref.errors import ScoreError
from humanpref.metrics import Array


def expected_best(scores: Array, values: Array | None = None) -> Array:
    """Expected value of the image with the highest score among k of a pool -> (n,) for k = 1 ... n.

    scores: (n,), by which the best is chosen. values: (n,), what is wanted to know of it (default: its score). Images
    of equal score are equally likely to be chosen. Raises `ScoreError` for no image, or numbers that are not finite.
    """
    values = scores if values is None else values
    n = len(scores)
    if not n or scores.shape != values.shape or scores.ndim != 1:
        raise ScoreError(f"a pool is one score and one value per image, got {scores.shape} and {values.shape}")
    if not (np.isfinite(scores).all() and np.isfinite(values).all()):
        raise ScoreError("a pool's scores must be finite numbers")
    _, places, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(places, weights=values) / sizes
    ends = np.cumsum(sizes)  # the last place, from 1, of each group of equals
    found = np.empty(n)
    below = np.concatenate([[0], ends]) / n  # C(i, k) / C(n, k) at the ends of the groups, here for k = 1
    for k in range(1, n + 1):
        found[k - 1] = np.diff(below) @ means
        if k < n:
            below = below * np.clip(np.concatenate([[0], ends]) - k, 0, None) / (n - k)
    return found
