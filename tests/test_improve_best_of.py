"""Best of n as a method: a backend that keeps the best of its candidates, and tells what it lost."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from humanpref import load_scorer
from humanpref.engines import Engine
from humanpref.errors import ImageError, ScoreError, UnknownNameError
from humanpref.generate import Outcome, Prompt, Request, generate, make_backend
from humanpref.generate.contract import seed_of
from humanpref.improve import apply_methods, make_methods
from humanpref.improve.best_of.method import BestOf, candidate
from humanpref.improve.methods import ImproveError
from humanpref.scorers import ScorerSpec
from humanpref.shapes.grammar import captions
from humanpref.shapes.quality import quality
from tests.generating import ToyBackend, prompts, rows

CAPTIONS = [Prompt(text, f"s{n}") for n, text in enumerate(captions(3, 40))]


class Pixel:
    """Scores a picture by its first pixel's red; 255 cannot be read, 0 is no number."""

    spec = ScorerSpec("pixel", "toy", "none", reads_prompt=False)
    identity = "pixel 1"
    logit_scale = 1.0

    def score_each(self, images: Sequence[object], prompts: object) -> Iterator[float | ImageError]:
        for image in images:
            with image if isinstance(image, Image.Image) else Image.open(str(image)) as picture:
                red = picture.convert("RGB").getpixel((0, 0))[0]
            yield ImageError("cannot be read") if red == 255 else float("nan") if red == 0 else red / 10

    def score(self, images: Sequence[object], prompts: object) -> torch.Tensor:
        return torch.tensor([float(score) for score in self.score_each(images, prompts)])

    def truncated(self, prompt: str) -> bool:
        return False


@dataclass
class Scripted(ToyBackend):
    """Makes what the script says for each candidate in turn: a number is red, a word a status."""

    script: tuple[int | str, ...] = ()
    asked: int = 0

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        for request in requests:
            what = self.script[self.asked % len(self.script)]
            self.asked += 1
            if isinstance(what, str):
                yield Outcome(request, what, reason=f"{what} it is", seconds=1.0)  # type: ignore[arg-type]
            else:
                yield Outcome(request, "done", image=Image.new("RGB", (4, 4), (what, 9, 9)), seconds=1.0)


def best(script: tuple[int | str, ...]) -> Outcome:
    backend = BestOf(len(script), scorer=Pixel()).apply(Scripted(script=script))
    (outcome,) = backend.generate([Request(prompts(1)[0], 0, 77, 0)])
    return outcome


def test_the_best_is_kept_and_the_first_of_equals() -> None:
    outcome = best((30, 90, 50, 90))
    assert outcome.image is not None
    assert outcome.image.getpixel((0, 0))[0] == 90
    assert outcome.request == Request(prompts(1)[0], 0, 77, 0)
    assert 4 <= outcome.seconds < 5  # all four, and the scoring
    kept = candidate(outcome.request, 1)
    assert outcome.details == {
        "best_of": {
            "candidates": 4,
            "refused": 0,
            "failed": 0,
            "kept": 1,
            "seed": kept.seed,
            "score": 9.0,
            "scorer": "pixel",
        }
    }
    assert outcome.notes == ()


def test_what_is_lost_on_the_way_is_told() -> None:
    outcome = best(("refused", 30, 255, 0, "failed", 20))
    assert outcome.status == "done"
    about = outcome.details["best_of"]
    assert (about["kept"], about["refused"], about["failed"]) == (1, 1, 3)
    assert outcome.notes == ("p0: of 6 candidates 1 refused and 3 failed (refused it is)",)
    assert best(("refused", "refused")).status == "refused"
    gone = best(("refused", 255, "failed"))
    assert gone.status == "failed"
    assert gone.image is None
    assert gone.reason == "none of 3 candidates is left: refused it is"
    assert "returned nan; its weights may be damaged" in str(best((0, 0)).reason)


def test_seeds_come_from_the_requests_own() -> None:
    request = Request(CAPTIONS[0], 0, seed_of(0, "s0", 0), 0)
    assert candidate(request, 0) == request
    seeds = [candidate(request, place).seed for place in range(500)]
    assert len(set(seeds)) == 500
    assert all(0 <= seed < 2**32 for seed in seeds)
    other = replace(request, seed=request.seed + 1)
    assert not set(seeds) & {candidate(other, place).seed for place in range(500)}


def test_best_of_one_is_the_backend_itself() -> None:
    backend = make_backend("shapes:clean")
    assert apply_methods(make_methods("best-of:1,model=lite"), backend) is backend


def test_more_candidates_are_never_worse_by_the_scorer_that_chooses(tmp_path: Path) -> None:
    """In the shapes world, chosen by its truth: the same first candidate, so image by image."""
    found = []
    for n in (1, 2, 5):
        out = tmp_path / f"{n}"
        backend = apply_methods(make_methods(f"best-of:{n},model=shapes-truth"), make_backend("shapes:miscounting"))
        assert backend.name == "miscounting"
        report = generate(CAPTIONS, [backend], out)
        assert report.made == 3
        found.append([quality(Image.open(out / row["path"]), row["prompt"]).total for row in rows(out)])
        if n > 1:
            (row, *_) = rows(out)
            assert row["settings"]["methods"] == [{"method": "best-of", "n": n, "scorer": "shapes-truth"}]
            assert row["details"]["best_of"]["score"] == pytest.approx(found[-1][0], abs=1e-6)
            assert row["seed"] == seed_of(0, "s0", 0)
    assert all(two >= one for one, two in zip(found[0], found[1], strict=True))
    assert all(five >= two for two, five in zip(found[1], found[2], strict=True))
    assert sum(found[2]) > sum(found[0])


def test_it_wraps_itself_and_travels() -> None:
    backend = apply_methods(
        make_methods("best-of:2,model=lite+best-of:3,model=shapes-truth"), make_backend("shapes:coarse")
    )
    requests = [Request(CAPTIONS[0], 0, 5, 0), Request(CAPTIONS[1], 0, 6, 1)]
    first = list(backend.generate(requests))
    assert [method["n"] for method in backend.settings["methods"]] == [2, 3]
    again = list(pickle.loads(pickle.dumps(backend)).generate(requests))
    assert [o.image.tobytes() for o in first] == [o.image.tobytes() for o in again]
    assert first[0].details["best_of"]["scorer"] == "shapes-truth"


def test_a_folder_gives_its_following_images(tmp_path: Path) -> None:
    for number, red in enumerate((30, 80, 60)):
        Image.new("RGB", (8, 8), (red, 0, 0)).save(tmp_path / f"p0-{number}.png")
    backend = BestOf(3, scorer=Pixel()).apply(make_backend(f"folder:{tmp_path},name=made"))
    backend.prepare(prompts(1))
    (outcome,) = backend.generate([Request(prompts(1)[0], 0, 1, 0)])
    assert outcome.file == tmp_path / "p0-1.png"
    assert backend.settings["folder"] == str(tmp_path)
    assert backend.local


def test_a_prompt_that_cannot_be_scored_fails_alone() -> None:
    backend = BestOf(2, scorer=load_scorer("shapes-truth")).apply(ToyBackend())
    (outcome,) = backend.generate([Request(Prompt("a cat", "c"), 0, 1, 0)])
    assert outcome.status == "failed"
    assert "knows only captions" in str(outcome.reason)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("best-of:0", ImproveError, "best-of:0: n is how many images"),
        ("best-of:many,model=lite", ImproveError, "a number from 1"),
        ("best-of:-3", ImproveError, "a number from 1"),
        ("best-of", UnknownNameError, "a method is one of none, best-of:N"),
        ("best-of:4,model=best", UnknownNameError, "no scorer is called 'best'"),
        ("best-of:4,model=lite,device=cuda", ScoreError, "leave these options out"),
        ("best-of:4,modle=lite", UnknownNameError, "did you mean model"),
    ],
)
def test_what_is_refused(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_methods(spec)


class Level(Pixel):
    """Finds all pictures equal."""

    def score_each(self, images: Sequence[object], prompts: object) -> Iterator[float | ImageError]:
        yield from (1.0 for _ in images)


def test_the_first_candidate_of_a_diffusion_model_is_the_baselines_image(tmp_path: Path) -> None:
    """Whatever batch it is drawn in: all are equal to the scorer, so the first is kept."""
    made = []
    for method in (BestOf(1), BestOf(3, scorer=Level())):
        backend = method.apply(make_backend("diffusers:shapes,steps=2,batch_size=4"))
        generate(CAPTIONS[:2], [backend], tmp_path / f"{method.n}")
        made.append(
            [Image.open(tmp_path / f"{method.n}" / row["path"]).tobytes() for row in rows(tmp_path / f"{method.n}")]
        )
    close = [max(abs(a - b) for a, b in zip(one, two, strict=True)) for one, two in zip(*made, strict=True)]
    assert max(close) <= 1  # a batch of another size may round otherwise


@pytest.mark.slow
def test_a_ray_worker_chooses_as_this_process_does(tmp_path: Path) -> None:
    found = []
    for engine in (Engine(), Engine("ray")):
        out = tmp_path / engine.kind
        backend = apply_methods(make_methods("best-of:3,model=lite"), make_backend("shapes:coarse,size=64"))
        generate(CAPTIONS, [backend], out, engine=engine)
        found.append({row["prompt_id"]: (row["sha256"], row["details"]) for row in rows(out)})
    assert found[0] == found[1]
