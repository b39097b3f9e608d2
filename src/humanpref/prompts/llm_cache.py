"""Answers that have been paid for, in one SQLite file: each is on disk before it is used."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from humanpref.errors import DataError


@dataclass(frozen=True)
class Answer:
    """What the model answered: its text, why it ended, and the tokens it took."""

    text: str
    finish: str
    tokens_in: int
    tokens_out: int


class AnswerCache:
    """Answers of one model to one instruction, by prompt. Safe to use from several threads."""

    def __init__(self, path: str | Path, model: str, instruction: str) -> None:
        self.path, self._salt = Path(path).expanduser(), f"{model}\0{instruction}\0"
        self._model, self._lock = model, threading.Lock()
        try:
            self._base = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, model TEXT, prompt TEXT, text TEXT, "
                "finish TEXT, tokens_in INTEGER, tokens_out INTEGER) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise self._error(error) from None

    def get(self, prompt: str) -> Answer | None:
        """Return the answer to a prompt, where there is one."""
        try:
            with self._lock:
                row = self._base.execute(
                    "SELECT text, finish, tokens_in, tokens_out FROM answers WHERE key = ?", (self._key(prompt),)
                ).fetchone()
        except sqlite3.Error as error:
            raise self._error(error) from None
        return None if row is None else Answer(*row)

    def put(self, prompt: str, answer: Answer) -> None:
        """Store an answer; it is in the file when this returns."""
        row = (self._key(prompt), self._model, _storable(prompt), _storable(answer.text), answer.finish)
        try:
            with self._lock:
                self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
                                   (*row, answer.tokens_in, answer.tokens_out))  # fmt: skip
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _key(self, prompt: str) -> bytes:
        return sha256((self._salt + prompt).encode("utf-8", "surrogatepass")).digest()

    def _error(self, error: sqlite3.Error) -> DataError:
        return DataError(f"{self.path}: the cache of answers cannot be used ({error}); free space, or name --cache")


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
