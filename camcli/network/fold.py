"""Fold each BatchNorm into the convolution before it: the same result with one operation less for each value."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from camcli.network import run_hooked
from camcli.network.equivalence import outputs_match, probe_inputs
from camcli.network.hooks import eval_frozen, forward_hooks, forward_pre_hooks

_TOLERANCE = 1e-4
"""Largest difference that folding may make to logits or a chosen layer, as a fraction of the largest value."""


class _DropAct(nn.Module):
    """The part of timm's BatchNormAct2d after the normalisation; its submodules keep their names."""

    def __init__(self, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.drop, self.act = drop, act
        self.training = False

    def forward(self, tensor: Tensor) -> Tensor:
        result: Tensor = self.act(self.drop(tensor))
        return result


class _Trace(TorchFunctionMode):
    """Record of one forward pass: how often each module ran, what each convolution returned, and what used that output."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, int] = {}
        self.outputs: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept so that its id is not reused
        self.uses: dict[str, int] = {}
        self.pairs: dict[str, str] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, (Tensor, tuple, list)):  # other results are shapes and the like
            for value in (*args, *(kwargs or {}).values()):
                for tensor in value if isinstance(value, (tuple, list)) else (value,):
                    if id(tensor) in self.outputs:
                        name = self.outputs[id(tensor)][0]
                        self.uses[name] = self.uses.get(name, 0) + 1
        return result

    def conv_hook(self, name: str) -> Any:
        def remember(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.runs[name] = self.runs.get(name, 0) + 1
            self.outputs[id(output)] = (name, output)

        return remember

    def norm_hook(self, name: str) -> Any:
        def match(_module: nn.Module, inputs: Any) -> None:
            self.runs[name] = self.runs.get(name, 0) + 1
            if id(inputs[0]) in self.outputs:
                self.pairs[self.outputs[id(inputs[0])][0]] = name

        return match

    def foldable(self) -> dict[str, str]:
        """Convolution -> BatchNorm, where both ran once and nothing else used the convolution's output."""
        return {
            conv: norm for conv, norm in self.pairs.items() if self.runs[conv] == self.runs[norm] == 1 and self.uses.get(conv) == 1
        }


def fold_batch_norms(module: nn.Module, inputs: Tensor, names: Sequence[str]) -> tuple[nn.Module, int]:
    """A copy of ``module`` with BatchNorms folded into convolutions, and how many were folded.

    One pass with ``inputs`` (B, 3, H, W) finds them. Passes with other images check the result: logits and outputs of the layers
    ``names`` must agree to 1e-4 of their largest value, gradients as in ``outputs_match``; in float64 if float32 is too coarse.
    Returns ``module`` itself and 0 if nothing can be folded, ``module`` and -1 if it cannot be copied or the check fails. The copy
    shares all tensors except the folded weights. W' = W g / s and b' = (b - m) g / s + B, with mean m, weight g, bias B
    and s = sqrt(variance + eps), computed in float64 (Ioffe and Szegedy 2015, algorithm 2).
    """
    with _hooked(module, names) as trace:
        run_hooked(module, inputs, names)
    pairs = trace.foldable()
    if not pairs:
        return module, 0
    try:
        folded = copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
        for conv, norm in pairs.items():
            _fold(folded, conv, norm)
        proved = _proved(module, folded, inputs, names)
    except Exception:  # a user's module may not be copyable, or behave differently as a copy
        return module, -1
    return (folded, len(pairs)) if proved else (module, -1)


def _proved(module: nn.Module, folded: nn.Module, inputs: Tensor, names: Sequence[str]) -> bool:
    images = probe_inputs(inputs, 2)
    if outputs_match(partial(run_hooked, module), partial(run_hooked, folded), images, names, _TOLERANCE):
        return True
    if images.device.type == "mps":
        return False
    exact, found = copy.deepcopy(module).double(), copy.deepcopy(folded).double()
    return outputs_match(partial(run_hooked, exact), partial(run_hooked, found), images.double(), names, _TOLERANCE)


@contextmanager
def _hooked(module: nn.Module, names: Sequence[str]) -> Iterator[_Trace]:
    """Inside, the passes of ``module`` are traced; convolutions in ``names`` are left out."""
    children = list(module.named_modules())
    convs = [(name, child) for name, child in children if name not in names and _is_foldable(child)]
    norms = [(name, child) for name, child in children if _is_unhooked(child) and _remainder(child) is not None]
    with (
        _Trace() as trace,
        eval_frozen(module),
        forward_hooks((child, trace.conv_hook(name)) for name, child in convs),
        forward_pre_hooks((child, trace.norm_hook(name)) for name, child in norms),
    ):
        yield trace


def _is_foldable(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution that uses its weight as it is, neither standardised nor computed from others."""
    known = type(module) is nn.Conv2d or (isinstance(module, nn.Conv2d) and type(module).__name__ == "Conv2dSame")  # timm's
    return known and _is_unhooked(module) and not parametrize.is_parametrized(module)


def _is_unhooked(module: nn.Module) -> bool:
    return not (module._forward_hooks or module._forward_pre_hooks)


def _remainder(norm: nn.Module) -> nn.Module | None:
    """The module that replaces a BatchNorm once its normalisation is folded; None if it cannot be folded."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        return None
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    if type(norm).__name__ == "BatchNormAct2d" and isinstance(drop, nn.Module) and isinstance(act, nn.Module):
        return _DropAct(drop, act)  # timm's, which applies an activation function after the normalisation
    return None


def _fold(root: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = root.get_submodule(conv_name), root.get_submodule(norm_name)
    remainder = _remainder(norm)
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and remainder is not None  # noqa: PT018
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: PT018
    scale = (_exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _exact(norm.weight)
    bias = _exact(conv.bias) if conv.bias is not None else torch.zeros_like(scale)
    bias = (bias - _exact(norm.running_mean)) * scale
    if norm.bias is not None:
        bias = bias + _exact(norm.bias)
    weight = _exact(conv.weight) * scale[:, None, None, None]
    memory_format = torch.channels_last if conv.weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    weight = weight.to(conv.weight).contiguous(memory_format=memory_format)
    conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    parent, _, last = norm_name.rpartition(".")
    setattr(root.get_submodule(parent), last, remainder)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()  # on the host: Apple's GPUs have no float64
