"""The commands `humanpref train` and `humanpref push`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from humanpref.errors import TrainingError
from humanpref.terminal import progress, say
from humanpref.training.config import PRESETS, TrainConfig, get_preset, with_options


def _complete_preset(incomplete: str) -> list[str]:
    return [name for name in PRESETS if name.startswith(incomplete)]


def train_command(
    data: Annotated[
        Path,
        typer.Option(
            help="Human rankings: a file in any known format, a folder that holds one, or a folder of shards."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the run is kept; the same command goes on there.")],
    val: Annotated[Path | None, typer.Option(help="Human rankings to validate on.")] = None,
    images: Annotated[Path | None, typer.Option(help="Where the images are, if not beside the data.")] = None,
    val_images: Annotated[Path | None, typer.Option(help="Where the validation's images are, if elsewhere.")] = None,
    config: Annotated[
        str, typer.Option(help=f"What the run starts from: {', '.join(PRESETS)}.", autocompletion=_complete_preset)
    ] = "hps-v2",
    base: Annotated[
        str | None, typer.Option(help="Weights to start from: a file, a CLIP scorer's name, or none for random ones.")
    ] = None,
    arch: Annotated[str | None, typer.Option(help="open_clip architecture name or JSON config.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the weights.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples per process and forward pass.")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Forward passes per update.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Largest learning rate.")] = None,
    loss: Annotated[str | None, typer.Option(help="pair, listwise, margin or uncertain.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option("--checkpointing/--no-checkpointing", help="Compute activations twice, to save memory."),
    ] = None,
    bad_images: Annotated[
        str | None, typer.Option(help="What an image that cannot be read does: stop or skip.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that prepare images.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop after so many validations without a better one (0: never).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all that is random.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other option of the configuration.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    name: Annotated[str | None, typer.Option(help="What the model is called (default: the name of --out).")] = None,
    tracker: Annotated[
        list[str] | None, typer.Option(help="Where curves go: tensorboard (the default), wandb, none. May be repeated.")
    ] = None,
) -> None:
    """Train a preference model on human rankings, as HPS v2 was, and export it."""
    given = {
        "base": "" if base == "none" else base, "arch": arch, "steps": steps, "batch": batch, "accumulate": accumulate,
        "learning_rate": learning_rate, "loss": loss, "precision": precision, "checkpointing": checkpointing,
        "bad_images": bad_images, "workers": workers, "patience": patience, "seed": seed,
    }  # fmt: skip
    chosen = configure(config, {k: v for k, v in given.items() if v is not None}, set_ or ())
    names = tracker or ["tensorboard"]
    from humanpref.training.run import train

    report = train(
        data,
        out,
        chosen,
        validation=val,
        images=images,
        validation_images=val_images,
        device=device,
        trackers=[] if names == ["none"] else names,
        name=name,
        track=progress,
        say=say,
    )
    if report.exported is None:
        return
    if report.outcome.stopped_early:
        say(f"stopped early after step {report.outcome.state.step}: {chosen.patience} validations without a better one")
    if report.outcome.skipped:
        say(f"{report.outcome.skipped} examples were left out since an image could not be read")
    say(f"curves and configuration: {out / 'report.html'}", f"model card: {report.exported.folder / 'README.md'}")
    print(report.exported.folder)


def configure(preset: str, options: dict[str, object], assignments: Sequence[str]) -> TrainConfig:
    """A preset with options and NAME=VALUE assignments. Raises `TrainingError` or `UnknownNameError`."""
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise TrainingError(f"--set {text}: write NAME=VALUE")
        if key in options:
            raise TrainingError(f"--set {text}: {key} is given twice")
        options[key] = value
    if options.get("loss") == "listwise":
        options.setdefault("unit", "rankings")
    return with_options(get_preset(preset), options)


def push_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported model: OUT/export of a training run.")],
    repo: Annotated[str, typer.Option(help="Where it goes on the Hub: NAME or OWNER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would go, send nothing.")
    ] = False,
) -> None:
    """Send an exported model to the Hugging Face Hub."""
    from humanpref.training.push import push

    result = push(folder, repo, private=private, dry_run=dry_run)
    for file, size in result.files:
        say(f"{file}: {size:,} bytes")
    say(f"dry run: nothing was sent to {result.url}" if dry_run else f"sent to {result.url}")
    print(result.url)
