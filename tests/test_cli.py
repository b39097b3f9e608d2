"""The command line as a user meets it: real processes, exit status, stdout and stderr apart."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import one_line_error, run, run_anew
from tests.hub import FakeHub, serving
from tests.toys import picture


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"img{i}.png" for i in range(3)]
    for seed, path in enumerate(paths):
        picture(seed=seed).save(path)
    return paths


def test_score_in_every_format(images: list[Path]) -> None:
    words = ["score", *images, "--prompt", "a cat", "--model", "lite"]
    answer = json.loads(run_anew(*words, "--format", "json").stdout)
    assert answer["model"] == "lite"
    assert answer["truncated"] is False
    assert [r["image"] for r in answer["results"]] == [str(p) for p in images]
    assert sorted(r["rank"] for r in answer["results"]) == [1, 2, 3]
    assert all(set(r) == {"image", "score", "rank", "win_probability"} for r in answer["results"])
    rows = list(csv.DictReader(StringIO(run(*words, "--format", "csv").stdout)))
    assert [float(r["score"]) for r in rows] == [r["score"] for r in answer["results"]]
    table = run(*words).stdout
    best = min(answer["results"], key=lambda r: r["rank"])
    first = next(line for line in table.splitlines() if line.split()[:1] == ["1"])
    assert Path(best["image"]).name in first
    assert f"{100 * best['win_probability']:.1f} %" in first


def test_bad_images_are_listed_and_the_others_scored(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    done = run(
        "score",
        images[0],
        tmp_path / "absent.png",
        tmp_path / "text.png",
        images[1],
        "-p",
        "x",
        "-m",
        "lite",
        "--format",
        "json",
    )
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert [r["image"] for r in answer["results"]] == [str(images[0]), str(images[1])]
    assert [f["image"] for f in answer["failures"]] == [str(tmp_path / "absent.png"), str(tmp_path / "text.png")]
    assert "absent.png: no such file" in done.stderr
    assert "text.png: not an image" in done.stderr
    assert "2 of 4 images could not be scored" in done.stderr.splitlines()[-1]


def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    for name in ("[bold]a.png", "b[/red].png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        picture().save(path)
    done = run("score", "[bold]a.png", "b[/red].png", "-p", "[x]", "-m", "lite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[bold]a.png" in done.stdout
    assert "b[/red].png" in done.stdout
    assert "'[x]'" in done.stdout


def test_folders_and_an_empty_prompt(images: list[Path], tmp_path: Path) -> None:
    done = run("score", tmp_path, "--prompt", "", "--model", "lite", "--format", "csv")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4
    (tmp_path / "none").mkdir()
    one_line_error(run("score", tmp_path / "none", "-p", "x", "-m", "lite"), "holds no images")
    one_line_error(run("score", "https://example.org/x.png", "-p", "x", "-m", "lite"), "--allow-url")


def test_compare(images: list[Path]) -> None:
    done = run("compare", images[0], images[1], "-p", "x", "-m", "lite", "--format", "json")
    p = json.loads(done.stdout)["probabilities"]
    assert p[0][1] + p[1][0] == pytest.approx(1)
    assert run("compare", *images, "-p", "x", "-m", "lite").stdout.count("·") >= 3
    assert len(run("compare", *images, "-p", "x", "-m", "lite", "--format", "csv").stdout.splitlines()) == 7
    one_line_error(run("compare", images[0], "-p", "x", "-m", "lite"), "at least two images")


def test_models_and_usage(images: list[Path]) -> None:
    assert [row["name"] for row in json.loads(run("models", "--format", "json").stdout)] == [
        "hps-v2.1",
        "hps-v2.0",
        "hps-v1",
        "pickscore",
        "imagereward",
        "clipscore",
        "laion-aesthetic",
        "lite",
        "shapes-truth",
    ]
    assert "84.1 %" in (table := run("models").stdout)
    assert run_anew("models").stdout == table, "a fork says what a new process says"
    assert run("models", "--format", "csv").stdout.startswith("name,")
    one_line_error(run("score", images[0], "-p", "x", "-m", "hps"), "choose from: hps-v2.1, hps-v2.0, hps-v1")
    one_line_error(run("score", images[0], "-p", "x", "-m", "lite", "--arch", "ViT-B-32"), "leave these options out")
    assert run("score", images[0]).returncode == 2
    assert run("score", images[0], "-p", "x", "--format", "yaml").returncode == 2
    assert run_anew("nonsense").returncode == 2
    assert run_anew("--version").stdout.strip() == __import__("humanpref").__version__


@pytest.mark.slow
def test_demo_makes_its_own_images_and_a_picture_of_the_ranking(tmp_path: Path) -> None:
    done = run_anew("demo", "--out", tmp_path / "demo", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["results"]) == 6
    assert min(report["results"], key=lambda r: r["rank"])["image"].endswith("clean.png")
    with Image.open(tmp_path / "demo" / "ranking.png") as sheet:
        assert sheet.width > 600
    assert "index.html: prompts, cleaned, drawn by four sources" in done.stderr
    assert "improve/index.html: the best of four, as lite chooses: +" in done.stderr
    again = run("demo", "--out", tmp_path / "demo", "--format", "json", cwd=tmp_path)
    assert again.stdout == done.stdout
    (tmp_path / "file").write_text("")
    one_line_error(run("demo", "--out", tmp_path / "file"), "cannot be written")


def test_shell_completion_completes_commands_and_scorers() -> None:
    env = {"_HUMANPREF_COMPLETE": "complete_bash", "COMP_WORDS": "humanpref score --model hps", "COMP_CWORD": "3"}
    script = Path(sys.executable).with_name("humanpref")
    done = subprocess.run([script], capture_output=True, text=True, check=False, env={**os.environ, **env})
    assert done.stdout.split() == ["hps-v2.1", "hps-v2.0", "hps-v1"]


def test_odd_names_and_a_full_output(images: list[Path], tmp_path: Path) -> None:
    one_line_error(run("score", "a" * 300, "-p", "x", "-m", "lite"), "not a possible file name")
    one_line_error(run("score", "", "-p", "x", "-m", "lite"), "not a possible file name")
    picture().save(tmp_path / "1²3.png")
    done = run_anew("score", tmp_path, "-p", "x", "-m", "lite", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    one_line_error(run("score", images[0], "-p", "x", "-m", "lite", "--device", "cuda:9"), "leave these options out")
    full = subprocess.run(
        f"{sys.executable} -m humanpref.cli models > /dev/full", shell=True, capture_output=True, text=True, check=False
    )
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert "Traceback" not in full.stderr


def test_a_closed_pipe_is_not_an_error_message(images: list[Path]) -> None:
    done = subprocess.run(
        f"{sys.executable} -m humanpref.cli models | true", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[type[FakeHub], dict[str, str]]]:
    handler = type("Hub", (FakeHub,), {"ranges": []})
    with serving(handler, tmp_path) as env:
        yield handler, env


def test_download_over_http_at_the_pinned_revision(hub) -> None:
    handler, env = hub
    done = run_anew("download", "hps-v2.0", env=env)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.read_bytes() == handler.content
    assert "697403c78157020a1ae59d23f111aa58ced35b0a" in str(path)
    fetched = len(handler.ranges)
    assert run("download", "hps-v2.0", env={**env, "HF_HUB_OFFLINE": "1"}).stdout == done.stdout
    assert len(handler.ranges) == fetched


def test_download_of_another_file_than_the_published_one_is_refused(hub) -> None:
    handler, env = hub
    done = run("download", "hps-v2.1", env=env)
    assert done.returncode == 1
    assert "SHA-256" in done.stderr.splitlines()[-1]
    fetched = len(handler.ranges)
    assert run("download", "hps-v2.1", env=env).returncode == 1
    assert len(handler.ranges) > fetched, "the wrong bytes were kept and would be found again for ever"


def test_a_broken_connection_is_resumed(hub) -> None:
    handler, env = hub
    handler.break_after = 15_000_000
    done = run("download", "hps-v2.0", env=env)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == handler.content
    print(handler.ranges, done.stderr)
    assert any(asked and asked.startswith("bytes=") for asked in handler.ranges[1:])


def test_a_killed_download_leaves_nothing_that_looks_whole(hub, tmp_path: Path) -> None:
    handler, env = hub
    handler.stall_after = 15_000_000
    command = [sys.executable, "-m", "humanpref.cli", "download", "hps-v2.0"]
    process = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not handler.ranges and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.kill()
    process.wait()
    assert handler.ranges
    assert not list((tmp_path / "hf").rglob("HPS_v2_compressed.pt"))
    handler.stall_after = None
    done = run("download", "hps-v2.0", env=env)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == handler.content


def test_no_network(tmp_path: Path, images: list[Path]) -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    parts = ("HPS_v2.1_compressed.pt", "--weights FILE", "--model lite", "huggingface.co/xswu/HPSv2")
    one_line_error(run("score", images[0], "-p", "x", env=env), *parts)
    one_line_error(run("score", images[0], "-p", "x", env={**env, "HF_HUB_OFFLINE": "1"}), *parts)


def test_no_room(tmp_path: Path, images: list[Path]) -> None:
    """A tiny file system (tmpfs) as the cache: nothing is begun that cannot be finished."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, check=False
    ).returncode:
        from tests.conftest import skip_or_fail

        skip_or_fail("mounting a small file system needs root")
    try:
        env = {"HF_HOME": str(small), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
        one_line_error(run("download", "hps-v2.1", env=env), "needs 2.0 GB", "HF_HOME")
        one_line_error(run("demo", "--out", small / "demo"), "cannot be written")
    finally:
        subprocess.run(["umount", small], check=True)


def test_interrupt_is_quiet(images: list[Path]) -> None:
    import signal

    process = subprocess.Popen(
        [sys.executable, "-m", "humanpref.cli", "score", *map(str, images * 3000), "-p", "x", "-m", "lite"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while "libtorch_python" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # the rest of PyTorch, and then it scores
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    if process.returncode != 0:  # it may have finished before the signal came
        assert process.returncode == 130
        assert "Traceback" not in errors
