"""Devices: by name, and tensors to one and back without the CPU waiting for it, by pinned memory and events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from humanpref.errors import UnknownNameError
from humanpref.scorers.base import ScorerSpec


def resolve_device(device: str) -> torch.device:
    """Turn a device name into a device that is here: cpu, cuda or cuda:N. Raises `UnknownNameError` otherwise."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in {"cpu", "cuda"} or (index and not (kind == "cuda" and index.isdecimal())):
        raise UnknownNameError(f"no device is called {device!r}; choose from: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UnknownNameError(f"device {device} was asked for, but no CUDA device is available here; use cpu or auto")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UnknownNameError(f"device {device} was asked for, but there are only {torch.cuda.device_count()} here")
    return torch.device(device)


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
        return torch.stack([to_device(tensor, device) for tensor in tensors])
    buffer = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=True)
    torch.stack(list(tensors), out=buffer)
    return buffer.to(device, non_blocking=True)  # the buffer is not given out again before it has been copied


def bring_back(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU; what is returned waits for it and for nothing that was begun later."""
    if tensor.device.type != "cuda":
        return lambda: tensor
    copy = tensor.to("cpu", non_blocking=True)  # into pinned memory
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait


def one_core_a_thread(wanted: Iterable[tuple[ScorerSpec, str]]) -> None:
    """Where a GPU is to run a network, let each thread that prepares images use one core. Before anything is loaded:
    what torch.compile makes is for one number of threads.

    PyTorch would have every one of them start a team as large as the machine. For processes of ours alone, since it is
    a setting of the whole process, and slows down networks on the CPU beside it. `wanted`: rows and their devices.
    """
    if any(not spec.ships and resolve_device(device).type == "cuda" for spec, device in wanted):
        torch.set_num_threads(1)
