"""The command `humanpref improve best-of`: what the best of k is worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_options import (
    BACKEND,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    ReportFormatOption,
    ResizeOption,
    RetryFailedOption,
    common_options,
    complete_model,
    prompts_of,
)
from humanpref.cli_scorers import ArchByScorer, NoCacheOption, WeightsByScorer, chosen_scorers, score_cache
from humanpref.errors import DataError, MissingExtraError
from humanpref.scorers import DEFAULT_SCORER
from humanpref.terminal import image_progress, say

if TYPE_CHECKING:
    from humanpref.improve.best_of.curve import BestOfReport, Pool


def best_of_command(
    out: Annotated[Path, typer.Option(help="The folder of the run; one that was begun is gone on with.")],
    prompts: Annotated[
        Path | None, typer.Argument(help="JSON Lines, JSON list, Parquet, or text with one prompt a line.")
    ] = None,
    backend: Annotated[str | None, BACKEND] = None,
    pool: Annotated[
        Path | None,
        typer.Option(help="Instead of prompts and --backend: a folder of humanpref generate --images-per-prompt N."),
    ] = None,
    model: ModelOption = DEFAULT_SCORER,
    check_model: Annotated[
        list[str] | None,
        typer.Option(
            "--check-model",
            metavar="NAME",
            help="Another scorer, to say what the choice is worth to it; or several.",
            autocompletion=complete_model,
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="A method that the backend draws by, as tokens:quality (see improve compare).")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Images of each prompt (with --pool: all).", min=2)] = None,
    source: Annotated[str | None, typer.Option(help="With --pool: the model, where it holds several.")] = None,
    seed: Annotated[int, typer.Option(help="What the seeds of all images are derived from.")] = 0,
    retry_failed: RetryFailedOption = False,
    weights: WeightsByScorer = None,
    arch: ArchByScorer = None,
    resize: ResizeOption = "antialias",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    no_cache: NoCacheOption = False,
    format: ReportFormatOption = "table",
) -> None:
    """What is the best of k images worth, for every k up to n? One pool of images, estimated without bias.

    --model chooses; --check-model says whether its choice is really better. Stop it when you like: it goes on.
    """
    from humanpref.improve.best_of.curve import best_of_curve, read_pool
    from humanpref.improve.best_of.output import REPORT, best_of_json, best_of_table, write_best_of
    from humanpref.improve.compare.compare import check_scorers
    from humanpref.improve.folder import IMAGES, check_out, held

    if (pool is None) == (prompts is None) or (pool is None) != (backend is not None):
        raise DataError("give a file of prompts and --backend, or a folder of images by --pool")
    if pool is not None and (retry_failed or method not in {None, "none"}):
        raise DataError("--pool takes images as they are: --method and --retry-failed are for --backend")
    if pool is None and source is not None:
        raise DataError("--source is for --pool")
    out = out.expanduser()
    load_all, names = chosen_scorers(
        [],
        [model, *(check_model or ())],
        weights,
        arch,
        common_options(resize, precision, device),
    )
    check_scorers(names)
    check_out(out, REPORT, IMAGES)
    found = None if pool is None else read_pool(pool, source=source, n=n)
    if found is None:
        assert prompts is not None
        assert backend is not None
        draw = _drawing(prompts, backend, method, out / IMAGES, n or 16, seed, retry_failed)
    with held(out):
        found = found or draw()
        scorers = load_all()
        with score_cache(out, no_cache) as cache:
            report = best_of_curve(found, scorers, cache=cache, seed=seed, track=image_progress)
        write_best_of(report, out)
    print(best_of_json(report) if format == "json" else best_of_table(report))
    say(*report.notes, *(f"warning: {warning}" for warning in report.warnings))
    _plot(report, out / "best-of.png")


def _drawing(
    prompts: Path, backend: str, method: str | None, folder: Path, n: int, seed: int, retry_failed: bool
) -> Callable[[], Pool]:
    """See that n images of each prompt can be drawn -> how to draw them, which gives the pool."""
    from humanpref.generate import generate, make_backend
    from humanpref.improve import apply_methods, make_methods
    from humanpref.improve.best_of.curve import read_pool

    texts = prompts_of(prompts)
    drawing = apply_methods(make_methods(method or "none"), make_backend(backend, {}))

    def draw() -> Pool:
        generate(
            texts, [drawing], folder, seed=seed, images_per_prompt=n, retry_failed=retry_failed, on_note=say,
            track=image_progress,
        )  # fmt: skip
        return read_pool(folder, source=drawing.name, n=n, prompts=[prompt.id for prompt in texts])

    return draw


def _plot(report: BestOfReport, path: Path) -> None:
    from humanpref.improve.plots import plot_best_of

    try:
        plot_best_of(report, path)
    except MissingExtraError as error:
        say(f"there is no plot: {error}")
    else:
        say(f"Look at {path}: the curve by every scorer")
