"""Methods compared: real images by real backends, known truths, runs that are killed, and the page in a browser."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from humanpref import load_scorer
from humanpref.cache import ScoreCache
from humanpref.errors import DataError, ImageError, ScoreError
from humanpref.generate import GenerateError, Outcome, Prompt, Request, make_backend
from humanpref.generate.manifest import read_manifest
from humanpref.improve.best_of.method import BestOf
from humanpref.improve.compare.compare import CompareReport, compare_methods
from humanpref.improve.compare.images import method_folder
from humanpref.improve.compare.output import compare_json, compare_table, write_report
from humanpref.improve.compare.page import write_page
from humanpref.improve.methods import ImproveError, Nothing
from humanpref.scorers import Scorer
from humanpref.shapes.grammar import captions
from humanpref.shapes.quality import quality
from tests.browser import Opened, chromium
from tests.commands import one_line_error, run
from tests.generating import ROOT, ToyBackend, contents, environment, prompts
from tests.test_improve_best_of import Pixel
from tests.toys import ByteScorer

CAPTIONS = [Prompt(text, f"s{n}") for n, text in enumerate(captions(8, 41))]
BEST = "best-of:3,model=shapes-truth"


def compare(out: Path, *scorers: Scorer, methods: Sequence[object] = (BEST,), **options: object) -> CompareReport:
    wanted = {"prompts": CAPTIONS, "backend": make_backend("shapes:miscounting"), **options}
    with ScoreCache(out.parent / "scores.sqlite") as cache:
        return compare_methods(methods=methods, scorers=scorers, out=out, cache=cache, **wanted)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> CompareReport:
    out = tmp_path_factory.mktemp("compare") / "run"
    return compare(out, load_scorer("lite"), load_scorer("shapes-truth"))


def test_the_figures_are_those_of_the_images(report: CompareReport) -> None:
    assert [method.method for method in report.methods] == ["none", BEST]
    assert report.methods[0].cost == 1.0
    assert report.methods[1].selected_by == ("shapes-truth",)
    truths = []
    for row, prompt in zip(report.rows, CAPTIONS, strict=True):
        assert row.prompt == prompt.text
        own = [quality(Image.open(image.path), row.prompt).total for image in row.images]
        assert [image.scores[1] for image in row.images] == pytest.approx(own)
        truths.append(own)
    rises = [two - one for one, two in truths]
    gain = report.gain(BEST, "shapes-truth")
    assert gain.gain == pytest.approx(sum(rises) / 8)
    assert gain.gain > 0
    assert gain.selected
    assert gain.win_rate == sum(0.5 if rise == 0 else rise > 0 for rise in rises) / 8
    assert min(rises) >= 0  # the baseline's image is the first candidate
    assert not report.gain(BEST, "lite").selected
    assert any("does not read the prompt" in note for note in report.notes)


def test_a_second_run_makes_and_scores_nothing_again(report: CompareReport) -> None:
    before = {path: path.stat().st_mtime_ns for path in report.out.rglob("*.png")}
    again = compare(report.out, load_scorer("lite"), load_scorer("shapes-truth"))
    assert again == report
    assert {path: path.stat().st_mtime_ns for path in report.out.rglob("*.png")} == before


def test_json_and_table(report: CompareReport) -> None:
    answer = json.loads(compare_json(report))
    assert [method["method"] for method in answer["methods"]] == ["none", BEST]
    assert "images" not in answer
    kept = json.loads(write_report(report).read_text())
    assert len(kept["images"]) == 8
    shown = kept["images"][0]["images"][BEST]
    assert (report.out / shown["path"]).is_file()
    assert shown["scores"]["shapes-truth"] == report.rows[0].images[1].scores[1]
    assert "*: it chose its images by this scorer" in compare_table(report)


class Broken(ByteScorer):
    """Gives nan."""

    def value(self, image: object, text: str) -> float | ImageError:
        return math.nan


def test_bad_input_is_refused_before_anything_is_drawn(tmp_path: Path, report: CompareReport) -> None:
    lite = load_scorer("lite")
    with pytest.raises(ImproveError, match="is among the methods twice"):
        compare(tmp_path / "a", lite, methods=[BEST, BEST])
    with pytest.raises(ImproveError, match="there is no method to compare"):
        compare(tmp_path / "a", lite, methods=["none"])
    with pytest.raises(ImproveError, match="lite is among the scorers twice"):
        compare(tmp_path / "a", lite, lite)
    with pytest.raises(ImproveError, match="no scorer to judge by"):
        compare(tmp_path / "a")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds other files"):
        compare(tmp_path / "mine", lite)
    assert not (tmp_path / "a").exists()
    with pytest.raises(GenerateError, match="holds another run: seed was 0, is now 5"):
        compare(report.out, lite, seed=5)
    with pytest.raises(ImproveError, match="holds images of miscounting, not of clean"):
        compare(report.out, lite, backend=make_backend("shapes:clean"))
    with pytest.raises(ScoreError, match="byte returned nan; its weights may be damaged"):
        compare(report.out, Broken())


METHODS = [("best", [BestOf(2, scorer=Pixel())])]
SLOW = """
import sys
from pathlib import Path
from tests.generating import ToyBackend, prompts
from tests.test_improve_compare import METHODS, compare
from tests.toys import ByteScorer
slow = ToyBackend(delay=float(sys.argv[2]))
compare(Path(sys.argv[1]), ByteScorer(), backend=slow, prompts=prompts(4), methods=METHODS)
"""


def begin(out: Path, delay: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SLOW, str(out), str(delay)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE)


def test_a_second_comparison_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    drawing = begin(tmp_path / "run", 60)
    try:
        while not list((tmp_path / "run").glob("images/*/manifest.jsonl")):
            assert drawing.poll() is None
            time.sleep(0.05)
        with pytest.raises(ImproveError, match=f"another run is writing there \\(process {drawing.pid} on "):
            compare(tmp_path / "run", ByteScorer(), backend=ToyBackend(), prompts=prompts(4), methods=METHODS)
    finally:
        drawing.kill()
        drawing.communicate()


@pytest.mark.slow
def test_of_two_comparisons_begun_at_once_one_comes_through(tmp_path: Path) -> None:
    both = [begin(tmp_path / "run", 0.3), begin(tmp_path / "run", 0.3)]
    said = [process.communicate()[1].decode() for process in both]
    ended = [process.returncode for process in both]
    assert 0 in ended, said
    assert all(code == 0 or "another run is writing there" in text for code, text in zip(ended, said, strict=True)), (
        said
    )
    report = compare(tmp_path / "run", ByteScorer(), backend=ToyBackend(), prompts=prompts(4), methods=METHODS)
    assert [method.done for method in report.methods] == [4, 4]
    for method in report.methods:
        contents(method.folder)


def test_images_that_are_not_there_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = (*prompts(4), Prompt("refuse this", "r"), Prompt("fail at this", "f"), Prompt("number nine", "n"))
    methods = [("best", [BestOf(2, scorer=Pixel())])]
    report = compare(
        tmp_path / "run", ByteScorer(), ByteScorer("other 2"), backend=ToyBackend(), prompts=texts, methods=methods
    )
    assert [(m.done, m.refused, m.failed) for m in report.methods] == [(5, 1, 1)] * 2
    gain = report.gain("best", "byte")
    assert (gain.pairs, gain.left_out, gain.prompts) == (5, 2, 5)
    assert "best: of 7 images 1 refused, 1 failed; their pairs are left out" in report.notes
    assert report.rows[4].images[1].reason == "none of 2 candidates is left: not that"
    (path,) = method_folder(report.out, "none").glob("toy/p0-0.png")
    path.write_bytes(b"BAD")
    report = compare(
        tmp_path / "run", ByteScorer(), ByteScorer("other 2"), backend=ToyBackend(), prompts=texts, methods=methods
    )
    assert report.methods[0].unreadable == 1
    assert report.gain("best", "byte").pairs == 4
    index = write_page(report)
    assert "not that" in index.read_text()


def test_one_prompt_and_one_scorer_are_allowed_and_told(tmp_path: Path) -> None:
    report = compare(tmp_path / "run", load_scorer("shapes-truth"), prompts=CAPTIONS[:1])
    assert report.gains[0].ci is None
    assert "one prompt: too few for an interval, which takes 5" in report.notes
    assert any(note.startswith("shapes-truth alone judges: ") for note in report.notes)
    with pytest.raises(ImproveError, match="not one pair of images is left"):
        compare(
            tmp_path / "none",
            ByteScorer(),
            backend=ToyBackend(),
            prompts=[Prompt("refuse", "r")],
            methods=[("b", [Other()])],
        )


@dataclass(frozen=True)
class Other(Nothing):
    """A method that changes nothing, by another name."""


@dataclass
class Loading(ToyBackend):
    """Remembers that it was loaded, as a model is."""

    loaded: bool = False

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        self.loaded = True
        yield from super().generate(requests)


def test_a_method_that_does_nothing_gains_nothing(tmp_path: Path) -> None:
    backend = Loading()
    report = compare(
        tmp_path / "run",
        ByteScorer(),
        backend=backend,
        prompts=prompts(6),
        methods=[("other", [Other()])],
        images_per_prompt=2,
    )
    gain = report.gain("other", "byte")
    assert (gain.gain, gain.ci, gain.p_value, gain.win_rate, gain.pairs) == (0.0, (0.0, 0.0), 1.0, 0.5, 12)
    first, second = (contents(method_folder(report.out, name)) for name in ("none", "other"))
    assert first == second
    assert not backend.loaded  # copies draw, and are let go of one after another


# ---- the command


def words(prompt_file: Path, out: Path) -> list[str | Path]:
    return [
        "improve", "compare", prompt_file, "--backend", "shapes:coarse", "--method", "best-of:4,model=lite",
        "--model", "lite", "shapes-truth", "--out", out,
    ]  # fmt: skip


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(prompt.text for prompt in CAPTIONS) + "\n")
    return path


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(prompt_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    began = subprocess.Popen(
        [sys.executable, "-m", "humanpref.cli", *map(str, words(prompt_file, out))],
        env=environment() | {"HUMANPREF_CACHE": str(tmp_path / "scores.sqlite")}, stderr=subprocess.PIPE,
    )  # fmt: skip
    folder = method_folder(out, "best-of:4,model=lite")
    for _ in range(600):
        if len(list(folder.glob("coarse/*.png"))) >= 2:
            break
        time.sleep(0.05)
    began.send_signal(signal.SIGKILL)
    began.communicate()
    rows = [(file.parent, row) for file in out.rglob("manifest.jsonl") for row in read_manifest(file)]
    was = {made / row["path"]: (made / row["path"]).stat().st_mtime_ns for made, row in rows}
    assert 9 <= len(was) < 16
    done = run(*words(prompt_file, out), "--format", "json", "--no-cache")
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == at for path, at in was.items())
    answer = json.loads(done.stdout)
    assert [method["done"] for method in answer["methods"]] == [8, 8]
    assert "humanpref: none, the baseline, is added to the methods" in done.stderr
    assert f"Look at {out / 'index.html'}" in done.stderr
    assert not list(out.glob(".scores*"))


def test_one_line_for_what_cannot_be(prompt_file: Path, tmp_path: Path) -> None:
    good = words(prompt_file, tmp_path / "out")
    one_line_error(run(*good, "--method", "best-of:4,model=lite"), "is among the methods twice")
    one_line_error(run(*good, "--method", "better"), "'better': a method is one of none, ")
    one_line_error(run(*good[:-2], "--out", prompt_file), "is a file; --out names a folder")
    done = run(*good, "--method", "best-of:2", env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 1
    assert "hps-v2.1 needs HPS_v2.1_compressed.pt" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()  # said before anything is drawn


# ---- the page


def test_the_page_in_a_browser(report: CompareReport) -> None:
    index = write_page(report)
    with chromium() as browser:
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
            opened = Opened(browser, index, width=width, scheme=scheme)
            assert opened.overflow() == 0
            assert min(opened.contrast().values()) >= 4.5
            assert opened.page.locator(f".{'narrow' if width < 500 else 'wide'} svg").first.is_visible()
            assert all(url.startswith(("file:", "data:")) for url in opened.requests)
            assert opened.said == []
        rows = opened.table("gains")
        assert [row[:2] for row in rows] == [[BEST, "lite"], [BEST, "shapes-truth chose the images"]]
        page = opened.page
        rises = [row.images[1].scores[1] - row.images[0].scores[1] for row in report.rows]
        by_truth = sorted(range(8), key=lambda i: -rises[i])
        page.select_option("#order", "d1-1 -1")
        places = page.eval_on_selector_all("#rows > li", "all => all.map(li => Number(li.dataset.place))")
        assert [rises[i] for i in places] == [rises[i] for i in by_truth]
        page.select_option("#order", "d1-1 1")
        assert page.eval_on_selector("#rows > li", "li => Number(li.dataset.place)") in {
            i for i in range(8) if rises[i] == min(rises)
        }
        text = report.rows[3].prompt
        page.fill("#filter", text.upper())
        left = page.eval_on_selector_all("#rows > li:not([hidden]) h3", "all => all.map(h => h.textContent)")
        assert left == [row.prompt for row in report.rows if text in row.prompt]
        page.locator("#rows > li:not([hidden]) img").first.scroll_into_view_if_needed()
        assert (
            page.locator("#rows > li:not([hidden]) img").first.evaluate("i => i.decode().then(() => i.naturalWidth)")
            == 128
        )
        assert (
            page.locator("#rows > li:not([hidden]) a")
            .first.get_attribute("href")
            .startswith("images/none/miscounting/s")
        )
        page.reload()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == "#images"


def test_large_images_are_shown_small(tmp_path: Path) -> None:
    report = compare(
        tmp_path / "run", load_scorer("lite"), prompts=CAPTIONS[:1], backend=make_backend("shapes:clean,size=300"),
        methods=[("other", [Other()])],
    )  # fmt: skip
    page = write_page(report).read_text()
    (small,) = (tmp_path / "run" / "thumbnails").rglob("*.webp")
    assert page.count(small.relative_to(tmp_path / "run").as_posix()) == 2
    assert Image.open(small).size == (256, 256)
