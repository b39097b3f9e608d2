"""The commands `humanpref improve tokens` and `improve templates`: which quality tokens raise the score?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from humanpref.cli_options import (
    BACKEND,
    DeviceOption,
    EngineOption,
    GpusPerWorkerOption,
    ModelOption,
    PrecisionOption,
    PromptsArgument,
    RayAddressOption,
    ReportFormatOption,
    ResizeOption,
    RetryFailedOption,
    WorkersOption,
    common_options,
    complete_model,
    only_for,
    prompts_of,
)
from humanpref.cli_scorers import ArchByScorer, NoCacheOption, WeightsByScorer, chosen_scorers, score_cache
from humanpref.errors import ScoreError
from humanpref.scorers import DEFAULT_SCORER
from humanpref.terminal import image_progress, say

if TYPE_CHECKING:
    from humanpref.generate import Backend
    from humanpref.improve.tokens.templates import Template
    from humanpref.improve.tokens.vocabulary import Place


def tokens_command(
    prompts: PromptsArgument,
    backend: Annotated[str, BACKEND],
    out: Annotated[Path, typer.Option(help="The folder of the search; one that was begun is gone on with.")],
    model: ModelOption = DEFAULT_SCORER,
    check_model: Annotated[
        str | None,
        typer.Option(help="A second scorer, for gains that fool the first one.", autocompletion=complete_model),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="Tokens, one a line, or JSON Lines with prefix, suffix, negative (default: the templates)."),
    ] = None,
    place: Annotated[
        Literal["suffix", "prefix", "negative"] | None,
        typer.Option(help="Where the tokens of a text file stand (suffix)."),
    ] = None,
    budget: Annotated[int, typer.Option(help="Images in all, those without tokens included.", min=1)] = 1000,
    seeds: Annotated[int, typer.Option(help="Most images of a prompt.", min=1)] = 4,
    finalists: Annotated[int, typer.Option(help="How many are measured on the holdout.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="What images and the order of prompts are derived from.", min=0)] = 0,
    plot: Annotated[Path | None, typer.Option(help="Save the gains as a plot: .png, .svg or .pdf.")] = None,
    retry_failed: RetryFailedOption = False,
    weights: WeightsByScorer = None,
    arch: ArchByScorer = None,
    resize: ResizeOption = "antialias",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    no_cache: NoCacheOption = False,
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    workers: WorkersOption = 1,
    gpus_per_worker: GpusPerWorkerOption = 0.0,
    format: ReportFormatOption = "table",
) -> None:
    """Search the tokens that raise a scorer, on a budget of images. Stop it when you like: the same command goes on."""
    from humanpref.engines import Engine
    from humanpref.generate import make_backend
    from humanpref.improve.folder import check_out
    from humanpref.improve.tokens import output
    from humanpref.improve.tokens.folder import PLAN
    from humanpref.improve.tokens.search import search_tokens

    names = [model, *([] if check_model is None else [check_model])]
    if len(set(names)) < len(names):
        raise ScoreError(f"--check-model {check_model}: is the scorer to be checked; name another one")
    out = out.expanduser().resolve()
    load_all, _ = chosen_scorers(None, names, weights, arch, common_options(resize, precision, device))
    where = Engine(engine, workers, ray_address, gpus_per_worker=gpus_per_worker)
    check_out(out, PLAN)
    found = prompts_of(prompts)
    maker = make_backend(backend)
    tokens = _vocabulary(vocabulary, place, maker)
    scorers = load_all()
    with score_cache(out, no_cache) as cache:
        report = search_tokens(
            found,
            maker,
            tokens,
            scorers[0],
            out,
            check=scorers[1] if len(scorers) > 1 else None,
            budget=budget,
            seeds=seeds,
            finalists=finalists,
            seed=seed,
            cache=cache,
            engine=where,
            retry_failed=retry_failed,
            track=image_progress,
            on_note=say,
        )
    print(output.search_json(report) if format == "json" else output.search_table(report))
    say(*output.warnings(report))
    if plot is not None:
        from humanpref.improve.plots import plot_gains

        plot_gains(report, plot)
        say(f"the plot is in {plot}")


def _vocabulary(path: Path | None, place: Place | None, backend: Backend) -> tuple[Template, ...]:
    from humanpref.improve.tokens.method import takes_negatives
    from humanpref.improve.tokens.templates import TEMPLATES, VOCABULARY
    from humanpref.improve.tokens.vocabulary import read_vocabulary

    if path is not None:
        return read_vocabulary(path, place)
    only_for("a --vocabulary of text", place=place)
    templates = tuple(TEMPLATES[name] for name in VOCABULARY)
    if takes_negatives(backend):
        return templates
    kept = tuple(template for template in templates if not template.negative)
    say(f"{backend.name} takes no negative prompt: {len(templates) - len(kept)} of the templates are left out")
    return kept


def templates_command(
    format: ReportFormatOption = "table",
) -> None:
    """List the named templates of tokens, for `tokens:NAME` and as a start for a vocabulary."""
    from humanpref.improve.tokens import output
    from humanpref.improve.tokens.templates import TEMPLATES

    show = output.templates_json if format == "json" else output.templates_table
    print(show(TEMPLATES.values()))
