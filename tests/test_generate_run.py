"""A run as a whole: the manifest, going on after any end, the lock, the folder of another run, a full disk."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from humanpref.errors import DataError
from humanpref.generate import GenerateError, Prompt, generate, read_groups, seed_of
from humanpref.generate.contract import file_name
from humanpref.generate.manifest import read_images
from humanpref.records import ImageRef
from tests.conftest import skip_or_fail
from tests.generating import ToyBackend, contents, prompts, rows, start


def test_manifest_images_and_groups(tmp_path: Path) -> None:
    report = generate(prompts(3), [ToyBackend("a"), ToyBackend("b")], tmp_path / "out", images_per_prompt=2)
    assert (report.wanted, report.made, report.already, report.failed, report.missing_prompts) == (12, 12, 0, 0, 0)
    row = rows(tmp_path / "out")[3]
    assert row["prompt"] == "prompt number 1"
    assert row["prompt_id"] == "p1"
    assert row["number"] == 1
    assert row["prompt_source"] == "toys"
    assert row["style"] == "photo"
    assert row["model"] == "a"
    assert row["revision"] == "1"
    assert row["settings"] == {"steps": 3}
    assert len(row["settings_hash"]) == 16
    assert row["seed"] == seed_of(0, "p1", 1)
    assert row["path"] == "a/p1-1.png"
    assert (row["width"], row["height"]) == (16, 16)
    assert row["status"] == "done"
    assert row["started"].startswith("20")
    assert row["seconds"] >= 0
    assert len(contents(tmp_path / "out")) == 12
    groups = list(read_groups(tmp_path / "out"))
    assert [group.id for group in groups] == ["p0", "p1", "p2"]
    paths = ["a/p1-0.png", "a/p1-1.png", "b/p1-0.png", "b/p1-1.png"]
    assert groups[1].images == tuple(ImageRef(tmp_path / "out" / path, path[0]) for path in paths)
    assert (groups[1].prompt, groups[1].prompt_source, groups[1].style) == ("prompt number 1", "toys", "photo")
    assert groups[0].style is None


def test_adding_prompts_models_and_images_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(prompts(2), [ToyBackend("b")], out)
    before = contents(out)
    more = (Prompt("one in front", "new"), *prompts(4))
    report = generate(more, [ToyBackend("a"), ToyBackend("b")], out, images_per_prompt=3)
    assert (report.already, report.made) == (2, 28)
    after = contents(out)
    assert {key: after[key] for key in before} == before
    at_once = tmp_path / "at once"
    generate(more, [ToyBackend("b"), ToyBackend("a")], at_once, images_per_prompt=3)
    assert contents(at_once) == after
    assert [group.id for group in read_groups(out)] == ["new", "p0", "p1", "p2", "p3"]


def test_seeds_are_stable_and_differ() -> None:
    assert seed_of(0, "p1", 0) == 2901506335  # written in manifests: may never change
    seeds = {seed_of(base, name, n) for base in range(3) for name in ("a", "b", "a0") for n in range(20)}
    assert len(seeds) == 3 * 3 * 20
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("name", ["../../etc/x", "a/b", ".hidden", "", "x" * 300, "naïve café", "a b", "-", "CON\0"])
def test_file_names_lead_nowhere(name: str) -> None:
    safe = file_name(name)
    assert "/" not in safe
    assert "\0" not in safe
    assert not safe.startswith(".")
    assert 0 < len(safe) <= 100
    assert safe != file_name(name + "!")
    assert file_name("stable-diffusion_v1.4") == "stable-diffusion_v1.4"


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    whole, out, moments = tmp_path / "whole", tmp_path / "out", random.Random(5)
    generate(prompts(30), [ToyBackend("a"), ToyBackend("b")], whole, images_per_prompt=2)
    counts = []
    for _ in range(5):
        before = len(rows(out)) if (out / "manifest.jsonl").exists() else 0
        process = start(out, 30, 2, 0.01)
        while process.poll() is None and not ((out / "manifest.jsonl").exists() and len(_whole_lines(out)) > before):
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        counts.append(len(_whole_lines(out)))
    assert 0 < counts[0] < counts[-1] < 120 or counts[-1] == 120  # killed on the way, and each time further
    last = start(out, 30, 2, 0)
    assert last.wait() == 0, last.communicate()
    assert contents(out) == contents(whole)
    assert [g.images for g in read_groups(out)] == [
        tuple(ImageRef(out / i.path.relative_to(whole), i.source) for i in g.images) for g in read_groups(whole)
    ]


def _whole_lines(out: Path) -> list[bytes]:
    return [line for line in (out / "manifest.jsonl").read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_torn_last_line_is_repaired(tmp_path: Path, cut: int) -> None:
    out = tmp_path / "out"
    generate(prompts(3), [ToyBackend()], out)
    whole, file = contents(out), out / "manifest.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    (out / "toy" / ".p9-0.png.part").write_bytes(b"half")
    report = generate(prompts(3), [ToyBackend()], out)
    assert (report.already, report.made) == (2, 1)
    assert len(report.notes) == 2
    assert contents(out) == whole


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(prompts(3), [ToyBackend()], out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(lines[0] + b"{garbage\n" + lines[2])
    with pytest.raises(DataError, match="line 2"):
        generate(prompts(3), [ToyBackend()], out)


def test_lost_image_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(prompts(3), [ToyBackend()], out)
    whole = contents(out)
    (out / "toy" / "p1-0.png").unlink()
    report = generate(prompts(3), [ToyBackend()], out)
    assert report.made == 1
    assert "1 images of the manifest are not in the folder" in report.notes[0]
    assert contents(out) == whole


def test_second_process_is_refused_and_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(out, 30, 1, 0.2)
    while not (out / "manifest.jsonl").exists():
        time.sleep(0.01)
    second = start(out, 30, 1, 0)
    assert second.wait() == 1
    assert "another run is writing there" in (said := second.communicate()[1])
    assert str(first.pid) in said
    first.kill()
    first.communicate()
    third = start(out, 30, 1, 0)
    assert third.wait() == 0, third.communicate()
    assert len(contents(out)) == 60


def test_folder_of_another_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(prompts(2), [ToyBackend()], out)
    whole = contents(out)
    with pytest.raises(GenerateError, match="steps of toy was 3, is now 4"):
        generate(prompts(2), [ToyBackend(settings={"steps": 4})], out)
    with pytest.raises(GenerateError, match="size of toy was None, is now 8"):
        generate(prompts(2), [ToyBackend(settings={"steps": 3, "size": 8})], out)
    with pytest.raises(GenerateError, match="revision of toy was '1', is now '2'"):
        generate(prompts(2), [ToyBackend(revision="2")], out)
    with pytest.raises(GenerateError, match="seed was 0, is now 1"):
        generate(prompts(2), [ToyBackend()], out, seed=1)
    with pytest.raises(GenerateError, match="prompt 'p1' was 'prompt number 1', is now 'other'"):
        generate([Prompt("other", "p1")], [ToyBackend()], out)
    assert contents(out) == whole
    (out / "run.json").unlink()
    with pytest.raises(DataError, match="damaged or gone"):
        generate(prompts(2), [ToyBackend()], out)


def test_model_that_made_nothing_does_not_bind(tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken"
    broken.touch()
    generate([Prompt("fail", "f")], [ToyBackend(broken=broken)], out)
    generate(prompts(2), [ToyBackend(settings={"steps": 4})], out)


def test_foreign_folder_and_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds other files"):
        generate(prompts(1), [ToyBackend()], tmp_path / "mine")
    with pytest.raises(DataError, match="is a file"):
        generate(prompts(1), [ToyBackend()], tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_failed_and_refused(tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken"
    broken.touch()
    asked = (*prompts(2), Prompt("fail please", "f"), Prompt("refuse please", "r"))
    report = generate(asked, [ToyBackend(broken=broken)], out)
    assert (report.made, report.refused, report.failed, report.missing_prompts) == (2, 1, 1, 2)
    reasons = {row["prompt_id"]: (row["status"], row["reason"]) for row in rows(out) if "reason" in row}
    assert reasons == {"f": ("failed", "broken"), "r": ("refused", "not that")}
    assert generate(asked, [ToyBackend(broken=broken)], out).made == 0
    broken.unlink()
    assert generate(asked, [ToyBackend(broken=broken)], out).made == 0
    report = generate(asked, [ToyBackend(broken=broken)], out, retry_failed=True)
    assert (report.made, report.already, report.missing_prompts) == (1, 3, 1)
    assert contents(out)["toy", "f", 0][2] == "done"


def test_only_what_is_asked_for_is_tried_again(tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken"
    broken.touch()
    asked = (Prompt("fail one", "f1"), Prompt("fail two", "f2"))
    generate(asked, [ToyBackend(broken=broken), ToyBackend(broken=broken, name="other")], out)
    broken.unlink()
    report = generate(asked[:1], [ToyBackend(broken=broken)], out, retry_failed=True)
    assert report.made == 1
    left = {(row["model"], row["prompt_id"]): row["status"] for row in rows(out)}
    assert left == {
        ("toy", "f1"): "done", ("toy", "f2"): "failed", ("other", "f1"): "failed", ("other", "f2"): "failed",
    }  # fmt: skip


def test_nothing_but_failures_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(GenerateError, match="25 images in a row failed, the last one: broken"):
        generate([Prompt(f"fail {n}", f"f{n}") for n in range(100)], [ToyBackend()], tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 25


def test_two_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(GenerateError, match="two models have the name 'toy'"):
        generate(prompts(1), [ToyBackend(), ToyBackend()], tmp_path / "out")
    with pytest.raises(GenerateError, match="needs prompts"):
        generate([], [ToyBackend()], tmp_path / "out")


def test_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        skip_or_fail("no right to mount a small file system")
    try:
        out = disk / "out"
        process = start(out, 20, 1, 0, 100)  # 40 images of 30 kB
        assert process.wait() == 1
        (line,) = process.communicate()[1].strip().splitlines()
        assert line.startswith(f"{out}: the disk is full; what was made is kept")
        assert 0 < len(rows(out)) < 40
        contents(out)  # whole as far as it goes
        again = start(out, 20, 1, 0, 100)
        assert again.wait() == 1
        assert "the disk is full" in again.communicate()[1]
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        last = start(out, 20, 1, 0, 100)
        assert last.wait() == 0, last.communicate()
        assert len(contents(out)) == 40
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_groups_are_checked(tmp_path: Path) -> None:
    row = {"prompt": "p", "id": "1", "images": [{"path": "../x.png", "source": "a"}]}
    (tmp_path / "groups.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="line 1: image path '../x.png' leads out"):
        list(read_groups(tmp_path))
    (tmp_path / "groups.jsonl").write_text('{"prompt": "p"}\n')
    with pytest.raises(DataError, match="expected prompt, id and images"):
        list(read_groups(tmp_path / "groups.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        list(read_groups(tmp_path / "none"))


def test_what_was_made_is_read_back(tmp_path: Path) -> None:
    generate([*prompts(2), Prompt("refuse this", "r")], [ToyBackend("a"), ToyBackend("b")], tmp_path)
    found = list(read_images(tmp_path))
    assert [one.sha256 for one in found] == [row.get("sha256") for row in rows(tmp_path)]
    assert [one.path for one in found if one.model == "b"] == [tmp_path / "b/p0-0.png", tmp_path / "b/p1-0.png", None]
    assert [(one.status, one.reason) for one in found[2:4]] == [("refused", "not that"), ("done", None)]
    assert list(read_images(tmp_path, "b")) == found[3:]
    assert list(read_images(tmp_path / "none")) == []


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd", "a/../../x.png", None, 3])
def test_a_manifest_that_leads_elsewhere_is_refused(tmp_path: Path, path: object) -> None:
    row = {"prompt": "p", "prompt_id": "1", "number": 0, "model": "a", "status": "done", "path": path}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="manifest.jsonl: image 0 of prompt '1': .*(leads out|must be named by text)"):
        list(read_images(tmp_path))
