"""python benchmarks/annotate_load.py [--people 200] [--seconds 30] [--think 5] [--db postgresql://...]

So many people rank at once: one server process, one process of clients, both on this machine. Each opens their link,
then again and again fetches the images of a group, thinks (exponentially distributed, mean `--think` seconds; 0: as
fast as the server lets them) and submits. Prints percentiles of how long a submit (answered with the next groups) and
an image took, and checks that every answer that was confirmed is in the database, once.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import re
import socket
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from humanpref.annotate.project import find_groups, prepare_groups
from humanpref.annotate.records import ProjectConfig
from humanpref.annotate.simulate import UNHURRIED
from humanpref.annotate.store import Store
from humanpref.shapes.grammar import captions
from humanpref.shapes.sources import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--think", type=float, default=5)
    parser.add_argument("--groups", type=int, default=300)
    parser.add_argument("--db", help="an empty database (default: SQLite in a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder / "images", options.groups)
        found, root = find_groups(folder / "images")
        config = ProjectConfig(rankings_per_group=max(10, options.people), practice=False)
        db = options.db or str(folder / "project.db")
        store, _ = Store.create(db, config, root, prepare_groups(found, root, practice=False))
        tokens = [store.invite(f"person {i}")[1] for i in range(options.people)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(db, port), daemon=True)
        server.start()
        submits, images, errors = asyncio.run(crowd(f"http://127.0.0.1:{port}", tokens, options))
        server.terminate()
        server.join()
        kept = len(store.judgements())
        store.close()
    print(
        f"{options.people} people, {options.think:g} s of thought, {options.seconds:g} s, {store.database.engine.name}"
    )
    if not submits:
        raise SystemExit(f"no answer was confirmed ({errors} errors)")
    for name, took in (("submit", submits), ("image", images)):
        p50, p95, p99 = np.percentile(took, (50, 95, 99)) * 1000
        print(
            f"{name:7} {len(took):6} ({len(took) / options.seconds:.0f}/s)  "
            f"p50 {p50:.0f} ms  p95 {p95:.0f} ms  p99 {p99:.0f} ms  longest {max(took) * 1000:.0f} ms"
        )
    print(f"errors {errors}; confirmed {len(submits)}, in the database {kept}")
    if kept != len(submits):
        raise SystemExit("answers were lost or doubled")


def draw(folder: Path, groups: int) -> None:
    """A few pictures of 256 pixels, used in many groups."""
    texts = captions(8, 1)
    names = ("clean", "soft", "coarse", "deaf")
    pictures = [[generate(name, [text], [i], 256)[0] for name in names] for i, text in enumerate(texts)]
    for number in range(groups):
        own = folder / f"group-{number:04}"
        own.mkdir(parents=True)
        for name, picture in zip(names, pictures[number % 8], strict=True):
            picture.save(own / f"{name}.png")


def serve(db: str, port: int) -> None:
    import uvicorn

    from humanpref.annotate.app import create_app

    store = Store(db)
    app = create_app(store, secret=store.secret, rates=UNHURRIED)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


async def crowd(url: str, tokens: list[str], options: argparse.Namespace) -> tuple[list[float], list[float], int]:
    await ready(url)
    submits: list[float] = []
    images: list[float] = []
    errors = [0]
    limits = httpx.Limits(
        max_connections=len(tokens) + 10, max_keepalive_connections=len(tokens) + 10, keepalive_expiry=3
    )
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        people = [await sign_in(client, token) for token in tokens]
        end = time.monotonic() + options.seconds
        await asyncio.gather(*(person(client, *one, end, options.think, submits, images, errors) for one in people))
    return submits, images, errors[0]


async def ready(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        for _ in range(600):
            try:
                if (await client.get("/healthz")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)
    raise SystemExit("the server did not start")


async def sign_in(client: httpx.AsyncClient, token: str) -> tuple[dict[str, str], str]:
    """-> the session's cookie and CSRF token. (One client for all: a cookie jar each would be most of the work.)"""
    joined = await client.get(f"/join/{token}")
    cookie = {"Cookie": joined.headers["set-cookie"].partition(";")[0]}
    client.cookies.clear()
    page = await client.get("/", headers=cookie)
    cookie = {"Cookie": page.headers["set-cookie"].partition(";")[0]}  # with the CSRF token in it
    client.cookies.clear()
    found = re.search(r'<meta name="csrf" content="([^"]+)"', page.text)
    assert found is not None
    return cookie, found[1]


async def person(
    client: httpx.AsyncClient,
    cookie: dict[str, str],
    csrf: str,
    end: float,
    think: float,
    submits: list[float],
    images: list[float],
    errors: list[int],
) -> None:
    await asyncio.sleep(random.uniform(0, think))
    work = (await client.get("/api/tasks", headers=cookie)).json()
    while time.monotonic() < end and work["tasks"]:
        task = work["tasks"][0]
        for path in task["images"]:
            began = time.monotonic()
            errors[0] += (await client.get(path, headers=cookie)).status_code != 200
            images.append(time.monotonic() - began)
        await asyncio.sleep(random.expovariate(1 / think) if think else 0)
        ranks = random.sample(range(1, len(task["images"]) + 1), len(task["images"]))
        began = time.monotonic()
        reply = await client.post(
            f"/api/answers/{task['token']}", json={"ranks": ranks}, headers={**cookie, "X-CSRF-Token": csrf}
        )
        if reply.status_code == 200:
            submits.append(time.monotonic() - began)
            work = reply.json()
        else:
            errors[0] += 1
            work = (await client.get("/api/tasks", headers=cookie)).json()


if __name__ == "__main__":
    main()
