"""The training loop, on Hugging Face Accelerate: one CPU, one GPU, or many by torchrun (DDP, FSDP), the same code."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from humanpref import metrics
from humanpref.errors import MissingExtraError, TrainingError, reason_of
from humanpref.evaluation.evaluate import TestSet
from humanpref.training.batches import Batch, Inputs, Place, TrainData
from humanpref.training.checkpoints import LOG, Log, State, TrainFolder, read_state
from humanpref.training.config import TrainConfig
from humanpref.training.model import apply, decay_groups
from humanpref.training.terms import count_terms, loss_terms, right_pairs
from humanpref.training.tracking import Trackers
from humanpref.training.validate import Validation, validate

BAD_BATCH = "bad-batch.json"


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its state, the last validation, and whether it stopped early. `skipped`: examples left out since
    an image could not be read."""

    state: State
    validation: Validation | None
    stopped_early: bool
    skipped: int
    resumed_from: int


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step 0, 1 ...: linear warm-up, then a cosine to 0 (open_clip's `cosine_lr`), or constant."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * done)) * config.learning_rate


def make_accelerator(config: TrainConfig, device: str = "auto") -> Any:
    """Start Accelerate: on the CPU if `device` says so, else on what the process has; bf16 as configured.

    Raises `MissingExtraError`.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError:
        raise MissingExtraError('training needs accelerate: pip install "humanpref[train]"') from None
    # it remembers the first precision of the process for good: a second run in one process may want another
    AcceleratorState._reset_state()
    return Accelerator(cpu=device == "cpu" or None, mixed_precision="bf16" if config.precision == "bf16" else "no")


class Trainer:
    """One run in one folder. `fit` takes it to its end, from the latest checkpoint if there is one."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        data: TrainData,
        config: TrainConfig,
        folder: TrainFolder | None,
        accelerator: Any,
        *,
        out: Path,
        validation: TestSet | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.config, self.inputs, self.data, self.out = config, inputs, data, out
        self.accelerator, self.folder, self.validation = accelerator, folder, validation
        self.place = Place(accelerator.process_index, accelerator.num_processes)
        optimizer = torch.optim.AdamW(
            decay_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.trackers = trackers
        self.state = State()
        self._log: Log | None = None

    @property
    def plain(self) -> nn.Module:
        """The model without what Accelerate wrapped around it."""
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def fit(
        self, on_step: Callable[[], None] | None = None, on_validation: Callable[[Validation], None] | None = None
    ) -> Outcome:
        """Train to the end, validating and saving as configured -> how it ended.

        Raises `TrainingError` when the loss or its gradient is no number (the batch is saved beside the checkpoints,
        which stay), when a checkpoint cannot be written, or for an image that cannot be read.
        """
        config, start = self.config, self._resume()
        self.model.train()
        found: Validation | None = None
        stopped = False
        batches = self.data.batches(self.inputs, config, self.place, start)
        window = _Window()
        for step in range(start, config.steps):
            row = self._step(step, batches, window)
            self.state = replace(self.state, step=step + 1, skipped=self.state.skipped + row.pop("skipped"))
            if config.log_every and ((step + 1) % config.log_every == 0 or step + 1 == config.steps or step == 0):
                self._note({"step": step + 1, **row, **window.rates()})
            last = step + 1 == config.steps
            if self.validation is not None and (last or _due(step + 1, config.validate_every)):
                found = self._validate()
                if on_validation is not None:
                    on_validation(found)
                stopped = bool(config.patience) and self.state.worse >= config.patience
            better = self.state.best_step == step + 1
            if last or stopped or better or _due(step + 1, config.save_every):
                self._save()
            if on_step is not None:
                on_step()
            if stopped:
                break
        if self._log is not None:
            self._log.close()
        return Outcome(self.state, found, stopped, self.state.skipped, start)

    def _step(self, step: int, batches: Iterator[Batch], window: _Window) -> dict[str, Any]:
        """One update of the weights from `accumulate` batches of every process -> what to log."""
        config, accelerator = self.config, self.accelerator
        began = time.perf_counter()
        micro = [next(batches).to(accelerator.device) for _ in range(config.accumulate)]
        window.waited += time.perf_counter() - began
        counts = [count_terms(batch, config) for batch in micro]
        total = self._sum(float(sum(counts)))
        rate = learning_rate(step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        summed, right, untied = torch.zeros((), device=accelerator.device), 0, 0
        for number, batch in enumerate(micro):
            with self._syncing(last=number + 1 == len(micro)):
                with accelerator.autocast():
                    scores, log_sigma = apply(self.model, batch)
                scores = scores.float()
                part = loss_terms(scores, None if log_sigma is None else log_sigma.float(), batch, config).sum()
                # a mean over all terms of the step, whatever their share of processes and passes; DDP averages over
                # processes
                accelerator.backward((part + 0.0 * scores.sum()) * self.place.world / max(total, 1.0))
            summed += part.detach()
            good, all_ = right_pairs(scores, batch)
            right, untied = right + good, untied + all_
        loss = self._sum(float(summed)) / max(total, 1.0)
        free = [p for p in self.model.parameters() if p.requires_grad]
        norm = float(accelerator.clip_grad_norm_(free, config.clip or math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._refuse(step, micro, loss, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.plain.clamp()  # type: ignore[operator]
        skipped = int(self._sum(float(sum(len(batch.skipped) for batch in micro))))
        window.add(int(self._sum(float(sum(len(batch.image_of) for batch in micro)))), time.perf_counter() - began)
        accuracy = self._sum(float(right)) / max(1.0, self._sum(float(untied)))
        return {"loss": loss, "accuracy": accuracy, "learning_rate": rate, "gradient": norm, "skipped": skipped}

    def _syncing(self, *, last: bool) -> AbstractContextManager[object]:
        """Gradients are averaged over processes once per step, with the last batch."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def _sum(self, value: float) -> float:
        if self.place.world == 1:
            return value
        total = self.accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=self.accelerator.device), "sum")
        return float(total)

    def _validate(self) -> Validation:
        assert self.validation is not None

        def gather(own: list[metrics.Array]) -> list[list[metrics.Array]]:
            if self.place.world == 1:
                return [own]
            shares: list[Any] = [None] * self.place.world
            torch.distributed.all_gather_object(shares, own)
            return shares

        with self.accelerator.autocast():
            found = validate(
                self._scoring_model(), self.validation, self.inputs, self.accelerator.device, self.place, gather
            )
        best = self.state.best_accuracy
        if best is None or found.pair_accuracy > best:
            self.state = replace(self.state, best_step=self.state.step, best_accuracy=found.pair_accuracy, worse=0)
        else:
            self.state = replace(self.state, worse=self.state.worse + 1)
        self._note({"step": self.state.step, "validation": asdict(found)})
        return found

    def _scoring_model(self) -> nn.Module:
        return self.plain if self.accelerator.distributed_type != "FSDP" else self.model

    def _note(self, row: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.add(row)
        if self.trackers is not None:
            flat = {f"validation/{k}": v for k, v in row.get("validation", {}).items()}
            flat |= {f"train/{k}": v for k, v in row.items() if k not in {"step", "validation"}}
            self.trackers.add(flat, row["step"])

    def _save(self) -> None:
        if self.folder is None and self.place.world == 1:
            return
        folder = self.folder or _OtherProcess(self.out)
        main = bool(self.accelerator.is_main_process)
        folder.save(
            self.state,
            lambda path: self.accelerator.save_state(str(path)),
            main=main,
            wait=self.accelerator.wait_for_everyone,
        )
        if main and self.folder is not None:
            self.folder.prune(self.config.keep, self.state.best_step)

    def _resume(self) -> int:
        """Load the latest checkpoint, if any -> the step to go on with."""
        latest = (self.folder or _OtherProcess(self.out)).latest()
        if latest is not None:
            self.load(latest)
            self.state = read_state(latest, State)
        if self.accelerator.is_main_process and self.folder is not None:
            self._log = Log(self.out / LOG, self.state.step)
        if self.trackers is not None:
            self.trackers.start(self.state.step)
        return self.state.step

    def load(self, checkpoint: Path) -> None:
        """Load weights, optimiser and random state of a checkpoint. Raises `TrainingError` for a damaged one."""
        try:
            self.accelerator.load_state(str(checkpoint))
        except Exception as error:  # a damaged file makes the readers raise almost anything
            raise TrainingError(
                f"{checkpoint}: the checkpoint cannot be read ({reason_of(error)}); delete it to go on from the one "
                "before"
            ) from error

    def _refuse(self, step: int, micro: list[Batch], loss: float, norm: float) -> None:
        """Save what the batch was and stop: the weights have not been touched by it."""
        file = self.out / (BAD_BATCH if self.place.rank == 0 else f"bad-batch-{self.place.rank}.json")
        rows = [
            {
                "prompts": list(batch.texts),
                "images": list(batch.paths),
                "image_of": batch.image_of.tolist(),
                "prompt_of": batch.prompt_of.tolist(),
                "preferred": batch.preferred.tolist(),
                "scores": _numbers(apply(self.plain, batch)[0]) if self.place.world == 1 else None,
            }
            for batch in micro
        ]
        file.write_text(
            json.dumps({"step": step + 1, "loss": str(loss), "gradient": str(norm), "batches": rows}, indent=1)
        )
        what = f"loss {loss}" if not math.isfinite(loss) else f"gradient of norm {norm}"
        last = (self.folder or _OtherProcess(self.out)).latest()
        raise TrainingError(
            f"step {step + 1}: {what}, so training stopped; the batch is in {file}, the last good checkpoint is "
            f"{last or 'none'}. A lower learning_rate, clip=1 or more warm-up may help"
        )


class _OtherProcess(TrainFolder):
    """The folder as seen by the processes that do not own it."""

    def __init__(self, path: Path) -> None:  # neither locks nor cleans
        self.path = path


class _Window:
    """Images per second and the share of time spent waiting for data, since the last row of the log."""

    def __init__(self) -> None:
        self.images, self.seconds, self.waited = 0, 0.0, 0.0

    def add(self, images: int, seconds: float) -> None:
        self.images, self.seconds = self.images + images, self.seconds + seconds

    def rates(self) -> dict[str, float]:
        seconds = max(self.seconds, 1e-9)
        found = {"images_per_second": self.images / seconds, "waiting": self.waited / seconds}
        self.__init__()  # type: ignore[misc]
        return found


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _numbers(values: Tensor) -> list[str]:
    return [str(x) for x in values.detach().float().tolist()]
