"""The command `humanpref generate`: images of prompts by one or many models, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from humanpref.cli_options import (
    CpusPerWorkerOption,
    EngineOption,
    GpusPerWorkerOption,
    PromptsArgument,
    RayAddressOption,
    ReportFormatOption,
    RetryFailedOption,
    WorkersOption,
    prompts_of,
)
from humanpref.errors import HumanprefError, UnknownNameError
from humanpref.terminal import image_progress, say

if TYPE_CHECKING:
    from humanpref.generate import GenerateReport


def generate_command(
    prompts: PromptsArgument,
    backend: Annotated[
        list[str],
        typer.Option(
            "--backend",
            "-b",
            metavar="KIND:WHAT[,option=value...]",
            help="diffusers:MODEL, openai:MODEL, folder:DIR or shapes:SOURCE; several for several models. Its own "
            "options, name=NAME among them, go before those below.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the run; one that was begun is gone on with.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="KIND:WHAT[,option=value...]",
            help="A method that raises the score, for every backend, as noise:reference.png; + joins several.",
        ),
    ] = "none",
    seed: Annotated[int, typer.Option(help="What the seeds of all images are derived from.")] = 0,
    images_per_prompt: Annotated[int, typer.Option(help="Images of each prompt by each model.", min=1)] = 1,
    retry_failed: RetryFailedOption = False,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, as 512x768.")] = None,
    steps: Annotated[int | None, typer.Option(help="diffusers: steps of denoising.", min=1)] = None,
    guidance: Annotated[float | None, typer.Option(help="diffusers: guidance scale.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="diffusers: what to steer away from.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="diffusers: a scheduler by its class name.")] = None,
    lora: Annotated[Path | None, typer.Option(help="diffusers: a LoRA in a .safetensors file.")] = None,
    lora_scale: Annotated[float | None, typer.Option(help="diffusers: how strongly the LoRA is applied.")] = None,
    revision: Annotated[str | None, typer.Option(help="diffusers: a commit, tag or branch of the Hub.")] = None,
    variant: Annotated[str | None, typer.Option(help="diffusers: a variant of the weights, as fp16.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"] | None,
        typer.Option(help="diffusers: auto is float16 on a GPU, else float32."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="diffusers: auto, cpu, cuda or cuda:N.")] = None,
    device_map: Annotated[str | None, typer.Option(help="diffusers: balanced, for models over several GPUs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="diffusers: images at a time; less if memory ends.")] = None,
    base_url: Annotated[str | None, typer.Option(help="openai: another server than OpenAI's own.")] = None,
    quality: Annotated[str | None, typer.Option(help="openai: as the API takes it.")] = None,
    response_format: Annotated[str | None, typer.Option(help="openai: b64_json or url.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="openai: requests at a time.", min=1)] = None,
    timeout: Annotated[float | None, typer.Option(help="openai: seconds until a try is given up.")] = None,
    retries: Annotated[int | None, typer.Option(help="openai: tries after the first.", min=0)] = None,
    allow_url: Annotated[bool | None, typer.Option("--allow-url", help="openai: fetch images from any host.")] = None,
    link: Annotated[
        Literal["copy", "hard", "symbolic"] | None, typer.Option(help="folder: copy images, or link to them.")
    ] = None,
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    workers: WorkersOption = 1,
    gpus_per_worker: GpusPerWorkerOption = 0.0,
    cpus_per_worker: CpusPerWorkerOption = 1.0,
    format: ReportFormatOption = "table",
) -> None:
    """Make images of prompts with one or many models. Stop it when you like: the same command goes on."""
    from humanpref.engines import Engine
    from humanpref.generate import generate, make_backend
    from humanpref.generate.options import parse_spec
    from humanpref.improve import apply_methods, make_methods

    options = {
        "size": size, "steps": steps, "guidance": guidance, "negative_prompt": negative_prompt, "scheduler": scheduler,
        "lora": lora, "lora_scale": lora_scale, "revision": revision, "variant": variant,
        "dtype": dtype, "device": device, "device_map": device_map,
        "batch_size": batch_size, "base_url": base_url, "quality": quality, "response_format": response_format,
        "concurrency": concurrency, "timeout": timeout, "retries": retries, "allow_url": allow_url,
        "link": link,
    }  # fmt: skip
    shared = {name: value for name, value in options.items() if value is not None}
    _check_used(shared, {parse_spec(spec)[0] for spec in backend})
    methods = make_methods(method)
    where = Engine(engine, workers, ray_address, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker)
    found = prompts_of(prompts)
    report = generate(
        found,
        [apply_methods(methods, make_backend(spec, shared)) for spec in backend],
        out,
        seed=seed,
        images_per_prompt=images_per_prompt,
        engine=where,
        retry_failed=retry_failed,
        track=image_progress,
        on_note=say,
    )
    print(_as_json(report) if format == "json" else _as_table(report))
    if report.truncated:
        say(f"of {report.truncated} images the model read only the beginning of the prompt (truncated in the manifest)")
    if report.failed or report.missing_prompts:
        raise HumanprefError(
            f"{report.failed} images failed and {report.missing_prompts} prompts have no image; the reasons are in "
            f"{out / 'manifest.jsonl'}; --retry-failed tries failed ones again"
        )


def _check_used(shared: dict[str, Any], kinds: set[str]) -> None:
    from humanpref.generate.options import users_of

    for name in shared:
        if not kinds & set(users := users_of(name)):
            raise UnknownNameError(f"--{name.replace('_', '-')} is of no use here: it is for {' and '.join(users)}")


def _as_json(report: GenerateReport) -> str:
    from dataclasses import asdict

    from humanpref.tables import to_json

    return to_json({**asdict(report), "images_per_second": report.images_per_second})


def _as_table(report: GenerateReport) -> str:
    from humanpref.tables import add_row, make_table, render

    table = make_table(None, "made", "already there", "refused", "failed", "wanted", "images/s", ">folder")
    counts = (report.made, report.already, report.refused, report.failed, report.wanted)
    add_row(table, *(f"{count:,}" for count in counts), f"{report.images_per_second:.2f}", report.out)
    return render(table)
