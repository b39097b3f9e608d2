"""Files that are whole or not there; folders that one process writes at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from humanpref.files import HeldError, hold, remove_parts, whole


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(ValueError, match="no"), whole(file) as part:
        part.write_text("half")
        raise ValueError("no")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    code = "import sys, time, pathlib; from humanpref.files import hold; f = hold(pathlib.Path(sys.argv[1])); "
    code += "print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / ".lock"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(HeldError, match=f"process {other.pid} on "):
            hold(tmp_path / ".lock")
        other.send_signal(signal.SIGKILL)
        other.wait()
    with hold(tmp_path / ".lock"):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()


def test_parts_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.json.12.part", "b.part", ".hidden", "c.json"):
        (tmp_path / name).write_text("x")
    assert remove_parts(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "b.part", "c.json"]
