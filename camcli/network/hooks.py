"""Forward hooks that are removed again: read or replace the output of a module while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from camcli.errors import LayerError, ModelError


@contextmanager
def eval_frozen(module: nn.Module) -> Iterator[None]:
    """Inside, ``module`` is in evaluation mode and its parameters need no gradient; afterwards both are as before."""
    training = [child for child in module.modules() if child.training]
    recording = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for child in training:
            child.training = False
        for parameter in recording:
            parameter.requires_grad_(False)
        yield
    finally:
        for child in training:
            child.training = True
        for parameter in recording:
            parameter.requires_grad_(True)


Hook = Callable[..., Any]
"""(module, inputs, output) -> None or another output; a pre-hook is called with (module, inputs)."""


@contextmanager
def forward_hooks(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Inside, each hook is called after every forward pass of its module; it is removed on leaving, also after an error."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.enter_context(module.register_forward_hook(hook))
        yield


@contextmanager
def forward_pre_hooks(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Inside, each hook is called before every forward pass of its module; it is removed on leaving, also after an error."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.enter_context(module.register_forward_pre_hook(hook))
        yield


@contextmanager
def capture_outputs(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """A dictionary that each forward pass fills: module name -> its output, of any shape, with gradients.

    The output is kept as a clone, and the network continues with another clone: the next layer may work in place (DenseNet's
    ``features``, a residual ``+=``) and would overwrite the kept one. The clone of the first captured layer is detached, so
    autograd records nothing before it. Later captured layers stay connected to it, so one backward pass serves all. If a module
    runs several times, its last output is kept; if it returns a tuple or list, the first tensor. The order is that of the
    modules' last execution, an outer module after its parts. The hooks are removed on leaving, also after an error.
    """
    outputs: dict[str, Tensor] = {}
    with forward_hooks((module.get_submodule(name), _keeper(outputs, name)) for name in names):
        yield outputs


@contextmanager
def override_output(module: nn.Module, name: str, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Context in which ``replace`` changes the output of the submodule ``name``, any shape; of a tuple its first tensor."""

    def exchange(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return replace(output) if isinstance(output, Tensor) else with_first(output, replace(output[0]))

    with forward_hooks([(module.get_submodule(name), exchange)]):
        yield


def _keeper(outputs: dict[str, Tensor], name: str) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        first = first_tensor(output)
        if first is None:
            return None
        kept = _own_copy(first)
        outputs.pop(name, None)
        outputs[name] = kept
        return kept.clone() if isinstance(output, Tensor) else with_first(output, kept.clone())

    return keep


def first_tensor(output: Any) -> Tensor | None:
    """A module's output, or the first element of its tuple or list, if that is a tensor, of any shape; else None."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _own_copy(tensor: Tensor) -> Tensor:
    if tensor.requires_grad or not tensor.is_floating_point():
        return tensor.clone()
    return tensor.detach().clone().requires_grad_()


def with_first(output: Any, first: Tensor) -> Any:
    """A tuple or list like ``output``, with ``first``, of any shape, as its first element."""
    rest = [first, *output[1:]]
    if hasattr(output, "_make"):  # a named tuple
        return output._make(rest)
    return type(output)(rest)


def logits_of(output: Any) -> Tensor:
    """The logits (B, K) in a classifier's output: a tensor, a tuple that begins with it, or an object with a ``logits`` field.

    Raises ModelError for anything else.
    """
    if hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, dict) and "logits" in output:
        output = output["logits"]
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ModelError(f"the model returns a {type(output).__name__}, not the logits of a classifier.")
    if output.ndim != 2:
        raise ModelError(f"the model returns {tuple(output.shape)} for a batch; a classifier returns (batch, classes).")
    return output


def full_precision(tensor: Tensor) -> Tensor:
    """``tensor``, any shape, in float32 if its type is shorter: maps are never computed in a shorter type."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def gradients_of(score: Tensor, outputs: list[Tensor], *, keep_graph: bool) -> list[Tensor]:
    """The gradient of the scalar ``score`` for each captured output (B, ...); zeros if ``score`` does not depend on it.

    Raises LayerError if it depends on none of them.
    """
    if not score.requires_grad:
        raise LayerError("the logits do not depend on the chosen layer.")
    found = torch.autograd.grad(score, outputs, retain_graph=keep_graph, allow_unused=True)
    return [torch.zeros_like(o) if g is None else g for o, g in zip(outputs, found, strict=True)]
