"""The loop of fine-tuning: steps, validation, early stopping on the second scorer, checkpoints that a run goes on from.

Everything random is a function of the seed and the number of the step, so a run that was killed ends as one that was
not. One process, one device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from humanpref.errors import ScoreError, TrainingError, reason_of
from humanpref.generate.diffusion import DiffusersBackend, is_out_of_memory
from humanpref.improve.finetune.adapter import set_lora, write_lora
from humanpref.improve.finetune.config import FinetuneConfig
from humanpref.improve.finetune.objectives import Objective
from humanpref.improve.finetune.validation import Validation, validate, write_pictures
from humanpref.improve.methods import ImproveError
from humanpref.prompts.records import Prompt
from humanpref.scorers import Scorer
from humanpref.training.checkpoints import LOG, Log, TrainFolder, checkpoint_of, read_log, read_state
from humanpref.training.tracking import Trackers

LORA, LAST, PICTURES = "lora.safetensors", "lora-last.safetensors", "samples"
WEIGHTS, OPTIMIZER = "lora.safetensors", "optimizer.safetensors"
SKIPPED_IN_A_ROW = 10
"""fp16 tries smaller loss scales so many times before a gradient that is no number ends the run."""


@dataclass(frozen=True)
class FinetuneState:
    """Where a run stands after `step` steps. `best_*`: the best validation; `worse`: validations since then.

    `scale`: what the loss is multiplied by in fp16.
    """

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    worse: int = 0
    scale: float = 65536.0


@dataclass(frozen=True)
class Judges:
    """Who judges the held-out prompts: the scorer that is trained on, and a second one that is not, if any."""

    prompts: tuple[Prompt, ...]
    scorer: Scorer
    check: Scorer | None


class Finetuner:
    """One run in one folder. `fit` takes it to its end, from the latest checkpoint if there is one."""

    def __init__(
        self,
        backend: DiffusersBackend,
        parameters: dict[str, nn.Parameter],
        objective: Objective,
        judges: Judges,
        config: FinetuneConfig,
        folder: TrainFolder,
        trackers: Trackers,
    ) -> None:
        self.backend, self.parameters, self.objective = backend, parameters, objective
        self.judges, self.config, self.folder, self.trackers = judges, config, folder, trackers
        self.optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )
        self.state = FinetuneState()

    @property
    def out(self) -> Path:
        """The folder of the run."""
        return self.folder.path

    def fit(
        self, on_step: Callable[[], None] | None = None, on_validation: Callable[[Validation], None] | None = None
    ) -> tuple[bool, int]:
        """Train to the end -> whether it stopped early, and the step it went on from (0: from the beginning).

        Raises `ImproveError` when loss or gradient is no number or explodes, or memory runs out; then
        `lora.safetensors` is the best one until there, and the checkpoints stay.
        """
        config, start = self.config, self._resume()
        self._log = Log(self.out / LOG, -1 if self.state.best_step is None else start)
        self.trackers.start(start)
        stopped = bool(config.patience) and self.state.worse >= config.patience
        with closing(self._log), _memory(config, self.backend):
            if self.state.best_step is None:
                self._validate(on_validation)
            while self.state.step < config.steps and not stopped:
                self._step()
                step, last = self.state.step, self.state.step == config.steps
                if last or _due(step, config.validate_every):
                    self._validate(on_validation)
                    stopped = bool(config.patience) and self.state.worse >= config.patience
                if last or stopped or self.state.best_step == step or _due(step, config.save_every):
                    self._save()
                if on_step is not None:
                    on_step()
        return stopped, start

    def _step(self) -> None:
        """One update of the LoRA from `accumulate` batches."""
        config, number, began = self.config, self.state.step, time.perf_counter()
        scale, skipped = self.state.scale if config.precision == "fp16" else 1.0, 0
        while True:
            total, figures = self._gradients(number, scale)
            norm = float(nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None]))
            if math.isfinite(norm) or scale == 1.0 or skipped == SKIPPED_IN_A_ROW or not math.isfinite(total):
                break
            scale, skipped = max(1.0, scale / 4), skipped + 1
        if not (math.isfinite(total) and math.isfinite(norm) and norm <= config.max_gradient):
            self._refuse(total, norm)
        if config.clip and norm > config.clip:
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(config.clip / norm)
        rate = config.learning_rate * min(1.0, (number + 1) / config.warmup if config.warmup else 1.0)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state = replace(self.state, step=number + 1, scale=scale if config.precision == "fp16" else 65536.0)
        seconds = time.perf_counter() - began
        if config.log_every and ((number + 1) % config.log_every == 0 or number + 1 == config.steps):
            row = {"loss": total, **figures, "gradient": norm, "learning_rate": rate, "seconds": seconds}
            self._note({"step": number + 1, **row})

    def _gradients(self, number: int, scale: float) -> tuple[float, dict[str, float]]:
        """Put the gradient of a step's mean loss into the parameters -> the loss, and the means of what to log."""
        config = self.config
        self.optimizer.zero_grad()
        total, sums = 0.0, dict[str, float]()
        for part in range(config.accumulate):
            loss, figures = self.objective.loss((number * config.accumulate + part) * config.batch)
            total += float(loss.detach()) / config.accumulate
            if not math.isfinite(total):
                return total, {}
            torch.autograd.backward(loss * (scale / config.accumulate))
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / config.accumulate
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad.div_(scale)
        return total, sums

    def _validate(self, tell: Callable[[Validation], None] | None) -> None:
        """Draw and score the held-out prompts; the best LoRA until now is the one that is written out."""
        judges, step = self.judges, self.state.step
        found, images = validate(self.backend, judges.prompts, judges.scorer, judges.check, self.config.seed, step)
        texts = [prompt.text for prompt in judges.prompts]
        shown = min(self.config.shown, len(images))
        write_pictures(self.out / PICTURES / f"step-{step:06d}.png", images[:shown], texts[:shown])
        best = self.state.best_value
        if best is None or found.decides > best:
            self.state = replace(self.state, best_step=step, best_value=found.decides, worse=0)
            write_lora(self.backend.pipeline, self.out / LORA)
        else:
            self.state = replace(self.state, worse=self.state.worse + 1)
        self._note({"step": step, "validation": {"reward": found.reward, "check": found.check}})
        if step == 0:
            self._save()
        if tell is not None:
            tell(found)

    def _note(self, row: Mapping[str, Any]) -> None:
        self._log.add(row)
        held = {k: v for k, v in row.get("validation", {}).items() if v}
        flat = {f"validation/{name}": math.fsum(values) / len(values) for name, values in held.items()}
        flat |= {f"train/{name}": value for name, value in row.items() if name not in {"step", "validation"}}
        self.trackers.add(flat, row["step"])

    def _save(self) -> None:
        def write(folder: Path) -> None:
            save_file({name: p.detach().cpu() for name, p in self.parameters.items()}, folder / WEIGHTS)
            save_file(self._moments(), folder / OPTIMIZER)

        self.folder.save(self.state, write, main=True, wait=lambda: None)
        self.folder.prune(self.config.keep, self.state.best_step)

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": torch.as_tensor(value).detach().cpu()
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _resume(self) -> int:
        """Load the latest checkpoint, if any -> the step to go on with."""
        if (latest := self.folder.latest()) is None:
            return 0
        self.state = read_state(latest, FinetuneState)
        self.load(latest)
        try:
            for key, value in load_file(latest / OPTIMIZER).items():
                name, _, kind = key.rpartition("/")
                parameter = self.parameters[name]
                self.optimizer.state[parameter][kind] = value if kind == "step" else value.to(parameter.device)
        except Exception as error:  # a damaged file makes the reader raise almost anything
            raise _damaged(latest, error) from None
        return self.state.step

    def load(self, checkpoint: Path) -> None:
        """Give the LoRA a checkpoint's values. Raises `TrainingError` for a damaged one."""
        try:
            set_lora(self.parameters, load_file(checkpoint / WEIGHTS))
        except Exception as error:
            raise _damaged(checkpoint, error) from None

    def load_best(self) -> None:
        """Give the LoRA the values of the best validation."""
        if self.state.best_step is not None and self.state.best_step != self.state.step:
            self.load(checkpoint_of(self.out, self.state.best_step))

    def _refuse(self, loss: float, norm: float) -> None:
        what = f"a loss of {loss}" if not math.isfinite(loss) else f"a gradient of norm {norm:.4g}"
        raise ImproveError(
            f"step {self.state.step + 1}: {what}, so fine-tuning stopped; {self.out / LORA} is the best LoRA before it "
            f"(step {self.state.best_step}). A lower learning_rate, a smaller last_steps, or precision bf16 may "
            "help"
        )


@contextmanager
def _memory(config: FinetuneConfig, backend: DiffusersBackend) -> Iterator[None]:
    """Say what to lower when memory runs out, and what a scorer will not take."""
    try:
        yield
    except (ImproveError, TrainingError):
        raise
    except ScoreError as error:
        raise ImproveError(f"the images cannot be scored ({error})") from None
    except Exception as error:
        if not is_out_of_memory(error) and "out of memory" not in str(error):
            raise
        lower = [f"batch={max(1, config.batch // 2)} (and accumulate={2 * config.accumulate})"] * (config.batch > 1)
        lower += ["checkpointing=true"] * (not config.checkpointing) + ["last_steps=1"] * (config.last_steps > 1)
        lower += ["precision=bf16"] * (config.precision == "fp32" and torch.cuda.is_available())
        raise ImproveError(
            f"{backend.name}: out of memory; set {', '.join(lower) or 'a smaller size in --backend'}"
        ) from None


def validations(out: Path) -> list[Validation]:
    """All validations of a run, from its log."""
    rows = [row for row in read_log(out / LOG) if "validation" in row]
    return [Validation(r["step"], tuple(r["validation"]["reward"]), tuple(r["validation"]["check"])) for r in rows]


def _damaged(checkpoint: Path, error: BaseException) -> TrainingError:
    return TrainingError(
        f"{checkpoint}: the checkpoint cannot be read ({reason_of(error)}); delete it to go on from the one before"
    )


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
