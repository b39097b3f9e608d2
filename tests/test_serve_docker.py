"""The Dockerfile, as far as it can be checked without an engine: its steps, and that they work where pip does."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from humanpref.serve.keys import KEYS_VARIABLE
from tests.conftest import ROOT
from tests.serving import serving


def steps() -> list[tuple[str, str]]:
    """(instruction, its words) of the Dockerfile, lines joined, comments left out."""
    lines = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.strip() and not line.startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in joined.splitlines()]


def one(name: str) -> str:
    (found,) = [words for instruction, words in steps() if instruction == name]
    return found


def test_every_line_is_an_instruction_in_a_sensible_order() -> None:
    names = [name for name, _ in steps()]
    known = {
        "FROM",
        "ARG",
        "ENV",
        "RUN",
        "WORKDIR",
        "COPY",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
    }
    assert set(names) <= known
    assert names[0] == "FROM"
    assert names[-1] == "ENTRYPOINT"
    assert names.index("USER") > max(
        i for i, name in enumerate(names) if name == "RUN"
    )  # and nothing is root's after it
    assert one("USER") == "humanpref"
    (useradd,) = [words for name, words in steps() if name == "RUN" and "useradd" in words]
    assert "chown humanpref /cache" in useradd
    assert one("VOLUME") == "/cache"


def test_it_installs_the_extra_and_torch_for_the_cpu() -> None:
    runs = [words for name, words in steps() if name == "RUN"]
    assert runs[0] == "pip install --index-url ${TORCH_INDEX} torch torchvision"
    assert one("ARG") == "TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    (install,) = [words for words in runs if "[" in words]
    assert shlex.split(install.partition("&&")[0]) == ["pip", "install", ".[serve]"]
    extras = re.search(r"^serve = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert extras is not None
    for name in ("fastapi", "prometheus-client", "python-multipart", "uvicorn"):
        assert name in extras[1]


def test_what_is_copied_builds_the_package(tmp_path: Path) -> None:
    """The COPY steps in a folder of their own, with what .dockerignore lets through, hold all that pip needs."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = [line[1:] for line in ignored if line.startswith("!")]
    copied = []
    for name, words in steps():
        if name == "COPY":
            *sources, target = words.split()
            for source in sources:
                assert source in let_through
                place = tmp_path / (target if target != "./" else source)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, place)
                copied.append(source)
    assert sorted(copied) == sorted(let_through)
    project = (tmp_path / "pyproject.toml").read_text()
    named = re.findall(r'^(?:readme = |license-files = \[|packages = \[)"([^"]+)"', project, re.MULTILINE)
    assert named == ["README.md", "LICENSE", "src/humanpref"]
    assert all((tmp_path / name).exists() for name in named)
    run = [sys.executable, "-m", "humanpref.cli", "serve", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert "--allow-url" in done.stdout


def test_no_weights_and_no_secrets_go_in() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "humanpref download" not in text
    assert f"{KEYS_VARIABLE}=" not in text
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_the_health_check_says_whether_it_is_ready() -> None:
    form = one("HEALTHCHECK").partition("CMD ")[2]
    program, flag, code = json.loads(form)
    assert (program, flag) == ("python", "-c")
    with serving() as served:
        here = code.replace("http://127.0.0.1:8000", served.url)
        assert here != code
        assert subprocess.run([sys.executable, flag, here], check=False).returncode == 0
        proxied = {**os.environ, "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        proxied = {
            name: value for name, value in proxied.items() if name.lower() != "no_proxy"
        }  # as docker run gives it
        assert subprocess.run([sys.executable, flag, here], check=False, env=proxied).returncode == 0
        served.service.admission.draining = True
        assert subprocess.run([sys.executable, flag, here], check=False, stderr=subprocess.DEVNULL).returncode == 1
        served.service.admission.draining = False
    assert urllib.request  # what the check itself needs is in the standard library


def test_the_entry_point_passes_options_on_and_is_the_service_itself(tmp_path: Path) -> None:
    """With a `humanpref` that only says how it was called."""
    (tmp_path / "humanpref").write_text('#!/bin/sh\necho "$$ $*"\n')
    (tmp_path / "humanpref").chmod(0o755)
    entry = json.loads(one("ENTRYPOINT"))
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "HUMANPREF_MODEL": "a model"}
    process = subprocess.Popen(
        [*entry, "--allow-url", "--max-batch", "4"], env=environment, stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate(timeout=20)
    said = "serve --host 0.0.0.0 --port 8000 --model a model --allow-url --max-batch 4"
    assert out.strip() == f"{process.pid} {said}"  # exec: the same process, which gets the signals
