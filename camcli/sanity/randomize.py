"""Randomize the weights of some layers of a network, and restore them bit by bit.

Each module gets new weights from its own ``reset_parameters``: the layer as it was before training. There are two exceptions.
A reset BatchNorm would divide by a variance of 1, and the signal would fade out over many layers: in the bundled model the peak of
Grad-CAM falls by a factor of ten with each block, and in a network four times as deep it falls below the range of float32.
Therefore a randomized BatchNorm gets the mean and variance of its inputs for the given images, as it would have in training.
A parameter whose module has no ``reset_parameters`` (class tokens, position embeddings, layer scales) is drawn from a normal
distribution with the parameter's own standard deviation, truncated at two standard deviations.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camcli.errors import ModelError
from camcli.network.hooks import eval_frozen, forward_pre_hooks

FEWEST, MOST = 8, 24
"""Wanted number of blocks: module names are split into finer parts until there are at least 8, unless that gives more than 24."""

ROOT = "(itself)"
"""Layer name for parameters that the network itself holds, outside of its submodules, such as class tokens."""

_FALLBACK_DEVIATION = 0.02
"""Standard deviation of new values for a constant parameter that its module cannot reset."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that are randomized together. ``modules``: dotted names of the modules with weights; an empty name is the network."""

    name: str
    modules: tuple[str, ...]


def find_layer_groups(module: nn.Module, image: Tensor, steps: str = "blocks") -> list[LayerGroup]:
    """The groups of layers to randomize, in the order of the cascade: the layer that runs last comes first.

    Only layers that have weights and run on ``image`` (1, 3, H, W) count. Their order is the order in which they start to run, the
    last time if they run several times; the order of registration is not used. ``steps``: ``all`` gives single layers, ``blocks``
    groups them by the first parts of their dotted names, using as few parts as give FEWEST groups. A normalization layer belongs to
    the layer before it. Raises ModelError for a network without weights.
    """
    layers = _executed(module, image)
    if not layers:
        raise ModelError("the network has no weights that could be randomized.")
    norms = {name for layer in layers for name in layer.modules if _is_normalization(module.get_submodule(name))}
    if steps == "all":
        return _grouped(layers, None, norms)[::-1]
    return _blocks(layers, norms)[::-1]


def _blocks(layers: Sequence[LayerGroup], norms: set[str]) -> list[LayerGroup]:
    deepest = max(layer.name.count(".") + 1 for layer in layers)
    found = _grouped(layers, 1, norms)
    for depth in range(2, deepest + 1):
        if len(found) >= FEWEST:
            break
        finer = _grouped(layers, depth, norms)
        if len(finer) > MOST and len(found) > 2:
            break
        found = finer
    return found


def _grouped(layers: Sequence[LayerGroup], depth: int | None, norms: set[str]) -> list[LayerGroup]:
    """Layers grouped by the first ``depth`` parts of their names, at the position of the last one; None groups nothing.

    A group that contains normalization layers only is joined to the group before it.
    """
    groups: dict[str, list[str]] = {}
    for layer in layers:
        name = ".".join(layer.name.split(".")[:depth])
        members = groups.pop(name, [])
        groups[name] = [*members, *layer.modules]
    found: list[LayerGroup] = []
    for name, modules in groups.items():
        if found and norms.issuperset(modules):
            found[-1] = LayerGroup(found[-1].name, (*found[-1].modules, *modules))
        else:
            found.append(LayerGroup(name, tuple(modules)))
    return found


def _is_normalization(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not _has_parts(module)


def _has_parts(module: nn.Module) -> bool:
    """Whether a submodule has weights; the activation functions inside timm's BatchNorms have none."""
    return any(any(True for _ in child.parameters()) for child in module.children())


def _executed(module: nn.Module, image: Tensor) -> list[LayerGroup]:
    """One layer for each module that has weights and runs, ordered by when it last starts to run.

    The weights of a module that is never called (the output matrix of attention, which its parent applies) belong to the nearest
    enclosing module that is called. If there is none (heads used in training only), they are not randomized.
    """
    began: dict[str, None] = {}

    def starts(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any) -> None:
            began.pop(name, None)
            began[name] = None

        return note

    hooks = [(child, starts(name)) for name, child in module.named_modules() if name]
    with forward_pre_hooks(hooks), eval_frozen(module), torch.no_grad():
        module(image)
    order = {name: position for position, name in enumerate(["", *began])}
    holders: dict[str, list[str]] = {}
    for name, child in module.named_modules():
        if any(True for _ in child.parameters(recurse=False)):
            runs = name
            while runs not in order:
                runs = runs.rpartition(".")[0]
            if runs or not name:  # otherwise this part of the network never runs
                holders.setdefault(runs, []).append(name)
    return [LayerGroup(name or ROOT, tuple(holders[name])) for name in sorted(holders, key=order.__getitem__)]


@contextmanager
def randomized(module: nn.Module, groups: Iterable[LayerGroup], seed: int, inputs: Tensor) -> Iterator[None]:
    """Context in which the layers of ``groups`` have random weights; the old weights are restored bit by bit, also after an error.

    The new weights of a layer depend only on its name and ``seed``, so a layer has the same weights in every step. ``inputs``
    (B, 3, H, W), normalized, are the images from which randomized BatchNorms take their mean and variance.
    """
    names = [name for group in groups for name in group.modules]
    kept = [(tensor, tensor.detach().clone()) for name in names for tensor in _own_tensors(module.get_submodule(name)).values()]
    try:
        with torch.no_grad():
            for name in names:
                _randomize(module.get_submodule(name), zlib.crc32(f"{seed} {name}".encode()))
        if names:
            _calibrate_batch_norms(module, names, inputs)
        yield
    finally:
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the module itself, without those of its submodules."""
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _randomize(module: nn.Module, seed: int) -> None:
    """Assign new values to the module's own parameters and buffers; the same values on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # only the CPU's generator; fork_rng restores it
        fresh = _reset_copy(module)
        for name, tensor in _own_tensors(module).items():
            if name in fresh:
                tensor.copy_(fresh[name])
            elif isinstance(tensor, nn.Parameter):
                tensor.copy_(_normal_like(tensor))


def _reset_copy(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a copy of the module after ``reset_parameters``; empty if it has no such method, or it fails."""
    if not callable(getattr(module, "reset_parameters", None)) or _has_parts(module):
        return {}
    try:
        fresh: Any = copy.deepcopy(module).cpu()
        fresh.reset_parameters()
    except Exception:  # copying or resetting a user's module may fail
        return {}
    return _own_tensors(fresh)


def _normal_like(parameter: Tensor) -> Tensor:
    values = parameter.detach().float().cpu()
    deviation = float(values.std(correction=0)) or _FALLBACK_DEVIATION
    return nn.init.trunc_normal_(torch.empty_like(values), std=deviation, a=-2 * deviation, b=2 * deviation)


def _calibrate_batch_norms(module: nn.Module, names: Sequence[str], inputs: Tensor) -> None:
    """Set mean and variance of the BatchNorms in ``names`` to those of their inputs in one pass over ``inputs`` (B, 3, H, W)."""

    def measure(norm: nn.Module, arguments: Any) -> None:
        assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None  # noqa: PT018
        values = arguments[0].transpose(0, 1).flatten(1).float()
        norm.running_mean.copy_(values.mean(dim=1))
        norm.running_var.copy_(values.var(dim=1, correction=0))

    norms = [child for child in map(module.get_submodule, names) if isinstance(child, _BatchNorm)]
    hooks = [(norm, measure) for norm in norms if norm.running_mean is not None and norm.running_var is not None]
    with forward_pre_hooks(hooks), eval_frozen(module), torch.no_grad():
        module(inputs)
