"""The search for tokens: its budget, its fairness, what it finds and warns of, and going on after any end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from humanpref import cli
from humanpref.errors import DataError, HumanprefError, ScoreError
from humanpref.generate import GenerateError, Outcome, Prompt, Request, make_backend
from humanpref.improve.gains import corrected, paired_gain
from humanpref.improve.methods import ImproveError
from humanpref.improve.plots import plot_gains
from humanpref.improve.tokens.halving import halving, new_images, plan, split_pairs
from humanpref.improve.tokens.output import search_json, search_table, warnings
from humanpref.improve.tokens.search import prompts_needed
from humanpref.improve.tokens.templates import Template
from humanpref.shapes.grammar import captions
from tests.generating import ROOT, environment, rows
from tests.improving import Colour, Painter, search, things, words

COUNTS = st.integers(1, 60)


@given(COUNTS, st.integers(1, 3000), COUNTS, COUNTS, st.integers(1, 8))
def test_no_schedule_exceeds_its_budget(candidates: int, budget: int, first: int, last: int, finalists: int) -> None:
    try:
        found = plan(candidates, budget, first, last, finalists)
    except ImproveError as error:
        smallest = int(str(error).rsplit(" ", 1)[1])
        assert smallest > budget
        assert plan(candidates, smallest, first, last, finalists).images <= smallest
        with pytest.raises(ImproveError):
            plan(candidates, smallest - 1, first, last, finalists)
        return
    assert found.images == sum(new_images(found.rounds)) + (found.finalists + 1) * found.holdout_pairs <= budget
    assert found.finalists == min(finalists, candidates)
    assert min(5, last) <= found.holdout_pairs <= last
    for before, after in zip(found.rounds, found.rounds[1:], strict=False):
        assert before.candidates > after.candidates > found.finalists
        assert before.pairs < after.pairs <= first
    if found.rounds:
        assert found.rounds[0].candidates == candidates
        assert found.holdout_pairs >= min(last, found.rounds[-1].pairs)
        if found.used_up:
            assert found.holdout_pairs == last
    else:
        assert candidates <= finalists


def test_halving_doubles_the_pairs_of_half_as_many() -> None:
    assert [(one.candidates, one.pairs) for one in halving(16, 3, 4, 100)] == [(16, 4), (8, 8), (4, 16)]
    assert [(one.candidates, one.pairs) for one in halving(16, 3, 4, 8)] == [(16, 4), (8, 8)]
    assert [(one.candidates, one.pairs) for one in halving(16, 3, 8, 8)] == [(16, 8)]


@given(st.integers(0, 100), st.integers(1, 20))
def test_pairs_are_split_into_prompts_and_images(pairs: int, prompts: int) -> None:
    made = {(p, n) for count, images in split_pairs(pairs, prompts) for p in range(count) for n in range(images)}
    assert len(made) == pairs
    more = {(p, n) for count, images in split_pairs(pairs + 1, prompts) for p in range(count) for n in range(images)}
    assert made < more
    counts = [sum(p == own for own, _ in made) for p in range(prompts)]
    assert max(counts) - min(counts) <= 1


def test_with_too_few_prompts_nothing_can_hold() -> None:
    for finalists in (1, 2, 3, 10):
        needed = prompts_needed(finalists)
        for prompts, enough in ((needed, True), (needed - 1, False)):
            gain = paired_gain("m", "s", np.zeros(prompts), np.ones(prompts), [str(n) for n in range(prompts)])
            assert (corrected([gain] * finalists)[0].p_holm <= 0.05 and gain.ci is not None) == enough


def images(out: Path) -> dict[str, set[tuple[str, int]]]:
    """Pairs by stage and candidate, from the manifests alone."""
    return {
        f"{folder.parent.name}/{folder.name}": {(row["prompt_id"], row["number"]) for row in rows(folder)}
        for folder in [*out.glob("selection/*"), *out.glob("holdout/*")]
    }


def test_finds_what_helps_and_warns_of_what_fools(tmp_path: Path) -> None:
    report = search(tmp_path / "s")
    verdicts = {one.template.name: one.verdict for one in report.candidates}
    assert verdicts == {
        "fool": "suspect",
        "good": "holds",
        "plain": "eliminated",
        "other": "eliminated",
        "bad": "eliminated",
    }
    fool, good = report.candidates[:2]
    assert fool.holdout.gain == pytest.approx(45, abs=4)
    assert fool.check_holdout.ci[0] <= 0
    assert good.check_holdout.gain == pytest.approx(30, abs=4)
    assert good.spec == "tokens:own,prefix=good "
    (warning,) = warnings(report)
    assert warning.startswith("'fool' raises red by +4")
    assert "reward hacking" in warning
    table = search_table(report)
    assert "'tokens:own,prefix=good '" in table
    assert "prefix=fool" not in table
    assert json.loads(search_json(report)) == json.loads((tmp_path / "s" / "report.json").read_text())


def test_the_budget_is_what_is_on_the_disk_and_all_are_compared_on_the_same(tmp_path: Path) -> None:
    report = search(tmp_path / "s", budget=203, seeds=2)
    found = images(tmp_path / "s")
    assert sum(map(len, found.values())) == report.spent == report.made == report.schedule.images <= 203
    assert report.baseline_images == len(found["selection/baseline"]) + len(found["holdout/baseline"])
    for one in report.candidates:
        own = [pairs for name, pairs in found.items() if name.endswith(f"/tokens-{one.template.name}")]
        assert one.images == sum(map(len, own))
        last = report.schedule.rounds[(one.left_in or 0) - 1].pairs
        assert one.selection.pairs == last == len(found[f"selection/tokens-{one.template.name}"])
    finals = [pairs for name, pairs in found.items() if name.startswith("holdout/")]
    assert len(finals) == 3
    assert all(pairs == finals[0] for pairs in finals)
    chosen_on = {prompt for name, pairs in found.items() if name.startswith("selection") for prompt, _ in pairs}
    assert not chosen_on & {prompt for prompt, _ in finals[0]}
    assert report.held_out_prompts
    assert len(finals[0]) == report.schedule.holdout_pairs


def test_with_few_prompts_the_holdout_has_other_seeds(tmp_path: Path) -> None:
    report = search(tmp_path / "s", count=6, seeds=2, budget=10_000)
    assert not report.held_out_prompts
    seeds = [{row["seed"] for row in rows(tmp_path / "s" / stage / "baseline")} for stage in ("selection", "holdout")]
    assert len(seeds[0]) == len(seeds[1]) == 12
    assert not seeds[0] & seeds[1]
    assert any("other seeds of the same prompts" in note for note in report.notes)
    left = 10_000 - report.spent
    assert any(f"{left} images of the budget are not needed" in note for note in report.notes)
    few = search(tmp_path / "few", count=3, budget=100)
    assert {one.verdict for one in few.candidates[:2]} == {"unknown"}
    (warning,) = warnings(few)
    assert warning.endswith("to say of 2 finalists that a gain holds; at least 7 are needed there")


def test_a_single_token_is_measured_without_a_selection(tmp_path: Path) -> None:
    harm = search(tmp_path / "harm", vocabulary="bad", budget=30)
    assert harm.candidates[0].verdict == "harms"
    report = search(tmp_path / "s", vocabulary="good", check=None, budget=30)
    assert report.schedule.rounds == ()
    assert (report.spent, report.holdout_prompts, report.held_out_prompts) == (30, 20, False)
    assert report.candidates[0].selection is None
    assert report.candidates[0].verdict == "holds"
    assert warnings(report) == (
        "one scorer alone cannot tell a better picture from one that fools it; add --check-model",
    )


@pytest.mark.slow
def test_luck_is_not_taken_for_gain(tmp_path: Path) -> None:
    """Twelve words that do nothing: the best of them looks good where it was chosen, and not on the holdout."""
    vocabulary = " ".join("abcdefghijkl"[:n] for n in range(1, 13))
    given = {"count": 40, "vocabulary": vocabulary, "budget": 160, "finalists": 1, "check": None}
    reports = [search(tmp_path / str(n), backend=Painter(noise=60), seed=n, **given) for n in range(4)]
    best = [report.candidates[0] for report in reports]
    chosen, held = (sum(getattr(one, stage).gain for one in best) / 4 for stage in ("selection", "holdout"))
    assert chosen > 5
    assert abs(held) < 2
    assert {one.verdict for one in best} == {"no gain"}


def test_going_on_makes_nothing_twice_and_another_search_is_refused(tmp_path: Path) -> None:
    first = search(tmp_path / "s")
    again = search(tmp_path / "s", retry_failed=True)
    assert again.made == 0
    assert replace(again, made=first.made) == first
    for options, what in (
        ({"budget": 201}, "budget was 200, is now 201"),
        ({"count": 21}, "its prompts were others"),
        ({"vocabulary": "good fool bad plain else"}, "the token 'other' is missing now"),
        ({"vocabulary": "good fool bad plain other else"}, "the token 'else' is new"),
        ({"vocabulary": "fool good bad plain other"}, "its tokens were in another order"),
        ({"vocabulary": (Template("good", "very good "), *words("fool bad plain other"))}, "'good' had another text"),
        ({"check": None}, "its scorers were red, green, are now red"),
        ({"check": Colour(1, weights="w2")}, "weights of green was None, is now w2"),
        ({"backend": Painter(revision="2")}, "revision of the backend was 1, is now 2"),
        ({"backend": Painter(settings={"steps": 9})}, "steps of the backend was None, is now 9"),
    ):
        with pytest.raises(ImproveError, match=f"holds another search: .*{what}; choose another --out"):
            search(tmp_path / "s", **options)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine.txt").touch()
    with pytest.raises(DataError, match="holds other files and no search.json"):
        search(tmp_path / "else")
    (tmp_path / "s" / "search.json").write_text("{")
    with pytest.raises(ImproveError, match="search.json: is damaged"):
        search(tmp_path / "s")


@dataclass
class Foisting(Painter):
    """Somebody writes a row into the manifest of the baseline while it paints."""

    manifest: Path = Path()
    row: Mapping[str, Any] = field(default_factory=dict)

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        if self.row and not self.manifest.stat().st_size:
            with self.manifest.open("a") as file:
                file.write(json.dumps(self.row) + "\n")
        yield from super().generate(requests)


@pytest.mark.parametrize("path", ["../../../secret.png", "{folder}/secret.png"])
@pytest.mark.parametrize("when", ["between two searches", "while one draws"])
def test_no_manifest_leads_out_of_its_folder(tmp_path: Path, path: str, when: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    manifest = tmp_path / "s" / "holdout" / "baseline" / "manifest.jsonl"
    row = {"prompt": "thing 1", "prompt_id": "t1", "number": 9, "model": "painter", "status": "done"}
    row["path"] = path.format(folder=tmp_path)
    backend = Foisting(manifest=manifest, row=row if when == "while one draws" else {})
    if when == "between two searches":
        search(tmp_path / "s", vocabulary="good", budget=30)
        with manifest.open("a") as file:
            file.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="leads out of the image folder"):
        search(tmp_path / "s", vocabulary="good", budget=30, backend=backend)


def test_of_two_searches_at_once_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "s"
    command = [sys.executable, "-m", "tests.improving", str(out), "60"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"paused\n"
            before = images(out)
            with pytest.raises(ImproveError, match=f"s: another run is writing there \\(process {process.pid} on "):
                search(out)
            assert images(out) == before
        finally:
            process.kill()
    assert 50 <= sum(map(len, before.values())) < search(out).spent  # the lock went with the process


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.improving", str(tmp_path / "killed"), "60"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"paused\n"
        process.kill()
    before = sum(map(len, images(tmp_path / "killed").values()))
    report = search(tmp_path / "killed")
    whole = search(tmp_path / "whole")
    assert 50 <= before < report.spent
    assert report.made <= report.spent - before
    assert images(tmp_path / "killed") == images(tmp_path / "whole")
    assert replace(report, out="", made=0) == replace(whole, out="", made=0)


def test_images_that_fail_leave_out_their_pairs_for_all(tmp_path: Path) -> None:
    prompts = (*things(18), Prompt("thing fail", "f"), Prompt("thing refuse", "r"))
    report = search(tmp_path / "s", prompts=prompts, budget=400, seeds=2)
    assert sum(map(len, images(tmp_path / "s").values())) == report.spent
    assert any("2 of 20 pairs are left out for all: an image is missing" in note for note in report.notes)
    assert {one.holdout.pairs for one in report.candidates if one.holdout} == {report.candidates[0].holdout.pairs}
    assert sum(one.missing for one in report.candidates) > 0
    assert report.candidates[0].verdict == "suspect"


def test_a_token_that_the_backend_refuses_is_left(tmp_path: Path) -> None:
    report = search(tmp_path / "s", vocabulary="good refuse bad plain", seeds=1)
    lost = next(one for one in report.candidates if one.template.name == "refuse")
    assert lost.verdict == "eliminated"
    assert "images are missing" in lost.why
    assert report.candidates[0].verdict == "holds"
    with pytest.raises(ImproveError, match="too many images failed or were refused to compare anything"):
        search(
            tmp_path / "t",
            vocabulary="a b c",
            budget=60,
            prompts=[Prompt(f"thing refuse {n}", str(n)) for n in range(20)],
        )


def test_a_backend_that_no_longer_works_ends_the_search_by_name(tmp_path: Path) -> None:
    prompts = [Prompt(f"thing fail {n}", str(n)) for n in range(60)]
    with pytest.raises(GenerateError, match="^baseline: painter: 25 images in a row failed, the last one: not that"):
        search(tmp_path / "s", prompts=prompts, vocabulary="a", budget=100)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocabulary": ""}, DataError, "the vocabulary is empty"),
        ({"vocabulary": "a a b"}, DataError, "the token 'a' is there twice"),
        ({"budget": 20}, ImproveError, "a budget of 20 images is too small for 5 tokens; the smallest that works is "),
        ({"prompts": ()}, ImproveError, "no prompts"),
        ({"seeds": 0}, ImproveError, "must be at least 1, got 0 and 2"),
        ({"check": Colour(0)}, ImproveError, "red cannot check itself"),
        ({"scorer": Colour(0, broken="thing 3")}, ScoreError, "t3-0.png: red returned nan"),
    ],
)
def test_what_cannot_be_searched(tmp_path: Path, options: dict, error: type[HumanprefError], message: str) -> None:
    with pytest.raises(error, match=message):
        search(tmp_path / "s", **options)


def test_negative_prompts_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    from humanpref.cache import ScoreCache
    from humanpref.improve.tokens.search import search_tokens

    painter = Painter()
    with ScoreCache() as cache, pytest.raises(ImproveError, match="'n' has a negative prompt, .* not painter"):
        search_tokens(
            things(3), painter, [Template("n", negative="x"), *words("a")], Colour(0), tmp_path / "s", cache=cache
        )
    assert painter.log == []


def test_the_plot(tmp_path: Path) -> None:
    report = search(tmp_path / "s")
    plot_gains(report, tmp_path / "gains.png")
    assert Image.open(tmp_path / "gains.png").size[0] > 800
    with pytest.raises(DataError, match="the plot cannot be saved"):
        plot_gains(report, tmp_path / "gains.doc")
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(DataError, match=r"the plot cannot be saved \(Is a directory\)"):
        plot_gains(report, tmp_path / "taken.svg")
    assert [path.name for path in tmp_path.glob(".*")] == []


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["humanpref", "improve", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_with_a_real_pipeline(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "p.txt").write_text("\n".join(captions(5, 777)))
    (tmp_path / "v.txt").write_text("good picture.\nbad picture.\n")
    words = ("tokens", tmp_path / "p.txt", "-b", "diffusers:shapes,steps=1,batch_size=5", "--model", "lite")
    words = (*words, "--vocabulary", tmp_path / "v.txt", "--place", "prefix", "--finalists", 2, "--out", tmp_path / "s")
    assert run(monkeypatch, *words, "--budget", 15, "--format", "json", "--plot", tmp_path / "gains.svg") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["spent"], found["made"], found["scorer"], found["check"]) == (15, 15, "lite", None)
    assert {one["spec"] for one in found["candidates"]} == {f"tokens:own,prefix={w} picture. " for w in ("good", "bad")}
    assert "lite does not read the prompt" in printed.err
    assert (tmp_path / "gains.svg").stat().st_size > 1000
    assert run(monkeypatch, *words, "--budget", 15) == 0
    assert "15 of 15" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--budget", 3), "a budget of 3 images is too small"),
        (("--check-model", "lite"), "--check-model lite: is the scorer to be checked"),
        (("--check-model", "nope"), "nope"),
        (("--vocabulary", "none.txt"), "none.txt: cannot be read"),
        (("--backend", "shapes:nope"), "no such source"),
    ],
)
def test_the_command_given_what_is_bad(tmp_path: Path, monkeypatch, capsys, more: tuple, message: str) -> None:
    (tmp_path / "p.txt").write_text("\n".join(captions(3, 777)))
    given = ("tokens", tmp_path / "p.txt", "-b", "diffusers:shapes", "--model", "lite", "--out", tmp_path / "s")
    assert run(monkeypatch, *given, *more) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert message in printed.err


def test_the_folder_may_be_this_one(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "p.txt").write_text("\n".join(captions(3, 777)))
    given = ("tokens", tmp_path / "p.txt", "-b", "shapes:clean", "--model", "lite", "--out", ".", "--budget", 3)
    assert run(monkeypatch, *given) == 1
    assert "too small" in capsys.readouterr().err


def test_the_templates_are_listed(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(monkeypatch, "templates", "--format", "json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"weird-negative", "quality", "shapes-good"} <= {one["name"] for one in listed}
    assert set(listed[0]) == set(asdict(Template("x")))
    assert run(monkeypatch, "templates") == 0
    assert "PROMPT, best quality" in capsys.readouterr().out


def test_without_negative_prompts_the_built_in_vocabulary_is_shorter(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "p.txt").write_text("\n".join(captions(3, 777)))
    assert make_backend("shapes:clean").name == "clean"
    given = ("tokens", tmp_path / "p.txt", "-b", "shapes:clean", "--model", "lite", "--out", tmp_path / "s")
    assert run(monkeypatch, *given, "--budget", 3) == 1
    assert "clean takes no negative prompt: 4 of the templates are left out" in capsys.readouterr().err
