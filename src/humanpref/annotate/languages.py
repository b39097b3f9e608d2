"""What the pages say, in English and Chinese. The texts are data: `texts/<code>.json`, the same keys in each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

FOLDER = Path(__file__).parent / "texts"

LANGUAGES: Mapping[str, str] = MappingProxyType({"en": "English", "zh": "中文"})
"""Code and own name of every language there is; the first is for everyone who asks for none of them."""

DEFAULT = "en"


@cache
def texts(language: str) -> Mapping[str, str]:
    """Return all texts of a language by key; those whose key begins with `js.` are handed to the page's script."""
    found: dict[str, str] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return MappingProxyType(found)


def script_texts(language: str) -> dict[str, str]:
    """Return the texts that the page's script needs, by key without `js.`."""
    return {key[3:]: text for key, text in texts(language).items() if key.startswith("js.")}


def choose(accepted: str) -> str:
    """Return the best language for an Accept-Language header.

    >>> choose("zh-CN,zh;q=0.9,en;q=0.8")
    'zh'
    >>> choose("fr, en;q=0.5, zh;q=0.1"), choose("")
    ('en', 'en')
    """
    best, most = DEFAULT, 0.0
    for part in accepted.split(","):
        name, _, rest = part.partition(";")
        code = name.strip().lower().split("-")[0]
        weight = _weight(rest)
        if code in LANGUAGES and weight > most:
            best, most = code, weight
    return best


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0  # nobody can tell what was meant
