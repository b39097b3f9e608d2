"""The commands `humanpref batch` and `humanpref select`: score a dataset, and keep its best rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from humanpref.cli_options import (
    CompiledOption,
    CpusPerWorkerOption,
    DecodeOption,
    DeviceOption,
    EngineOption,
    PrecisionOption,
    RayAddressOption,
    ReportFormatOption,
    ResizeOption,
)
from humanpref.cli_scorers import (
    ArchByScorer,
    ModelsOption,
    WeightsByScorer,
    check_weights,
    options_by_scorer,
    split_words,
)
from humanpref.errors import DataError
from humanpref.scorers import SPECS, LoadOptions, get_spec
from humanpref.terminal import say

if TYPE_CHECKING:
    from humanpref.batch.records import BatchReport
    from humanpref.batch.run import Progress
    from humanpref.batch.score import Model
    from humanpref.batch.select import SelectReport

LINE_SECONDS = 30.0
"""Between lines of progress where no terminal shows a bar."""


def batch_command(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="IN...",
            help="Parquet, JSON Lines, CSV or WebDataset tar files, folders of them or of images, globs, URLs.",
        ),
    ],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The folder of the scores; one that was begun is gone on with.")
    ],
    model: ModelsOption = None,
    image_column: Annotated[str | None, typer.Option(help="The column (in tar files: ending) of the image.")] = None,
    prompt_column: Annotated[str | None, typer.Option(help="The column (in tar files: ending) of the prompt.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt of rows that have none.")] = None,
    image_root: Annotated[
        str | None, typer.Option(help="Where image paths begin (default: beside their file).")
    ] = None,
    allow_url: Annotated[bool, typer.Option("--allow-url", help="Fetch images that are given as URLs.")] = False,
    embeddings: Annotated[
        Literal["float16", "float32"] | None, typer.Option(help="Keep CLIP's image embeddings, too.")
    ] = None,
    prompts: Annotated[bool, typer.Option("--prompts/--no-prompts", help="Keep the prompts beside the scores.")] = True,
    part_rows: Annotated[int, typer.Option(help="Rows of a part of the output.", min=1)] = 2048,
    weights: WeightsByScorer = None,
    arch: ArchByScorer = None,
    resize: ResizeOption = "antialias",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    decode: DecodeOption = "exact",
    compiled: CompiledOption = False,
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that each hold the scorers. Default: one a GPU, or for lite one a core, else 1.", min=1
        ),
    ] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(help="GPUs that each worker needs.", min=0.0)] = None,
    cpus_per_worker: CpusPerWorkerOption = 1.0,
    format: ReportFormatOption = "table",
) -> None:
    """Score a whole dataset into Parquet. Stop it when you like: the same command goes on."""
    from humanpref.batch.records import Reading
    from humanpref.batch.run import batch
    from humanpref.batch.score import Model
    from humanpref.engines import Engine

    words, names = split_words([*data, out], model)
    if len(words) < 2:
        raise typer.BadParameter("name the data, and last the folder of the scores", param_hint="IN... OUT")
    *data, out = words
    if out in SPECS:
        raise DataError(f"OUT is {out}, a scorer's name; put the folder of the scores last, or write ./{out}")
    common = LoadOptions(None, None, resize, precision, device, decode, compiled)
    options = options_by_scorer(names, weights, arch, common)
    models = [Model(name, **vars(own)) for name, own in options.items()]
    if workers is None:
        workers, gpus = _default_workers(models, engine)
        gpus_per_worker = gpus if gpus_per_worker is None else gpus_per_worker
    where = Engine(engine, workers, ray_address, cpus_per_worker, gpus_per_worker or 0.0)
    if engine == "local":  # a cluster's machines have files of their own
        check_weights({name: own for name, own in options.items() if get_spec(name).path is None})
    with _progress() as on_progress:
        report = batch(
            data,
            out,
            models,
            reading=Reading(image_column, prompt_column, prompt, image_root, allow_url),
            embeddings=embeddings,
            prompts=prompts,
            part_rows=part_rows,
            engine=where,
            threads=where.threads_per_worker,
            on_progress=on_progress,
            on_note=say,
        )
    print(_as_json(report) if format == "json" else _as_table(report))
    if report.truncated:
        say(f"of {report.truncated:,} rows a scorer read only the beginning of the prompt (truncated in the output)")
    if failed := sum(report.errors.values()):
        have = "row has an error" if failed == 1 else "rows have errors"
        say(f"{failed:,} {have}; the columns error_kind and error say why")


def select_command(
    scores: Annotated[str, typer.Argument(metavar="SCORES", help="The folder that `humanpref batch` filled.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A .parquet, .jsonl or .csv file; also s3://...")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="By whose scores (needed where there are several).")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Keep the so many best rows.", min=1)] = None,
    per: Annotated[str | None, typer.Option(help="... of each value of this column, as prompt or shard.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Keep rows with at least this score.")] = None,
    quantile: Annotated[
        float | None,
        typer.Option(help="Keep rows at or above this quantile of all scores: 0.9, the best tenth.", min=0, max=1),
    ] = None,
    memory_mib: Annotated[int, typer.Option(help="Memory to use; what does not fit goes to the disk.", min=256)] = 1024,
    overwrite: Annotated[bool, typer.Option(help="Replace an OUT that exists.")] = False,
    format: ReportFormatOption = "table",
) -> None:
    """Keep the best rows of a scored dataset: above a score, the best part of all, or the best of each prompt."""
    from humanpref.batch.select import select

    report = select(
        scores, out, model=model, top=top, per=per, min_score=min_score, quantile=quantile, memory_mib=memory_mib,
        overwrite=overwrite,
    )  # fmt: skip
    print(_as_json(report) if format == "json" else _select_table(report))
    if report.complete is False:
        say(f"{scores} is not complete: the batch run that fills it has not ended; these are the rows so far")


def _default_workers(models: list[Model], engine: str) -> tuple[int, float]:
    """How many workers, and how many GPUs each has."""
    from humanpref.engines import cores

    if all(get_spec(model.name).family == "lite" for model in models):
        return cores(), 0.0
    if engine == "ray" or any(
        model.device not in {"auto", "cuda"} for model in models if get_spec(model.name).family != "lite"
    ):
        return 1, 0.0
    import torch

    found = torch.cuda.device_count()
    return (found, 1.0) if found > 1 else (1, 0.0)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Tell how far the run is, on stderr: a line that changes on a terminal, else a line now and then."""
    began = last = time.monotonic()
    shown = False
    terminal = sys.stderr.isatty()

    def tell(progress: Progress) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if not terminal and now - last < LINE_SECONDS:
            return
        last, line = now, _line(progress, now - began)
        if terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            shown = True
        else:
            say(line)

    try:
        yield tell
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _line(progress: Progress, seconds: float) -> str:
    line = f"{progress.rows:,} rows, {progress.rows / seconds:,.1f} rows/s, {100 * progress.fraction:.1f} %"
    if progress.errors:
        line += f", {progress.errors:,} with errors"
    if progress.fresh > 0:
        left = int((1 - progress.fraction) * seconds / progress.fresh)
        line += f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
    return line


def _as_json(report: BatchReport | SelectReport) -> str:
    from dataclasses import asdict

    from humanpref.batch.records import BatchReport
    from humanpref.tables import to_json

    more = {"rows_per_second": report.rows_per_second} if isinstance(report, BatchReport) else {}
    return to_json({**asdict(report), **more})


def _as_table(report: BatchReport) -> str:
    from humanpref.tables import add_row, make_table, render

    table = make_table(None, "rows", "scored", "errors", "this run", "rows/s", "parts", ">folder")
    counts = (report.rows, report.scored, sum(report.errors.values()), report.new_rows)
    rate = f"{report.rows_per_second:.1f}"
    add_row(table, *(f"{count:,}" for count in counts), rate, f"{report.parts:,}", report.out)
    text = render(table).rstrip()
    if report.errors:
        kinds = make_table(None, ">error", "rows")
        for kind, count in sorted(report.errors.items(), key=lambda item: -item[1]):
            add_row(kinds, kind, f"{count:,}")
        text += "\n\n" + render(kinds)
    return text


def _select_table(report: SelectReport) -> str:
    from humanpref.tables import add_row, make_table, render

    table = make_table(None, "rows", "with a score", "kept", "threshold", ">file")
    threshold = "-" if report.threshold is None else f"{report.threshold:.4f}"
    add_row(table, f"{report.rows:,}", f"{report.scored:,}", f"{report.kept:,}", threshold, report.out)
    return render(table)
