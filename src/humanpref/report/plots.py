"""Plots: for a page as SVG whose colours are the page's CSS variables, so that they follow its light or dark mode, and
whose text is text, the same data giving the same bytes; or for a file. Needs matplotlib (the `report` extra)."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from humanpref.errors import DataError, MissingExtraError
from humanpref.files import whole

# Stand-ins, exchanged for CSS variables once matplotlib has drawn
_INKS = {
    "#010101": "var(--ink)",
    "#010102": "var(--muted)",
    "#010103": "var(--rule)",
    "#010104": "var(--paper)",
    "#010105": "var(--accent)",
    "#010106": "var(--people)",
    **{f"#01020{i}": f"var(--c{i})" for i in range(6)},
}
INK, MUTED, RULE, PAPER, ACCENT, PEOPLE, *SERIES = _INKS
MARKERS = ("o", "D", "s", "^", "v", "P")
GLYPHS = ("●", "◆", "■", "▲", "▼", "✚")
"""The same shapes, for legends in text."""

WIDE, NARROW = 920, 350


@contextmanager
def default_style() -> Iterator[None]:
    """Draw as matplotlib ships, whatever the user's own style is."""
    try:
        from matplotlib import style
    except ImportError:
        raise MissingExtraError('an HTML report needs matplotlib: pip install "humanpref[report]"') from None
    with style.context("default"):
        yield


@dataclass(frozen=True)
class Plot:
    """A picture, what it shows for those who cannot see it, and its caption."""

    svg: str
    alt: str
    caption: str = ""


def new_figure(width: float, height: float, **options: Any) -> Any:
    """A figure for a file, of this size in inches, with room made for its texts; options are matplotlib's.

    Raises `MissingExtraError`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError('a plot needs matplotlib: pip install "humanpref[report]"') from None
    return Figure(figsize=(width, height), layout="constrained", **options)


def save(figure: Any, path: str | Path, *, dpi: int = 150, metadata: Mapping[str, Any] | None = None) -> None:
    """Save a figure in a file, whose ending chooses PNG (which none does, too), SVG or PDF. Raises `DataError`."""
    path, content = Path(path), BytesIO()
    try:
        figure.savefig(content, format=path.suffix[1:] or "png", dpi=dpi, metadata=metadata)
    except ValueError as error:  # an ending that matplotlib does not know
        raise DataError(f"{path}: the plot cannot be saved ({str(error).splitlines()[0]})") from None
    try:
        with whole(path) as part:
            part.write_bytes(content.getvalue())
    except OSError as error:
        raise DataError(f"{path}: the plot cannot be saved ({error.strerror or error})") from None


def shorten(text: str, most: int) -> str:
    """Text on one line, of at most so many characters."""
    text = " ".join(printable(text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(text: str) -> str:
    """Text without control characters, which XML does not have."""
    return "".join(c if c.isprintable() or c == " " else " " for c in text)


def page_figure(width: int, height: int) -> Any:
    """A figure for a page, its size in pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)  # one user unit of the SVG is one pixel


def page_axes(width: int, height: int, *, left: int, right: int, top: int, bottom: int) -> Any:
    """Axes of a figure for a page, bare, with margins in pixels."""
    place = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = page_figure(width, height).add_axes(place)
    hide_frame(axes)
    axes.set_yticks([])
    return axes


def hide_frame(axes: Any) -> None:
    """Leave only what is drawn, and the numbers."""
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=6)


def draw_grid(axes: Any, which: str = "x") -> None:
    """Draw lines behind the data at the ticks of `which`: "x", "y" or "both"."""
    axes.grid(axis=which, color=RULE, linewidth=1)
    axes.set_axisbelow(True)


def style_ticks(axes: Any, which: str) -> None:
    """Write the numbers along the axis `which`, "x" or "y", in the page's quieter colour and size."""
    labels = axes.get_xticklabels() if which == "x" else axes.get_yticklabels()
    for label in labels:
        label.set(color=MUTED, fontsize=11)


def write_text(
    axes: Any,
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    inside: bool,
    flat: bool = False,
    weight: int = 400,
    ha: str = "left",
) -> None:
    """Write text as it is, no formulas. inside: x (and, if flat, y) is a share of the axes, else in data units."""
    transform = axes.transAxes if flat else axes.get_yaxis_transform() if inside else axes.transData
    axes.text(
        x, y, text, color=colour, ha=ha, va="center", fontsize=12, fontweight=weight, transform=transform,
        parse_math=False,
    )  # fmt: skip


def to_svg(axes: Any, name: str) -> str:
    """Save the figure as an SVG element to be put into a page, with ids that no other plot of the page has."""
    import matplotlib as mpl

    key = "p" + hashlib.sha256(name.encode()).hexdigest()[:8]
    buffer = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "humanpref"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the browser has the glyphs that matplotlib's own font lacks
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        axes.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag.group(), key), svg)  # never in the text between tags
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    width, height = axes.figure.get_size_inches() * 72
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return re.sub(r"^<svg[^>]*>", f'<svg {size} aria-hidden="true" focusable="false">', svg, count=1).strip()


def _page_tag(tag: str, key: str) -> str:
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag).replace("xlink:href=", "href=")
    tag = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{key}-", tag)
    for ink, variable in _INKS.items():
        tag = tag.replace(ink, variable)
    return re.sub(r"font-family: [^;\"]*;? ?", "", tag)  # that of the page
