"""The device on which the network runs."""

from __future__ import annotations

import torch

from camcli.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device that ``--device`` names; ``auto`` is CUDA if there is one, else MPS, else the CPU. Raises DeviceError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise DeviceError(f"--device {name!r} is not one of auto, cpu, cuda, cuda:N, mps.")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError("--device cuda: PyTorch sees no CUDA device on this machine; try --device cpu.")
        if index and int(index) >= count:
            raise DeviceError(f"--device {name}: this machine has {count}, cuda:0 to cuda:{count - 1}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: PyTorch sees no Apple GPU on this machine; try --device cpu.")
    return torch.device(name)
