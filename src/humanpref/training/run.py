"""A whole training run: read the data, check it, build the model, train, export, report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from humanpref.data.formats import open_data
from humanpref.errors import DataError, TrainingError
from humanpref.evaluation.evaluate import TestSet, prepare
from humanpref.preprocess import PREPROCESS, PreprocessSpec
from humanpref.progress import Track, no_note, no_track
from humanpref.records import EvalReport, Ranking
from humanpref.scorers.clip_networks import image_size
from humanpref.training import shards
from humanpref.training.batches import Inputs, PixelInputs, TableData, TrainData
from humanpref.training.checkpoints import TrainFolder, checkpoint_of
from humanpref.training.config import TrainConfig
from humanpref.training.embeddings import EmbeddingInputs, embed_data
from humanpref.training.examples import Counts, ExampleTable, Overlap, collecting, make_examples, overlap
from humanpref.training.export import Exported, export_clip, export_head
from humanpref.training.loop import Outcome, Trainer, make_accelerator
from humanpref.training.model import Built, build, build_clip, build_head, free_parameters
from humanpref.training.tracking import Trackers
from humanpref.training.validate import Validation


@dataclass(frozen=True)
class TrainReport:
    """What a run did. `notes` are for people; `evaluation` is of the exported model on the validation data, `exported`
    where it is; both None where there is nothing to export (another process does)."""

    out: Path
    config: TrainConfig
    counts: Counts
    free: int
    parameters: int
    outcome: Outcome
    overlap: Overlap | None
    evaluation: EvalReport | None
    exported: Exported | None
    notes: tuple[str, ...] = ()


def train(
    data: str | Path | Sequence[Ranking],
    out: str | Path,
    config: TrainConfig,
    *,
    validation: str | Path | Sequence[Ranking] | None = None,
    images: str | Path | None = None,
    validation_images: str | Path | None = None,
    device: str = "auto",
    trackers: Sequence[str] = ("tensorboard",),
    name: str | None = None,
    track: Track = no_track,
    say: Callable[[str], None] = no_note,
) -> TrainReport:
    """Train a preference model on human rankings and export it below `out`.

    data, validation: a file in any known format, a folder that holds one, a folder of shards (data only), or rankings.
    images, validation_images: where their images are; those of the validation default to `images` where that is given.
    trackers: "tensorboard", "wandb". name: what the model is called in its card (by default the name of `out`). The
    same call goes on where a stopped run was; one with another configuration or other data is refused.

    Raises `TrainingError`, `DataError`, `WeightsError`, `DownloadError`, `UnknownNameError`, `MissingExtraError`.
    """
    _check_used(data, validation, images, validation_images, config)
    place = Path(out).expanduser()
    accelerator = make_accelerator(config, device)
    main = bool(accelerator.is_main_process)
    torch.manual_seed(config.seed)
    notes: list[str] = []
    source, counts, shared, held_out = _read(data, validation, images, validation_images, config, notes)
    if main:
        for note in notes:
            say(note)
    folder = _open(place, accelerator, main)
    try:
        built, inputs, extra = _model(config, source, held_out, place, accelerator, track)
        free, parameters = free_parameters(built.model)
        if not free:
            raise TrainingError("nothing is free to be trained; raise vision_free or text_free")
        facts = {"data": source.fingerprint, "processes": accelerator.num_processes, **extra}
        if isinstance(source, shards.ShardData):
            facts["workers"] = config.workers
        facts["validation"] = _rankings_fingerprint(held_out)
        if folder is not None:
            folder.agree(config, facts)
        accelerator.wait_for_everyone()
        writers = Trackers(trackers, place, asdict(config)) if main else None
        trainer = Trainer(
            built.model, inputs, source, config, folder, accelerator, out=place, validation=held_out, trackers=writers
        )
        with track("Training", config.steps) as advance:
            outcome = trainer.fit(advance, lambda found: say(_validation_line(trainer, found)) if main else None)
        if writers is not None:
            writers.close()
        _load_best(trainer, place)
        exported, evaluation = None, None
        final = _whole_model(trainer, built, config)
        if main:
            exported = _export(config, built, final, trainer.inputs, place, name)
            evaluation = _evaluate(exported, held_out, device) if held_out is not None else None
    finally:
        if folder is not None:
            folder.close()
    if outcome.skipped:
        notes.append(f"{outcome.skipped} examples were left out since an image could not be read")
    report = TrainReport(place, config, counts, free, parameters, outcome, shared, evaluation, exported, tuple(notes))
    if main:
        from humanpref.training.report import write_card, write_page

        write_card(report)
        write_page(report)
    accelerator.wait_for_everyone()
    return report


def _check_used(
    data: str | Path | Sequence[Ranking],
    validation: str | Path | Sequence[Ranking] | None,
    images: str | Path | None,
    validation_images: str | Path | None,
    config: TrainConfig,
) -> None:
    """Refuse what would be of no use with this data."""
    if validation is None and config.patience:
        raise TrainingError(
            "patience counts validations, and there is nothing to validate on: give --val, or leave it out"
        )
    if validation_images is not None and not isinstance(validation, (str, Path)):
        raise TrainingError("--val-images says where the images of --val are, which is not given; leave it out")
    if images is not None and not isinstance(data, (str, Path)):
        raise TrainingError("images is for data in a file: rankings say where their images are; leave it out")
    if images is not None and isinstance(data, (str, Path)) and shards.is_shards(Path(data).expanduser()):
        raise TrainingError(f"{data}: shards hold their images; leave --images out (for those of --val: --val-images)")


def _open(out: Path, accelerator: Any, main: bool) -> TrainFolder | None:
    """The run's folder in the main process; the others wait until it is there."""
    folder = TrainFolder(out) if main else None
    accelerator.wait_for_everyone()
    return folder


def _read(
    data: str | Path | Sequence[Ranking],
    validation: str | Path | Sequence[Ranking] | None,
    images: str | Path | None,
    validation_images: str | Path | None,
    config: TrainConfig,
    notes: list[str],
) -> tuple[TrainData, Counts, Overlap | None, TestSet | None]:
    held_out: TestSet | None = None
    judged: list[Ranking] = []
    if validation is not None:
        given = isinstance(validation, (str, Path))
        if given:
            root = validation_images or images
            judged = list(open_data(validation, root))  # type: ignore[arg-type]
        else:
            judged = list(validation)  # type: ignore[arg-type]
        held_out = prepare(judged, data=str(validation) if given else "", allow_missing=config.bad_images == "skip")
        if held_out.missing_images:
            notes.append(f"{held_out.missing_images} images of the validation data are not on disk and were left out")
    if isinstance(data, (str, Path)) and shards.is_shards(Path(data).expanduser()):
        source = shards.ShardData.open(Path(data).expanduser())
        return source, source.counts(config), None, held_out
    table, counts = read_examples(data, images, config)
    notes += _count_notes(counts)
    shared = overlap(table, judged) if judged else None
    if shared is not None:
        notes.append(str(shared))
    groups = table.groups() if config.unit == "groups" else None
    return TableData(table, table.fingerprint(), groups), counts, shared, held_out


def read_examples(
    data: str | Path | Sequence[Ranking], images: str | Path | None, config: TrainConfig
) -> tuple[ExampleTable, Counts]:
    """Read training data as `config` says -> (examples, counts); bad rows are errors, or counted with
    bad_images="skip"."""
    if not isinstance(data, (str, Path)):
        return make_examples(data, config)
    bad: list[DataError] = []
    rankings = open_data(data, images).rankings(collecting(bad, config.bad_images))
    table, counts = make_examples(rankings, config)
    return table, Counts(**{**asdict(counts), "bad_rows": len(bad)})


def _count_notes(counts: Counts) -> list[str]:
    notes = []
    if counts.missing_images:
        notes.append(
            f"{counts.missing_images} images of the training data are not on disk; {counts.dropped_rankings} of "
            f"{counts.rankings} rankings had fewer than two left and were left out"
        )
    if counts.bad_rows:
        notes.append(f"{counts.bad_rows} rows of the training data are not what their format says and were left out")
    return notes


def _model(
    config: TrainConfig, source: TrainData, held_out: TestSet | None, out: Path, accelerator: Any, track: Track
) -> tuple[Built, Inputs, dict[str, object]]:
    """Build what is trained, what feeds it, and what else a resume must find unchanged."""
    if config.model == "clip":
        built = build(config)
        return built, pixel_inputs(built, config), {}
    if not isinstance(source, TableData):
        raise TrainingError("a head on frozen embeddings needs images on disk, not shards")
    clip, tokenizer, arch = build_clip(config)
    size = image_size(clip)
    pixels = PixelInputs(_spec(size), config.resize, tokenizer)  # type: ignore[arg-type]
    inputs = embed_data(clip, pixels, source.table, held_out, out, accelerator, config, track)
    return Built(build_head(inputs.width, config), tokenizer, arch, size), inputs, {"backbone": inputs.backbone}


def pixel_inputs(built: Built, config: TrainConfig) -> PixelInputs:
    """What turns images and prompts into the built CLIP's inputs: HPS v2's preprocessing, at the network's size."""
    return PixelInputs(_spec(built.size), config.resize, built.tokenizer)  # type: ignore[arg-type]


def _spec(size: int) -> PreprocessSpec:
    return replace(PREPROCESS["hps-v2"], size=size)


def _load_best(trainer: Trainer, out: Path) -> None:
    """Put the best validated weights in, where there is validation; else the last ones stay."""
    best = trainer.state.best_step
    if best is None or best == trainer.state.step:
        return
    trainer.load(checkpoint_of(out, best))


def _whole_model(trainer: Trainer, built: Built, config: TrainConfig) -> torch.nn.Module:
    """The trained model in one piece: FSDP's shards are gathered (by all processes) into one built anew."""
    if trainer.accelerator.distributed_type != "FSDP":
        return trainer.plain
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.accelerator.is_main_process:
        return trainer.plain
    whole = build(config).model if config.model == "clip" else built.model
    whole.load_state_dict(state)
    return whole


def _export(
    config: TrainConfig, built: Built, model: torch.nn.Module, inputs: Inputs, out: Path, name: str | None
) -> Exported:
    called = name or out.name or "humanpref"
    if isinstance(inputs, EmbeddingInputs):
        return export_head(model, built, config, out / "export", called, inputs)
    return export_clip(model, built, config, out / "export", called)


def _evaluate(exported: Exported, held_out: TestSet, device: str) -> EvalReport:
    """Judge the exported files as anybody would load them."""
    from humanpref.evaluation.evaluate import judge, score_all
    from humanpref.scorers import load_scorer

    scorer = load_scorer(str(exported.folder), precision="fp32", device=device)
    (scores,) = score_all([held_out], [scorer])[0]
    return judge(held_out, [scores])


def _validation_line(trainer: Trainer, found: Validation) -> str:
    return (
        f"step {trainer.state.step}: {100 * found.pair_accuracy:.1f} % of the validation pairs, "
        f"{100 * found.accuracy:.1f} % by HPD v2's rule, loss {found.loss:.4f}"
    )


def _rankings_fingerprint(held_out: TestSet | None) -> str:
    if held_out is None:
        return "none"
    rows = [(i.consensus.prompt, [str(x) for x in i.consensus.images], i.consensus.ranks) for i in held_out.instances]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
