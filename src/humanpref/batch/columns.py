"""Which columns hold the image and the prompt: as the user says, or guessed from the names that datasets use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from humanpref.batch.records import Reading
from humanpref.errors import DataError

IMAGES = ("image", "img", "image_bytes", "jpg", "png", "webp", "image_path", "file_name", "filename", "path", "file")
PROMPTS = ("prompt", "caption", "text", "Prompt", "TEXT", "caption_text")


def choose_columns(reading: Reading, names: Sequence[str], where: str, *, reads_prompt: bool) -> Reading:
    """Return the reading with its columns named, of a shard with these columns.

    The prompt's column is None where there is none and none is needed: no scorer reads it, or one prompt serves rows
    without. Raises `DataError`, listing the columns, where one is not there or cannot be guessed.
    """
    listed = f"its columns are {', '.join(names)[:300] or 'none'}"
    if reading.image_column is not None and reading.image_column not in names:
        raise DataError(f"{where}: has no column {reading.image_column!r}; {listed}; choose one by --image-column")
    image = reading.image_column or next((name for name in IMAGES if name in names), None)
    if image is None:
        raise DataError(f"{where}: no column for the image is known by its name; {listed}; name it by --image-column")
    prompt = next((name for name in PROMPTS if name in names and name != image), None)
    if reading.prompt_column in names:
        prompt = reading.prompt_column
    elif reading.prompt_column is not None and (prompt is not None or reading.prompt is None):
        raise DataError(f"{where}: has no column {reading.prompt_column!r}; {listed}; choose one by --prompt-column")
    if prompt is None and reads_prompt and reading.prompt is None:
        raise DataError(
            f"{where}: no column for the prompt is known by its name; {listed}; name it by --prompt-column, or give "
            "one prompt for all rows by --prompt"
        )
    return replace(reading, image_column=image, prompt_column=prompt)


def is_utf8(prompt: str) -> bool:
    """Tell whether a prompt can be written in UTF-8: not with half a surrogate pair, which JSON may hold."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return False
    return True
