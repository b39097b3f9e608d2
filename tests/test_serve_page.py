"""The page to drop images on, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from humanpref import score
from humanpref.demo import make_examples
from humanpref.serve.config import ServeConfig
from humanpref.serve.keys import ApiKeys
from tests.browser import CONTRAST, chromium
from tests.serving import Served, png, serving

KEY = "a-key-for-the-page-0123"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_examples(tmp_path_factory.mktemp("examples"))[:4]


class Visit:
    """The page, with what it said and asked for."""

    def __init__(self, browser: Any, url: str, *, scheme: str = "light", width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_load_state("networkidle")

    def rank(self, paths: list[Path]) -> list[str]:
        """-> what the cards say, in order."""
        self.page.set_input_files("#files", [str(path) for path in paths])
        self.page.fill("#prompt", "A lighthouse on a rocky coast at sunset.")
        self.page.click("#send")
        self.page.wait_for_selector("#results li")
        found: list[str] = self.page.eval_on_selector_all("#results li", "all => all.map(one => one.innerText)")
        return found


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_images_are_ranked_on_the_page(
    browser: Any, served: Served, paths: list[Path], tmp_path: Path, scheme: str, width: int
) -> None:
    (bad := tmp_path / "broken.png").write_bytes(b"no image")
    visit = Visit(browser, served.url, scheme=scheme, width=width)
    cards = visit.rank([*paths, bad])
    expected = sorted(score(paths, "x", "lite").results, key=lambda result: result.rank)
    for card, result in zip(cards, expected, strict=False):
        assert Path(result.image).name in card
        assert f"{result.rank}. score {result.score:.4f}" in card
    assert "not an image" in cards[-1]
    assert "1 of 5 images could not be scored" in visit.page.inner_text("#status")
    assert "does not read the prompt" in visit.page.inner_text("#notes")
    shown = visit.page.eval_on_selector_all("#results img", "all => all.map(one => one.naturalWidth > 0)")
    assert shown == [True] * 4
    assert min(visit.page.evaluate(CONTRAST).values()) >= 4.5
    assert visit.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert visit.said == []
    assert all(url.startswith((served.url, "blob:")) for url in visit.asked)
    visit.page.click("#clear")
    assert visit.page.locator("#results li").count() == 0
    visit.page.close()


def test_images_can_be_dropped(browser: Any, served: Served) -> None:
    visit = Visit(browser, served.url)
    visit.page.evaluate(
        """content => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], "dropped.png", { type: "image/png" }));
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        list(png()),
    )
    assert visit.page.inner_text("#count") == "dropped.png"
    visit.page.click("#send")
    visit.page.wait_for_selector("#results li")
    assert "dropped.png" in visit.page.inner_text("#results")
    visit.page.close()


def test_the_page_asks_for_a_key_and_says_what_is_wrong(browser: Any, paths: list[Path]) -> None:
    with serving(keys=ApiKeys([KEY]), config=ServeConfig(max_images=2)) as served:
        visit = Visit(browser, served.url)
        assert "API key is needed" in visit.page.inner_text("#status")
        visit.page.fill("#key", KEY)
        visit.page.keyboard.press("Tab")
        visit.page.wait_for_selector("#model option", state="attached")
        assert len(visit.rank(paths[:2])) == 2
        visit.page.set_input_files("#files", str(paths[2]))  # one more than may be
        visit.page.click("#send")
        visit.page.locator("#status", has_text="at most 2").wait_for()
        assert KEY not in visit.page.content()
        visit.page.close()
