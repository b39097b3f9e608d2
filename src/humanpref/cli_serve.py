"""The command `humanpref serve`: scorers as an HTTP service."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from humanpref.cli_options import (
    CompiledOption,
    DecodeOption,
    PrecisionOption,
    ResizeOption,
)
from humanpref.cli_scorers import (
    ArchByScorer,
    ModelsOption,
    WeightsByScorer,
    addressed,
    named_scorers,
    options_by_scorer,
)
from humanpref.errors import MissingExtraError, ScoreError, UnknownNameError
from humanpref.scorers import LoadOptions, check_options, get_spec
from humanpref.serve.config import MIB, ServeConfig
from humanpref.terminal import say

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

DevicesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device", metavar="[NAME=]DEVICE", help="auto, cpu, cuda or cuda:N; cuda:0,cuda:1: a replica on each."
    ),
]


def serve_command(
    model: ModelsOption = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="NAME", hidden=True)] = None,
    weights: WeightsByScorer = None,
    arch: ArchByScorer = None,
    resize: ResizeOption = "antialias",
    precision: PrecisionOption = "auto",
    device: DevicesOption = None,
    decode: DecodeOption = "exact",
    compiled: CompiledOption = False,
    host: Annotated[str, typer.Option(help="0.0.0.0: from other machines, behind a TLS proxy.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    api_keys: Annotated[
        Path | None, typer.Option(help="A file of API keys, one a line; else HUMANPREF_API_KEYS; else none is needed.")
    ] = None,
    allow_url: Annotated[
        bool, typer.Option("--allow-url", help="Fetch images by URL, from public addresses only.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=0, help="Most images at once to a model; 0: what suits it.")] = 0,
    max_wait_ms: Annotated[float, typer.Option(help="Longest time that a free model waits for more.")] = 5.0,
    max_queue: Annotated[int, typer.Option(help="Images of a model that may wait; more are refused (429).")] = 1024,
    max_images: Annotated[int, typer.Option(help="Of one request.")] = 64,
    max_body_mib: Annotated[float, typer.Option(help="Of one request.")] = 64,
    max_image_mib: Annotated[float, typer.Option(help="Of one image file.")] = 20,
    max_pixels: Annotated[int, typer.Option(help="Of one image.")] = ServeConfig.max_pixels,
    threads: Annotated[int, typer.Option(min=0, help="That decode images; 0: one per core, at most 8.")] = 0,
    request_seconds: Annotated[
        float, typer.Option(help="Longest time until an answer; more for a slow model.")
    ] = ServeConfig.request_seconds,
    drain_seconds: Annotated[float, typer.Option(help="Longest time to answer what is there when stopped.")] = 30.0,
) -> None:
    """Score images over HTTP: one process, several scorers, requests batched together."""
    config = ServeConfig(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_images=max_images,
        max_body_bytes=int(max_body_mib * MIB),
        max_pending_bytes=max(ServeConfig.max_pending_bytes, int(max_body_mib * MIB)),
        max_image_bytes=int(max_image_mib * MIB),
        max_pixels=max_pixels,
        threads=threads,
        request_seconds=request_seconds,
        drain_seconds=drain_seconds,
        allow_url=allow_url,
    )
    if more and not model:
        raise UnknownNameError(f"{more[0]}: what to serve is named by --model (see: humanpref models)")
    names = named_scorers([*(model or ()), *(more or ())])
    places = _devices(device, names)
    common = LoadOptions(resize=resize, precision=precision, decode=decode, compiled=compiled)
    chosen = options_by_scorer(names, weights, arch, common)
    for name, own in chosen.items():
        for place in places[name]:
            check_options(get_spec(name), replace(own, device=place))
    try:
        from humanpref.serve.keys import read_keys
        from humanpref.serve.models import ModelOptions
        from humanpref.serve.server import serve
    except ModuleNotFoundError as error:
        raise MissingExtraError(f'serving needs {error.name}: pip install "humanpref[serve]"') from None
    models = [ModelOptions(name, own, tuple(dict.fromkeys(places[name]))) for name, own in chosen.items()]
    keys = read_keys(api_keys)
    if not keys and host not in LOOPBACK:
        say(f"anybody who reaches {host}:{port} may use it: no API keys are set (--api-keys)")
    logging.basicConfig(format="humanpref: %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)

    def ready(url: str) -> None:
        say(f"{', '.join(names)} at {url}; stop with Ctrl-C")

    # while models load nothing was taken in; as a container's first process it would not even be ended by the signal
    before = signal.signal(signal.SIGTERM, lambda *_: _leave())
    try:
        serve(models, host, port, config=config, keys=keys, on_ready=ready)
        _leave()
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave() -> NoReturn:
    """End at once with status 0. On the ordinary way out Python would wait for whatever a model is still busy with."""
    logging.shutdown()
    with suppress(OSError, ValueError):  # nobody is left to read
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _devices(values: list[str] | None, names: list[str]) -> dict[str, tuple[str, ...]]:
    """Read `[NAME=]DEVICE[,DEVICE...]` -> each scorer's devices. Those of a name add up; without a name they are meant
    for all scorers that are not named, but for what ships with the package and has only one, if it is among others."""
    own: dict[str | None, list[str]] = {}
    for value in values or ():
        name, devices = addressed(value, names, "--device")
        if name is None and "=" in value:
            raise ScoreError(f"--device {value}: {value.partition('=')[0]} is no scorer of this command")
        if name is None and None in own:
            raise ScoreError(
                f"--device {','.join(own[None])} and --device {devices}: say which scorer each is of, as "
                f"NAME={devices}; or {','.join([*own[None], devices])} for a replica on each"
            )
        own.setdefault(name, []).extend(devices.split(","))
    others = [name for name in names if name not in own]
    if None in own and not others:
        raise ScoreError(f"--device {','.join(own[None])}: is of no use, each scorer has one by name; leave it out")
    for name in others:
        own[name] = own[None] if None in own and not (get_spec(name).ships and len(names) > 1) else ["auto"]
    return {name: tuple(own[name]) for name in names}
