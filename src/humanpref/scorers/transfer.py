"""Tensors to a device and back without the CPU waiting for a GPU: pinned memory, and an event that says: done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from humanpref.scorers.base import BatchScorer


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor; to a GPU through pinned memory, in line with what that does, without waiting for it.

    From ordinary memory CUDA would first wait until all that was begun is done.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def stack_on_device(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Stack tensors of one shape on the device, as `to_device` does, with one copy less."""
    if device.type != "cuda" or any(tensor.device.type == "cuda" for tensor in tensors):
        return torch.stack([tensor.to(device) for tensor in tensors])
    buffer = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=True)
    torch.stack(list(tensors), out=buffer)
    return buffer.to(device, non_blocking=True)  # the buffer is not given out again before it has been copied


def bring_back(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU; what is returned waits for it and for nothing that was begun later."""
    if tensor.device.type != "cuda":
        return lambda: tensor
    copy = tensor.to("cpu", non_blocking=True)  # into pinned memory
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait


def one_core_a_thread(scorers: Iterable[object]) -> None:
    """Where a GPU runs a network, let each thread that prepares images use one core.

    PyTorch would have every one of them start a team as large as the machine. For processes of ours alone, since it is
    a setting of the whole process, and would slow down networks on the CPU.
    """
    if any(isinstance(scorer, BatchScorer) and scorer.in_flight for scorer in scorers):
        torch.set_num_threads(1)
