"""`humanpref improve compare`: methods against doing nothing, on the same prompts and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_options import (
    BACKEND,
    DeviceOption,
    EngineOption,
    GpusPerWorkerOption,
    PrecisionOption,
    PromptsArgument,
    RayAddressOption,
    ReportFormatOption,
    ResizeOption,
    RetryFailedOption,
    WorkersOption,
    common_options,
    prompts_of,
)
from humanpref.cli_scorers import (
    ArchByScorer,
    ModelsOption,
    NoCacheOption,
    WeightsByScorer,
    chosen_scorers,
    score_cache,
)
from humanpref.terminal import image_progress, say

if TYPE_CHECKING:
    from humanpref.improve.compare.compare import CompareReport


def compare_command(
    prompts: PromptsArgument,
    backend: Annotated[str, BACKEND],
    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            metavar="KIND:WHAT[,option=value...][+...]",
            help="A method, as best-of:4,model=lite; several to compare. none, the baseline, is always among them.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the comparison; one that was begun is gone on with.")],
    model: ModelsOption = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="NAME", hidden=True)] = None,
    seed: Annotated[int, typer.Option(help="What the seeds of all images are derived from.")] = 0,
    images_per_prompt: Annotated[int, typer.Option(help="Images of each prompt by each method.", min=1)] = 1,
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
    """Draw with the baseline and with methods, same prompts and seeds, and judge the images by two scorers or more.

    Stop it when you like: the same command goes on.
    """
    from humanpref.engines import Engine
    from humanpref.generate import make_backend
    from humanpref.improve.compare.compare import REPORT, check_scorers, judge_images
    from humanpref.improve.compare.images import BASELINE, make_method_images, named_methods, prepare_methods
    from humanpref.improve.compare.output import compare_json, compare_table, write_report
    from humanpref.improve.folder import IMAGES, check_out, held

    named = named_methods(method)
    load_all, names = chosen_scorers(more, model, weights, arch, common_options(resize, precision, device))
    check_scorers(names)
    out = out.expanduser()
    check_out(out, REPORT, IMAGES)
    found = prompts_of(prompts)
    source = make_backend(backend, {})
    if BASELINE not in method:
        say(f"{BASELINE}, the baseline, is added to the methods")
    where = Engine(engine, workers, ray_address, gpus_per_worker=gpus_per_worker)
    prepared = prepare_methods(found, source, named, out)
    with held(out):
        images = make_method_images(
            found, prepared, out, seed=seed, images_per_prompt=images_per_prompt, engine=where,
            retry_failed=retry_failed, track=image_progress, on_note=say,
        )  # fmt: skip
        scorers = load_all()  # only now: the models that draw have left the memory
        with score_cache(out, no_cache) as cache:
            report = judge_images(
                found, images, scorers, out, backend=source.name, cache=cache, seed=seed,
                images_per_prompt=images_per_prompt, track=image_progress,
            )  # fmt: skip
        write_report(report)
        page = _write_page(report)
    print(compare_json(report) if format == "json" else compare_table(report))
    say(*report.notes, *(f"warning: {warning}" for warning in report.warnings))
    if page is not None:
        say(f"Look at {page}: the images of each prompt side by side")


def _write_page(report: CompareReport) -> Path | None:
    from humanpref.errors import MissingExtraError
    from humanpref.improve.compare.page import write_page

    try:
        return write_page(report)
    except MissingExtraError as error:
        say(f"there is no page of the images: {error}")
        return None
