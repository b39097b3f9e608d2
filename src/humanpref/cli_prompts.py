"""The commands about prompts: `humanpref prompts collect` and `clean`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from humanpref.cli_options import (
    RayAddressOption,
    ReportFormatOption,
    only_for,
)
from humanpref.errors import HumanprefError
from humanpref.terminal import progress, say

if TYPE_CHECKING:
    from humanpref.prompts.records import Cleaner

prompts_app = typer.Typer(
    name="prompts",
    help="Collect prompts from public sets, and clean them down to their content.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@prompts_app.command("collect")
def collect_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="COCO captions, DiffusionDB metadata.parquet, PartiPrompts, DrawBench, HPS benchmark, plain text, our "
            "own prompts: recognised from the content. NAME=PATH names the set.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="What to write: .jsonl, .parquet or .txt.")],
    quota: Annotated[list[str] | None, typer.Option(metavar="NAME=N", help="At most N of a set; repeat it.")] = None,
    seed: Annotated[int, typer.Option(help="Which prompts a quota draws.")] = 0,
    min_chars: Annotated[int, typer.Option(help="Leave out shorter prompts.")] = 3,
    max_chars: Annotated[int, typer.Option(help="Leave out longer prompts.")] = 1000,
    language: Annotated[list[str] | None, typer.Option(help="Keep this language (en by default), or any.")] = None,
    max_prompt_nsfw: Annotated[float, typer.Option(help="Leave out from this prompt_nsfw on (over 1: never).")] = 0.5,
    max_image_nsfw: Annotated[float, typer.Option(help="Leave out from this image_nsfw on (over 2: never).")] = 0.5,
    near: Annotated[float, typer.Option(help="Similarity of near-duplicates, from 0.5 to 1; 0: keep them.")] = 0.8,
    format: ReportFormatOption = "table",
) -> None:
    """Collect prompts from public sets: filtered, without duplicates, sampled by quota; every drop is counted."""
    from humanpref.prompts import output
    from humanpref.prompts.collect import collect
    from humanpref.prompts.filters import CollectOptions

    chosen = tuple(language or ("en",))
    options = CollectOptions(
        min_chars=min_chars,
        max_chars=max_chars,
        languages=() if chosen == ("any",) else chosen,
        max_prompt_nsfw=max_prompt_nsfw,
        max_image_nsfw=max_image_nsfw,
        near=near,
        quotas=_quotas(quota or []),
        seed=seed,
    )
    with progress("Reading", None) as advance:
        report = collect(sources, out, options, on_rows=lambda _: advance())
    for source in report.sources:
        if source.short:
            say(f"{source.source}: {source.short} fewer than its quota of {source.quota}")
    print(output.collect_json(report) if format == "json" else output.collect_table(report))


@prompts_app.command("clean")
def clean_command(
    prompts: Annotated[Path, typer.Argument(help="Prompts, in any layout that collect knows.")],
    out: Annotated[Path, typer.Option(help="What to write: .jsonl, .parquet or .txt.")],
    cleaner: Annotated[
        Literal["rules", "llm"], typer.Option(help="rules: offline. llm: a model behind an API.")
    ] = "rules",
    review: Annotated[Path | None, typer.Option(help="Write a page of all changes for a person to review.")] = None,
    held: Annotated[
        Path | None, typer.Option(help="Where prompts go that need a person, or are empty (OUT.review.jsonl).")
    ] = None,
    llm_model: Annotated[str | None, typer.Option(help="llm: the model's name at the endpoint.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="llm: an OpenAI-compatible endpoint; its key is OPENAI_API_KEY.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, max=256, help="llm: requests at a time (8).")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.1, help="llm: seconds until one is given up (60).")] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="llm: tries after the first (6).")] = None,
    price_in: Annotated[float | None, typer.Option(min=0, help="llm: price of a million input tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="llm: price of a million output tokens.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="llm: where answers are kept (OUT.cache.sqlite): a run resumes.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="rules: this machine (the default), or workers on a Ray cluster."),
    ] = None,
    ray_address: RayAddressOption = None,
    workers: Annotated[int | None, typer.Option(help="rules: how many processes or actors clean (1).", min=1)] = None,
    format: ReportFormatOption = "table",
) -> None:
    """Rewrite prompts to their content: no artist lists, quality boosters, engines, contradictory styles."""
    from humanpref.prompts import output
    from humanpref.prompts.clean import clean_file, count_prompts

    chosen: Cleaner
    asking: dict[str, Any] = {"concurrency": concurrency, "timeout": timeout, "retries": retries}
    of_llm = {"llm_model": llm_model, "base_url": base_url, "price_in": price_in, "price_out": price_out}
    if cleaner == "llm":
        from humanpref.prompts.llm import LLMCleaner, LLMOptions

        only_for(
            "--cleaner rules (llm waits for its endpoint, see --concurrency)",
            engine=engine, ray_address=ray_address, workers=workers,
        )  # fmt: skip
        if not llm_model:
            raise HumanprefError("--cleaner llm needs --llm-model, the model's name at the endpoint")
        if not (key := os.environ.get("OPENAI_API_KEY")):
            raise HumanprefError("--cleaner llm needs the key in the environment variable OPENAI_API_KEY "
                                 "(any word for an endpoint that asks for none)")  # fmt: skip
        given = {name: value for name, value in asking.items() if value is not None}
        options = LLMOptions(llm_model, base_url, price_in=price_in, price_out=price_out, **given)
        chosen = LLMCleaner(options, key, cache or out.with_name(out.name + ".cache.sqlite"))
    else:
        from humanpref.engines import Engine
        from humanpref.prompts.rules import RuleCleaner
        from humanpref.prompts.spread import SpreadCleaner

        only_for("--cleaner llm", **of_llm, **asking, cache=cache)
        where = Engine("local" if engine is None else engine, workers or 1, ray_address)
        chosen = RuleCleaner()
        if where != Engine():
            chosen = SpreadCleaner(RuleCleaner, chosen.name, where, say)
    with progress("Cleaning", count_prompts(prompts)) as advance:
        report = clean_file(prompts, out, chosen, held=held, review=review, on_prompt=advance)
    print(output.clean_json(report) if format == "json" else output.clean_table(report))
    if waiting := report.status["review"] + report.status["empty"]:
        say(f"{waiting:,} prompts need a person or have no content: {report.held}")
    if review is not None:
        say(f"Look at {review}")


def _quotas(given: list[str]) -> dict[str, int]:
    quotas: dict[str, int] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        if not equals or not name or not number.isdigit():
            raise typer.BadParameter(f"{text!r} is not NAME=NUMBER, as in diffusiondb=300", param_hint="--quota")
        if name in quotas:
            raise typer.BadParameter(f"{name} has two quotas", param_hint="--quota")
        quotas[name] = int(number)
    return quotas
