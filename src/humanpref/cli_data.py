"""The commands about preference data: `humanpref data ...`, and the datasets of `humanpref download`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from humanpref.cli_options import ReportFormatOption
from humanpref.data.sources import DATASETS
from humanpref.errors import DataError
from humanpref.terminal import progress, say

data_app = typer.Typer(
    name="data",
    help="Convert, check and count preference data, in any known format.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Droppable(str, Enum):
    """What a format need not hold."""

    id = "id"
    annotator = "annotator"
    source = "source"
    soft = "soft"
    prompt_source = "prompt_source"
    style = "style"


DataArgument = Annotated[Path, typer.Argument(help="A file in any known format, or the folder that holds it.")]
ImageRootOption = Annotated[Path | None, typer.Option(help="Where the images are, if not beside the data.")]


def _complete_format(incomplete: str) -> list[str]:
    from humanpref.data.formats import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete)]


@data_app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(metavar="A", help="What to convert: a file or folder in any known format.")],
    target: Annotated[Path, typer.Argument(metavar="B", help="The file to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="rankings, rankings-parquet, pairs, hpdv2-train, hpdv2-test, imagereward, hpdv1, pickapic, ...; "
            "by default rankings (.parquet: rankings-parquet, .csv: pairs).",
            autocompletion=_complete_format,
        ),
    ] = None,
    image_root: ImageRootOption = None,
    copy_images: Annotated[bool, typer.Option("--copy-images", help="Copy the images to a folder beside B.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Write each pair of a group on its own.")] = False,
    drop: Annotated[list[Droppable] | None, typer.Option(help="Leave out what the format cannot hold.")] = None,
) -> None:
    """Write data in another format. What that format cannot hold is refused, or left out with --drop."""
    from humanpref.data.convert import convert_data

    with progress("Converting", None) as advance:
        done = convert_data(
            source,
            target,
            format,
            image_root=image_root,
            drop=[what.value for what in drop or ()],
            copy_images=copy_images,
            pairs=pairs,
            on_ranking=advance,
        )
    say(f"{done.rankings:,} rankings from {done.source_format} to {done.format}: {target}")
    if done.image_root is not None:
        say(f"its images are where they were; read it with --image-root {done.image_root}, or use --copy-images")


@data_app.command("shards")
def shards_command(
    data: DataArgument,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write the shards in.")],
    image_root: ImageRootOption = None,
    per_shard: Annotated[int, typer.Option(min=1, help="Rankings per shard.")] = 1000,
) -> None:
    """Write rankings and their images as WebDataset shards, to be streamed by `humanpref train`."""
    from humanpref.data.formats import open_data
    from humanpref.training.shards import write_shards

    with progress("Writing shards", None) as advance:
        count = write_shards(open_data(data, image_root), out, per_shard=per_shard, on_ranking=advance)
    say(f"{count:,} rankings in shards: {out}")


@data_app.command("validate")
def validate_command(
    data: DataArgument,
    image_root: ImageRootOption = None,
    against: Annotated[Path | None, typer.Option(help="The other half of a split: no prompt or image in both.")] = None,
    against_image_root: Annotated[Path | None, typer.Option(help="Where the images of --against are.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Count missing images, but go on.")] = False,
    format: ReportFormatOption = "table",
) -> None:
    """Check data: ranks, doubles, every image, overlap with other data. Exit status 1 when something is wrong."""
    from humanpref.data import output
    from humanpref.data.validate import validate_data

    found = validate_data(
        data,
        image_root,
        against=against,
        against_image_root=against_image_root,
        allow_missing=allow_missing,
        track=progress,
    )
    print(output.validation_json(found) if format == "json" else output.validation_table(found))
    if not found.ok:
        wrong = "; ".join(f"{p.count} {p.title}" for p in found.problems if p.fatal)
        raise DataError(f"{data}: {wrong}")


@data_app.command("stats")
def stats_command(
    data: DataArgument,
    image_root: ImageRootOption = None,
    plot: Annotated[Path | None, typer.Option(help="Save a picture of the image sources (PNG, SVG or PDF).")] = None,
    format: ReportFormatOption = "table",
) -> None:
    """Count prompts, images, pairs, sources, annotators and ties, and how far people agree."""
    from humanpref.data import output
    from humanpref.data.formats import open_data
    from humanpref.data.stats import data_stats

    file = open_data(data, image_root)
    with progress("Reading", None) as advance:
        stats = data_stats(file, data=str(data), format=file.format.name, on_ranking=advance)
    print(output.stats_json(stats) if format == "json" else output.stats_table(stats))
    if plot is not None:
        from humanpref.data.plot import plot_sources

        plot_sources(stats, plot)
        say(f"Look at {plot}")


@data_app.command("pairs")
def pairs_command(
    data: DataArgument,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
    image_root: ImageRootOption = None,
    format: Annotated[Literal["csv", "jsonl"], typer.Option(help="CSV or JSON Lines.")] = "csv",
) -> None:
    """Print every judged pair: prompt, image_a, image_b, label (a, b, tie or a probability), annotator, ..."""
    from humanpref.data.convert import convert_data

    name = "pairs" if format == "csv" else "pairs-jsonl"
    with TemporaryDirectory() as folder, progress("Pairing", None) as advance:
        target = out if out is not None else Path(folder) / "pairs"
        done = convert_data(data, target, name, image_root=image_root, pairs=True, on_ranking=advance)
        if out is not None:
            say(f"{done.rankings:,} pairs: {out}")
            return
        with target.open(encoding="utf-8", newline="") as lines:
            for line in lines:
                sys.stdout.write(line)


def download_dataset(name: str, out: Path | None) -> Path:
    """Fetch a dataset, saying first what it will take, and return where it is."""
    from humanpref.data.fetch import fetch, plan_download

    plan = plan_download(DATASETS[name], out)
    if plan.done:
        say(f"{name} is there already")
    else:
        say(str(plan))
    with progress("Files", len(plan.files)) as advance:
        return fetch(plan, advance)
