"""A whole fine-tuning: read the data, put the LoRA on, train, keep the best, report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from humanpref.data.formats import open_data
from humanpref.errors import DataError, ScoreError
from humanpref.generate.contract import settings_hash
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.generate.inputs import read_prompts
from humanpref.improve.finetune.adapter import add_lora, write_lora
from humanpref.improve.finetune.config import FinetuneConfig
from humanpref.improve.finetune.loop import LAST, LORA, Finetuner, FinetuneState, Judges, validations
from humanpref.improve.finetune.objectives import Objective, Pairs, Reward, check_differentiable
from humanpref.improve.finetune.sampling import check_pipeline
from humanpref.improve.finetune.validation import Validation, gain
from humanpref.improve.gains import Gain
from humanpref.improve.methods import ImproveError
from humanpref.progress import Track, no_note, no_track
from humanpref.prompts.records import Prompt
from humanpref.records import Pair, Ranking
from humanpref.scorers import Scorer
from humanpref.training.checkpoints import TrainFolder
from humanpref.training.tracking import Trackers

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class FinetuneReport:
    """What a fine-tuning did. `reward`, `check`: the held-out prompts before (the model as it was) and after (the best
    LoRA, which `lora` holds; `lora_last` is that of the last step), on each scorer's own scale; `check` is None without
    a second scorer. `validations`: all of them, in order. `overoptimised` says so where the reward rose while the
    second scorer fell."""

    out: Path
    lora: Path
    lora_last: Path
    model: str
    revision: str
    scorer: str
    check_scorer: str | None
    config: FinetuneConfig
    prompts: int
    pairs: int
    held_out: tuple[str, ...]
    parameters: int
    state: FinetuneState
    validations: tuple[Validation, ...]
    reward: Gain
    check: Gain | None
    stopped_early: bool
    resumed_from: int
    overoptimised: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """Training prompts (dpo: one for each of `pairs`) and held-out ones."""

    prompts: tuple[Prompt, ...]
    pairs: tuple[Pair, ...]
    held_out: tuple[Prompt, ...]
    notes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it, image files by their paths."""
        rows = [(p.id, p.text) for p in (*self.prompts, *self.held_out)]
        pairs = [(p.prompt, str(p.first), str(p.second), p.first_preferred) for p in self.pairs]
        return hashlib.sha256(json.dumps([rows, pairs]).encode()).hexdigest()


def finetune(
    data: str | Path | Sequence[Prompt] | Sequence[Ranking],
    out: str | Path,
    config: FinetuneConfig,
    *,
    backend: DiffusersBackend,
    scorer: Scorer,
    check_scorer: Scorer | None = None,
    val: str | Path | Sequence[Prompt] | None = None,
    images: str | Path | None = None,
    trackers: Sequence[str] = ("tensorboard",),
    track: Track = no_track,
    say: Callable[[str], None] = no_note,
) -> FinetuneReport:
    """Train a LoRA on a diffusers pipeline towards a reward or people's choices; the best one is OUT/lora.safetensors.

    data: prompts (draft, refl), or rankings of images (dpo), a file or records; images: where the rankings' images are,
    if not beside the file. scorer: the reward; for dpo it only judges the held-out prompts. check_scorer: a second one,
    never trained on: it decides which LoRA is the best and when to stop. val: held-out prompts, else `config.held_out`
    of the data's own, which are then not trained on. The same call goes on where a stopped run was; one with another
    configuration, model or data is refused.

    Raises `ImproveError`, `TrainingError`, `DataError`, `GenerateError`, `MissingExtraError`.
    """
    if images is not None and (config.algorithm != "dpo" or not isinstance(data, (str, Path))):
        raise ImproveError("images says where those of a file of rankings are, which dpo learns from; leave it out")
    place = Path(out).expanduser()
    if config.algorithm != "dpo":
        check_differentiable(scorer)
    if check_scorer is not None and _identity(check_scorer) == _identity(scorer):
        raise ImproveError(f"the check scorer is the reward itself ({scorer.spec.name}); choose another, or none")
    backend = _prepared(backend, config)
    found = _read(data, val, images, config)
    for note in found.notes:
        say(note)
    folder = TrainFolder(place)
    try:
        facts = {
            "data": found.fingerprint,
            "model": settings_hash(backend.revision, backend.settings),
            "scorer": _identity(scorer),
            "check_scorer": None if check_scorer is None else _identity(check_scorer),
        }
        folder.agree(config, facts)
        check_pipeline(backend)
        parameters = add_lora(backend.pipeline, config)
        objective: Objective = (
            Pairs(backend, found.prompts, found.pairs, config)
            if config.algorithm == "dpo"
            else Reward(backend, found.prompts, scorer, config)
        )
        writers = Trackers(trackers, place, asdict(config))
        judges = Judges(found.held_out, scorer, check_scorer)
        run = Finetuner(backend, parameters, objective, judges, config, folder, writers)
        try:
            with track("Fine-tuning", config.steps) as advance:
                stopped, start = run.fit(advance, lambda one: say(_line(one, scorer, check_scorer)))
        finally:
            writers.close()
        write_lora(backend.pipeline, place / LAST)
        run.load_best()
        write_lora(backend.pipeline, place / LORA)  # of `best_step`, also where a run was killed as it wrote another
    finally:
        folder.close()
    history = tuple(validations(place))
    base, best = history[0], next(one for one in history if one.step == run.state.best_step)
    report = FinetuneReport(
        out=place,
        lora=place / LORA,
        lora_last=place / LAST,
        model=str(backend.settings["model"]),
        revision=backend.revision,
        scorer=scorer.spec.name,
        check_scorer=None if check_scorer is None else check_scorer.spec.name,
        config=config,
        prompts=len({prompt.text for prompt in found.prompts}),
        pairs=len(found.pairs),
        held_out=tuple(prompt.text for prompt in found.held_out),
        parameters=sum(p.numel() for p in parameters.values()),
        state=run.state,
        validations=history,
        reward=gain(base.reward, best.reward),
        check=gain(base.check, best.check) if base.check else None,
        stopped_early=stopped,
        resumed_from=start,
        overoptimised=overoptimised(history, scorer.spec.name, "" if check_scorer is None else check_scorer.spec.name),
        notes=found.notes,
    )
    from humanpref.improve.finetune.report import write_report

    write_report(report)
    return report


def overoptimised(history: Sequence[Validation], scorer: str, check: str) -> str | None:
    """Say that the reward is being fooled, if it is: since the best validation the reward rose while the second scorer
    fell. None where it did not, or there is no second scorer."""
    if not history[0].check:
        return None
    best, last = max(history, key=lambda one: (one.decides, -one.step)), history[-1]
    reward, fell = gain(best.reward, last.reward), gain(best.check, last.check)
    if last.step == best.step or reward.gain <= 0 or fell.gain >= 0:
        return None
    sure = fell.harms
    return (
        f"from step {best.step} to {last.step} {scorer} rose from {reward.baseline:.4g} to {reward.mean:.4g} while "
        f"{check} fell from {fell.baseline:.4g} to {fell.mean:.4g}"
        + (": the reward is overoptimised" if sure else ", by no more than chance would")
    )


def _prepared(backend: DiffusersBackend, config: FinetuneConfig) -> DiffusersBackend:
    """The backend in the number format that is asked for, without a LoRA of its own."""
    if backend.config.lora is not None:
        raise ImproveError(f"{backend.name}: fine-tuning starts from the model itself; leave lora out of --backend")
    device = backend.config.device
    cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if cpu and config.precision == "fp16":
        raise ImproveError("precision fp16 is for GPUs; choose fp32 or bf16")
    wanted = DTYPES[config.precision]
    if backend.config.dtype not in {"auto", wanted}:
        raise ImproveError(f"--backend says dtype={backend.config.dtype}, precision says {wanted}; leave dtype out")
    return backend.changed(dtype=wanted, batch_size=backend.config.batch_size)


def _read(
    data: str | Path | Sequence[Prompt] | Sequence[Ranking],
    val: str | Path | Sequence[Prompt] | None,
    images: str | Path | None,
    config: FinetuneConfig,
) -> Data:
    notes: list[str] = []
    prompts, pairs = _pairs(data, images, notes) if config.algorithm == "dpo" else (_prompts(data), ())
    distinct = list({prompt.text: prompt for prompt in prompts}.values())
    if val is not None:
        held = _prompts(val)
        if shared := {p.text for p in held} & {p.text for p in prompts}:
            notes.append(f"{len(shared)} of the {len(held)} held-out prompts are trained on, too")
    else:
        if len(distinct) < 2:
            raise DataError("there is one prompt; fine-tuning needs some to train on and some to hold out")
        count = max(1, min(config.held_out, len(distinct) // 5))
        held = tuple(sorted(distinct, key=lambda p: hashlib.sha256(p.text.encode()).digest())[:count])
        without = {prompt.text for prompt in held}
        kept = [i for i, prompt in enumerate(prompts) if prompt.text not in without]
        prompts = tuple(prompts[i] for i in kept)
        pairs = tuple(pairs[i] for i in kept) if pairs else ()
        notes.append(f"{len(held)} of {len(distinct)} prompts are held out and not trained on")
    return Data(tuple(prompts), tuple(pairs), tuple(held), tuple(notes))


def _prompts(data: str | Path | Sequence[Prompt] | Sequence[Ranking]) -> tuple[Prompt, ...]:
    if isinstance(data, (str, Path)):
        return read_prompts(data)[0]
    if not data or not all(isinstance(one, Prompt) for one in data):
        raise DataError("draft and refl take prompts, not rankings; learn from rankings with algorithm dpo")
    return tuple(data)  # type: ignore[arg-type]


def _pairs(
    data: str | Path | Sequence[Prompt] | Sequence[Ranking], images: str | Path | None, notes: list[str]
) -> tuple[tuple[Prompt, ...], tuple[Pair, ...]]:
    """Rankings to pairs without ties, whose images are there, with the prompt of each."""
    rankings = open_data(data, images).rankings() if isinstance(data, (str, Path)) else data
    there: dict[Path, bool] = {}
    pairs, ties, missing = [], 0, 0
    for ranking in rankings:
        if not isinstance(ranking, Ranking):
            raise DataError("dpo takes rankings of images, not prompts")
        for image in ranking.images:
            there.setdefault(image.path, image.path.is_file())
        for pair in ranking.pairs():
            if pair.first_preferred == 0.5:
                ties += 1
            elif there[pair.first.path] and there[pair.second.path]:
                pairs.append(pair)
            else:
                missing += 1
    if ties:
        notes.append(f"{ties} pairs are ties, which dpo learns nothing from, and were left out")
    if missing:
        notes.append(f"{missing} pairs were left out since an image is not on disk")
    if not pairs:
        raise DataError(f"{data if isinstance(data, (str, Path)) else 'the data'}: holds no pair to learn from")
    named = {text: Prompt(text, hashlib.sha256(text.encode()).hexdigest()[:12]) for text in {p.prompt for p in pairs}}
    return tuple(named[pair.prompt] for pair in pairs), tuple(pairs)


def _identity(scorer: Scorer) -> str:
    try:
        return scorer.identity
    except ScoreError:  # made from weights that were in no file
        return scorer.spec.name


def _line(found: Validation, scorer: Scorer, check: Scorer | None) -> str:
    text = f"step {found.step}: {scorer.spec.name} {sum(found.reward) / len(found.reward):.4g}"
    if check is not None:
        text += f", {check.spec.name} {sum(found.check) / len(found.check):.4g}"
    return text + f" on {len(found.reward)} held-out prompts"
