"""The fast path `decode="device"`: JPEG files are decoded, resized and normalised where the network is.

On a GPU nvJPEG decodes, through torchcodec. Its chroma upsampling and rounding are not libjpeg's, and the scorers that
resize 8-bit values with PIL here resize floats, so scores move: docs/scale.md says by how much, and an identity says
`decode=device`. What is no ordinary JPEG file is decoded as always, and so is what the device's decoder refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from humanpref.errors import ImageError, MissingExtraError, ScoreError
from humanpref.images import EncodedImage
from humanpref.preprocess import PreprocessSpec, Resize, prepare_picture, preprocess

LARGEST = 2**22
"""Most pixels, and most bytes, of an image that is decoded on the device, where a whole batch lies at a time."""
TOGETHER = 2**24
"""Most pixels that are resized at once, as floats (12 bytes each, and several copies)."""
MOST_ELONGATED = 16
"""Pictures of another shape would be resized to far more pixels than they have."""
UPRIGHT = 1
ORIENTATION = 0x0112


def require_decoder(device: torch.device) -> None:
    """Raise `MissingExtraError` where the extra `gpu` is missing, `ScoreError` where the device decodes nothing."""
    file = BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    try:
        from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]

        decode_jpeg([file.getvalue()], mode="RGB", device=device)
    except ModuleNotFoundError:
        raise MissingExtraError('decode="device" needs torchcodec: pip install "humanpref[gpu]"') from None
    except (ImportError, RuntimeError, OSError) as error:  # it loads libraries of its own
        reason = str(error).strip().splitlines()[0]
        raise ScoreError(f"no JPEG file can be decoded on {device} ({reason}); leave --decode out") from None


def is_ordinary(image: EncodedImage) -> bool:
    """Tell whether an image is one that all decoders see alike: a whole JPEG file, grey or in YCbCr, upright, small.

    By its header; nothing is decoded. A file that was cut off lacks the end-of-image mark.
    """
    content = image.content
    if not (content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9") and len(content) <= LARGEST):
        return False
    try:
        with Image.open(BytesIO(content), formats=["JPEG"]) as header:
            upright = header.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT
            small = 0 < header.width * header.height <= min(LARGEST, image.max_pixels)
            elongated = max(header.size) > MOST_ELONGATED * min(header.size)
            return upright and small and not elongated and (header.mode == "L" or _is_ycbcr(header))
    except Exception:  # what a damaged header raises; the exact path says what is wrong
        return False


def _is_ycbcr(header: Image.Image) -> bool:
    """Tell whether a JPEG file has its colours as nearly all have them; a few have red, green and blue."""
    components = [component[0] for component in getattr(header, "layer", ())]
    return header.mode == "RGB" and header.info.get("adobe_transform", 1) == 1 and bytes(components) != b"RGB"


def decode_on_device(
    images: Sequence[EncodedImage], spec: PreprocessSpec, resize: Resize, device: torch.device
) -> list[Tensor | ImageError]:
    """Decode ordinary JPEG files and make the network's input of each -> (3, size, size), on the device.

    Pictures of one size are resized together. An image that the device's decoder refuses is decoded on the CPU, which
    then says what is wrong with it.
    """
    if device.type != "cuda":
        return _decode_and_resize(images, spec, resize, device)
    own, current = _stream(device), torch.cuda.current_stream(device)
    # nvJPEG waits for its stream: in the model's it would wait for the batch before
    with torch.cuda.device(device), torch.cuda.stream(own):
        found = _decode_and_resize(images, spec, resize, device)
    current.wait_stream(own)
    for one in found:
        if isinstance(one, Tensor):
            one.record_stream(current)  # its memory is not to be given out while that still reads it
    return found


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


def _decode_and_resize(
    images: Sequence[EncodedImage], spec: PreprocessSpec, resize: Resize, device: torch.device
) -> list[Tensor | ImageError]:
    found: list[Tensor | ImageError | None] = [None] * len(images)
    groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    for n, picture in enumerate(_decode([image.content for image in images], device)):
        if picture is None:
            found[n] = _exactly(images[n], spec, resize, device)
        else:
            groups.setdefault(tuple(picture.shape), []).append((n, picture))
    with torch.no_grad():
        for (_, height, width), members in groups.items():
            size = max(1, TOGETHER // (height * width))
            for start in range(0, len(members), size):
                some = members[start : start + size]
                pixels = torch.stack([picture for _, picture in some]).float().div_(255.0)
                for (n, _), ready in zip(some, preprocess(pixels, spec, resize), strict=True):
                    found[n] = ready
    return [one for one in found if one is not None]


def _decode(files: list[bytes], device: torch.device) -> list[Tensor | None]:
    """Decode files -> uint8 pictures (3, H, W) on the device; None for one that the decoder refuses."""
    from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]

    try:
        return list(decode_jpeg(files, mode="RGB", device=device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # one of them: which, it does not say
        return [None] if len(files) == 1 else [found for file in files for found in _decode([file], device)]


def _exactly(image: EncodedImage, spec: PreprocessSpec, resize: Resize, device: torch.device) -> Tensor | ImageError:
    try:
        return prepare_picture(image.picture, spec, resize).to(device)
    except ImageError as error:
        return error
