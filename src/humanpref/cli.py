"""The command line: each command is one library call. Only this, cli_data.py and terminal.py print."""

from __future__ import annotations

import sys
import warnings
from enum import Enum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_data import data_app, download_dataset
from humanpref.data.sources import DATASETS
from humanpref.errors import HumanprefError, ScoreError, UnknownNameError
from humanpref.scorers import DEFAULT_SCORER, SPECS, get_spec
from humanpref.terminal import progress as _progress
from humanpref.terminal import say as _say

if TYPE_CHECKING:
    from humanpref.scorers import Scorer

app = typer.Typer(
    name="humanpref",
    help="Which of these images would a person prefer?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Resize(str, Enum):
    """Whether the bicubic resize filters before it shrinks."""

    antialias = "antialias"
    no_antialias = "no-antialias"


class PrecisionName(str, Enum):
    """The number format of the matrix products."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def _complete_model(incomplete: str) -> list[str]:
    return [name for name in SPECS if name.startswith(incomplete)]


def _complete_download(incomplete: str) -> list[str]:
    return [name for name in (*SPECS, *DATASETS) if name.startswith(incomplete)]


ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, folders, globs or URLs.")]
PromptOption = Annotated[str, typer.Option("--prompt", "-p", help="The text the images were made for.")]
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A scorer (see: humanpref models).", autocompletion=_complete_model)
]
WeightsOption = Annotated[Path | None, typer.Option(help="A checkpoint file, instead of the published one.")]
ArchOption = Annotated[str | None, typer.Option(help="open_clip architecture name or JSON config, for other sizes.")]
ResizeOption = Annotated[Resize, typer.Option(help="antialias: torchvision >= 0.17; no-antialias: as before it.")]
PrecisionOption = Annotated[PrecisionName, typer.Option(help="Number format of the matrix products.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
FormatOption = Annotated[Format, typer.Option(help="table for people, json or csv for programs.")]
AllowUrlOption = Annotated[bool, typer.Option("--allow-url", help="Fetch images given as http(s) URLs.")]


@app.command("score")
def score_command(
    images: ImagesArgument,
    prompt: PromptOption,
    model: ModelOption = DEFAULT_SCORER,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    resize: ResizeOption = Resize.antialias,
    precision: PrecisionOption = PrecisionName.auto,
    device: DeviceOption = "auto",
    format: FormatOption = Format.table,
    allow_url: AllowUrlOption = False,
) -> None:
    """Rank images for a prompt, with the probability that each is preferred."""
    from humanpref import output
    from humanpref.images import expand_sources
    from humanpref.ranking import score

    sources = expand_sources(images, allow_url=allow_url)
    scorer = _load(model, weights, arch, resize, precision, device)
    with _progress("Scoring", len(sources)) as advance:
        report = score(sources, prompt, scorer, on_image=advance)
    _say(*report.notes)
    print(output.RENDER_SCORE[format.value](report))
    if report.failures:
        _say(*(failure.error for failure in report.failures))
        raise ScoreError(f"{len(report.failures)} of {len(sources)} images could not be scored; the others are above")


@app.command("compare")
def compare_command(
    images: ImagesArgument,
    prompt: PromptOption,
    model: ModelOption = DEFAULT_SCORER,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    resize: ResizeOption = Resize.antialias,
    precision: PrecisionOption = PrecisionName.auto,
    device: DeviceOption = "auto",
    format: FormatOption = Format.table,
    allow_url: AllowUrlOption = False,
) -> None:
    """Put images of one prompt head to head: how likely is each preferred to each other one?"""
    from humanpref import output
    from humanpref.images import expand_sources
    from humanpref.ranking import compare

    sources = expand_sources(images, allow_url=allow_url)
    if len(sources) < 2:
        raise ScoreError(f"a comparison needs at least two images, got {len(sources)}")
    scorer = _load(model, weights, arch, resize, precision, device)
    with _progress("Scoring", len(sources)) as advance:
        comparison = compare(sources, prompt, scorer, on_image=advance)
    _say(*comparison.notes)
    print(output.RENDER_COMPARISON[format.value](comparison))


@app.command("evaluate")
def evaluate_command(
    data: Annotated[Path, typer.Argument(help="A file in any known format, or the folder that holds it.")],
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", metavar="NAME...", help="A scorer, or several.", autocompletion=_complete_model),
    ],
    more_models: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    image_root: Annotated[Path | None, typer.Option(help="Where the images are, if not beside the data.")] = None,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    resize: ResizeOption = Resize.antialias,
    precision: PrecisionOption = PrecisionName.auto,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap behind the intervals.")] = 0,
    format: FormatOption = Format.table,
) -> None:
    """Measure how well scorers agree with human rankings, next to how well people do."""
    from humanpref import output
    from humanpref.data.formats import read_rankings
    from humanpref.evaluate import evaluate_scorers
    from humanpref.scorers.weights import locate

    names = [name for word in [*model, *(more_models or [])] for name in word.split(",")]
    for name in names:
        get_spec(name)
    if weights is not None and len(names) != 1:
        raise ScoreError("--weights belongs to one scorer; evaluate it with a single --model")
    for name in names:  # what is missing is said now, not after hours of scoring with the others
        if (spec := get_spec(name)).repo is not None:
            locate(spec, weights)
    rankings = read_rankings(data, image_root)
    scorers = (_load(name, weights, arch, resize, precision, device) for name in names)  # one in memory at a time
    images = sum(len(ranking.images) for ranking in rankings if ranking.annotator is None)
    with _progress("Scoring", images * len(names)) as advance:
        report = evaluate_scorers(rankings, scorers, data=str(data), seed=seed, on_image=advance)
    print(output.RENDER_EVALUATION[format.value](report))


@app.command("models")
def models_command(format: FormatOption = Format.table) -> None:
    """List the scorers."""
    from humanpref import output

    print(output.RENDER_MODELS[format.value](tuple(SPECS.values())))


@app.command("download")
def download_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"A scorer (see: humanpref models) or a dataset: {', '.join(DATASETS)}.",
            autocompletion=_complete_download,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Where a dataset is put (default: humanpref-data/NAME).")] = None,
) -> None:
    """Fetch a scorer's published weights or a dataset, resuming and verifying, and print where they are."""
    from humanpref.scorers.weights import download

    if name in DATASETS:
        print(download_dataset(name, out))
        return
    try:
        spec = get_spec(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}; or a dataset: {', '.join(DATASETS)}") from None
    if out is not None:
        raise UnknownNameError(f"--out is for datasets; the weights of {name} go to the Hub's cache (HF_HOME)")
    if spec.repo is None:
        _say(f"{name} ships with the package; there is nothing to download")
        return
    print(download(spec))


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Where to put the images it makes.")] = Path("humanpref-demo"),
    format: FormatOption = Format.table,
) -> None:
    """Make example images, rank them with the embedded scorer, and save a picture of the ranking. Works offline."""
    from humanpref import output
    from humanpref.demo import PROMPT, contact_sheet, make_examples, save_image
    from humanpref.ranking import score
    from humanpref.scorers import load_scorer

    try:
        report = score(make_examples(out), PROMPT, load_scorer("lite"))
        save_image(contact_sheet(report), out / "ranking.png")
    except OSError as error:
        raise HumanprefError(f"{out}: the demo's images cannot be written ({error})") from None
    _say(*report.notes)
    print(output.RENDER_SCORE[format.value](report))
    _say(f"Look at {out / 'ranking.png'}")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from humanpref import __version__

        print(__version__)
        raise typer.Exit
    assert context is not None


def _load(
    model: str, weights: Path | None, arch: str | None, resize: Resize, precision: PrecisionName, device: str
) -> Scorer:
    from humanpref.scorers import load_scorer

    if model != "lite" and sys.stderr.isatty():
        print(f"Loading {model} ...", file=sys.stderr)
    return load_scorer(model, weights, arch, resize=resize.value, precision=precision.value, device=device)


def main() -> None:
    """Run the command line: exit status 0 done, 1 bad input (one line on stderr), 2 usage."""
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are refused with an error of our own
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    try:
        app()
        sys.stdout.flush()
    except HumanprefError as error:
        _say(str(error))
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # standard output is full or gone
        sys.stdout = None  # nothing more can be written there
        _say(f"the output cannot be written ({error})")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
