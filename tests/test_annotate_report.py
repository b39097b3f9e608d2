from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from humanpref.annotate.exclusion import QualityRule
from humanpref.annotate.quality import annotator_quality, group_quality
from humanpref.annotate.records import ProjectConfig
from humanpref.annotate.report import AnnotationReport, check_path, make_report, write_report
from humanpref.errors import DataError
from humanpref.report.cells import percent, plain
from tests.browser import Opened, chromium
from tests.crowd import World, annotator, crowd, judgement

AWKWARD = "<b>人間</b> & </style><script>alert(1)</script> 100% {{ x }} " + "w" * 80
CONFIG = ProjectConfig(title=AWKWARD, rankings_per_group=6)


@pytest.fixture(scope="module")
def world() -> World:
    made = World(crowd(9, careless=2, reversed_=1), count=60, gold=5, repeats=5, per_group=6)
    made.groups["g0"] = replace(made.groups["g0"], prompt=AWKWARD)
    first = made.groups["g1"].images
    made.groups["g1"] = replace(made.groups["g1"], images=(replace(first[0], source=None), *first[1:]))
    made.groups["g2"] = replace(
        made.groups["g2"], images=tuple(replace(i, source=AWKWARD) for i in made.groups["g2"].images)
    )
    made.judgements.append(judgement(9999, "g3", 1, None, shown=(0, 1, 2, 3)))
    return made


@pytest.fixture(scope="module")
def report(world: World) -> AnnotationReport:
    why = {11: "looked & <i>felt</i> wrong", 2: "by mistake"}
    people = [annotator(i, excluded=why.get(i)) for i in range(1, 14)]
    return make_report(world.judgements, world.groups, people, CONFIG)


@pytest.fixture(scope="module")
def page(report: AnnotationReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("annotation") / "out.html"
    write_report(report, path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_the_report_leaves_the_excluded_out(world: World, report: AnnotationReport) -> None:
    assert report.quality == annotator_quality(world.judgements, world.groups, CONFIG, excluded=[2, 11])
    assert report.groups == group_quality(world.judgements, world.groups, excluded=[2, 11])
    assert set(report.suspect) == {10, 12}
    assert report.cleared == {2}  # the rule finds nothing against them, and does against the other
    answers = sum(j.kind == "task" and j.ranks is not None and j.annotator not in {2, 11} for j in world.judgements)
    assert sum(g.rankings for g in report.groups.values()) == answers
    assert report.sources.pairs + report.sources.unnamed + report.sources.same == answers * 6
    assert report.sources.unnamed == report.groups["g1"].rankings * 3


def test_the_page_shows_the_numbers(report: AnnotationReport, page: Path, browser: Any) -> None:
    opened = Opened(browser, page)
    assert opened.said == []
    assert opened.requests == [page.as_uri()]
    people = {row[0]: row for row in opened.table("people")}
    assert len(people) == 13
    assert people["handle-13"][1:3] == ["0", "0"]
    for number, quality in report.quality.items():
        assert people[f"handle-{number:02d}"][1] == str(quality.rankings)
    agreement = opened.table("agreement")
    assert [row[0] for row in agreement][0] == "handle-12"
    assert [float(row[1].split()[0]) for row in agreement] == sorted(float(row[1].split()[0]) for row in agreement)
    for row in agreement:
        quality = report.quality[int(row[0][-2:])]
        assert row[1].startswith(percent(quality.others.value) + " [")
        assert row[3].startswith(percent(quality.gold.value) + " [")
    watch = " ".join(opened.page.inner_text("#watch").split())
    for who, why in report.suspect.items():
        assert f"handle-{who} still counts" in watch
        for reason in why:
            assert reason in watch
    assert "handle-11 left out looked & <i>felt</i> wrong" in watch
    assert "by mistake the rule alone would keep them" in watch
    lowest = opened.table("lowest")
    assert lowest[0][1] == plain(min(g.w for g in report.groups.values() if g.w is not None))
    sources = opened.table("sources")
    assert [row[0].split() for row in sources] == [s.source.split() for s in report.sources.sources]
    assert all(row[2].startswith(plain(s.strength)) for row, s in zip(sources, report.sources.sources, strict=True))
    text = opened.page.inner_text("main")
    for sentence in QualityRule().sentences(CONFIG.minimum_seconds):
        assert sentence in text
    assert "taken back on the same page" in text
    assert opened.page.title() == f"Annotation: {' '.join(AWKWARD.split())}"


def test_names_only_by_request(report: AnnotationReport, page: Path, tmp_path: Path, browser: Any) -> None:
    assert "Real Name" not in page.read_text()
    write_report(report, tmp_path / "named.html", names=True)
    opened = Opened(browser, tmp_path / "named.html")
    assert "handle-01 (Real Name 1)" in [row[0] for row in opened.table("people")]
    assert "keep it to yourself" in opened.page.inner_text("footer")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (768, "dark"), (1280, "light")])
def test_any_window_light_and_dark(page: Path, browser: Any, width: int, scheme: str) -> None:
    opened = Opened(browser, page, width=width, scheme=scheme)
    assert opened.overflow() == 0
    assert {name: round(ratio, 2) for name, ratio in opened.contrast().items() if ratio < 4.5} == {}
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 27)")
    shown = opened.page.evaluate(
        "[...document.querySelectorAll('.plot')].filter(p => p.getClientRects().length).length"
    )
    assert shown == 2  # of the strengths one of two widths
    outside = opened.page.evaluate("""() => [...document.querySelectorAll('.plot svg text')]
        .filter(t => t.getClientRects().length)
        .filter(t => { const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
                       return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1; })
        .map(t => t.textContent)""")
    assert outside == []


def test_the_same_report_gives_the_same_bytes(report: AnnotationReport, page: Path, tmp_path: Path) -> None:
    write_report(report, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_project_that_has_hardly_begun(world: World, tmp_path: Path, browser: Any) -> None:
    empty = make_report([], world.groups, [], CONFIG)
    write_report(empty, tmp_path / "empty.html")
    opened = Opened(browser, tmp_path / "empty.html", width=390)
    assert opened.overflow() == 0
    text = opened.page.inner_text("body")
    assert "0.0 % of the rankings are in: 0 of 60 groups complete; nobody needs a look." in text
    assert "Nobody: the rule finds no reason" in text
    assert "No group has two rankings yet." in text
    one = make_report([judgement(1, "g5", 1, (1, 2, 3, 4))], world.groups, [annotator(1)], CONFIG)
    write_report(one, tmp_path / "one.html")
    assert "alpha" in (tmp_path / "one.html").read_text()


def test_what_cannot_be(world: World, report: AnnotationReport, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotator 1, who gave answers"):
        make_report(world.judgements, world.groups, [annotator(i) for i in range(2, 14)], CONFIG)
    with pytest.raises(DataError, match="ending .html"):
        write_report(report, tmp_path / "out.md")
    with pytest.raises(DataError, match="there is no folder"):
        check_path(tmp_path / "nowhere" / "out.html")
