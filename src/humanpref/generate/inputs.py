"""The prompts of a run: those of any file that `humanpref.prompts` reads, each once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from humanpref.errors import DataError
from humanpref.prompts.chunks import Source
from humanpref.prompts.records import Prompt
from humanpref.prompts.sources import open_source

SETS = frozenset({"coco", "diffusiondb", "partiprompts", "drawbench"})
"""Layouts that are one set's own, so that the file says where its prompts are from."""


def read_prompts(path: str | Path) -> tuple[tuple[Prompt, ...], int]:
    """Read a file of prompts in any known layout -> the prompts in order, and how many were there again (same id).

    A row of JSON or Parquet has "prompt" or "text", and may have "id", "source" (or "prompt_source") and "style"; a
    JSON list may hold plain texts. A prompt without an id is named by its text, so that its images stay when others
    come or go. Raises `DataError`, with the place, for a file that cannot be read, is empty, has an empty prompt, or
    names two prompts alike.
    """
    source, again, found = open_source(path), 0, dict[str, Prompt]()
    for where, prompt in _prompts(source):
        if (same := found.get(prompt.id)) is None:
            found[prompt.id] = prompt
        elif same == prompt:
            again += 1
        else:
            raise DataError(
                f"{source.path}: {where}: the id {prompt.id!r} is another prompt's too ({same.text[:40]!r})"
            )
    if not found:
        raise DataError(f"{source.path}: holds no prompts")
    return tuple(found.values()), again


def _prompts(source: Source) -> Iterator[tuple[str, Prompt]]:
    for chunk in source.chunks():
        for number, text in enumerate(chunk.texts):
            where = chunk.where(number)
            if text == "" and source.layout == "text":  # a blank line between prompts
                continue
            if text is None or not text.strip():
                raise DataError(f"{source.path}: {where}: the prompt is empty")
            prompt = chunk.prompt(number)
            if not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise DataError(f"{source.path}: {where}: the prompt cannot be written as UTF-8") from None
            known = prompt.source != source.name or source.layout in SETS
            yield where, replace(prompt, source=prompt.source if known else None, original=None, meta={})
