"""Keeping what was freed: for processes of our own that open one image after another.

glibc gives an array of more than 128 kB back to the system as soon as it is freed, and takes it anew for the next
image, page by page. Measured on 512 x 512 JPEGs with `lite`: 1,700 page faults an image, and half of the time.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Names of mallopt(3), in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB of what it freed, for its next arrays. Does nothing where there is no glibc.

    For whole programs (the command line, workers), not for a library in somebody else's: there, set the environment
    variables MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ instead.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_TOP_PAD, 64 * 2**20)
