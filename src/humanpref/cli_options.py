"""What several commands have in common: the options of scorers, and loading one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from humanpref.errors import DataError
from humanpref.scorers import SPECS, Decode, LoadOptions, Precision, get_spec
from humanpref.terminal import say

if TYPE_CHECKING:
    from humanpref.preprocess import Resize
    from humanpref.prompts.records import Prompt
    from humanpref.scorers import Scorer


def complete_model(incomplete: str) -> list[str]:
    """Complete the name of a scorer."""
    return [name for name in SPECS if name.startswith(incomplete)]


ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A scorer (see: humanpref models).", autocompletion=complete_model)
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="A checkpoint file, instead of the published one; a second one that the scorer needs lies beside it."
    ),
]
ArchOption = Annotated[str | None, typer.Option(help="open_clip architecture name or JSON config, for other sizes.")]
ResizeOption = Annotated[
    Literal["antialias", "no-antialias"],
    typer.Option(help="HPS v2 only. antialias: torchvision >= 0.17; no-antialias: as before it."),
]
PrecisionOption = Annotated[Precision, typer.Option(help="Number format of the matrix products.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
DecodeOption = Annotated[
    Decode, typer.Option(help="device: JPEG files where the model is (nvJPEG on a GPU); scores move a little.")
]
CompiledOption = Annotated[
    bool, typer.Option("--compiled", help="Compile the image tower by torch.compile, which can take minutes first.")
]
PromptsArgument = Annotated[
    Path, typer.Argument(help="JSON Lines, JSON list, Parquet, or text with one prompt a line.")
]
BACKEND = typer.Option(
    "--backend",
    "-b",
    metavar="KIND:WHAT[,option=value...]",
    help="What draws: diffusers:MODEL, openai:MODEL, folder:DIR or shapes:SOURCE.",
)
RetryFailedOption = Annotated[bool, typer.Option("--retry-failed", help="Make failed images again.")]
EngineOption = Annotated[Literal["local", "ray"], typer.Option(help="This machine, or workers on a Ray cluster.")]
RayAddressOption = Annotated[str | None, typer.Option(help="The Ray cluster; by default one on this machine.")]
WorkersOption = Annotated[int, typer.Option(help="How many processes or actors hold the model.", min=1)]
GpusPerWorkerOption = Annotated[float, typer.Option(help="GPUs that each worker needs.", min=0.0)]
CpusPerWorkerOption = Annotated[float, typer.Option(help="ray: CPUs that each worker needs.", min=0.0)]
FormatOption = Annotated[
    Literal["table", "json", "csv"], typer.Option(help="table for people, json or csv for programs.")
]
ReportFormatOption = Annotated[Literal["table", "json"], typer.Option(help="table for people, json for programs.")]


def only_for(owner: str, **given: object) -> None:
    """Refuse options that were given (are not None) although the command as called uses none of them.

    owner: what they are for, in words. Raises `DataError` that names the first.
    """
    for name, value in given.items():
        if value is not None:
            raise DataError(f"--{name.strip('_').replace('_', '-')} is for {owner}; leave it out")


def common_options(resize: Resize, precision: Precision, device: str) -> LoadOptions:
    """The options of loading that all scorers of a command have in common."""
    return LoadOptions(resize=resize, precision=precision, device=device)


def load(model: str, options: LoadOptions) -> Scorer:
    """Load a scorer by the options of the command line; a terminal is told, since it can take seconds."""
    from humanpref.scorers import load_scorer
    from humanpref.scorers.devices import one_core_a_thread

    if not (model in SPECS and SPECS[model].ships) and sys.stderr.isatty():
        print(f"Loading {model} ...", file=sys.stderr)
    one_core_a_thread([(get_spec(model), options.device)])
    return load_scorer(model, **vars(options))


def prompts_of(path: Path) -> tuple[Prompt, ...]:
    """Read the prompts of a run, and say how many are in the file again."""
    from humanpref.generate.inputs import read_prompts

    found, again = read_prompts(path)
    if again:
        say(f"{path}: {again} prompts are there again; each is taken once")
    return found
