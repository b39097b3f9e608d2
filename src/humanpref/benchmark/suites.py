"""Suites of prompts: which prompts a benchmark asks for, in which styles, and a hash that pins them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from humanpref.benchmark import published
from humanpref.errors import DataError
from humanpref.prompts.records import Prompt

ALL = "all"
"""The style of prompts that name none."""

HPS_STYLES = published.STYLES
"""The styles of the HPS v2 benchmark, as its files are called (tgxs002/HPSv2, README: 800 prompts each)."""

SHAPES_PER_STYLE = 160
SHAPES_SEED = 2306

PROMPTS_DATASET = "hps-benchmark-prompts"
PARTI_PAGE = "https://github.com/google-research/parti/blob/main/PartiPrompts.tsv"


@dataclass(frozen=True)
class SuitePrompt:
    """One prompt: `index` is its place in its style, from 0, as in the official file names (`<style>/00000.jpg`)."""

    style: str
    index: int
    text: str
    id: str

    @property
    def stem(self) -> str:
        """Where its image is in the official layout, without the ending."""
        return f"{self.style}/{self.index:05d}"


@dataclass(frozen=True)
class Suite:
    """The prompts of a benchmark, style by style. `name` is for people; `revision` tells suites apart."""

    name: str
    prompts: tuple[SuitePrompt, ...]

    @property
    def styles(self) -> Mapping[str, int]:
        """{style: number of prompts}, in order."""
        return Counter(prompt.style for prompt in self.prompts)

    @cached_property
    def revision(self) -> str:
        """16 hexadecimal digits of a SHA-256 over every style and prompt in order."""
        text = json.dumps([[prompt.style, prompt.text] for prompt in self.prompts], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def to_generate(self) -> list[Prompt]:
        """The prompts as `humanpref generate` takes them."""
        return [Prompt(prompt.text, prompt.id, self.name, prompt.style) for prompt in self.prompts]


def load_suite(name: str, prompts: str | Path | None = None) -> Suite:
    """Load a suite: one of `SUITES`, or a file or folder of prompts.

    prompts: where the prompts of a named suite are: a folder with `anime.json` and so on (hps-v2), `drawbench.json`
    (drawbench) or the file `PartiPrompts.tsv` (parti). Without it they are looked for under `humanpref-data/`, and
    those of hps-v2 and drawbench are fetched from the Hub, at a pinned commit. A file may be in any layout that
    `humanpref prompts` reads, a folder holds `<style>.json`, lists of texts. Raises `DataError` for a suite that is not
    there or that names a prompt twice, `DownloadError` where prompts cannot be fetched.
    """
    given = None if prompts is None else Path(prompts).expanduser()
    if name in SUITES:
        return SUITES[name](given)
    if given is not None:
        raise DataError(f"--prompts is for the suites {', '.join(SUITES)}; {name} is taken as a file of its own")
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(f"no suite and no file is called {name!r}; suites: {', '.join(SUITES)}; or name a prompt file")
    found = _folder(path.stem, path, _styles_in(path)) if path.is_dir() else _file(path)
    _refuse_doubles(found, path)
    return found


def _hps(given: Path | None) -> Suite:
    return _folder("hps-v2", given or _official_folder(HPS_STYLES), HPS_STYLES)


def _drawbench(given: Path | None) -> Suite:
    place = given or _official_folder(("drawbench",))
    texts = _read_list(place / "drawbench.json" if place.is_dir() else place)
    return _of_styles("drawbench", {"drawbench": texts})


def _parti(given: Path | None) -> Suite:
    if given is None:
        raise DataError(f"the prompts of parti are in one file: get {PARTI_PAGE} and name it with --prompts")
    path = given / "PartiPrompts.tsv" if given.is_dir() else given
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if not rows or not {"Prompt", "Category"} <= rows[0].keys():
        raise DataError(f"{path}: is not PartiPrompts.tsv (a table with Prompt and Category); get it from {PARTI_PAGE}")
    by_style: dict[str, list[str]] = {}
    for row in rows:
        by_style.setdefault(_slug(row["Category"] or ALL), []).append(row["Prompt"] or "")
    return _of_styles("parti", by_style)


def _shapes(given: Path | None) -> Suite:
    if given is not None:
        raise DataError("the suite shapes comes with the package: leave --prompts out, or name your file as --suite")
    from humanpref.shapes.grammar import STYLES, captions, parse

    found: dict[str, list[str]] = {style: [] for style in STYLES}
    for text in captions(8 * SHAPES_PER_STYLE, SHAPES_SEED):
        style = parse(text).style
        if style is not None and len(found[style]) < SHAPES_PER_STYLE:
            found[style].append(text)
    return _of_styles("shapes", found)


SUITES: Mapping[str, Callable[[Path | None], Suite]] = MappingProxyType(
    {"hps-v2": _hps, "drawbench": _drawbench, "parti": _parti, "shapes": _shapes}
)
"""The named suites: 3,200 prompts of the HPS v2 benchmark in four styles, 200 of DrawBench, PartiPrompts by category,
and 640 captions of the shapes world, which need no download."""


def _official_folder(styles: Sequence[str]) -> Path:
    """The folder of the official prompt files, fetched unless it is here."""
    from humanpref.data.fetch import fetch, get_dataset, plan_download

    for name in ("hps-benchmark", PROMPTS_DATASET):
        folder = Path("humanpref-data") / name
        if all((folder / f"{style}.json").is_file() for style in styles):
            return folder
    return fetch(plan_download(get_dataset(PROMPTS_DATASET)))


def _folder(name: str, folder: Path, styles: Sequence[str]) -> Suite:
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; it must hold {', '.join(f'{style}.json' for style in styles)}")
    return _of_styles(name, {style: _read_list(folder / f"{style}.json") for style in styles})


def _styles_in(folder: Path) -> list[str]:
    if not (found := sorted(file.stem for file in folder.glob("*.json"))):
        raise DataError(f"{folder}: holds no <style>.json; a folder is a suite by its files, lists of prompts")
    return found


def _read_list(path: Path) -> list[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, list) or not content or not all(isinstance(text, str) for text in content):
        raise DataError(f"{path}: must be a list of prompts, as in the HPS v2 benchmark")
    return content


def _file(path: Path) -> Suite:
    from humanpref.prompts.files import read_prompts

    counts: Counter[str] = Counter()
    found = []
    for prompt in read_prompts(path):
        style = _slug(prompt.style or ALL)
        found.append(SuitePrompt(style, counts[style], prompt.text, prompt.id))
        counts[style] += 1
    by_style = sorted(found, key=lambda prompt: list(counts).index(prompt.style))
    return _checked(Suite(path.stem, tuple(by_style)), str(path))


def _of_styles(name: str, styles: Mapping[str, Sequence[str]]) -> Suite:
    rows = [
        SuitePrompt(style, index, text, f"{style}-{index:05d}")
        for style, texts in styles.items()
        for index, text in enumerate(texts)
    ]
    return _checked(Suite(name, tuple(rows)), name)


def _checked(suite: Suite, where: str) -> Suite:
    if not suite.prompts:
        raise DataError(f"{where}: holds no prompts")
    if empty := [prompt for prompt in suite.prompts if not prompt.text.strip()]:
        raise DataError(f"{where}: prompt {empty[0].stem} is empty")
    return suite


def _refuse_doubles(suite: Suite, path: Path) -> None:
    """A prompt that is there twice counts twice; only the published suites are taken as they are."""
    places: dict[str, list[str]] = {}
    for prompt in suite.prompts:
        places.setdefault(prompt.text, []).append(prompt.stem)
    if twice := [(text, where) for text, where in places.items() if len(where) > 1]:
        text, where = twice[0]
        raise DataError(
            f"{path}: {len(twice)} prompts are there more than once ({text[:60]!r} as {' and '.join(where[:3])}); "
            "leave each in once"
        )


def _slug(name: str) -> str:
    """A style as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.strip().lower()).strip("-") or ALL
