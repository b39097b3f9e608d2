"""The static site of a benchmark, as a reader meets it: in Chromium, without a network."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from humanpref.benchmark.leaderboard import leaderboards
from humanpref.benchmark.results import ImageScore, Result, ScorerInfo, SuiteInfo, read_results, write_result
from humanpref.benchmark.site import page_count, write_site
from humanpref.benchmark.thumbnails import Source, make_thumbnails, thumbnail_name
from humanpref.errors import DataError
from humanpref.scorers import SPECS
from tests.browser import Opened, chromium
from tests.commands import one_line_error, run
from tests.toys import picture

STYLES = {"anime": 30, "photo": 6}
NAMES = ("alpha", "<b>beta</b>", "gamma & delta")


def make(folder: Path) -> Path:
    for g, name in enumerate(NAMES):
        images = {}
        for style, count in STYLES.items():
            own = folder / f"g{g}" / style
            own.mkdir(parents=True)
            for i in range(count):
                path = own / f"{i:05d}.png"
                picture(96, 64, seed=1000 * g + 10 * i + len(style)).save(path)
                images[style, i] = (path, hashlib.sha256(path.read_bytes()).hexdigest())
        for scorer, base in (("hps-v2.1", 0.25), ("lite", -1.0)):
            identity = f"scorer={scorer} weights={'ab' * 32} resize={'antialias' if scorer != 'lite' else ''}"
            sign = 1 if scorer == "lite" else -1
            rows = tuple(
                ImageScore(
                    s, i, 0, f"{s} prompt {i} <i>", path, digest, base + sign * 0.01 * g + 0.001 * ((7 * i + g) % 5)
                )
                for (s, i), (path, digest) in images.items()
            )
            result = Result(
                name,
                ScorerInfo.of(scorer, SPECS[scorer].scale, identity),
                SuiteInfo("toy", "c" * 16, STYLES),
                rows,
                date="2026-01-02T00:00:00+00:00",
            )
            write_result(result, folder / "results" / f"{g}.{scorer}.json")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    folder = make(tmp_path_factory.mktemp("bench"))
    boards = leaderboards(read_results([folder / "results"]))
    report = write_site(boards, folder / "site", workers=1)
    assert report.pages == page_count(boards) == 1 + 2 + 3 + 36
    assert not report.failed
    return folder, report


@pytest.mark.slow
def test_every_page_asks_for_nothing_but_its_own_files(site) -> None:
    folder, report = site
    root = (folder / "site").as_uri()
    pages = [report.index, folder / "site/prompts/anime/index.html", folder / "site/prompts/photo/00003.html"]
    pages += sorted((folder / "site" / "generators").iterdir())[:1]
    with chromium() as browser:
        for path in pages:
            for scheme, width in (("light", 1280), ("dark", 390)):
                page = Opened(browser, path, width=width, scheme=scheme)
                assert page.said == []
                assert all(url.startswith((root, "data:")) for url in page.requests)
                assert page.overflow() == 0
                assert min(page.contrast().values()) >= 4.5, page.contrast()
                page.page.close()


def test_links_and_images_are_there(site) -> None:
    import re

    folder, _ = site
    for page in (folder / "site").rglob("*.html"):
        text = page.read_text()
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            if not link.startswith(("data:", "https:")):
                assert (page.parent / link).exists(), (page, link)
    assert "<b>beta</b>" not in (folder / "site" / "index.html").read_text()


def rows(page: Opened, panel: str) -> list[list[str]]:
    found: list[list[str]] = page.page.eval_on_selector_all(
        f"#{panel} tbody tr",
        "all => all.filter(r => !r.hidden).map(r => [...r.cells].map(c => c.textContent.trim()))",
    )
    return found


def test_the_leaderboard_sorts_filters_and_has_tabs(site) -> None:
    _, report = site
    with chromium() as browser:
        opened = Opened(browser, report.index)
        page = opened.page
        assert [row[1] for row in rows(opened, "table-1-1")] == list(NAMES)
        page.click("#table-1-1 th:nth-child(3) button")
        assert [row[1] for row in rows(opened, "table-1-1")] == list(NAMES[::-1])
        assert page.get_attribute("#table-1-1 th:nth-child(3)", "aria-sort") == "ascending"
        page.click("#table-1-1 th:nth-child(2) button")
        assert [row[1] for row in rows(opened, "table-1-1")] == sorted(NAMES)
        page.fill("[data-filter]", "GAMMA")
        assert [row[1] for row in rows(opened, "table-1-1")] == [NAMES[2]]
        page.fill("[data-filter]", "")
        page.click("text=photo >> nth=1")
        assert page.is_hidden("#table-1-1")
        assert page.is_visible("#table-1-3")
        page.click("role=tab[name=lite]")
        assert [row[1] for row in rows(opened, "table-2-1")] == list(NAMES[::-1])
        assert page.is_hidden("#scorer-1")
        bars = page.eval_on_selector_all("#table-2-1 .range", "all => all.map(b => b.getBoundingClientRect().width)")
        assert len(bars) == 3
        assert all(width > 0 for width in bars)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"


def test_prompt_pages_show_all_generators_side_by_side(site) -> None:
    folder, _ = site
    with chromium() as browser:
        opened = Opened(browser, folder / "site" / "prompts" / "photo" / "00002.html")
        page = opened.page
        assert page.inner_text("h1") == "photo prompt 2 <i>"
        names = "all => all.filter(f => !f.hidden).map(f => f.querySelector('a').textContent)"
        assert page.eval_on_selector_all("figure", names) == list(NAMES)
        assert page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)") == [96] * 3
        page.select_option("select", label="lite")
        assert page.eval_on_selector_all("figure", names) == list(NAMES[::-1])
        page.click("a[rel=next]")
        assert page.inner_text("h1") == "photo prompt 3 <i>"
        page.goto((folder / "site/prompts/anime/index.html").as_uri())
        loaded = page.eval_on_selector_all("img", "all => all.map(i => [i.loading, i.currentSrc !== ''])")
        assert len(loaded) == 60
        assert all(kind == "lazy" for kind, _ in loaded)
        page.fill("input[type=search]", "prompt 17")
        assert page.inner_text("[data-count]") == "1 prompts"
        page.fill("input[type=search]", "")
        page.select_option("select", "spread")
        spreads = page.eval_on_selector_all("#prompts li", "all => all.map(l => Number(l.dataset.spread))")
        assert spreads == sorted(spreads, reverse=True)


def test_best_and_worst_images(site) -> None:
    folder, _ = site
    with chromium() as browser:
        page = Opened(browser, folder / "site" / "generators" / "alpha.html").page
        shown = page.eval_on_selector_all(
            ".grid",
            "all => all.map(g => [...g.querySelectorAll('figcaption b')].map(b => Number(b.textContent.replace('−', '-'))))",
        )
        assert len(shown) == 4  # best and worst by two scorers
        assert shown[0] == sorted(shown[0], reverse=True)
        assert shown[1] == sorted(shown[1])
        assert max(shown[1]) <= min(shown[0])


def test_thumbnails_are_made_once_and_only_of_what_was_scored(tmp_path: Path) -> None:
    folder = make(tmp_path)
    boards = leaderboards(read_results([folder / "results"]))
    write_site(boards, folder / "site", workers=2)
    thumbnails = {p: p.stat().st_mtime_ns for p in (folder / "site" / "thumbnails").rglob("*.webp")}
    assert len(thumbnails) == len({i.sha256 for b in boards for r in b.rows for i in r.result.images})
    picture(seed=5).save(folder / "g0" / "photo" / "00000.png")  # its thumbnail is there: it shows what was scored
    (folder / "g0" / "photo" / "00001.png").unlink()
    again = write_site(boards, folder / "site", workers=1)
    assert not again.failed
    assert {p: p.stat().st_mtime_ns for p in (folder / "site" / "thumbnails").rglob("*.webp")} == thumbnails
    shutil.rmtree(folder / "site")
    done = run("benchmark", "report", folder / "site", "--results", folder / "results")
    assert done.returncode == 0, done.stderr
    assert "2 images have no thumbnail" in done.stderr
    assert "has changed since it was scored" in done.stderr
    assert "no image" in (folder / "site" / "prompts" / "photo" / "00001.html").read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    one_line_error(run("benchmark", "report", tmp_path / "other", "--results", folder / "results"), "holds other files")


def test_a_bad_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not an image")
    Image.new("RGBA", (900, 300)).save(tmp_path / "good.png")
    sources = [Source(p, hashlib.sha256(p.read_bytes()).hexdigest()) for p in sorted(tmp_path.glob("*.png"))]
    failed = make_thumbnails(sources, tmp_path / "small", workers=1)
    assert list(failed) == [sources[0].sha256]
    with Image.open(tmp_path / "small" / thumbnail_name(sources[1].sha256)) as made:
        assert made.size == (256, 85)
    with pytest.raises(DataError, match="cannot be written"):
        (tmp_path / "file").touch()
        make_thumbnails(sources, tmp_path / "file" / "x", workers=1)


def test_a_report_needs_room_of_its_own(tmp_path: Path) -> None:
    began = time.monotonic()
    one_line_error(run("benchmark", "report", tmp_path / "site", "--results", tmp_path / "none"), "cannot be read")
    (tmp_path / "empty").mkdir()
    one_line_error(run("benchmark", "report", tmp_path / "site", "--results", tmp_path / "empty"), "holds no results")
    assert time.monotonic() - began < 60
    assert not (tmp_path / "site").exists()
