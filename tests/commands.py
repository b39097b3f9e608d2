"""`humanpref` commands in processes of their own, which need not import PyTorch for seconds each: they are forked from one
that has, the fork server of `multiprocessing`. All else is a command's own, as in a shell: arguments, environment,
folder, standard output and error, exit status."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

Done = subprocess.CompletedProcess
ROOT = Path(__file__).parents[1]
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    ["torch", "PIL.Image", "safetensors.numpy", "rich.progress", "rich.table", "typer._adapters", "tests.parsed"]
)
"""None of these reads, when it is imported, what a test may set in the environment (huggingface_hub does)."""


def run(*words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done[str]:
    """`humanpref WORDS`, forked."""
    arguments, here = list(map(str, words)), Path.cwd()
    with TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = FORKS.Process(target=_humanpref, args=(arguments, {**os.environ, **(env or {})}, cwd or here, files))
        os.chdir(ROOT)  # the first start is the server's, which finds `tests` from here
        try:
            process.start()
        finally:
            os.chdir(here)
        try:
            process.join()
        finally:
            process.kill()
        return Done(arguments, process.exitcode, *(file.read_text(encoding="utf-8") for file in files))


def run_anew(*words: object, env: Mapping[str, str] | None = None, **options: object) -> Done[str]:
    """`humanpref WORDS` in a Python of its own: for what lies in how a process starts and ends."""
    command = [sys.executable, "-m", "humanpref.cli", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}, **options
    )


def one_line_error(done: Done[str], *parts: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, done
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0]


def _humanpref(words: list[str], env: dict[str, str], cwd: Path, files: list[Path]) -> None:
    for number, file in enumerate(files, 1):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["humanpref", *words]
    from tests.parsed import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()  # a fork ends without them
