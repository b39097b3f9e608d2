"""A served model as a reward for fine-tuning: the signature that ddpo-pytorch and flow_grpo share.

reward = RemoteReward(Client("http://scores:8000", "hps-v2.1"))
scores, info = reward(images, prompts, metadata)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from humanpref.errors import ImageError, ScoreError
from humanpref.serve.client import Client

if TYPE_CHECKING:
    from PIL import Image


class RemoteReward:
    """Scores a batch of generated images on a server. Made of a `Client`, whose retries and timeouts apply.

    Called with images as float tensors (n, 3, H, W) in [0, 1], uint8 arrays (n, H, W, 3), or a list of PIL images; n
    prompts; and metadata, which is not looked at. Returns float32 scores (n,) on the model's published scale, and
    {"truncated": [bool] * n}: which prompts the model read only the beginning of.
    Raises `ScoreError` for other shapes and `ClientError`: an image never silently counts as 0.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(
        self,
        images: Any,
        prompts: Sequence[str],
        metadata: Any = None,  # noqa: ARG002 - the trainers' signature
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Return (scores, info)."""
        pictures = as_pictures(images)
        texts = list(prompts)
        if len(texts) != len(pictures):
            raise ScoreError(f"{len(pictures)} images but {len(texts)} prompts; a reward has one prompt per image")
        scores = []
        for outcome in self._client.score_each(pictures, texts):
            if isinstance(outcome, ImageError):
                raise outcome
            scores.append(outcome)
        return np.asarray(scores, np.float32), {"truncated": [self._client.truncated(text) for text in texts]}


def as_pictures(images: Any) -> list[Image.Image]:
    """Turn what trainers hand over into pictures of 8 bits a channel, rounding as flow_grpo does.

    Raises `ScoreError` for anything but the three kinds that `RemoteReward` names.
    """
    from PIL import Image

    if isinstance(images, (list, tuple)) and all(isinstance(image, Image.Image) for image in images):
        return list(images)
    if hasattr(images, "detach"):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ScoreError(f"tensors must be floats (n, 3, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}")
        values = (images.detach().float() * 255).round().clamp(0, 255)
        array = values.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    else:
        array = np.asarray(images)
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise ScoreError(f"arrays must be uint8 (n, H, W, 3), got {array.dtype} {array.shape}")
    return [Image.fromarray(one, "RGB") for one in array]
