"""A classifier as the methods see it: one call gives its logits and what the chosen layers returned.

How that call runs is decided here. The plain way is hooks on the module as it is (``eager``). ``prepare`` makes the same call
faster without changing its results beyond floating-point noise: channels-last memory, BatchNorm folded into convolutions
(``fold``), a short floating-point type (``precision``), and the network cut at the first chosen layer, so that what lies before
it can be compiled for inference and only what follows is differentiated (``split``).
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
    """``logits`` (B, K) in full precision, and the ``outputs`` of layers, of which gradients of the logits can be had."""

    logits: Tensor
    outputs: list[Tensor]


@dataclass(frozen=True, slots=True)
class Network:
    """A classifier ready to be explained.

    ``module``: the network with its modules, for methods that need them. ``run``: (inputs (B, 3, H, W), names of layers) ->
    Tapped; raises LayerError for a layer that does not run. ``dtype``: of the inputs. ``memory_format``: in which they are taken
    fastest. ``batch``: the size that a compiled network was made for, None where any will do. ``tf32``: whether products of float32
    may be rounded. ``description``: how it runs, for people.
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
    """``module`` as it is, with hooks for each call, all removed after it."""
    parameter = next(module.parameters(), None)
    dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
    return Network(module, partial(run_hooked, module), dtype)


def run_hooked(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> Tapped:
    """One forward pass over ``inputs`` (B, 3, H, W) with hooks on ``names``: nothing is recorded before the first of them.

    Inputs that require a gradient are recorded from the beginning. Raises LayerError for a layer that does not run.
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
