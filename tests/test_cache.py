"""The score cache: computed once, whoever asks, however often it is interrupted."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from humanpref import load_scorer
from humanpref.cache import ScoreCache, default_path, discard
from humanpref.errors import CacheError, ImageError, ScoreError, WeightsError
from humanpref.images import RemoteImage
from humanpref.records import ImageRef
from humanpref.scorers import Scorer, cached, weights
from humanpref.scorers.cached import CachedScorer
from tests.conftest import ROOT
from tests.test_cli import one_line_error, run
from tests.toys import ByteScorer, picture

PROMPTS = ("a cat", "a café \ud800", "")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        path.write_bytes(b"image %d" % i)
    return paths


@pytest.fixture
def cache(score_cache: Path):
    with ScoreCache() as opened:
        assert opened.path == score_cache
        yield opened


def python(code: str, *words: object, **options: object) -> subprocess.Popen[str]:
    """A real process that can import the toys."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **{"env": os.environ, **options}
    )


def rows(path: Path) -> dict[tuple[str, bytes, bytes], float]:
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = database.execute("SELECT identity, image, prompt, score FROM scores JOIN scorers ON id = scorer")
        return {(identity, image, prompt): score for identity, image, prompt, score in found}


def test_the_second_run_computes_nothing_and_says_the_same(files: list[Path], score_cache: Path) -> None:
    images = [*files, *files]
    prompts = [PROMPTS[i % 3] for i in range(12)]
    plain = list(ByteScorer().score_each(images, prompts))
    for expected_calls in (1, 0, 0):
        inner = ByteScorer()
        with ScoreCache() as cache:
            assert list(CachedScorer(inner, cache).score_each(images, prompts)) == plain
            assert cache.trouble is None
        assert len(inner.calls) == expected_calls
    assert len(rows(score_cache)) == 6  # image i always meets prompt i % 3
    assert set(rows(score_cache).values()) == set(plain)


def test_is_a_scorer_like_the_one_inside(files: list[Path], cache: ScoreCache) -> None:
    inner = ByteScorer()
    scorer = CachedScorer(inner, cache)
    assert isinstance(scorer, Scorer)
    assert (scorer.spec, scorer.identity, scorer.logit_scale) == (inner.spec, inner.identity, 2.0)
    assert scorer.truncated("x" * 30)
    assert not scorer.truncated("x")
    assert torch.equal(scorer.score(files, "p"), inner.score(files, "p"))
    assert scorer.score(files[0], "p").shape == (1,)
    assert scorer.score([], "p").shape == (0,)
    with pytest.raises(ImageError, match="absent.png: no such file"):
        scorer.score([files[0], Path("absent.png")], "p")
    with pytest.raises(ScoreError, match="6 images but 2 prompts"):
        list(scorer.score_each(files, ["a", "b"]))


def test_only_what_is_missing_is_computed_in_one_call(files: list[Path], cache: ScoreCache) -> None:
    first, second = ByteScorer(), ByteScorer()
    list(CachedScorer(first, cache).score_each(files[1:3], "p"))
    outcomes = list(CachedScorer(second, cache).score_each([str(files[0]), ImageRef(files[1]), *files[2:]], "p"))
    assert second.calls == [[(str(files[i]), "p") for i in (0, 3, 4, 5)]]
    assert outcomes == list(first.score_each(files, "p"))


@pytest.mark.parametrize("reads_prompt", [True, False])
def test_the_key(files: list[Path], cache: ScoreCache, reads_prompt: bool) -> None:
    def computes(identity: str, images: list[Path], prompt: str) -> int:
        inner = ByteScorer(identity, reads_prompt=reads_prompt)
        assert list(CachedScorer(inner, cache).score_each(images, prompt)) == list(
            ByteScorer(identity, reads_prompt=reads_prompt).score_each(images, prompt)
        )
        return len(inner.scored)

    assert computes("byte 1", files, "p") == 6
    assert computes("byte 1", files, "q") == (6 if reads_prompt else 0)
    assert computes("byte 2", files, "p") == 6
    files[2].write_bytes(b"another image")
    assert computes("byte 1", files, "p") == 1
    moved = files[3].rename(files[3].with_name("elsewhere.jpg"))
    assert computes("byte 1", [moved], "p") == 0  # the name is not part of it


def test_errors_and_what_is_no_number_are_not_kept(files: list[Path], cache: ScoreCache) -> None:
    files[1].write_bytes(b"BAD")
    files[3].write_bytes(b"BAD")  # the same bytes under another name
    files[4].write_bytes(b"nan")
    files[5].write_bytes(b"inf")
    images = [*files, files[0].with_name("absent.png"), files[0].parent]
    for computed in (8, 6):
        inner = ByteScorer()
        outcomes = list(CachedScorer(inner, cache).score_each(images, "p"))
        assert [str(o) for o in outcomes if isinstance(o, ImageError)] == [
            f"{files[1]}: bad",
            f"{files[3]}: bad",
            f"{images[6]}: no such file",
            f"{images[7]}: no such file",
        ]
        assert math.isnan(outcomes[4])
        assert outcomes[5] == math.inf
        assert len(inner.scored) == computed
        assert cache.info().scores == 2


def test_what_is_no_local_file_passes_through(files: list[Path], cache: ScoreCache) -> None:
    inner = ByteScorer()
    scorer = CachedScorer(inner, cache)
    others = [picture(), torch.rand(3, 8, 8), RemoteImage("http://127.0.0.1:9/x.png"), "file:///x.png"]
    for _ in range(2):
        list(scorer.score_each([others[0], files[0], *others[1:]], "p"))
    assert [len(call) for call in inner.calls] == [5, 4]
    assert cache.info().scores == 1
    lite = CachedScorer(load_scorer("lite"), cache)
    assert lite.score(torch.rand(2, 3, 64, 64), "p").shape == (2,)
    with pytest.raises(ScoreError, match="gradients flow through one tensor"):
        lite.score([torch.rand(3, 64, 64, requires_grad=True)], "p")


def test_a_file_that_changes_while_it_is_scored_is_not_kept(files: list[Path], cache: ScoreCache) -> None:
    outcomes = CachedScorer(ByteScorer(), cache).score_each(files, "p")
    next(outcomes)  # all six are hashed by now
    files[2].write_bytes(b"another image")
    list(outcomes)
    assert cache.info().scores == 5


def test_scores_come_as_they_are_done_and_few_files_are_read_ahead(
    tmp_path: Path, cache: ScoreCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "ROUND_MISSES", 10)
    monkeypatch.setattr(cached, "ROUND_IMAGES", 30)
    hashed = []
    fingerprint = cached.fingerprint_image
    monkeypatch.setattr(cached, "fingerprint_image", lambda image: hashed.append(image) or fingerprint(image))
    images = [tmp_path / f"{i}.png" for i in range(300)]
    for i, path in enumerate(images):
        path.write_bytes(b"%d" % i)
    inner = ByteScorer()
    outcomes = CachedScorer(inner, cache).score_each(images, "p")
    next(outcomes)
    assert len(inner.scored) == 1
    assert len(hashed) <= 10 + cached.HASH_AHEAD
    list(outcomes)
    assert [len(call) for call in inner.calls] == [10] * 30
    again = CachedScorer(inner, cache).score_each(images, "p")
    hashed.clear()
    next(again)
    assert len(hashed) <= 30 + cached.HASH_AHEAD
    again.close()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(PROMPTS)), max_size=40), st.integers(1, 9), st.booleans())
def test_any_sequence_in_any_state_of_the_cache_gives_the_scorers_own_outcomes(
    asked: list[tuple[int, str]], misses: int, flaky: bool
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached, "ROUND_MISSES", misses)
        folder = Path(name)
        contents = [b"0", b"1", b"0", b"BAD", b"BAD", b"5"]  # two doubles
        for i, content in enumerate(contents):
            (folder / f"{i}.png").write_bytes(content)
        images, prompts = [folder / f"{i}.png" for i, _ in asked], [prompt for _, prompt in asked]
        plain = [repr(outcome) for outcome in ByteScorer().score_each(images, prompts)]
        with ScoreCache(folder / "scores.sqlite") as cache:
            inner = ByteScorer()
            half = list(islice(CachedScorer(inner, cache).score_each(images, prompts), len(asked) // 2 if flaky else 0))
            assert [repr(outcome) for outcome in half] == plain[: len(half)]
            assert [repr(outcome) for outcome in CachedScorer(inner, cache).score_each(images, prompts)] == plain
            good = [(contents[int(Path(image).stem)], p) for image, p in inner.scored]
            good = [key for key in good if key[0] != b"BAD"]
            assert len(good) == len(set(good)), "computed twice"


@settings(max_examples=40)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_scores_are_kept_to_the_last_bit(score: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        key = ("a b", b"i" * 32, b"p" * 32)
        with ScoreCache(Path(name) / "c") as cache:
            cache.use("a", "a b")
            cache.put(key, score)
        with ScoreCache(Path(name) / "c") as cache:
            assert cache.get(key) == score
            assert cache.get(("a c", *key[1:])) is None


WORKER = """
import sys, time
from pathlib import Path
from humanpref.cache import ScoreCache
from humanpref.scorers.cached import CachedScorer
from tests.toys import ByteScorer
folder, seconds, ready = Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
images = sorted(folder.glob("*.png"))[:: int(sys.argv[4])]
ready.touch()
while not (folder / "go").exists(): time.sleep(0.001)
inner = ByteScorer(seconds=seconds)
with ScoreCache() as cache:
    for i, outcome in enumerate(CachedScorer(inner, cache).score_each(images, "p")):
        print(outcome, flush=True)
    assert cache.trouble is None, cache.trouble
print("computed", len(inner.scored))
"""


def many(folder: Path, n: int) -> list[Path]:
    paths = [folder / f"{i:04}.png" for i in range(n)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


@pytest.mark.slow
def test_processes_at_once_leave_one_right_cache(tmp_path: Path, score_cache: Path) -> None:
    images = many(tmp_path, 300)
    workers = [python(WORKER, tmp_path, 0.001, tmp_path / f"ready{i}", (1, 1, -1)[i]) for i in range(3)]
    while not all((tmp_path / f"ready{i}").exists() for i in range(3)):
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.01)
    (tmp_path / "go").touch()  # the file does not exist yet: all three make it
    expected = list(ByteScorer().score_each(images, "p"))
    for worker, order in zip(workers, (1, 1, -1), strict=True):
        out, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error
        assert [float(line) for line in out.splitlines()[:-1]] == expected[::order]
    assert sorted(rows(score_cache).values()) == sorted(expected)


def test_processes_may_make_the_cache_at_the_same_moment(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from humanpref.cache import ScoreCache
folder = Path(sys.argv[1])
(folder / sys.argv[2]).touch()
while not (folder / "other").exists() or not (folder / "one").exists(): pass
for i in range(50):
    with ScoreCache(folder / f"{time.time() * 20 // 1}") as cache:
        assert cache.trouble is None, cache.trouble
        time.sleep(0.051 - time.time() % 0.05)
"""
    for worker in [python(code, tmp_path, name) for name in ("one", "other")]:
        assert worker.communicate(timeout=60)[1] == ""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, score_cache: Path) -> None:
    images = many(tmp_path, 60)
    (tmp_path / "go").touch()
    worker = python(WORKER, tmp_path, 0.1, tmp_path / "ready", 1)
    seen = [float(worker.stdout.readline()) for _ in range(30)]  # three seconds' work
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    kept = rows(score_cache)
    assert 15 <= len(kept) <= 32  # all but about a second's work
    inner = ByteScorer()
    with ScoreCache() as cache:
        outcomes = list(CachedScorer(inner, cache).score_each(images, "p"))
    assert outcomes == list(ByteScorer().score_each(images, "p"))
    assert outcomes[:30] == seen
    assert len(inner.scored) == 60 - len(kept)


def test_no_lock_is_held_while_scores_are_computed(files: list[Path], cache: ScoreCache) -> None:
    outcomes = CachedScorer(ByteScorer(), cache).score_each(files, "p")
    next(outcomes)
    with sqlite3.connect(cache.path, timeout=0) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")
    list(outcomes)


def test_what_another_process_clears_is_computed_anew(files: list[Path], cache: ScoreCache) -> None:
    scorer = CachedScorer(ByteScorer("byte 1"), cache)
    scorer.score(files, "p")
    with ScoreCache() as other:
        assert other.clear() == 6
        CachedScorer(ByteScorer("byte 2"), other).score(files, "p")  # takes the row that byte 1 had
    assert list(scorer.score_each(files, "p")) == list(ByteScorer("byte 1").score_each(files, "p"))
    assert [(c.identity, c.scores) for c in cache.info().scorers] == [("byte 1", 6), ("byte 2", 6)]


def test_info_and_clear(files: list[Path], cache: ScoreCache) -> None:
    for identity, n in (("byte 1", 2), ("byte 2", 3), ("other 1", 4)):
        CachedScorer(ByteScorer(identity), cache).score(files[:n], "p")
    info = cache.info()
    assert (info.path, info.scores) == (cache.path, 9)
    assert info.bytes >= cache.path.stat().st_size
    assert [(c.name, c.identity, c.scores) for c in info.scorers] == [
        ("byte", "byte 1", 2),
        ("byte", "byte 2", 3),
        ("other", "other 1", 4),
    ]
    assert all(c.first_used <= c.last_used and c.first_used.endswith("+00:00") for c in info.scorers)
    assert cache.clear("nobody") == 0
    assert cache.clear("byte") == 5
    assert [c.identity for c in cache.info().scorers] == ["other 1"]
    assert cache.clear() == 4
    assert cache.info().scorers == ()


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HUMANPREF_CACHE", "~/x.sqlite")
    assert default_path() == tmp_path / "x.sqlite"
    monkeypatch.setenv("HUMANPREF_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_path() == tmp_path / ".cache/humanpref/scores.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/c")
    assert default_path() == Path("/var/c/humanpref/scores.sqlite")


def test_a_file_that_is_no_cache_of_this_version(files: list[Path], score_cache: Path) -> None:
    with ScoreCache() as cache:
        CachedScorer(ByteScorer(), cache).score(files, "p")
    whole = score_cache.read_bytes()
    score_cache.write_bytes(b"\0" * 100 + whole[100:])
    with pytest.raises(CacheError, match=r"scores.sqlite: .*damaged.*humanpref cache clear.*--no-cache"):
        ScoreCache()
    assert discard(score_cache) == score_cache.with_name("scores.sqlite.damaged")
    score_cache.write_bytes(whole)
    with sqlite3.connect(score_cache) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(CacheError, match="of version 99, not 1; remove it with: humanpref cache clear"):
        ScoreCache()
    assert discard(score_cache) is None
    assert not score_cache.exists()
    with sqlite3.connect(score_cache) as database:
        database.execute("CREATE TABLE precious (x)")
    with pytest.raises(CacheError, match="is not a score cache; set HUMANPREF_CACHE"):
        ScoreCache()
    with pytest.raises(CacheError, match="may not be a score cache"):
        discard(score_cache)
    assert score_cache.exists()


def test_damage_inside_is_named(tmp_path: Path, score_cache: Path) -> None:
    images = many(tmp_path, 400)
    with ScoreCache() as cache:
        CachedScorer(ByteScorer(), cache).score(images, "p")
    content = score_cache.read_bytes()
    score_cache.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with ScoreCache() as cache:
        inner = ByteScorer()
        with pytest.raises(CacheError, match="damaged.*humanpref cache clear"):
            CachedScorer(inner, cache).score(images, "p")
        assert inner.scored == []
    done = run("cache", "clear")
    assert (done.returncode, done.stdout) == (0, "the unusable cache was removed\n"), done.stderr
    with ScoreCache() as cache:
        assert cache.info().scores == 0


def test_damage_and_a_full_disk_after_scoring_began_do_not_stop_it(files: list[Path], cache: ScoreCache) -> None:
    outcomes = CachedScorer(ByteScorer(), cache).score_each(files, "p")
    next(outcomes)
    cache._database.execute("PRAGMA query_only = 1")  # writing fails, as on a disk that is full or was taken away
    assert len(list(outcomes)) == 5
    assert "cannot be used" in cache.trouble
    assert list(CachedScorer(ByteScorer(), cache).score_each(files, "p")) == list(ByteScorer().score_each(files, "p"))


UNPRIVILEGED = """
import os, sys
from humanpref.cache import ScoreCache
from humanpref.scorers.cached import CachedScorer
from tests.toys import ByteScorer
if os.geteuid() == 0:  # to whom nothing is read-only
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
inner = ByteScorer()
with ScoreCache() as cache:
    print(list(CachedScorer(inner, cache).score_each(sys.argv[1:], "p")), len(inner.scored))
print(cache.trouble)
"""


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.slow
def test_a_read_only_place_does_not_stop_scoring(exists: bool) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        path = folder / "scores.sqlite"
        image = folder / "0.png"
        image.write_bytes(b"image")
        if exists:
            with ScoreCache(path) as cache:
                CachedScorer(ByteScorer(), cache).score([image], "q")
        for name in (path, image):
            if name.exists():
                name.chmod(0o444)
        folder.chmod(0o555)
        env = {**os.environ, "HUMANPREF_CACHE": str(path)}
        out, error = python(UNPRIVILEGED, image, env=env).communicate(timeout=60)
        assert error == ""
        scores, trouble = out.splitlines()
        assert scores == f"{list(ByteScorer().score_each([image], 'p'))} 1"
        assert "scores.sqlite: no scores are kept" in trouble
        assert "set HUMANPREF_CACHE to a place that can be written, or use --no-cache" in trouble
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", tmp_path, Path("/proc/humanpref/x")):
        with ScoreCache(path) as cache:
            assert "no scores are kept" in str(cache.trouble)
            assert cache.get(("a", b"", b"")) is None
            with pytest.raises(CacheError, match="no scores are kept"):
                cache.info()
            with pytest.raises(CacheError, match="no scores are kept"):
                cache.clear()


def test_what_makes_a_scorer_another(load_tiny: Callable[..., Scorer], tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tests.conftest import TINY_ARCH

    same = tmp_path / "same.pt"
    shutil.copy(tiny_checkpoint, same)
    arch = tmp_path / "arch.json"
    shutil.copy(TINY_ARCH, arch)
    plain = load_tiny()
    assert plain.identity == load_tiny(weights=same, arch=arch).identity
    state = torch.load(tiny_checkpoint, weights_only=True)
    state["state_dict"]["logit_scale"] += 0.1
    torch.save(state, tmp_path / "tuned.pt")
    packaged = Path(weights.__file__).with_name("lite.safetensors")
    tensors = load_file(packaged)
    save_file({**tensors, "weights": tensors["weights"] * 2}, tmp_path / "lite.safetensors")
    identities = [
        plain.identity,
        load_tiny(precision="bf16").identity,
        load_tiny(resize="no-antialias").identity,
        load_tiny(weights=tmp_path / "tuned.pt").identity,
        load_scorer("hps-v2.0", weights=same, arch=arch, precision="fp32").identity,
        load_scorer("lite").identity,
        load_scorer("lite", weights=tmp_path / "lite.safetensors").identity,
    ]
    assert len(set(identities)) == len(identities)
    import humanpref

    for part in (
        "scorer=hps-v2.1 ",
        f"weights={weights.file_sha256(same)} ",
        "arch=json-",
        "preprocess=hps-v2 ",
        "resize=antialias ",
        "precision=fp32 ",
        "device=cpu ",
        f"humanpref={humanpref.__version__}",
    ):
        assert part in plain.identity


def test_weights_are_hashed_only_for_a_cache_and_as_they_were_loaded(
    load_tiny: Callable[..., Scorer], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pt"
    shutil.copy(tiny_checkpoint, path)
    asked: list[Path] = []
    original = weights.file_sha256
    monkeypatch.setattr(weights, "file_sha256", lambda file: asked.append(file) or original(file))
    scorer = load_tiny(weights=path)
    scorer.score(picture(), "p")
    assert asked == []
    assert scorer.identity == scorer.identity
    assert asked == [path]
    scorer = load_tiny(weights=path)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(WeightsError, match=r"w.pt: has changed since it was loaded"):
        _ = scorer.identity
    known = weights.fingerprint(path, "ab" * 32)
    assert known() == "ab" * 32
    assert len(asked) == 2


def test_real_scorers_say_the_same_from_the_cache(
    load_tiny: Callable[..., Scorer], tmp_path: Path, cache: ScoreCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [tmp_path / f"{i}.png" for i in range(10)]
    for seed, path in enumerate(images):
        picture(seed=seed).save(path)
    prompts = [f"prompt {i % 3}" for i in range(10)]
    for scorer in (load_tiny(), load_tiny(precision="bf16"), load_scorer("lite")):
        plain = list(scorer.score_each(images, prompts))
        assert list(CachedScorer(scorer, cache).score_each(images, prompts)) == plain
        monkeypatch.setattr(scorer, "begin", None)  # the network is not touched again
        assert list(CachedScorer(scorer, cache).score_each(images, prompts)) == plain
    assert [(c.name, c.scores) for c in cache.info().scorers] == [("hps-v2.1", 10), ("hps-v2.1", 10), ("lite", 10)]


def test_on_the_command_line(files: list[Path], score_cache: Path) -> None:
    with ScoreCache() as cache:
        for identity, n in (("lite 1", 2), ("hps-v2.1 1", 3), ("gone 1", 1)):
            CachedScorer(ByteScorer(identity), cache).score(files[:n], "p")
    answer = json.loads(run("cache", "info", "--format", "json").stdout)
    assert (answer["path"], answer["scores"]) == (str(score_cache), 6)
    assert [(row["name"], row["scores"]) for row in answer["scorers"]] == [("gone", 1), ("hps-v2.1", 3), ("lite", 2)]
    table = run("cache", "info").stdout
    assert str(score_cache) in table
    assert "hps-v2.1: 3 scores, first used 2" in table
    assert run("cache", "clear", "--model", "lite").stdout == "2 scores removed\n"
    assert run("cache", "clear", "--model", "lite").stdout == "0 scores removed\n"
    assert run("cache", "clear", "--model", "gone").stdout == "1 scores removed\n"
    one_line_error(run("cache", "clear", "--model", "gone"), "no scorer is called 'gone'")
    assert run("cache", "clear").stdout == "3 scores removed\n"
    score_cache.write_bytes(b"not a database at all" * 9)
    one_line_error(run("cache", "info"), "damaged", "humanpref cache clear")
    one_line_error(run("cache", "clear", "--model", "lite"), "damaged")
    assert run("cache", "clear").stdout == f"the unusable cache was moved to {score_cache}.damaged\n"
    assert json.loads(run("cache", "info", "--format", "json").stdout)["scores"] == 0
    one_line_error(run("cache", "info", env={"HUMANPREF_CACHE": "/proc/x/y"}), "cannot be used")
    assert run("cache").returncode == 2
