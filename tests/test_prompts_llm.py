"""The llm cleaner against a real HTTP server: errors, waiting, refusals, costs, and a run killed midway."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from humanpref.errors import DataError
from humanpref.prompts.answers import judge
from humanpref.prompts.llm import EndpointError, LLMCleaner, LLMOptions
from tests.llm_server import LLMServer, Reply, completion, honest

pytest.importorskip("openai")

PROMPTS = [f"a cat number{n} on a red chair, highly detailed, 8 k, by greg rutkowski" for n in range(12)]


def cleaner(server: LLMServer, folder: Path, **options: object) -> LLMCleaner:
    return LLMCleaner(
        LLMOptions("m", server.url, **{"concurrency": 4, "timeout": 1.0, **options}), "secret", folder / "c.db"
    )


def test_results_come_in_order_with_costs_and_are_paid_once(tmp_path: Path) -> None:
    with LLMServer(lambda prompt, _: completion(honest(prompt)), delay=0.02) as server:
        first = cleaner(server, tmp_path, price_in=1.0, price_out=2.0)
        done = list(first.clean([*PROMPTS, "", PROMPTS[0]]))
        assert [c.text for c in done[:12]] == [honest(p) for p in PROMPTS]
        assert done[0].removed == ("highly detailed", "8 k", "by greg rutkowski")
        assert done[12].status == "empty"
        assert done[13] == done[0]
        assert first.usage.requests == 12
        assert first.usage.cost == pytest.approx(12 * (100 * 1 + 10 * 2) / 1e6)
        assert server.most_at_once == 4
        assert server.keys == {"Bearer secret"}
        again = cleaner(server, tmp_path)
        assert list(again.clean(PROMPTS)) == done[:12]
        assert (again.usage.requests, again.usage.cached, again.usage.cost) == (0, 12, None)
        list(LLMCleaner(LLMOptions("other", server.url), "k", tmp_path / "c.db").clean(PROMPTS[:1]))
        assert server.paid[PROMPTS[0]] == 2  # another model is another answer


def test_waits_as_long_as_retry_after_says(tmp_path: Path) -> None:
    def answer(prompt: str, times: int) -> Reply:
        if times == 1:
            return 429, {"retry-after": "1"}, '{"error": {"message": "slow down"}}'
        return completion(honest(prompt))

    with LLMServer(answer) as server:
        used = cleaner(server, tmp_path, concurrency=1)
        (done,) = used.clean(PROMPTS[:1])
        assert done.status == "clean"
        assert server.times[1][0] - server.times[0][0] >= 1.0
        assert used.usage.failed_requests == 1


def test_survives_500_garbage_and_hangs(tmp_path: Path) -> None:
    def answer(prompt: str, times: int) -> Reply | None:
        number = int(prompt.split("number")[1].split(maxsplit=1)[0])
        if times == 1 and number % 4 != 3:
            return [(500, {}, "oops"), (200, {}, "<html>not json"), None][number % 4]
        return completion(honest(prompt))

    with LLMServer(answer) as server:
        done = list(cleaner(server, tmp_path, concurrency=8).clean(PROMPTS))
        assert [c.text for c in done] == [honest(p) for p in PROMPTS]


def test_a_prompt_that_is_never_answered_is_put_aside_and_asked_again_next_time(tmp_path: Path) -> None:
    broken = True

    def answer(prompt: str, times: int) -> Reply:
        return (500, {}, "oops") if broken and prompt == PROMPTS[1] else completion(honest(prompt))

    with LLMServer(answer) as server:
        done = list(cleaner(server, tmp_path, retries=1).clean(PROMPTS[:3]))
        assert [c.status for c in done] == ["clean", "review", "clean"]
        assert done[1].text == PROMPTS[1]
        assert "500" in done[1].reason
        broken = False
        assert [c.status for c in cleaner(server, tmp_path).clean(PROMPTS[:3])] == ["clean"] * 3
        assert server.paid[PROMPTS[0]] == 1


@pytest.mark.parametrize("status", [401, 404])
def test_an_endpoint_that_refuses_is_an_error_at_once(tmp_path: Path, status: int) -> None:
    with LLMServer(lambda *_: (status, {}, '{"error": {"message": "no such key or model"}}')) as server:
        with pytest.raises(EndpointError, match=str(status)):
            list(cleaner(server, tmp_path).clean(PROMPTS))
        assert sum(server.asked.values()) < len(PROMPTS)  # no more than were on their way


def test_an_endpoint_that_is_gone_or_wants_an_hour_is_an_error(tmp_path: Path) -> None:
    with LLMServer(lambda *_: (503, {}, "down")) as server, pytest.raises(EndpointError, match="in a row"):
        list(cleaner(server, tmp_path, retries=0).clean(PROMPTS))
    with pytest.raises(EndpointError, match="in a row"):
        list(LLMCleaner(LLMOptions("m", server.url, retries=0), "k", tmp_path / "d.db").clean(PROMPTS))
    with LLMServer(lambda *_: (429, {"retry-after": "3600"}, "later")) as server:
        patient = cleaner(server, tmp_path)
        with pytest.raises(EndpointError, match="3600 s"):
            list(patient.clean(PROMPTS[:1]))


@pytest.mark.parametrize(
    ("answer", "finish", "status", "reason"),
    [
        ("A red fox in the snow.", "stop", "clean", ""),
        ('"a red fox in snow"', "stop", "clean", ""),
        ("Cleaned prompt: A red fox in the snow", "stop", "clean", ""),
        ("EMPTY", "stop", "empty", "nothing but style words"),
        ("I'm sorry, but I can't help with that.", "stop", "review", "refused"),
        ("I cannot create content with foxes.", "stop", "review", "refused"),
        ("", "stop", "review", "answered nothing"),
        ("", "content_filter", "review", "refused"),
        ("A red fox in the", "length", "review", "cut off"),
        ("A red fox.\nIt is in the snow.", "stop", "review", "several lines"),
        ("A delicious pizza with mushrooms on a table.", "stop", "review", "something else"),
        ("A fox " * 60, "stop", "review", "longer"),
        ("snow", "stop", "review", "most of the content"),
        ("of the in", "stop", "review", "no content"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_believed_are_for_review(answer: str, finish: str, status: str, reason: str) -> None:
    prompt = "a red fox jumping in deep snow, highly detailed, octane render, 8 k, by artgerm and wlop"
    done = judge(prompt, answer, finish)
    assert (done.status, reason in done.reason) == (status, True), done
    assert done.text == {"review": prompt, "empty": ""}.get(status, done.text)


@pytest.mark.slow
def test_killed_midway_and_run_again_pays_for_nothing_twice(tmp_path: Path) -> None:
    prompts = [f"a dog number{n} in a garden, 8 k, by wlop and artgerm" for n in range(60)]
    (tmp_path / "p.txt").write_text("\n".join(prompts) + "\n")
    with LLMServer(lambda prompt, _: completion(honest(prompt)), delay=0.05) as server:
        command = [sys.executable, "-m", "humanpref.cli", "prompts", "clean", "p.txt", "--out", "out.jsonl", "--cleaner",
                   "llm", "--llm-model", "m", "--base-url", server.url, "--concurrency", "2", "--format", "json",
                   "--price-in", "1", "--price-out", "1"]  # fmt: skip
        environment = {**os.environ, "OPENAI_API_KEY": "k"}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while sum(server.paid.values()) < 15:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.2)
        assert not (tmp_path / "out.jsonl").exists()
        before = sum(server.paid.values())
        with sqlite3.connect(tmp_path / "out.jsonl.cache.sqlite") as base:
            (stored,) = base.execute("SELECT count(*) FROM answers").fetchone()
        assert before - 2 <= stored <= before  # only what was on its way when it was killed is lost
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        assert report["usage"]["from_cache"] == stored
        assert report["usage"]["answers_paid"] == 60 - stored
        assert report["usage"]["cost"] == pytest.approx((60 - stored) * 110 / 1e6)
        assert sum(server.paid.values()) == before + 60 - stored
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [row["text"] for row in rows] == [honest(p) for p in prompts]
        assert [row["original"] for row in rows] == prompts
        environment.pop("OPENAI_API_KEY")
        missing = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (missing.returncode, "OPENAI_API_KEY" in missing.stderr) == (1, True)


def test_a_cache_that_is_no_cache_says_so(tmp_path: Path) -> None:
    (tmp_path / "c.db").write_text("not a database" * 100)
    with pytest.raises(DataError, match="cannot be used"):
        LLMCleaner(LLMOptions("m", "http://127.0.0.1:1/v1"), "k", tmp_path / "c.db")
