"""A classifier as the methods use it: one call returns its logits and the outputs of the chosen layers.

``eager`` runs the module as it is, with hooks. ``prepare`` makes the same call faster, with the same results up to floating-point
noise: channels-last memory, BatchNorms folded into convolutions (``fold``), a shorter floating-point type (``precision``), and a
partition of the network at the first chosen layer, so that everything before it can be compiled for inference (``partition``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from camcli.errors import LayerError
from camcli.network.hooks import capture_outputs, eval_frozen, full_precision, logits_of


@dataclass(frozen=True, slots=True)
class Tapped:
    """``logits`` (B, K) in full precision, and the ``outputs`` of layers, for which gradients of the logits can be computed."""

    logits: Tensor
    outputs: list[Tensor]


@dataclass(frozen=True, slots=True)
class Network:
    """A classifier ready to be explained.

    ``module``: the network as modules, for methods that need them. ``run``: (inputs (B, 3, H, W), names of layers) -> Tapped;
    raises LayerError for a layer that does not run. ``dtype``: the type of the inputs. ``memory_format``: the fastest for the
    inputs. ``batch``: the batch size of a compiled network, None if any is as good. ``tf32``: whether float32 products may be
    rounded to TF32. ``description``: how the network runs, in words.
    """

    module: nn.Module
    run: Callable[[Tensor, Sequence[str]], Tapped]
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    batch: int | None = None
    tf32: bool = False
    description: str = ""

    def cast_inputs(self, inputs: Tensor) -> Tensor:
        """``inputs`` (B, 3, H, W) in the type and memory format of the network."""
        return inputs.to(self.dtype).contiguous(memory_format=self.memory_format)


def eager(module: nn.Module) -> Network:
    """``module`` as it is, with hooks that are set for each call and removed after it."""
    parameter = next(module.parameters(), None)
    dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
    return Network(module, partial(run_hooked, module), dtype)


def run_hooked(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> Tapped:
    """One forward pass with ``inputs`` (B, 3, H, W) and hooks on ``names``. Autograd records nothing before the first of them.

    If the inputs require a gradient, autograd records everything. Raises LayerError for a layer that does not run.
    """
    with (
        eval_frozen(module),
        capture_outputs(module, names) as outputs,
        torch.set_grad_enabled(bool(names) or inputs.requires_grad),
    ):
        logits = full_precision(logits_of(module(inputs)))
    silent = [name for name in names if name not in outputs]
    if silent:
        raise LayerError(f"layer {silent[0]!r} did not run in the forward pass.")
    return Tapped(logits, [outputs[name] for name in names])
