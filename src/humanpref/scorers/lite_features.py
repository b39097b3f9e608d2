"""What the `lite` scorer sees of one image: (H, W, 3) uint8 in, a (110,) float32 vector out; numpy and Pillow only.

The features describe fine texture, how neighbouring pixels vary together: the matrix logarithm of the covariance of
the image's 5x5 luminance patches (region covariance: Tuzel et al., ECCV 2006; its logarithm as a vector space: Arsigny
et al., SIAM J. Matrix Anal. Appl. 29, 2007), once for the patches as they are and once after dividing each by its own
contrast (divisive normalisation as in BRISQUE: Mittal et al., IEEE TIP 21, 2012). The covariance is averaged over the
eight mirror images and quarter turns of the patch, so that the features do not depend on which way up an image is.
They depend on pixels alone: not on file format, file size, or the image's dimensions as such.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

SHORT_SIDE = 512  # a larger image is reduced to this short side: that of the images the scorer is trained on ...
LONG_SIDE = 2048  # ... and to at most this long side, so that the cost of any image is bounded
PATCH = 5  # side of a patch, pixels
STEP = 3  # patches start this many pixels apart; prime to the 8-pixel grid of JPEG, so that every phase of it is met
BLOCK = 256  # patches multiplied at a time
FLOOR = 1e-6  # added to the variances of plain patches (luminance in [0, 1]) before the logarithm: 1/4 grey level
CONTRAST_FLOOR = 1e-3  # added to a patch's variance before it is divided by it
NORMALISED_FLOOR = 1e-4  # added to the variances of normalised patches (about 1) before the logarithm


def _patch_symmetries() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """`turns` (8, 25): the pixel orders of a patch's mirror images and quarter turns. `classes` (25, 25): the number of
    the class of each pair of pixels, the same for pairs that these turn into one another."""
    grid = np.arange(PATCH * PATCH).reshape(PATCH, PATCH)
    turns = np.stack([np.rot90(side, k).ravel() for side in (grid, grid[:, ::-1]) for k in range(4)])
    pairs = turns[:, :, None] * PATCH**2 + turns[:, None, :]
    smallest = np.minimum(pairs, pairs.transpose(0, 2, 1)).min(axis=0)
    _, classes = np.unique(smallest.ravel(), return_inverse=True)
    return turns, classes.reshape(smallest.shape)


_TURNS, _CLASSES = _patch_symmetries()
_CLASS_SIZES = np.bincount(_CLASSES.ravel())

FEATURE_NAMES: tuple[str, ...] = tuple(
    f"{kind}/{i}" for kind in ("texture", "normalised-texture") for i in range(len(_CLASS_SIZES))
)


def image_features(rgb: npt.NDArray[np.uint8]) -> Floats:
    """(H, W, 3) uint8 RGB, H and W at least 1 -> (110,) finite float32, named by FEATURE_NAMES; ValueError otherwise.

    Neither prompt nor other images are involved, and colour counts only through luminance."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise ValueError(f"expected an RGB image as a (H, W, 3) uint8 array, got {rgb.dtype} {rgb.shape}")
    patches = _patches(_luminance(_bounded(rgb)))
    plain = _log_covariance(patches, FLOOR)
    contrast = np.einsum("pn,pn->n", patches, patches) / np.float32(PATCH**2)
    patches /= np.sqrt(contrast + np.float32(CONTRAST_FLOOR))
    return np.concatenate([plain, _log_covariance(patches, NORMALISED_FLOOR)])


def _bounded(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image reduced to SHORT_SIDE and LONG_SIDE where it is larger (antialiased bicubic), never enlarged; a side
    shorter than a patch is filled up by repeating the border."""
    height, width = rgb.shape[:2]
    scale = min(1.0, SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = Image.fromarray(np.ascontiguousarray(rgb))
        rgb = np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
        height, width = rgb.shape[:2]
    if min(height, width) < PATCH:
        rgb = np.pad(rgb, ((0, max(0, PATCH - height)), (0, max(0, PATCH - width)), (0, 0)), mode="edge")
    return rgb


def _luminance(rgb: npt.NDArray[np.uint8]) -> Floats:
    """(H, W, 3) uint8 -> (H, W) mean of the three channels, in [0, 1]."""
    total = rgb[..., 0].astype(np.uint16)
    total += rgb[..., 1]
    total += rgb[..., 2]
    luminance = total.astype(np.float32)
    luminance *= np.float32(1 / 765)
    return luminance


def _patches(luminance: Floats) -> Floats:
    """(H, W) -> (25, n): the patches that start every STEP pixels, one a column, each less its mean."""
    rows, columns = ((side - PATCH) // STEP * STEP + 1 for side in luminance.shape)
    shifts = [(i, j) for i in range(PATCH) for j in range(PATCH)]
    patches = np.stack([luminance[i : i + rows : STEP, j : j + columns : STEP].ravel() for i, j in shifts])
    patches -= patches.mean(axis=0)
    return patches


def _log_covariance(patches: Floats, floor: float) -> Floats:
    """(25, n) patches -> (55,): log(covariance + floor), averaged over the symmetries of the patch, one value for each
    class of entries, weighted so that distances are those between the full matrices (Frobenius norm)."""
    covariance = _gram(patches) / patches.shape[1]
    covariance = covariance[_TURNS[:, :, None], _TURNS[:, None, :]].mean(axis=0)
    variances, axes = np.linalg.eigh(covariance)
    logarithm = (axes * np.log(np.maximum(variances, 0.0) + floor)) @ axes.T
    sums = np.bincount(_CLASSES.ravel(), weights=logarithm.ravel())
    return (sums / np.sqrt(_CLASS_SIZES)).astype(np.float32)


def _gram(patches: Floats) -> npt.NDArray[np.float64]:
    """(25, n) -> (25, 25): patches @ patches.T, in blocks too small for BLAS to start threads of its own.

    Several images are described at once, each in a thread; threads within threads wait for each other (measured: 20
    times slower on a busy machine), and their number would change the last digits.
    """
    whole = patches.shape[1] // BLOCK * BLOCK
    blocks = patches[:, :whole].reshape(len(patches), -1, BLOCK).swapaxes(0, 1)
    rest = patches[:, whole:]
    total = np.matmul(blocks, blocks.swapaxes(1, 2)).sum(axis=0, dtype=np.float64)
    return np.asarray(total + rest @ rest.T, dtype=np.float64)
