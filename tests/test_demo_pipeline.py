"""The demo goes the whole way from prompts to a page of pictures, with real files at every stage."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from humanpref import load_scorer
from humanpref.annotate.records import Answer
from humanpref.annotate.store import Store
from humanpref.data.formats import read_rankings
from humanpref.demo_pipeline import DATABASE, PEOPLE, improve_images, run_pipeline, write_benchmark, write_page
from humanpref.shapes.grammar import parse
from humanpref.shapes.quality import quality
from tests.browser import Opened, chromium

SOURCES = ("clean", "wrong-colours", "coarse")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("demo")
    prompts, report, link = run_pipeline(out, load_scorer("lite"), sources=SOURCES, prompts=3)
    write_page(prompts, report, out / "index.html")
    assert link
    return out, prompts, report


def test_every_stage_leaves_its_files(made) -> None:
    out, prompts, report = made
    typed = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    cleaned = [json.loads(line) for line in (out / "cleaned.jsonl").read_text().splitlines()]
    assert [row["text"] for row in cleaned] == [p.cleaned for p in prompts]
    assert all(t["text"] != c["text"] for t, c in zip(typed, cleaned, strict=True))
    for row in cleaned:
        parse(row["text"])  # nothing but the caption is left
    manifest = [json.loads(line) for line in (out / "images" / "manifest.jsonl").read_text().splitlines()]
    assert sum(row.get("status") == "done" for row in manifest) == 9
    rankings = read_rankings(out / "images" / "rankings.jsonl", out / "images")
    assert len(rankings) == 3 * PEOPLE
    assert {image.source for r in rankings for image in r.images} == set(SOURCES)
    assert report.instances == 3
    store = Store(str(out / DATABASE))
    assert store.counts().done == 3 * PEOPLE
    assert [a.name for a in store.annotators()] == [*(f"honest-{i + 1}" for i in range(PEOPLE)), "you"]
    you = store.annotators()[-1].number
    assert len(store.open_assignments(you)) == 2  # there is room for the reader
    store.close()
    assert (out / "review.html").is_file()


def test_the_figures_are_those_of_the_pictures(made) -> None:
    _, prompts, _ = made
    for prompt in prompts:
        for image in prompt.images:
            with Image.open(image.path) as picture:
                assert quality(picture.convert("RGB"), prompt.cleaned).total == pytest.approx(image.truth)
        assert [i.mean_rank for i in prompt.images] == sorted(i.mean_rank for i in prompt.images)
    best = {p.images[0].source for p in prompts}
    assert "clean" in best


def test_the_page_in_a_browser(made) -> None:
    out, prompts, _ = made
    with chromium() as browser:
        for width in (390, 1280):
            page = browser.new_page(viewport={"width": width, "height": 900})
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto((out / "index.html").as_uri())
            sizes = page.eval_on_selector_all("img", "images => images.map(i => [i.naturalWidth, i.alt])")
            assert len(sizes) == 9
            assert all(natural == 128 and alt for natural, alt in sizes)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            headings = page.eval_on_selector_all("h2", "all => all.map(h => h.firstChild.textContent)")
            assert headings == [p.cleaned for p in prompts]
            assert said == []
            page.close()


def test_it_ends_in_a_benchmark_of_the_sources(made) -> None:
    out, prompts, _ = made
    index = write_benchmark(out, load_scorer("lite"))
    assert index == out / "report" / "index.html"
    with chromium() as browser:
        opened = Opened(browser, index)
        rows = opened.page.eval_on_selector_all("tbody th", "all => all.map(h => h.textContent.trim())")
        assert sorted(rows) == sorted(SOURCES)
        opened.page.goto((out / "report" / "prompts" / "all" / "00000.html").as_uri())
        assert opened.page.inner_text("h1") == prompts[0].cleaned
        assert opened.page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)") == [128] * 3
        assert opened.said == []


def test_a_scorer_chooses_better_images_and_the_truth_is_asked(made) -> None:
    out, _, _ = made
    report, page = improve_images(out, load_scorer("lite"))
    assert page == out / "improve" / "index.html"
    by_lite, truly = report.gains
    assert (by_lite.pairs, by_lite.selected, truly.selected) == (12, True, False)
    assert by_lite.holds
    assert min(row.images[1].scores[0] - row.images[0].scores[0] for row in report.rows) >= 0
    for row in report.rows:
        with Image.open(row.images[1].path) as picture:
            assert quality(picture.convert("RGB"), row.prompt).total == pytest.approx(row.images[1].scores[1])


def test_a_second_run_makes_nothing_again(made) -> None:
    out, prompts, _ = made
    before = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")}
    again, _, _ = run_pipeline(out, load_scorer("lite"), sources=SOURCES, prompts=3)
    assert {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")} == before
    # of two pictures that are the same to the byte, chance decides which a person puts first
    assert _scores(again) == _scores(prompts)
    assert [p.cleaned for p in again] == [p.cleaned for p in prompts]


def test_what_the_reader_ranked_outlives_the_next_demo(made) -> None:
    out, _, _ = made
    store = Store(str(out / DATABASE))
    you = store.annotators()[-1].number
    store.submit(you, store.open_assignments(you)[0].token, Answer(tuple(range(1, len(SOURCES) + 1))))
    store.close()
    _, _, link = run_pipeline(out, load_scorer("lite"), sources=SOURCES, prompts=3)
    store = Store(str(out / DATABASE))
    assert [j.annotator for j in store.judgements()].count(you) == 1
    assert store.annotator_of_token(str(link)).number == you
    store.close()
    rankings = read_rankings(out / "images" / "rankings.jsonl", out / "images")
    assert len(rankings) == 3 * PEOPLE  # the figures are the simulated people's
    run_pipeline(out, load_scorer("lite"), sources=SOURCES, prompts=2)  # another demo: the old project is set aside
    store = Store(str(out / "annotate-1.db"))
    assert len(store.judgements()) == 3 * PEOPLE + 1
    store.close()


def _scores(prompts) -> dict[str, tuple[float, float]]:
    return {str(i.path): (i.score, i.truth) for p in prompts for i in p.images}
