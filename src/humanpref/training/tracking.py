"""Where the curves go while training: TensorBoard by default, Weights & Biases if asked for, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from humanpref.errors import MissingExtraError, UnknownNameError

NAMES = ("tensorboard", "wandb")


class Trackers:
    """The trackers of one run. Raises `UnknownNameError`, or `MissingExtraError` for one that is not installed."""

    def __init__(self, names: Sequence[str], out: Path, config: Mapping[str, object]) -> None:
        for name in names:
            if name not in NAMES:
                raise UnknownNameError(f"no tracker is called {name!r}; choose from: {', '.join(NAMES)}")
        self._names, self._out, self._config = tuple(names), out, dict(config)
        self._board: Any = None
        self._wandb: Any = None
        self._import()

    def _import(self) -> None:
        try:
            if "tensorboard" in self._names:
                import torch.utils.tensorboard  # noqa: F401
            if "wandb" in self._names:
                import wandb  # noqa: F401
        except ImportError as error:
            hint = "wandb" if "wandb" in str(error) else '"humanpref[train]"'
            raise MissingExtraError(f"this tracker is not installed ({error}): pip install {hint}") from None

    def start(self, step: int) -> None:
        """Begin, or go on after `step`: what a killed run wrote after it is dropped from TensorBoard's curves."""
        if "tensorboard" in self._names:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._out / "tensorboard"), purge_step=step + 1)
        if "wandb" in self._names:
            import wandb

            self._wandb = wandb.init(
                dir=str(self._out), id=self._out.name, name=self._out.name, config=self._config, resume="allow"
            )

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of a step."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
