"""Images by a `diffusers` pipeline: any model of the Hub, a folder, or `shapes`, which comes with the package.

One random generator for each image, on the CPU: its noise depends on the image's seed alone, not on the batch, the
order, or the device. Only safetensors are read, and no code of a model's is run.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from humanpref.errors import MissingExtraError
from humanpref.generate.contract import GenerateError, Outcome, Request, Settings
from humanpref.generate.options import parse_size
from humanpref.generate.pipeline_files import (
    be_quiet,
    check_parts,
    find_pipeline,
    hash_lora,
    import_diffusers,
    is_folder,
    one_line,
    pipeline_revision,
)
from humanpref.prompts.records import Prompt
from humanpref.shapes import PIPELINE

NOT_OF_THE_IMAGE = frozenset({"batch_size", "device", "device_map", "name", "revision", "lora"})
"""Options that do not decide what an image looks like, or that revision and hashes stand for."""

EMBEDDED: Mapping[str, tuple[Path, Mapping[str, Any]]] = {"shapes": (PIPELINE, {"steps": 25, "guidance": 2.0})}
"""Models that come with the package, by name, and how to use them best. (A folder of that name is `./shapes`.)"""


class PipelineChange(Protocol):
    """Something done to a pipeline so that its images become better (`humanpref.improve`). Frozen and picklable.

    `settings` is whatever decides what it does to an image, for the manifest.
    """

    @property
    def settings(self) -> Settings:
        """What goes into the backend's settings."""
        ...

    def prepare(self, pipeline: Any) -> Sequence[str] | None:
        """Change a pipeline that was loaded, once -> notes for the person who watches, if any.

        Raises `GenerateError` where it does not fit.
        """
        ...

    def options(self, pipeline: Any, requests: Sequence[Request], generators: Sequence[Any]) -> Mapping[str, Any]:
        """Return what the pipeline is to be called with beyond what it would be (say `latents`), for these requests.

        `generators`: one `torch.Generator` on the CPU for each request, seeded by it; what is drawn from them is not
        drawn again by the pipeline.
        """
        ...


@runtime_checkable
class KnowsPrompts(Protocol):
    """What a `PipelineChange` has as well when it does something else for each prompt."""

    def look_at(self, prompts: Sequence[Prompt]) -> None:
        """Settle what is done for each prompt, before the pipeline is loaded. Raises `GenerateError`."""
        ...

    def details(self, request: Request) -> Mapping[str, Any]:
        """Return what was done for a request, for its image's row of the manifest."""
        ...


@dataclass(frozen=True)
class DiffusersConfig:
    """Options; None leaves a thing to the model. `size` is "512x768", width first. `dtype` auto: float16 on a GPU."""

    name: str | None = None
    revision: str | None = None
    variant: str | None = None
    size: str | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    scheduler: str | None = None
    lora: Path | None = None
    lora_scale: float = 1.0
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: str = "auto"
    device_map: str | None = None
    batch_size: int = 4


@dataclass
class DiffusersBackend:
    """A pipeline, loaded when it is first asked for images."""

    model: str
    config: DiffusersConfig
    changes: tuple[PipelineChange, ...] = ()
    name: str = ""
    revision: str = ""
    settings: Settings = field(default_factory=dict)
    chunk: int = 0
    local: bool = False
    made_with: str = ""

    def __post_init__(self) -> None:
        import_diffusers()
        if self.config.batch_size < 1:
            raise GenerateError(f"diffusers:{self.model}: batch_size must be at least 1, got {self.config.batch_size}")
        parse_size(self.config.size)
        shown = self._asked = self.model
        if self.model in EMBEDDED:
            folder, best = EMBEDDED[self.model]
            self.model = str(folder)
            chosen = {key: value for key, value in best.items() if getattr(self.config, key) is None}
            self.config = dataclasses.replace(self.config, **chosen)
        elif is_folder(self.model):
            self.model = str(Path(self.model).expanduser().resolve())
            shown = Path(self.model).name
        self.name = self.config.name or Path(shown).name or "model"
        self.revision = pipeline_revision(
            find_pipeline(self.model, self.config.revision, self.config.variant), self.model
        )
        wanted = {key: value for key, value in asdict(self.config).items() if key not in NOT_OF_THE_IMAGE}
        if self.config.lora is not None:
            wanted["lora_sha256"] = hash_lora(self.config.lora)
        self.settings = {
            "backend": "diffusers",
            "model": shown,
            **wanted,
        }
        if self.changes:
            self.settings = {**self.settings, "changes": [dict(change.settings) for change in self.changes]}
        self.chunk = self.config.batch_size
        self._batch_size = self.config.batch_size
        self._pipeline: Any = None
        self._told: tuple[str, ...] = ()

    def changed(self, *changes: PipelineChange, **options: Any) -> DiffusersBackend:
        """Return such a backend, unloaded, with more done to its pipeline and with other options."""
        config = dataclasses.replace(self.config, **options)
        return DiffusersBackend(self._asked, config, (*self.changes, *changes))

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Let the changes that depend on prompts look at them; the pipeline itself need not know them before."""
        for change in self.changes:
            if isinstance(change, KnowsPrompts):
                change.look_at(prompts)

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """Yield images in order. Out of memory: half the batch, from then on."""
        _ = self.pipeline
        remaining, notes, self._told = list(requests), self._told, ()
        while remaining:
            batch = remaining[: self._batch_size]
            began, failure, no_memory = time.perf_counter(), "", False
            try:
                images, flagged = self._call(batch)
            except GenerateError:
                raise
            except Exception as error:  # whatever a pipeline makes of an odd prompt
                failure, no_memory = one_line(error), is_out_of_memory(error)
            seconds = (time.perf_counter() - began) / len(batch)
            if no_memory:  # after the `except`, whose traceback holds on to the memory
                notes = (*notes, self._halve())
                continue
            if failure and len(batch) > 1:  # one prompt's fault is not the others': each on its own
                for request in batch:
                    yield from self.generate([request])
            elif failure:
                yield Outcome(batch[0], "failed", reason=failure, seconds=seconds, notes=notes)
            else:
                for request, image, unsafe in zip(batch, images, flagged, strict=True):
                    if unsafe:
                        reason = "the model's safety checker"
                        yield Outcome(request, "refused", reason=reason, seconds=seconds, notes=notes)
                    else:
                        cut = self._is_cut(request.prompt.text)
                        more = self._details(request)
                        yield Outcome(
                            request, "done", image=image, seconds=seconds, truncated=cut, notes=notes, details=more
                        )
                    notes = ()
            notes = ()
            del remaining[: len(batch)]

    @property
    def pipeline(self) -> Any:
        """The pipeline as its images are made with: loaded when first asked for, changes done, LoRA applied.

        Raises `GenerateError`, `MissingExtraError`.
        """
        if self._pipeline is None:
            self._pipeline = self._load()
        return self._pipeline

    def arguments(self, batch: Sequence[Request]) -> dict[str, Any]:
        """Return what the pipeline is called with for these requests: prompts, generators, the options that are set.

        Raises `GenerateError` for an option that the pipeline does not take.
        """
        import torch

        options = {
            "num_inference_steps": self.config.steps,
            "guidance_scale": self.config.guidance,
            "negative_prompt": None
            if self.config.negative_prompt is None
            else [self.config.negative_prompt] * len(batch),
        }
        if (size := parse_size(self.config.size)) is not None:
            options |= {"width": size[0], "height": size[1]}
        options = {key: value for key, value in options.items() if value is not None}
        taken = inspect.signature(self.pipeline.__call__).parameters
        if unknown := [name for name in options if name not in taken]:
            raise GenerateError(f"{self.name}: its pipeline ({type(self._pipeline).__name__}) takes no {unknown[0]}")
        if "negative_prompt" in options:
            self._check_negative(options, taken)
        generators = [torch.Generator("cpu").manual_seed(request.seed) for request in batch]
        for change in self.changes:
            options |= change.options(self._pipeline, batch, generators)
        return {"prompt": [request.prompt.text for request in batch], "generator": generators, **options}

    def _check_negative(self, options: Mapping[str, Any], taken: Mapping[str, inspect.Parameter]) -> None:
        """Refuse a negative prompt that the pipeline would not look at: then it would be said to have been used."""
        name = "true_cfg_scale" if "true_cfg_scale" in taken else "guidance_scale"
        scale = options.get(name, taken[name].default if name in taken else None)
        if isinstance(scale, (int, float)) and scale <= 1:
            raise GenerateError(
                f"{self.name}: a negative prompt does nothing where {name} is {scale:g}; it must be above 1"
            )
        config = getattr(getattr(self._pipeline, "unet", None), "config", None)
        if getattr(config, "time_cond_proj_dim", None) is not None:
            raise GenerateError(
                f"{self.name}: its model is guided without a second pass, so it takes no negative prompt"
            )

    def _call(self, batch: Sequence[Request]) -> tuple[list[Any], Sequence[bool]]:
        found = self.pipeline(**self.arguments(batch))
        if len(found.images) != len(batch):
            raise GenerateError(f"{self.name}: its pipeline made {len(found.images)} images for {len(batch)} prompts")
        return found.images, getattr(found, "nsfw_content_detected", None) or [False] * len(batch)

    def _details(self, request: Request) -> Settings:
        found: dict[str, Any] = {}
        for change in self.changes:
            if isinstance(change, KnowsPrompts):
                found |= change.details(request)
        return found

    def _is_cut(self, text: str) -> bool:
        """Tell whether every text encoder of the pipeline reads only the beginning of a prompt."""
        names = ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4")
        tokenizers = [found for name in names if (found := getattr(self._pipeline, name, None)) is not None]
        own = inspect.signature(self._pipeline.__call__).parameters.get("max_sequence_length")  # of T5 and the like
        most = own.default if own is not None and isinstance(own.default, int) else math.inf
        return bool(tokenizers) and all(
            len(one(text).input_ids) > min(one.model_max_length, most) for one in tokenizers
        )

    def _halve(self) -> str:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._batch_size == 1:
            raise GenerateError(
                f"{self.name}: out of memory with one image at a time; choose a smaller --size, --dtype float16, "
                "--device-map balanced, or a larger device"
            )
        was, self._batch_size = self._batch_size, self._batch_size // 2
        return f"out of memory with {was} images at a time; going on with {self._batch_size}"

    def _load(self) -> Any:
        import torch

        diffusers = import_diffusers()
        device = self.config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        wanted = self.config.dtype if self.config.dtype != "auto" else "float32" if device == "cpu" else "float16"
        folder = find_pipeline(self.model, self.config.revision, self.config.variant)
        if (now := pipeline_revision(folder, self.model)) != self.revision:
            raise GenerateError(f"{self.name}: {folder} is revision {now}, the run began with {self.revision}")
        check_parts(folder, diffusers)
        dtype_name = "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 42) else "torch_dtype"
        options: dict[str, Any] = {
            dtype_name: getattr(torch, wanted),
            "use_safetensors": True,
            "local_files_only": True,
        }
        if self.config.variant is not None:
            options["variant"] = self.config.variant
        if self.config.device_map is not None:
            options["device_map"] = self.config.device_map
        be_quiet(diffusers)
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **options)
            if self.config.device_map is None:
                pipeline = pipeline.to(device)
        except Exception as error:  # of several libraries, of all kinds
            if is_out_of_memory(error):
                raise GenerateError(
                    f"{self.name}: out of memory while loading on {device}; try --dtype float16"
                ) from None
            raise GenerateError(f"{self.name}: {folder} cannot be loaded ({one_line(error)})") from None
        pipeline.set_progress_bar_config(disable=True)
        self._schedule(diffusers, pipeline)
        self._adapt(pipeline)
        for change in self.changes:
            self._told += tuple(change.prepare(pipeline) or ())
        self.made_with = (
            f"diffusers {diffusers.__version__}, torch {torch.__version__}, {_device_name(device)}, {wanted}"
        )
        return pipeline

    def _schedule(self, diffusers: Any, pipeline: Any) -> None:
        if (name := self.config.scheduler) is None:
            return
        kind: Any = getattr(diffusers, name, None)
        if kind is None or not issubclass(kind, diffusers.SchedulerMixin):
            names = sorted(c.__name__ for c in getattr(pipeline.scheduler, "compatibles", ()))
            raise GenerateError(f"{name!r} is no scheduler of diffusers; for this model: {', '.join(names)}")
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)

    def _adapt(self, pipeline: Any) -> None:
        if (lora := self.config.lora) is None:
            return
        try:
            pipeline.load_lora_weights(
                str(lora.parent), weight_name=lora.name, use_safetensors=True, adapter_name="lora"
            )
            pipeline.set_adapters(["lora"], [self.config.lora_scale])
        except Exception as error:
            if "peft" in str(error).lower():
                raise MissingExtraError('a LoRA needs peft: pip install "humanpref[generate]"') from None
            raise GenerateError(f"{lora}: cannot be applied to {self.name} ({one_line(error)})") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, of a GPU or of the machine."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and re.search(r"out of memory|can't allocate memory", str(error)) is not None
    )


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
