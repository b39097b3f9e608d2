"""The command line: each command is one library call. Only this, cli_*.py and terminal.py print."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from humanpref.cli_annotate import annotate_app
from humanpref.cli_batch import batch_command, select_command
from humanpref.cli_benchmark import benchmark_app
from humanpref.cli_cache import cache_app
from humanpref.cli_data import data_app, download_dataset
from humanpref.cli_evaluate import evaluate_command
from humanpref.cli_generate import generate_command
from humanpref.cli_improve import improve_app
from humanpref.cli_options import (
    ArchOption,
    DeviceOption,
    FormatOption,
    ModelOption,
    PrecisionOption,
    ResizeOption,
    WeightsOption,
    load,
)
from humanpref.cli_prompts import prompts_app
from humanpref.cli_serve import serve_command
from humanpref.cli_train import push_command, train_command
from humanpref.data.sources import DATASETS
from humanpref.errors import HumanprefError, ScoreError, UnknownNameError
from humanpref.memory import keep_freed_memory
from humanpref.scorers import DEFAULT_SCORER, SPECS, LoadOptions, get_spec
from humanpref.terminal import progress as _progress
from humanpref.terminal import say as _say

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="humanpref",
    help="Which of these images would a person prefer?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(prompts_app, name="prompts")
app.add_typer(annotate_app, name="annotate")
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(improve_app, name="improve")
app.command("evaluate")(evaluate_command)
app.command("generate")(generate_command)
app.command("batch")(batch_command)
app.command("select")(select_command)
app.command("train")(train_command)
app.command("push")(push_command)
app.command("serve")(serve_command)


def _complete_download(incomplete: str) -> list[str]:
    return [name for name in (*SPECS, *DATASETS) if name.startswith(incomplete)]


ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, folders, globs or URLs.")]
PromptOption = Annotated[str, typer.Option("--prompt", "-p", help="The text the images were made for.")]
AllowUrlOption = Annotated[bool, typer.Option("--allow-url", help="Fetch images given as http(s) URLs.")]


@app.command("score")
def score_command(
    images: ImagesArgument,
    prompt: PromptOption,
    model: ModelOption = DEFAULT_SCORER,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    resize: ResizeOption = "antialias",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    format: FormatOption = "table",
    allow_url: AllowUrlOption = False,
) -> None:
    """Rank images for a prompt, with the probability that each is preferred."""
    from humanpref import output
    from humanpref.images import expand_sources
    from humanpref.ranking import score

    sources = expand_sources(images, allow_url=allow_url)
    scorer = load(model, LoadOptions(weights, arch, resize, precision, device))
    with _progress("Scoring", len(sources)) as advance:
        report = score(sources, prompt, scorer, on_image=advance)
    _say(*report.notes)
    print(output.RENDER_SCORE[format](report))
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
    resize: ResizeOption = "antialias",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    format: FormatOption = "table",
    allow_url: AllowUrlOption = False,
) -> None:
    """Put images of one prompt head to head: how likely is each preferred to each other one?"""
    from humanpref import output
    from humanpref.images import expand_sources
    from humanpref.ranking import compare

    sources = expand_sources(images, allow_url=allow_url)
    if len(sources) < 2:
        raise ScoreError(f"a comparison needs at least two images, got {len(sources)}")
    scorer = load(model, LoadOptions(weights, arch, resize, precision, device))
    with _progress("Scoring", len(sources)) as advance:
        comparison = compare(sources, prompt, scorer, on_image=advance)
    _say(*comparison.notes)
    print(output.RENDER_COMPARISON[format](comparison))


@app.command("models")
def models_command(format: FormatOption = "table") -> None:
    """List the scorers."""
    from humanpref import output

    print(output.RENDER_MODELS[format](tuple(SPECS.values())))


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
    from humanpref.scorers.weights import locate_all

    if name in DATASETS:
        print(download_dataset(name, out))
        return
    try:
        spec = get_spec(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}; or a dataset: {', '.join(DATASETS)}") from None
    if out is not None:
        raise UnknownNameError(f"--out is for datasets; the weights of {name} go to the Hub's cache (HF_HOME)")
    if spec.ships:
        _say(f"{name} ships with the package; there is nothing to download")
        return
    print(*locate_all(spec, None), sep="\n")


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Where to put the images it makes.")] = Path("humanpref-demo"),
    format: FormatOption = "table",
) -> None:
    """Rank example images; then go from prompts to preferences in a small world of shapes. Works offline."""
    from humanpref import output
    from humanpref.demo import PROMPT, contact_sheet, make_examples, save_image
    from humanpref.demo_pipeline import DATABASE, improve_images, run_pipeline, write_benchmark, write_page
    from humanpref.improve.gains import signed
    from humanpref.ranking import score
    from humanpref.scorers import load_scorer

    lite = load_scorer("lite")
    try:
        report = score(make_examples(out), PROMPT, lite)
        save_image(contact_sheet(report), out / "ranking.png")
    except OSError as error:
        raise HumanprefError(f"{out}: the demo's images cannot be written ({error})") from None
    _say(*report.notes)
    print(output.RENDER_SCORE[format](report))
    _say(f"Look at {out / 'ranking.png'}")
    prompts, evaluation, link = run_pipeline(out, lite, track=_progress)
    write_page(prompts, evaluation, out / "index.html")
    _say(f"Look at {out / 'index.html'}: prompts, cleaned, drawn by four sources, ranked and scored")
    if (site := write_benchmark(out, lite)) is not None:
        _say(f"Look at {site}: the four sources compared, every prompt with their images side by side")
    improved, page = improve_images(out, lite, track=_progress)
    by_lite, truly = improved.gains
    truth = f"{signed(truly.gain)} in truth" if truly.holds else f"no sure gain in truth ({signed(truly.gain)})"
    _say(f"Look at {page or improved.out}: the best of four, as lite chooses: {signed(by_lite.gain)} by lite, {truth}")
    if link is not None:
        _say(
            f"Rank them yourself: humanpref annotate serve --db {out / DATABASE}",
            f"then open http://127.0.0.1:8000/join/{link}",
        )


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


def main() -> None:
    """Run the command line: exit status 0 done, 1 bad input (one line on stderr), 2 usage."""
    from PIL import Image

    keep_freed_memory()
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
        _leave_interrupted()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has caught the interrupt
            _leave_interrupted()
        raise


def _leave_interrupted() -> None:
    """End at once with status 130, everything unwound already. On the ordinary way out CPython would raise the signal
    once more where the interrupt had passed through code made from text, as dataclasses are: status -2 at times."""
    with suppress(OSError, ValueError):  # nobody is left to read
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
