"""The command `humanpref improve finetune`: a LoRA towards what a scorer or people prefer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from humanpref.cli_options import (
    DeviceOption,
    ReportFormatOption,
    WeightsOption,
    complete_model,
    load,
    only_for,
)
from humanpref.errors import UnknownNameError
from humanpref.scorers import LoadOptions, Precision, get_spec
from humanpref.terminal import progress, say

if TYPE_CHECKING:
    from humanpref.generate.diffusion import DiffusersBackend
    from humanpref.improve.finetune.config import FinetuneConfig
    from humanpref.improve.finetune.run import FinetuneReport
    from humanpref.scorers import Scorer


def finetune_command(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="PROMPTS|RANKINGS",
            help="draft, refl: prompts (JSON Lines, JSON list, Parquet, text). dpo: rankings in any known format.",
        ),
    ],
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            "-b",
            metavar="diffusers:MODEL[,option=value...]",
            help="The pipeline, and how images are sampled: steps, guidance, size, scheduler.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the run is kept; the same command goes on there.")],
    algorithm: Annotated[str | None, typer.Option(help="draft (the default), refl or dpo.")] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="The scorer that is the reward.", autocompletion=complete_model)
    ] = "hps-v2.1",
    weights: WeightsOption = None,
    check_model: Annotated[
        str | None,
        typer.Option(
            help="A second scorer, never trained on: it says which step is the best, and when to stop.",
            autocompletion=complete_model,
        ),
    ] = None,
    check_weights: Annotated[Path | None, typer.Option(help="A checkpoint file for the second scorer.")] = None,
    val: Annotated[Path | None, typer.Option(help="Held-out prompts; else some of the data's own.")] = None,
    images: Annotated[Path | None, typer.Option(help="dpo: where the images are, if not beside the data.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file of options; those given here win.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the LoRA.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images (dpo: pairs) at a time.")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Batches per update.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of AdamW.")] = None,
    last_steps: Annotated[int | None, typer.Option(min=1, help="draft: steps that gradients go through.")] = None,
    kl: Annotated[float | None, typer.Option(help="draft, refl: how strongly to stay near the model.")] = None,
    beta: Annotated[float | None, typer.Option(help="dpo: how strongly to stay near the model.")] = None,
    lora_rank: Annotated[int | None, typer.Option(min=1, help="Rank of the LoRA.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop after so many validations without a better one (0: never).")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16, of the frozen weights.")] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option("--checkpointing/--no-checkpointing", help="Compute activations twice, to save memory."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all that is random.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other option of the configuration.")
    ] = None,
    device: DeviceOption = "auto",
    tracker: Annotated[
        list[str] | None, typer.Option(help="Where curves go: tensorboard (the default), wandb, none. May be repeated.")
    ] = None,
    format: ReportFormatOption = "table",
) -> None:
    """Train a LoRA on a diffusers pipeline towards a scorer, or from pairs of images; a second scorer keeps watch."""
    given = {
        "algorithm": algorithm, "steps": steps, "batch": batch, "accumulate": accumulate, "kl": kl, "beta": beta,
        "learning_rate": learning_rate, "last_steps": last_steps, "lora_rank": lora_rank, "patience": patience,
        "precision": precision, "checkpointing": checkpointing, "seed": seed,
    }  # fmt: skip
    if check_model is None:
        only_for("--check-model, which is not given", check_weights=check_weights)
    chosen = _configure(config, {k: v for k, v in given.items() if v is not None}, set_ or ())
    pipeline = _pipeline(backend, device)
    from humanpref.improve.finetune.run import finetune

    fp32: Precision = "fp32" if chosen.precision == "fp32" else "auto"
    scorer = _scorer(model, weights, fp32, device)
    check = None if check_model is None else _scorer(check_model, check_weights, "auto", device)
    names = tracker or ["tensorboard"]
    report = finetune(
        data,
        out,
        chosen,
        backend=pipeline,
        scorer=scorer,
        check_scorer=check,
        val=val,
        images=images,
        trackers=[] if names == ["none"] else names,
        track=progress,
        say=say,
    )
    if report.stopped_early:
        say(f"stopped early after step {report.state.step}: {chosen.patience} validations without a better one")
    if report.overoptimised:
        say(report.overoptimised)
    if check is None:
        say("no --check-model: nothing told a better picture from one that only fools the reward")
    if report.state.best_step == 0:
        say("no step was better than the model as it was: the LoRA does nothing")
    say(f"card, curves and pictures: {out / 'README.md'}")
    print(_as_json(report) if format == "json" else _as_table(report))


def _configure(path: Path | None, options: dict[str, object], assignments: Sequence[str]) -> FinetuneConfig:
    from humanpref.improve.finetune.config import FinetuneConfig, read_config
    from humanpref.improve.methods import ImproveError
    from humanpref.training.config import with_options

    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ImproveError(f"--set {text}: write NAME=VALUE")
        if key in options:
            raise ImproveError(f"--set {text}: {key} is given twice")
        options[key] = value
    return with_options(FinetuneConfig() if path is None else read_config(path.expanduser()), options)


def _pipeline(spec: str, device: str) -> DiffusersBackend:
    from humanpref.generate import make_backend
    from humanpref.generate.options import parse_spec
    from humanpref.improve.methods import only_diffusers

    if (kind := parse_spec(spec)[0]) != "diffusers":
        raise UnknownNameError(f"--backend {spec}: only a pipeline can be fine-tuned (diffusers:MODEL), not {kind}")
    return only_diffusers(make_backend(spec, {"device": device}), "fine-tuning")


def _as_json(report: FinetuneReport) -> str:
    from dataclasses import asdict

    from humanpref.tables import to_json

    found: dict[str, Any] = {**asdict(report), "out": str(report.out), "lora": str(report.lora)}
    found["lora_last"] = str(report.lora_last)
    return to_json(found)


def _as_table(report: FinetuneReport) -> str:
    from humanpref.improve.finetune.report import show
    from humanpref.tables import add_row, make_table, render

    table = make_table(None, ">scorer", "before", "after", ">gain, 95 % interval")
    for name, found in ((report.scorer, report.reward), (report.check_scorer, report.check)):
        if name is not None and found is not None:
            add_row(table, name, f"{found.baseline:.4g}", f"{found.mean:.4g}", show(found))
    return f"{render(table)}\n{report.lora} (step {report.state.best_step})"


def _scorer(name: str, weights: Path | None, precision: Precision, device: str) -> Scorer:
    """A scorer on the pipeline's device; those that ship with the package have only one of their own."""
    if get_spec(name).ships:
        return load(name, LoadOptions(weights))
    return load(name, LoadOptions(weights, precision=precision, device=device))
