"""`humanpref data ...`: converting, checking, counting, pairing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from humanpref import cli
from humanpref.data.formats import detect_format, read_rankings, write_rankings
from humanpref.data.stats import data_stats
from humanpref.data.validate import validate_data
from humanpref.records import ImageRef, Ranking
from tests.toys import picture

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command line in this process -> exit status, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["humanpref", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two groups of three images, each with a consensus and two annotators, one pair of images alone."""
    (tmp_path / "set").mkdir()
    rankings = []
    for group in range(2):
        refs = []
        for i in range(3):
            path = tmp_path / "set" / f"g{group}-{i}.png"
            picture(32, 32, seed=10 * group + i).save(path)
            refs.append(ImageRef(path, ("sd", "dalle", "sd")[i]))
        for who, ranks in ((None, (1, 2, 3)), ("ann", (1, 3, 2)), ("ben", (1, 2, 2))):
            rankings.append(Ranking(f"prompt {group}", tuple(refs), ranks, who))
    write_rankings(rankings, tmp_path / "set.jsonl", image_root=tmp_path / "set")
    return tmp_path / "set.jsonl"


def test_convert_to_and_fro(call: Call, data: Path, tmp_path: Path) -> None:
    status, out, err = call("data", "convert", data, tmp_path / "b.json", "--format", "hpdv2-test")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "hpdv2-test cannot hold the sources of images" in err
    assert not (tmp_path / "b.json").exists()
    status, out, err = call("data", "convert", data, tmp_path / "b.json", "--format", "hpdv2-test", "--drop", "source")
    assert (status, out) == (0, "")
    assert "6 rankings from rankings to hpdv2-test" in err
    plain = [replace(r, images=tuple(ImageRef(i.path) for i in r.images)) for r in read_rankings(data)]
    assert read_rankings(tmp_path / "b.json") == plain
    assert call("data", "convert", data, tmp_path / "c.parquet")[0] == 0
    assert detect_format(tmp_path / "c.parquet").name == "rankings-parquet"
    assert read_rankings(tmp_path / "c.parquet") == read_rankings(data)


def test_convert_elsewhere_keeps_or_copies_the_images(call: Call, data: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    status, _, err = call("data", "convert", data, far / "x.jsonl")
    assert status == 0
    assert f"read it with --image-root {tmp_path / 'set'}" in err
    assert read_rankings(far / "x.jsonl", tmp_path / "set") == read_rankings(data)
    assert call("data", "convert", data, far / "y.csv", "--copy-images", "--pairs")[0] == 0
    copied = read_rankings(far / "y.csv")
    assert len(copied) == 18
    assert all(image.path.parent == far / "y" and image.path.is_file() for r in copied for image in r.images)
    status, _, err = call("data", "convert", data, far / "z.csv")
    assert (status, err.count("\n")) == (1, 1)
    assert "groups of more than two images" in err
    assert "itself" in call("data", "convert", data, data)[2]
    assert "choose from: rankings" in call("data", "convert", data, far / "z", "--format", "yaml")[2]


def test_pairs_are_printed_and_can_be_read_back(call: Call, data: Path, tmp_path: Path) -> None:
    status, out, err = call("data", "pairs", data)
    assert (status, err) == (0, "")
    rows = list(csv.DictReader(StringIO(out)))
    assert len(rows) == 18
    assert rows[0] == {"prompt": "prompt 0", "image_a": "g0-0.png", "image_b": "g0-1.png", "label": "a",
                       "annotator": "", "source_a": "sd", "source_b": "dalle", "id": "", "prompt_source": "", "style": ""}  # fmt: skip
    assert [row["label"] for row in rows if row["annotator"] == "ben"] == ["a", "a", "tie"] * 2
    status, out, _ = call("data", "pairs", data, "--format", "jsonl")
    assert [json.loads(line)["label"] for line in out.splitlines()[:3]] == ["a", "a", "a"]
    assert call("data", "pairs", data, "--out", tmp_path / "p.csv")[1] == ""
    assert len(read_rankings(tmp_path / "p.csv")) == 18


def test_validate_says_nothing_is_wrong(call: Call, data: Path) -> None:
    status, out, err = call("data", "validate", data)
    assert (status, err) == (0, "")
    assert "2 instances, 6 rankings, 6 images" in out
    report = json.loads(call("data", "validate", data, "--format", "json")[1])
    assert report["ok"] is True
    assert report["problems"] == []


def test_validate_counts_and_lists_everything_at_once(call: Call, data: Path, tmp_path: Path) -> None:
    lines = data.read_text().splitlines()
    row = json.loads(lines[0])
    bad = [
        {**row, "images": row["images"][:1], "ranks": [1]},
        {**row, "ranks": [1, 2, 0]},
        row,
        {**row, "annotator": "ann"},
        {**row, "prompt": "other", "images": [row["images"][0]] * 2, "ranks": [1, 2]},
        {**row, "prompt": "other", "images": ["absent.png", "text.png"], "ranks": [1, 2]},
        {**row, "prompt": "third", "ranks": [3, 2, 1]},
        *({**row, "prompt": "third", "ranks": [1, 2, 3], "annotator": who} for who in "xy"),
    ]
    (tmp_path / "set" / "text.png").write_text("hello")
    data.write_text("\n".join([*lines, *map(json.dumps, bad)]) + "\n")
    status, out, err = call("data", "validate", data, "--format", "json")
    assert status == 1
    report = json.loads(out)
    counts = {p["kind"]: p["count"] for p in report["problems"]}
    assert counts == {"bad_instance": 2, "repeated_image": 1, "duplicate_instance": 1, "duplicate_annotation": 1,
                      "contradicted_consensus": 3, "missing_image": 1, "broken_image": 1}  # fmt: skip
    cases = {p["kind"]: p["cases"] for p in report["problems"]}
    assert cases["missing_image"] == [str(tmp_path / "set" / "absent.png")]
    assert [case.split(":")[0] for case in cases["bad_instance"]] == ["line 7", "line 8"]
    assert cases["duplicate_annotation"] == ["'prompt 0' (g0-0.png, ...) by ann"]
    assert err.count("\n") == 1
    assert "2 instances that are no rankings" in err
    table = call("data", "validate", data)[1]
    assert "1 images that are not on disk" in table
    assert "something is wrong" in table


def test_missing_images_can_be_allowed(call: Call, data: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "g0-0.png").unlink()
    assert call("data", "validate", data)[0] == 1
    status, out, err = call("data", "validate", data, "--allow-missing")
    assert (status, err) == (0, "")
    assert "1 images that are not on disk (allowed)" in out


def test_overlap_by_prompt_and_by_image(call: Call, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "train"
    other.mkdir()
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        picture(32, 32, seed=90 + i).save(other / name)
    (other / "d.png").write_bytes((tmp_path / "set" / "g1-2.png").read_bytes())
    rows = [("PROMPT  1", "a.png", "b.png"), ("new", "c.png", "d.png")]
    text = "prompt,image_a,image_b,label\n" + "".join(",".join((*row, "a")) + "\n" for row in rows)
    (tmp_path / "train.csv").write_text(text)
    status, out, _ = call("data", "validate", data, "--against", tmp_path / "train.csv", "--format", "json")
    assert status == 1
    problems = {p["kind"]: p["cases"] for p in json.loads(out)["problems"]}
    assert problems == {
        "prompt_overlap": ["'PROMPT  1'"],
        "image_overlap": [f"{tmp_path / 'set' / 'g1-2.png'} is {other / 'd.png'}"],
    }
    (tmp_path / "train.csv").write_text("prompt,image_a,image_b,label\nnew,a.png,b.png,a\n")
    assert call("data", "validate", data, "--against", tmp_path / "train.csv")[0] == 0


def test_stats(call: Call, data: Path, tmp_path: Path) -> None:
    status, out, err = call("data", "stats", data, "--format", "json", "--plot", tmp_path / "plot.png")
    assert status == 0
    assert f"Look at {tmp_path / 'plot.png'}" in err
    found = json.loads(out)
    assert {key: found[key] for key in ("prompts", "instances", "images", "pairs", "rankings", "annotators")} == {
        "prompts": 2, "instances": 2, "images": 6, "pairs": 6, "rankings": 6, "annotators": 2,
    }  # fmt: skip
    assert found["judged_pairs"] == 12
    assert found["ties"] == 2 / 12
    assert found["images_per_group"] == {"3": 2}
    assert found["sources"] == {"sd": 4, "dalle": 2}
    assert found["between_annotators"] == 1.0  # what both order (first above the rest) they order alike
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 800
        assert len(plot.convert("RGB").getcolors(1 << 20) or []) > 10
    assert "sd: 4, dalle: 2" in call("data", "stats", data)[1]
    assert "the plot cannot be saved" in call("data", "stats", data, "--plot", tmp_path / "x.nonsense")[2]


def test_agreement_equals_brute_force_on_the_gallery(gallery: Path) -> None:
    stats = data_stats(read_rankings(gallery))
    rows = json.loads((gallery / "test.json").read_text())
    right = total = own_right = own_total = 0
    for row in rows:
        people = [a["rank"] for a in row["raw_annotations"]]
        for i, j in combinations(range(len(row["image_path"])), 2):
            votes = [p[i] < p[j] for p in people]
            right += sum(a == b for a, b in combinations(votes, 2))
            total += len(votes) * (len(votes) - 1) // 2
            for k, vote in enumerate(votes):
                mean = sum(p[i] - p[j] for n, p in enumerate(people) if n != k)
                if mean:
                    own_total += 1
                    own_right += vote == (mean < 0)
    assert stats.between_annotators == pytest.approx(right / total, abs=1e-12)
    assert stats.with_others == pytest.approx(own_right / own_total, abs=1e-12)
    assert (stats.prompts, stats.images, stats.rankings, stats.pairs) == (28, 261, 308, 1089)
    assert stats.ties == 0


def test_agreement_does_not_depend_on_the_order_of_images() -> None:
    a, b = ImageRef(Path("a")), ImageRef(Path("b"))
    rankings = [Ranking("p", (a, b), (1, 2), "x"), Ranking("p", (b, a), (2, 1), "y")]
    stats = data_stats(rankings)
    assert (stats.instances, stats.between_annotators, stats.pairs) == (1, 1.0, 1)


def test_a_plot_without_matplotlib_says_what_to_install(
    call: Call, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = call("data", "stats", data, "--plot", tmp_path / "x.png")
    assert status == 1
    assert 'pip install "humanpref[report]"' in err


def test_the_gallery_is_valid(gallery: Path) -> None:
    found = validate_data(gallery)
    assert (found.ok, found.instances, found.rankings, found.images) == (True, 28, 308, 261)


def test_a_real_process(data: Path, tmp_path: Path) -> None:
    """One line on stderr and status 1 for bad input, JSON alone on stdout, 2 for bad usage."""
    command = [sys.executable, "-m", "humanpref.cli", "data"]
    (tmp_path / "bad").write_text("hello")
    done = subprocess.run([*command, "stats", tmp_path / "bad"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "unknown format" in done.stderr
    done = subprocess.run([*command, "stats", data, "--format", "json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["prompts"] == 2
    assert subprocess.run([*command, "nonsense"], capture_output=True, check=False).returncode == 2
