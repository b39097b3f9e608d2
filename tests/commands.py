"""`humanpref` commands in processes of their own that need not import PyTorch for seconds each: they are forked from one
that has, the fork server of `multiprocessing`. All else is a command's own, as in a shell: arguments, environment,
folder, standard output and error, exit status. `humanpref` itself is imported anew by each."""

from __future__ import annotations

import atexit
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

Done = subprocess.CompletedProcess
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    ["torch", "PIL.Image", "safetensors.numpy", "pydantic.type_adapter", "rich.progress", "rich.table", "typer"]
)
"""None of these reads, when it is imported, what a test may set in the environment (huggingface_hub does)."""


def run(*words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done[str]:
    """`humanpref WORDS`, forked."""
    arguments = list(map(str, words))
    with TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = FORKS.Process(
            target=_humanpref, args=(arguments, {**os.environ, **(env or {})}, cwd or Path.cwd(), files)
        )
        process.start()
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
    try:
        runpy.run_module("humanpref.cli", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a fork ends without them
