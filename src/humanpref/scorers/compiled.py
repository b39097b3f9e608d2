"""An image tower made faster by torch.compile, which writes kernels for one shape: batches are padded to it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import torch
from torch import Tensor

from humanpref.errors import ScoreError

Encode = Callable[[Tensor], Tensor]


def compile_for_batches(encode: Encode, shape: tuple[int, ...], device: torch.device) -> Encode:
    """Compile `encode`, (n, ...) -> (n, d), for batches of `shape`: smaller ones are padded, larger ones cut up.

    Done at once, by a batch of zeros, so that what is wrong is said now. No CUDA graphs: they belong to one thread, and
    with batches of 64 the GPU is not kept waiting by its launches. Raises `ScoreError`.
    """
    size = shape[0]
    # each scorer's own; else all of them share one limit of shapes and devices, beyond which nothing is compiled
    own = {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}

    def run(inputs: Tensor) -> Tensor:
        if len(inputs) > size:
            return torch.cat([run(part) for part in torch.split(inputs, size)])
        padded = inputs.new_zeros(shape)
        padded[: len(inputs)] = inputs
        return compiled(padded)[: len(inputs)]

    try:
        compiled: Encode = torch.compile(encode, dynamic=False, fullgraph=True, **own)  # type: ignore[call-overload]
        with torch.no_grad():
            run(torch.zeros(shape, device=device))
    except Exception as error:  # no C++ compiler, no Triton, an operation it does not know: as many kinds as causes
        reason = str(error).strip().splitlines()
        said = reason[0] if reason else type(error).__name__
        raise ScoreError(f"torch.compile does not work here ({said}); leave --compiled out") from None
    return run
