"""API keys: read from a file or the environment, kept as digests, compared in constant time, never shown."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from humanpref.serve.errors import ServeError

KEYS_VARIABLE = "HUMANPREF_API_KEYS"
SHORTEST_KEY = 16


class ApiKeys:
    """The keys that are accepted; none at all means that everybody is."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(dict.fromkeys(_digest(key) for key in keys))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def accept(self, authorization: str | None) -> bool:
        """Tell whether an Authorization header holds one of the keys (`Bearer KEY`), in time that says nothing."""
        if not self._digests:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        found = False
        for digest in self._digests:  # all of them, whichever fits
            found |= hmac.compare_digest(digest, given)
        return found and scheme.lower() == "bearer"


def read_keys(path: Path | None) -> ApiKeys:
    """Read keys, one a line (# begins a comment), from a file, or else from HUMANPREF_API_KEYS (commas or lines).

    Raises `ServeError`, which names the line but never the key.
    """
    if path is not None:
        try:
            text, place = path.read_text(encoding="utf-8"), str(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ServeError(f"{path}: the API keys cannot be read ({reason})") from None
    else:
        text, place = os.environ.get(KEYS_VARIABLE, "").replace(",", "\n"), KEYS_VARIABLE
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (key := line.strip()) or key.startswith("#"):
            continue
        if len(key) < SHORTEST_KEY or not key.isascii() or " " in key:
            raise ServeError(
                f"{place}: key {number} must be at least {SHORTEST_KEY} ASCII characters without spaces; "
                "make one with: openssl rand -hex 24"
            )
        keys.append(key)
    if path is not None and not keys:
        raise ServeError(f"{path}: holds no API key; write one a line, or leave --api-keys out")
    return ApiKeys(keys)


def _digest(key: str) -> bytes:
    """Equal in length for all keys, so that comparing takes the same time for all."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
