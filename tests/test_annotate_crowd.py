"""Thirty simulated people at once, through the real pages; and asking first what tells most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from humanpref.annotate.active import count_wins, group_values, pair_values
from humanpref.annotate.aggregate import consensus
from humanpref.annotate.exclusion import suspects
from humanpref.annotate.records import Judgement, ProjectConfig
from humanpref.annotate.simulate import SimulatedPerson, crowd, let_rank, local_server
from humanpref.annotate.store import Store
from humanpref.images import open_image
from humanpref.records import ImageRef
from humanpref.shapes.quality import quality
from tests.annotating import make_store


def truth(store: Store) -> dict[str, np.ndarray]:
    """The known quality of every image, by group."""
    return {
        key: np.array(
            [quality(open_image(ImageRef(store.image_root / i.path)), group.prompt).total for i in group.images]
        )
        for key, group in store.groups().items()
        if group.role == "task"
    }


def recovered(judgements: list[Judgement], store: Store, excluded: set[int]) -> float:
    """Mean Kendall's tau-b of the mean rank with the known order."""
    found = consensus(judgements, store.groups(), excluded=excluded)
    known = truth(store)
    return float(np.mean([kendalltau(found[key].scores, known[key]).statistic for key in known]))


@pytest.mark.slow
def test_thirty_at_once_nothing_lost_nothing_doubled_and_the_bad_are_found(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    store, _ = make_store(tmp_path, groups=40, images=5, rankings_per_group=10, minimum_seconds=0.0)
    people = crowd(24, careless=5, adversaries=1)
    tokens = [store.invite(person.name)[1] for person in people]
    with local_server(store) as url:
        given = let_rank(url, tokens, people)
    judgements = store.judgements()
    assert sum(given) == len(judgements) == 400
    assert set(Counter(j.group for j in judgements).values()) == {10}
    assert max(Counter((j.group, j.annotator) for j in judgements).values()) == 1
    assert [Counter(j.annotator for j in judgements)[i + 1] for i in range(30)] == given

    bad = {a.number for a in store.annotators() if not a.name.startswith("honest")}
    found = set(suspects(judgements, store.groups(), store.config))
    precision, recall = len(found & bad) / len(found), len(found & bad) / len(bad)
    without, before = recovered(judgements, store, found), recovered(judgements, store, set())
    for name, value in (("precision", precision), ("recall", recall), ("tau", before), ("tau_controlled", without)):
        record_property(name, value)
        print(f"{name} {value:.3f}")
    assert 30 in found  # the adversary
    assert precision >= 0.8
    # who gives how many of the 400 rankings is for the threads to say, so these are wide; test_annotate_quality has the
    # rates. Leaving the bad ones out gained -0.02 to +0.05 here: with few bad rankings it costs as much as it gains
    assert recall >= 1 / 3
    assert without > before - 0.05


@pytest.mark.slow
def test_a_few_people_finish_a_project_and_a_killed_server_loses_nothing(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path, groups=10, rankings_per_group=3, minimum_seconds=0.0)
    people = crowd(4, careless=1)
    tokens = [store.invite(person.name)[1] for person in people]
    command = [sys.executable, "-c", SERVE, store.database.url.database, str(tmp_path / "port")]
    server = subprocess.Popen(command)
    try:
        port = _port(tmp_path / "port", server)
        killed: list[subprocess.Popen[bytes]] = []
        killing = threading.Lock()  # every person's thread calls this

        def kill_once() -> None:
            with killing:
                if len(store.judgements()) >= 8 and not killed:
                    os.kill(server.pid, signal.SIGKILL)
                    server.wait()
                    killed.append(subprocess.Popen([*command, str(port)]))

        given = let_rank(f"http://127.0.0.1:{port}", tokens, people, on_answer=kill_once)
    finally:
        for process in (server, *killed):
            process.kill()
            process.wait()
    judgements = store.judgements()
    assert len(killed) == 1
    assert len(judgements) == 30
    assert set(Counter(j.group for j in judgements).values()) == {3}
    assert sum(given) == 30


SERVE = """
import socket, sys
from pathlib import Path
import uvicorn
from humanpref.annotate.app import create_app
from humanpref.annotate.simulate import UNHURRIED
from humanpref.annotate.store import Store
store = Store(sys.argv[1])
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0))
Path(sys.argv[2]).write_text(str(listening.getsockname()[1]))
config = uvicorn.Config(create_app(store, secret=store.secret, rates=UNHURRIED), log_level="warning")
uvicorn.Server(config).run(sockets=[listening])
"""


def _port(file: Path, server: subprocess.Popen[bytes]) -> int:
    for _ in range(600):
        if file.exists() and file.read_text():
            return int(file.read_text())
        assert server.poll() is None
        time.sleep(0.05)
    raise AssertionError("the server did not start")


def test_manners_differ() -> None:
    people = crowd(3, 2, 1)
    assert [p.manner for p in people] == ["honest"] * 3 + ["careless"] * 2 + ["adversary"]
    assert crowd(3, seed=1) == crowd(3, seed=1) != crowd(3, seed=2)
    assert SimulatedPerson("x").manner == "honest"


# ---- asking what tells most


def test_what_is_in_doubt_is_worth_more() -> None:
    wins = np.zeros((4, 4))
    for ranks in ([1, 2, 3, 4],) * 20:
        count_wins(ranks, np.arange(4), wins)
    wins[1, 2] = wins[2, 1] = 10  # these two are even
    values = pair_values(wins)
    assert np.allclose(values, values.T)
    assert (np.diag(values) == 0).all()
    assert values[1, 2] > values[0, 3]
    unknown = np.zeros((5, 5))
    unknown[:4, :4] = wins
    assert pair_values(unknown)[4, 1] > 5 * pair_values(unknown)[:4, :4].max()  # of the fifth nothing is known
    worth = group_values(
        pair_values(unknown), [np.array([0, 3]), np.array([1, 4]), np.array([-1, 4]), np.array([4, 4])]
    )
    assert worth.argmax() == 1
    assert worth[2] == worth[3] == 0


def test_wins_are_counted_once_a_pair_and_ties_by_halves() -> None:
    wins = np.zeros((3, 3))
    count_wins([1, 2, 2, 4], np.array([0, 1, 2, -1]), wins)
    assert wins.tolist() == [[0, 1, 1], [0, 0, 0.5], [0, 0.5, 0]]


def test_an_active_project_asks_about_the_source_it_knows_least_of(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path, groups=8, images=4, rankings_per_group=5, order="active", minimum_seconds=0.0)
    people = crowd(6)
    tokens = [store.invite(person.name)[1] for person in people]
    with local_server(store) as url:
        assert sum(let_rank(url, tokens, people)) == 40
    assert store.config == ProjectConfig(
        rankings_per_group=5, order="active", minimum_seconds=0.0, practice=False, gold_share=0.0, repeat_share=0.0
    )
    assert set(Counter(j.group for j in store.judgements()).values()) == {5}
