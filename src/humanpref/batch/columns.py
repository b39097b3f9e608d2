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

    The prompt's column stays None where there is none and none is needed: no scorer reads it, or one prompt serves all.
    Raises `DataError`, listing the columns, where one is not there or cannot be guessed.
    """
    listed = f"its columns are {', '.join(names)[:300] or 'none'}"
    for option, column in (("--image-column", reading.image_column), ("--prompt-column", reading.prompt_column)):
        if column is not None and column not in names:
            raise DataError(f"{where}: has no column {column!r}; {listed}; choose one by {option}")
    image = reading.image_column or next((name for name in IMAGES if name in names), None)
    if image is None:
        raise DataError(f"{where}: no column for the image is known by its name; {listed}; name it by --image-column")
    prompt = reading.prompt_column or next((name for name in PROMPTS if name in names and name != image), None)
    if prompt is None and reads_prompt and reading.prompt is None:
        raise DataError(
            f"{where}: no column for the prompt is known by its name; {listed}; name it by --prompt-column, or give "
            "one prompt for all rows by --prompt"
        )
    return replace(reading, image_column=image, prompt_column=prompt)
