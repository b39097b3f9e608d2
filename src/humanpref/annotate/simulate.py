"""Simulated people who use the pages as real ones do, over HTTP: sign in by their link, look at the pictures, rank.

In the shapes world they judge by the known quality with Bradley-Terry noise (`shapes.annotators`); the careless ones
answer anything, the adversary says the opposite. They know of the server only what it sends them.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, TypeAlias

import httpx
import numpy as np
from PIL import Image

from humanpref.annotate.app import create_app
from humanpref.annotate.records import AnnotateError
from humanpref.annotate.security import Rates
from humanpref.annotate.store import Store
from humanpref.metrics import competition_ranks
from humanpref.shapes.annotators import TEMPERATURE, people
from humanpref.shapes.quality import quality

Manner: TypeAlias = Literal["honest", "careless", "adversary"]
UNHURRIED = Rates(requests="1000000/minute", answers="1000000/minute", join="100000/minute", register="100000/minute")
"""For people who are faster than people."""

PATIENCE = 60.0
"""Seconds for which a server may be away, or busy."""


@dataclass(frozen=True)
class SimulatedPerson:
    """One simulated person; `temperature` is the noise of the honest."""

    name: str
    manner: Manner = "honest"
    temperature: float = TEMPERATURE


def crowd(honest: int, careless: int = 0, adversaries: int = 0, *, seed: int = 0) -> list[SimulatedPerson]:
    """Make people; the honest differ in care, their temperatures from half to twice the usual."""
    careful = people(honest, seed)
    made = [SimulatedPerson(f"honest-{i + 1}", "honest", one.temperature) for i, one in enumerate(careful)]
    made += [SimulatedPerson(f"careless-{i + 1}", "careless") for i in range(careless)]
    return made + [SimulatedPerson(f"adversary-{i + 1}", "adversary") for i in range(adversaries)]


def work_off(url: str, token: str, person: SimulatedPerson, *, seed: int = 0, on_answer: Callable[[], None]) -> int:
    """Sign in at the server `url` by a link's token and rank until nothing is left -> how many answers were given.

    An answer whose reply was lost is sent again. Raises `AnnotateError` where the server refuses this person, or is
    away for longer than `PATIENCE`.
    """
    seen: Counter[str] = Counter()  # the same group again is judged anew
    with httpx.Client(base_url=url, follow_redirects=True, timeout=30) as client:
        page = _patiently(partial(client.get, f"/join/{token}")).text
        if (found := re.search(r'<meta name="csrf" content="([^"]+)"', page)) is None:
            raise AnnotateError("no_page", f"{url}: is no page to rank on")
        headers = {"X-CSRF-Token": found[1]}
        _patiently(partial(client.post, "/start", data={"csrf": found[1]}))
        work, given = _patiently(partial(client.get, "/api/tasks")).json(), 0
        while work["tasks"]:
            task = work["tasks"][0]
            pictures = [_patiently(partial(client.get, path)).content for path in task["images"]]
            ranks = _ranks(pictures, task["prompt"], person, f"{seed} {seen[task['prompt']]}")
            seen[task["prompt"]] += 1
            address = f"/api/{'practice' if task['practice'] else 'answers'}/{task['token']}"
            send = partial(client.post, address, json={"ranks": ranks}, headers=headers)
            reply = _patiently(send, allowed=(404, 409))
            if reply.status_code == 200:
                given += 1
                on_answer()
                work = reply.json()
            else:  # the lease ran out: go on with what is there now
                work = _patiently(partial(client.get, "/api/tasks")).json()
    return given


def _ranks(pictures: Sequence[bytes], prompt: str, person: SimulatedPerson, draw: str) -> list[int]:
    """The places of pictures by how they are felt about; the noise is that of the person, the picture and `draw`."""
    felt = []
    for i, picture in enumerate(pictures):
        alike = pictures[:i].count(picture)  # of two pictures that are the same, one is put first
        digest = hashlib.sha256(f"{person.name}\0{draw}\0{alike}\0{prompt}\0".encode() + picture).digest()
        noise = float(np.random.default_rng(int.from_bytes(digest[:8], "big")).gumbel())
        careless = person.manner == "careless"
        felt.append(noise if careless else _appeal(picture, prompt) / person.temperature + noise)
    if person.manner == "adversary":
        felt = [-one for one in felt]
    return competition_ranks(felt)


@lru_cache(maxsize=100_000)
def _appeal(content: bytes, prompt: str) -> float:
    with Image.open(io.BytesIO(content)) as image:
        return quality(image.convert("RGB"), prompt).total


def _patiently(call: Callable[[], httpx.Response], allowed: Sequence[int] = ()) -> httpx.Response:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            response = call()
        except httpx.TransportError as error:
            if time.monotonic() > end:
                raise AnnotateError("unreachable", f"the server is away ({error})") from None
            time.sleep(0.2)
            continue
        if response.status_code in {429, 503} and time.monotonic() < end:
            time.sleep(min(float(response.headers.get("Retry-After", 1)), 5.0))
            continue
        if response.status_code != 200 and response.status_code not in allowed:
            raise AnnotateError("refused", f"the server answered {response.status_code} to {response.request.url.path}")
        return response


def let_rank(
    url: str,
    tokens: Sequence[str],
    crowd: Sequence[SimulatedPerson],
    *,
    seed: int = 0,
    on_answer: Callable[[], None] = lambda: None,
) -> list[int]:
    """Let all of them rank at once, each by their own link's token -> the answers each gave."""
    with ThreadPoolExecutor(max(1, len(crowd))) as pool:
        jobs = [
            pool.submit(work_off, url, token, person, seed=seed, on_answer=on_answer)
            for token, person in zip(tokens, crowd, strict=True)
        ]
        return [job.result() for job in jobs]


@contextmanager
def local_server(store: Store, *, rates: Rates = UNHURRIED) -> Iterator[str]:
    """Serve a project on a free port of this machine for as long as the block lasts -> its address."""
    import uvicorn

    app = create_app(store, secret=store.secret, rates=rates)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise AnnotateError("unreachable", "the server could not be started")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
