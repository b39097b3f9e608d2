"""The output folder of a comparison, a search or a curve: that it is one, and that one run at a time writes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from humanpref.errors import DataError
from humanpref.files import HeldError, hold
from humanpref.improve.methods import ImproveError

IMAGES, LOCK = "images", ".lock"


def check_out(out: Path, *ours: str) -> None:
    """Refuse a folder that holds anything but an earlier run, which leaves one of `ours` there, or hidden files."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; --out names a folder")
    begun = any((out / name).exists() for name in ours)
    if out.is_dir() and not begun and any(not path.name.startswith(".") for path in out.iterdir()):
        raise DataError(f"{out}: holds other files and no {ours[0]}; choose an empty or new folder for --out")


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the folder, made if need be, by a lock that the system lets go of when the process ends, however it ends.

    Raises `ImproveError` where another run has it, or where it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = hold(out / LOCK)
    except HeldError as error:
        raise ImproveError(f"{out}: another run is writing there ({error}); wait for it, or end it") from None
    except OSError as error:
        raise ImproveError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None
    with lock:
        yield
