"""`humanpref annotate ...` as a team uses it: every command a process of its own."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from humanpref.annotate.simulate import crowd, let_rank
from humanpref.data.formats import read_rankings
from humanpref.shapes.grammar import captions
from humanpref.shapes.sources import generate
from tests import commands


def run(*arguments: object, code: int = 0) -> commands.Done[str]:
    done = commands.run("annotate", *arguments)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for i, caption in enumerate(captions(6, seed=9)):
        folder = root / f"group-{i}"
        folder.mkdir()
        (folder / "prompt.txt").write_text(caption)
        for source in ("clean", "deaf", "coarse"):
            generate(source, [caption], [i], 64)[0].save(folder / f"{source}.png")
    return root


@pytest.mark.slow
def test_from_images_to_a_data_set(images: Path, tmp_path: Path) -> None:
    db = tmp_path / "project.db"
    made = run("init", "--images", images, "--db", db, "--rankings-per-group", 3, "--minimum-seconds", 0)
    assert "6 groups to be ranked by 3 people each: 18 rankings" in made.stderr
    assert made.stdout.strip()
    admin = run("admin-token", "--db", db).stdout.strip()
    assert admin != made.stdout.strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    people = crowd(3)
    links = run("invite", *[person.name for person in people], "--db", db, "--url", url).stdout.splitlines()
    assert [line.split("\t")[0] for line in links] == [person.name for person in people]
    tokens = [re.fullmatch(rf".*\t{url}/join/(\S+)", line)[1] for line in links]  # type: ignore[index]
    server = subprocess.Popen(
        [sys.executable, "-m", "humanpref.cli", "annotate", "serve", "--db", str(db), "--port", str(port)]
    )
    try:
        _wait_for(url, server)
        assert sum(let_rank(url, tokens, people)) >= 18
        with httpx.Client(base_url=url, follow_redirects=True) as client:
            page = client.get("/admin/login").text
            csrf = re.search(r'<meta name="csrf" content="([^"]+)"', page)[1]  # type: ignore[index]
            assert "18" in client.post("/admin/login", data={"csrf": csrf, "token": admin}).text
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(20) in {0, 130}
    status = json.loads(run("status", "--db", db, "--format", "json").stdout)
    assert (status["done"], status["wanted"], status["complete_groups"]) == (18, 18, 6)
    assert all(person["answers"] >= 6 for person in status["annotators"])
    assert "18 of 18 rankings" in run("status", "--db", db).stdout

    for name in ("rankings", "hpdv2-test", "hpdv2-train", "pickapic", "pairs"):
        out = tmp_path / name / ("data.parquet" if name == "pickapic" else "data.json")
        out.parent.mkdir()
        assert run("export", out, "--db", db, "--format", name).stdout.strip() == str(out)
        found = read_rankings(out, tmp_path / "unpacked" if name == "pickapic" else images)
        assert len(found) == {"rankings": 18, "hpdv2-test": 24}.get(name, 54)
        assert "honest" not in out.read_bytes().decode("latin-1")
    before = (tmp_path / "rankings" / "data.json").read_text()
    run("exclude", 2, "--db", db, "--reason", "asked to be left out")
    assert "left out: asked to be left out" in re.sub(r"\s+", " ", run("status", "--db", db).stdout)
    without = run("export", tmp_path / "without.jsonl", "--db", db)
    assert "6 by 1 excluded people" in without.stderr
    assert len(read_rankings(tmp_path / "without.jsonl", images)) == 12
    run("exclude", 2, "--readmit", "--db", db)
    run("export", tmp_path / "again.jsonl", "--db", db)
    assert (tmp_path / "again.jsonl").read_text() == before
    report = run("report", tmp_path / "report.html", "--db", db).stdout.strip()
    assert "honest-1" not in Path(report).read_text()
    assert "honest-1" in Path(run("report", tmp_path / "own.html", "--names", "--db", db).stdout.strip()).read_text()
    run("upgrade", "--db", db)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "--db", "nothing.db"), "holds no project; make one with: humanpref annotate init"),
        (("init", "--images", "nowhere", "--db", "x.db"), "nowhere: no such file or folder"),
        (("init", "--images", "IMAGES", "--db", "x.db", "--rankings-per-group", "0"), "at least 1"),
        (("init", "--images", "IMAGES", "--db", "mysql://a@b/c"), "only SQLite and PostgreSQL are known"),
        (("init", "--images", "IMAGES", "--db", "no/such/folder/x.db"), "cannot be used now"),
        (("exclude", "--db", "x.db"), "name the people by number"),
        (("report", "x.txt", "--db", "x.db"), "is an HTML page"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: tuple[str, ...], said: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*[str(images) if a == "IMAGES" else a for a in arguments], code=1)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "nothing.db").exists()
