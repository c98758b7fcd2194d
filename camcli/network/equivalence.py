"""Check that two ways to run a network are equivalent: in logits, activations, and the gradients between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from camcli.network import Tapped
from camcli.network.hooks import gradients_of
from camcli.network.probe import random_direction

Run = Callable[[Tensor, Sequence[str]], Tapped]


def outputs_match(expected: Run, found: Run, inputs: Tensor, names: Sequence[str], tolerance: float) -> bool:
    """Whether both runs return the same for ``inputs`` (B, 3, H, W): logits and outputs to ``tolerance`` of their largest value.

    The images must differ from each other and from those with which either run was made: a result that ignores its input must not
    pass. Gradients are those of one random mixture of the logits for the layers ``names``; the norm of their difference may be ten
    times the tolerance, and at least 1 %, of their norm: where a ReLU's input is zero up to rounding, single cells may differ more.
    """
    values, gradients = zip(_results(expected, inputs, names), _results(found, inputs, names), strict=True)
    return all(_close(one, other, tolerance) for one, other in zip(*values, strict=True)) and all(
        bool((one - other).norm() <= max(10 * tolerance, 0.01) * one.norm()) for one, other in zip(*gradients, strict=True)
    )


def probe_inputs(like: Tensor, count: int) -> Tensor:
    """``count`` noise images, all different, of the size, type, device and memory format of ``like`` (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randn((count, *like.shape[1:]), generator=generator) * torch.linspace(0.5, 1.5, count)[:, None, None, None]
    return torch.empty_like(like[:1].expand(count, -1, -1, -1), memory_format=torch.preserve_format).copy_(images)


def _results(run: Run, inputs: Tensor, names: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and outputs; gradients."""
    tapped = run(inputs, names)
    score = (tapped.logits * random_direction(tapped.logits)).sum()
    gradients = gradients_of(score, tapped.outputs, keep_graph=False) if names else []
    return [tensor.detach().float() for tensor in (tapped.logits, *tapped.outputs)], [tensor.float() for tensor in gradients]


def _close(expected: Tensor, found: Tensor, tolerance: float) -> bool:
    if expected.shape != found.shape or not bool(expected.isfinite().all()):
        return False
    return bool((expected - found).abs().max() <= tolerance * expected.abs().max())
