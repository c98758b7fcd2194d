"""The floating-point type in which a network computes; maps are always computed in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from camcli.errors import ConfigError, first_line
from camcli.network.hooks import forward_hooks

_TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(name: str, device: torch.device) -> str:
    """``name``; for ``auto`` the fastest type of ``device``: bf16 if it has instructions for it, fp16 on older GPUs, else fp32.

    Raises ConfigError for tf32 on anything but CUDA.
    """
    if name == "tf32" and device.type != "cuda":
        raise ConfigError("--precision tf32 is a mode of NVIDIA GPUs; on this device try fp32 or bf16.")
    if name != "auto":
        return name
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= 8 else "fp16" if major >= 7 else "fp32"
    asked = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]  # not in all versions
    return "bf16" if device.type == "cpu" and any(ask is not None and ask() for ask in asked) else "fp32"


def set_precision(modules: list[nn.Module], precision: str, inputs: Tensor) -> torch.dtype:
    """Convert ``modules``, versions of one classifier, to the type of ``precision``; returns the type of their inputs.

    A linear layer that returns the logits stays in float32: eight bits are too few to tell the best classes apart. ``inputs``
    (B, 3, H, W) are for a trial. Raises ConfigError if the network does not run in that type.
    """
    dtype = _TYPES[precision]
    if dtype == torch.float32:
        return dtype
    last = _last_linear(modules[0], inputs)
    kept = {} if last is None else {key: value.clone() for key, value in modules[0].get_submodule(last).state_dict().items()}
    for module in modules:
        module.to(dtype)
        if last is not None:
            linear = module.get_submodule(last).float()
            linear.load_state_dict(kept)
            linear.register_forward_pre_hook(_in_float32)
    try:
        with torch.no_grad():
            modules[-1](inputs.to(dtype))
    except Exception as error:  # the network's forward may raise anything
        raise ConfigError(
            f"--precision {precision}: this network does not run in it ({first_line(error)}). Try --precision fp32."
        ) from error
    return dtype


@contextmanager
def tensor_cores(allowed: bool, device: torch.device) -> Iterator[None]:
    """Inside, an NVIDIA ``device`` rounds float32 products to TF32 if that is ``allowed``, else never; afterwards as before.

    PyTorch's default rounds in convolutions.
    """
    if device.type != "cuda":
        yield
        return
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def _in_float32(_module: nn.Module, inputs: Any) -> Any:
    return tuple(tensor.float() for tensor in inputs)


def _last_linear(module: nn.Module, inputs: Tensor) -> str | None:
    """The name of the linear layer whose output the network returns; None if there is none."""
    returned: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        returned[name] = output

    linear = [(child, partial(keep, name)) for name, child in module.named_modules() if type(child) is nn.Linear and name]
    with forward_hooks(linear), torch.no_grad():
        output = module(inputs)
    return next((name for name, tensor in returned.items() if tensor is output), None)
