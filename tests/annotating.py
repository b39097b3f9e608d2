"""An annotation project of drawn pictures, and its pages served over real HTTP, for the tests of `humanpref.annotate`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx

from humanpref.annotate.records import ProjectConfig, ProjectGroup, ProjectImage
from humanpref.annotate.security import Rates
from humanpref.annotate.simulate import UNHURRIED, local_server
from humanpref.annotate.store import Store
from humanpref.shapes.grammar import captions
from humanpref.shapes.sources import SOURCES, generate


@cache
def _drawn(source: str, prompt: str, seed: int, size: int) -> bytes:
    buffer = BytesIO()
    generate(source, [prompt], [seed], size)[0].save(buffer, "PNG")
    return buffer.getvalue()


def make_groups(
    folder: Path, count: int, *, images: int = 4, practice: int = 0, gold: int = 0, size: int = 96
) -> list[ProjectGroup]:
    """Draw groups of pictures by different sources; the names of the files give the sources away, as in real life."""
    names = list(SOURCES)[:images]
    found = []
    roles: list[Any] = ["task"] * count + ["gold"] * gold + ["practice"] * practice
    for number, (role, prompt) in enumerate(zip(roles, captions(len(roles), 5), strict=True)):
        pictures = []
        for name in names:
            path = folder / name / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content := _drawn(name, prompt, number, size))
            digest = hashlib.sha256(content).hexdigest()
            pictures.append(ProjectImage(f"{name}/{number:04}.png", digest, name))
        ranks = None if role == "task" else tuple(range(1, images + 1))
        found.append(ProjectGroup(f"group-{number}", prompt, tuple(pictures), role, ranks))
    return found


def make_store(
    folder: Path, *, groups: int = 6, images: int = 4, practice: int = 0, gold: int = 0, size: int = 96, **config: Any
) -> tuple[Store, str]:
    """Make a project -> its store and the administrator's token."""
    settings = ProjectConfig(**({"practice": practice > 0, "gold_share": 0.0, "repeat_share": 0.0} | config))
    pictures = folder / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    found = make_groups(pictures, groups, images=images, practice=practice, gold=gold, size=size)
    return Store.create(str(folder / "project.db"), settings, pictures, found)


class Served:
    """A project on the network."""

    def __init__(self, store: Store, admin: str, url: str) -> None:
        self.store, self.admin, self.url = store, admin, url

    def invite(self, name: str = "Ada") -> str:
        """-> the address of a new person's link."""
        return f"{self.url}/join/{self.store.invite(name)[1]}"

    def visitor(self, **options: Any) -> Visitor:
        return Visitor(self.url, **options)

    def annotator(self, name: str = "Ada") -> Visitor:
        """Someone who has opened their link and read the instructions."""
        person = self.visitor()
        person.get(self.invite(name))
        person.post("/start")
        return person


class Visitor:
    """A browser without a screen: cookies, CSRF tokens, no more."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = httpx.Client(base_url=url, follow_redirects=True, timeout=30, **options)
        self.csrf = ""

    def get(self, path: str, **options: Any) -> httpx.Response:
        response = self.client.get(path, **options)
        if found := re.search(r'<meta name="csrf" content="([^"]+)"', response.text):
            self.csrf = found[1]
        return response

    def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form."""
        return self.client.post(path, data={"csrf": self.csrf, **fields})

    def send(self, path: str, **values: Any) -> httpx.Response:
        """Send what the page's script sends."""
        return self.client.post(path, json=values, headers={"X-CSRF-Token": self.csrf})

    def tasks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/api/tasks").json()["tasks"]
        return found


@contextmanager
def serving(store: Store, admin: str, *, rates: Rates = UNHURRIED) -> Iterator[Served]:
    """Serve a project by uvicorn on a free port of this machine, and close it."""
    try:
        with local_server(store, rates=rates) as url:
            yield Served(store, admin, url)
    finally:
        store.close()
