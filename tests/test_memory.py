"""Memory that is freed and taken again costs page faults, unless the process keeps it."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from humanpref.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    return sum(np.ones((600, 600, k), np.float32)[0, 0, 0] for k in (1, 2, 3))
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_what_was_freed_is_used_again() -> None:
    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)

    assert faults("keep") < 200 < faults("give back")
