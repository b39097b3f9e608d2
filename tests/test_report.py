from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import humanpref
from humanpref import load_scorer
from humanpref.data.formats import read_rankings
from humanpref.errors import DataError, MissingExtraError
from humanpref.evaluation.evaluate import judge, prepare, score_all
from humanpref.evaluation.generator_metrics import judge_generators
from humanpref.evaluation.generators import GeneratorReport
from humanpref.evaluation.report import write_report
from humanpref.evaluation.report_plots import forest
from humanpref.evaluation.report_tables import sentence, titles
from humanpref.records import Difference, EvalReport, Ranking
from humanpref.report.cells import percent
from humanpref.report.text import latex, markdown
from humanpref.report.write import check_report
from tests.browser import Opened, chromium
from tests.toys import TableScorer

AWKWARD = (
    "<b>bold</b> | 50%_a",
    "人間 `x` & $y$ {z}",
    "</td></table><script>alert(1)</script> \\end{tabular} #1\n| --- |",
)
STYLES = ("anime", "photo", "paintings", "concept-art")
MAKERS = ("SDXL <Base>", "DALL·E 2", "LAFITE | 2", "VQ_Diffusion", "GLIDE & co")


def styled(judged: Ranking) -> Ranking:
    """A gallery ranking with made-up styles and generators."""
    images = tuple(replace(image, source=MAKERS[i % 5]) for i, image in enumerate(judged.images))
    return replace(judged, images=images, style=STYLES[len(judged.prompt) % 4])


@pytest.fixture(scope="module")
def built(gallery: Path) -> tuple[list[EvalReport], list[tuple[str, GeneratorReport]]]:
    rankings = list(read_rankings(gallery))
    whole = prepare(rankings, data=str(gallery), test_set="hpdv2-test")
    parts = prepare(map(styled, rankings), data="a_<i>b</i>|`c`")
    groups = [i.consensus for i in whole.instances]
    tables = []
    for k, name in enumerate(AWKWARD):
        noise = np.random.default_rng(k)
        table = {
            i.path.name: -r + noise.normal(0, 3 * k) for g in groups for i, r in zip(g.images, g.ranks, strict=True)
        }
        scorer = TableScorer(table, name, published=0.8 - 0.1 * k, logit_scale=None if k == 2 else 0.5)
        scorer.identity = f"seed={k} <u>"
        tables.append(scorer)
    scores = score_all([whole, parts], [load_scorer("lite"), *tables])
    reports = [judge(whole, [row[0] for row in scores]), judge(parts, [row[1] for row in scores])]
    reports[0] = replace(reports[0], notes=("<em>a note</em>",))
    return reports, [("gen <x>", judge_generators(parts, [row[1] for row in scores]))]


@pytest.fixture(scope="module")
def page(built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "out.html"
    write_report(built[0], path, built[1])
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def shown(measure: Any) -> str:
    return f"{percent(measure.value)} [{percent(measure.ci[0])}, {percent(measure.ci[1])}]"


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.slow
def test_the_page_shows_the_numbers(built, page: Path, browser: Any) -> None:
    reports, generators = built
    opened = Opened(browser, page)
    assert opened.said == []
    assert opened.requests == [page.as_uri()]
    first, second = reports
    rows = opened.table("summary")
    best = sorted(first.scorers, key=lambda s: -s[first.rule].value)
    assert [row[0] for row in rows] == [
        *(flat(s.model) for s in best),
        "A single person",
        "About the best possible",
    ]
    for row, scorer in zip(rows, best, strict=False):
        other = next(s for s in second.scorers if s.model == scorer.model)
        published = "–" if scorer.published_accuracy is None else percent(scorer.published_accuracy)
        assert row[1:] == [shown(scorer[first.rule]), published, shown(other[second.rule])]
    assert first.human is not None
    assert first.human.in_consensus is not None
    assert rows[-2][1:3] == [shown(first.human.in_consensus), "78.1"]
    assert rows[-1][1:3] == [shown(first.human.ceiling_vs_consensus), "–"]

    for i, report in enumerate(reports, 1):
        measured = opened.table(f"set{i}-measures")
        assert [row[0] for row in measured] == [flat(s.model) for s in best]
        assert [row[1] for row in measured] == [shown(s[report.rule]) for s in best]
        told = opened.table(f"set{i}-differences")
        assert {row[0] for row in told} == {flat(sentence(d)) for d in report.differences}
        assert len(opened.table(f"set{i}-calibration")) == sum(s.calibration is not None for s in report.scorers)
        assert [row[1] for row in opened.table(f"set{i}-identity")] == [s.identity for s in best]
        assert len(opened.table(f"set{i}-people")) == 5
    by = {g.by for s in second.scorers for g in s.groups}
    assert by >= {"style", "image_source"}
    for cut in by:
        some = next(s for s in second.scorers if s.model == best[0].model)
        expected = [(g.value, f"{g.pairs:,}") for g in some.groups if g.by == cut]
        assert [(row[0], row[2]) for row in opened.table(f"set2-by-{cut}")] == expected
    table = opened.table("gen1-generators")
    assert [row[0] for row in table] == [g.generator for g in generators[0][1].generators]
    assert table[0][3].endswith(")")
    assert len(opened.table("gen1-correlations")) == 4
    # what was escaped is text, and nothing else
    assert opened.page.locator("b, i, em, u, script, img").count() == 0
    assert opened.page.locator(".notes li").inner_text() == "<em>a note</em>"
    assert f"humanpref {humanpref.__version__}" in opened.page.locator("footer").inner_text()
    assert "Seed 0" in opened.page.locator("footer").inner_text()


def test_every_table_and_plot_says_what_it_is(page: Path, browser: Any) -> None:
    opened = Opened(browser, page)
    tables, captions, heads = (
        opened.page.locator(x).count() for x in ("table", "table > caption", "thead tr:last-child th")
    )
    assert tables == captions > 8
    assert opened.page.locator("th:not([scope])").count() == 0
    assert heads > tables
    ids = opened.page.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
    assert len(ids) == len(set(ids))
    dangling = """() => [...document.querySelectorAll('use')].map(u => u.getAttribute('href'))
        .concat([...document.querySelectorAll('[clip-path]')].map(e => e.getAttribute('clip-path').slice(4, -1)))
        .concat([...document.querySelectorAll('a, [aria-labelledby]')].map(
            e => e.getAttribute('href') ?? '#' + e.getAttribute('aria-labelledby')))
        .filter(target => !document.getElementById(target.slice(1)))"""
    assert opened.page.evaluate(dangling) == []
    plots = opened.page.locator(".plot:visible")
    assert plots.count() >= 2 + 3 * 2 + 3
    for plot in plots.all():
        assert len(plot.get_attribute("aria-label")) > 40
        box = plot.locator("svg").bounding_box()
        assert box["width"] > 200
        assert box["height"] > 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_any_window_light_and_dark(page: Path, browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, page, width=width, scheme=scheme)
    assert opened.overflow() == 0
    low = {name: round(ratio, 2) for name, ratio in opened.contrast().items() if ratio < 4.5}
    assert low == {}
    small = opened.page.eval_on_selector_all(
        ".plot svg text", "all => all.filter(e => e.getClientRects().length).map(e => e.getBoundingClientRect().height)"
    )
    assert min(h for h in small if h) > 10
    # plots follow the mode: what is drawn in ink is as light as text
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    opened.page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_text_stays_inside_its_plot(page: Path, browser: Any) -> None:
    for width in (390, 1280):
        out = Opened(browser, page, width=width).page.evaluate("""() => [...document.querySelectorAll('.plot svg text')]
            .filter(e => e.getClientRects().length).filter(e => {
                const a = e.getBoundingClientRect(), b = e.closest('section').getBoundingClientRect();
                return a.left < b.left - 1 || a.right > b.right + 1;
            }).map(e => e.textContent)""")
        assert out == []


def test_on_paper_nothing_is_cut_off(page: Path, browser: Any) -> None:
    opened = Opened(browser, page, width=680, scheme="dark")  # A4 with margins of 15 mm, at 96 pixels an inch
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = "all => all.filter(t => t.getBoundingClientRect().right > innerWidth + 1).map(t => t.id)"
    assert opened.page.eval_on_selector_all("table, svg", cut) == []
    assert min(opened.contrast().values()) >= 4.5


def test_the_policy_lets_nothing_in(page: Path) -> None:
    text = page.read_text()
    assert """content="default-src 'none'; style-src 'unsafe-inline'; img-src data:\"""" in text
    assert not re.search(r"<script|<link rel=\"style|@import|https?://", text)


def test_the_same_reports_give_the_same_bytes(built, page: Path, tmp_path: Path) -> None:
    (tmp_path / "one.html").write_bytes(page.read_bytes())
    for suffix in ("html", "md", "tex"):
        one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
        if suffix != "html":
            write_report(built[0], one, built[1])
        write_report(built[0], two, built[1])
        assert one.read_bytes() == two.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"{n}.{s}" for n in ("one", "two") for s in ("html", "md", "tex")
    )
    assert [p.name for p in page.parent.iterdir()] == [page.name]


def test_plots_do_not_depend_on_the_users_style(built) -> None:
    import matplotlib as mpl

    plain = forest(built[0][0], "x")
    with mpl.rc_context({"text.usetex": True, "font.size": 30, "axes.grid": True, "svg.fonttype": "path"}):
        assert forest(built[0][0], "x") == plain
    assert {e.tag for e in ElementTree.fromstring(plain.svg).iter()} <= {
        "svg",
        "g",
        "path",
        "defs",
        "use",
        "text",
        "clipPath",
        "rect",
        "tspan",
    }
    assert "<b>bold</b> | 50%_a" in {e.text for e in ElementTree.fromstring(plain.svg).iter("text")}


def test_markdown(built, tmp_path: Path) -> None:
    path = tmp_path / "out.md"
    write_report(built[0], path, built[1])
    text = path.read_text()
    assert "<" not in re.sub(r"\\<", "", text)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) > 12
    for block in blocks:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block}
        assert len(cells) == 1, block[0]
        assert re.fullmatch(r"\|(-{3}:?\|)+", block[1])
    scorer = next(s for s in built[0][0].scorers if s.model == AWKWARD[0])
    assert rf"| \<b\>bold\</b\> \| 50%\_a | {markdown(shown(scorer['accuracy']))} | 80.0 |" in text


def test_latex(built, tmp_path: Path) -> None:
    path = tmp_path / "out.tex"
    write_report(built[0], path, built[1])
    text = path.read_text()
    bare = re.sub(r"\\[\\{}%&$#_]", "", re.sub(r"(?m)^% .*$", "", text))  # without escaped characters
    depth = 0
    for c in bare:
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert "%" not in bare
    assert re.findall(r"\\begin\{(\w+)", text) == ["document", *["table", "tabular"] * 3]
    assert text.count(r"\begin{") == text.count(r"\end{")
    for spec, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in body.splitlines():
            if line.endswith(r"\\") and "multicolumn" not in line:
                assert len(re.findall(r"(?<!\\)&", line)) == len(spec) - 1
    assert r"\textless{}b\textgreater{}bold\textless{}/b\textgreater{} \textbar{} 50\%\_a & 100.0 " in text
    assert all(f"{{{ord(c):04X}}}" in text for c in "人間")
    assert latex("a\\b~c^d\n\x00[e]") == r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d {[}e{]}"


def test_scores_that_people_did_not_rank_leave_out_what_is_not_known(built, tmp_path: Path, browser: Any) -> None:
    """No people, no probabilities, no parts, no difference, no measure: each is left out."""
    report = built[0][1]
    scorer = replace(report.scorers[3], groups=(), calibration=None, measures=dict.fromkeys(report.scorers[3].measures))
    bare = replace(report, human=None, differences=(), scorers=(scorer,), data="", notes=())
    for suffix in (".html", ".md", ".tex"):
        write_report([bare], tmp_path / f"bare{suffix}")
    opened = Opened(browser, tmp_path / "bare.html")
    assert opened.said == []
    assert opened.table("summary") == [[flat(scorer.model), "–"]]
    assert opened.page.locator("h3").all_inner_texts() == ["What was measured"]
    write_report([replace(bare, scorers=())], tmp_path / "none.html")


def test_more_scorers_than_colours(built, tmp_path: Path, browser: Any) -> None:
    report = built[0][1]
    many = tuple(replace(report.scorers[0], model=f"model {k}") for k in range(9))
    write_report([replace(report, scorers=many, differences=())], tmp_path / "many.html")
    opened = Opened(browser, tmp_path / "many.html", width=390)
    assert opened.page.locator(".legend li").count() == 6
    assert "Drawn are the best 6 scorers; the tables have all." in opened.page.locator("body").inner_text()
    assert opened.overflow() == 0


def test_sentences() -> None:
    ahead = Difference("A", "B", -0.031, (-0.052, -0.01), 0.004, 0.012)
    assert flat(sentence(ahead)) == "B is ahead of A by 3.1 points [1.0, 5.2], p = 0.004"
    level = Difference("A", "B", 0.0, (-0.01, 0.02), 1.0, 1.0)
    assert flat(sentence(level)) == "A and B are level: 0.0 points [−1.0, 2.0], p = 1.000"
    assert flat(sentence(replace(ahead, difference=0.5, ci=(0.4, 0.6), p_value=0.0001))).endswith("p < 0.001")
    assert percent(-0.0001) == "0.0"


def test_two_sets_of_one_name_are_told_apart(built) -> None:
    assert titles([built[0][0], replace(built[0][0], data="other")])[1] == "HPD v2 test (other)"


def test_where_a_report_cannot_go(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"out.pdf: a report is written as .html, .md, .tex"):
        write_report(built[0], tmp_path / "out.pdf")
    with pytest.raises(DataError, match="there is no folder"):
        check_report(tmp_path / "absent" / "out.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        check_report(tmp_path / "folder.html")
    with pytest.raises(DataError, match="nothing to report on"):
        write_report([], tmp_path / "out.md")
    target = tmp_path / "kept.md"
    target.write_text("before")

    def full(self: Path, _: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
            write_report(built[0], target)
    assert target.read_text() == "before"
    assert {p.name for p in tmp_path.iterdir()} == {"folder.html", "kept.md"}


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=missing)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=rf'{missing}: pip install "humanpref\[report\]"'):
        check_report(tmp_path / "out.html")
    write_report(built[0], tmp_path / "out.md", built[1])
    write_report(built[0], tmp_path / "out.tex", built[1])
