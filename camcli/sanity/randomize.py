"""Weights redrawn, a few layers of a network at a time, and put back bit by bit.

New weights come from each module's own ``reset_parameters``, that is: the layer as it was before training. Two things need more.
A BatchNorm that is reset divides by a variance of 1, and behind many layers nothing is left of the image: in the bundled model
the peak of Grad-CAM falls by a power of ten with each block, in a network four times as deep below what float32 holds. So it gets
the mean and the variance of what reaches it for the images at hand, as it would have in training. And a parameter whose module has
no ``reset_parameters`` (class tokens, position embeddings, layer scales) is drawn from a normal distribution of the parameter's own
deviation, cut at twice that.
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
"""Blocks that are wanted: names are taken apart until there are as many, and not beyond."""

ROOT = "(itself)"
"""Name of the layer of parameters that belong to the network itself and to no module in it, such as class tokens."""

_FALLBACK_DEVIATION = 0.02
"""Of the new values of a parameter whose own are all alike, and which its module cannot reset."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that lose their weights together. ``modules``: dotted names of those that hold the weights; empty is the network."""

    name: str
    modules: tuple[str, ...]


def find_layer_groups(module: nn.Module, image: Tensor, steps: str = "blocks") -> list[LayerGroup]:
    """Every layer with weights that runs on ``image`` (1, 3, H, W), grouped, in the order of the cascade: the last to run first.

    The order is that in which modules begin to run, the last time where they run several times; that of registration says
    nothing. ``steps``: ``all`` for single layers, ``blocks`` for parts of the network, by as few parts of the dotted names as
    give FEWEST of them. Normalisation goes with what it follows. Raises ModelError for a network without weights.
    """
    layers = _executed(module, image)
    if not layers:
        raise ModelError("the network has no weights that could be randomized.")
    norms = {name for layer in layers for name in layer.modules if _normalises(module.get_submodule(name))}
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
    """Layers whose names agree in ``depth`` parts together, where the last of them stands; normalisations with what is before."""
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


def _normalises(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not _has_parts(module)


def _has_parts(module: nn.Module) -> bool:
    """Whether modules inside have weights of their own; timm's BatchNorms hold activation functions, which have none."""
    return any(any(True for _ in child.parameters()) for child in module.children())


def _executed(module: nn.Module, image: Tensor) -> list[LayerGroup]:
    """A layer for each module that runs and holds weights, in the order in which they last begin to.

    Weights of a module that never runs itself (attention's output matrix, which its parent applies) belong to the nearest module
    around it that does; where none does (heads used in training only) they are left alone.
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
            if runs or not name:  # else a part of the network that does not run at all
                holders.setdefault(runs, []).append(name)
    return [LayerGroup(name or ROOT, tuple(holders[name])) for name in sorted(holders, key=order.__getitem__)]


@contextmanager
def randomized(module: nn.Module, groups: Iterable[LayerGroup], seed: int, inputs: Tensor) -> Iterator[None]:
    """Inside, the layers of ``groups`` have new weights; afterwards, also after an error, every bit is as it was.

    A layer's new weights depend on its name and ``seed`` alone, so that it keeps them from step to step. ``inputs`` (B, 3, H, W),
    normalised: the images by which the new BatchNorms among the layers learn their mean and variance.
    """
    names = [name for stage in groups for name in stage.modules]
    kept = [(tensor, tensor.detach().clone()) for name in names for tensor in _own(module.get_submodule(name)).values()]
    try:
        with torch.no_grad():
            for name in names:
                _redraw(module.get_submodule(name), zlib.crc32(f"{seed} {name}".encode()))
        if names:
            _settle_batch_norms(module, names, inputs)
        yield
    finally:
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the module itself, without those of its parts."""
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _redraw(module: nn.Module, seed: int) -> None:
    """New values for what the module itself holds, the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone, which is put back
        fresh = _reset_copy(module)
        for name, tensor in _own(module).items():
            if name in fresh:
                tensor.copy_(fresh[name])
            elif isinstance(tensor, nn.Parameter):
                tensor.copy_(_normal_like(tensor))


def _reset_copy(module: nn.Module) -> dict[str, Tensor]:
    """What the module's own ``reset_parameters`` makes of a copy of it; empty where it has none, or it does not work."""
    if not callable(getattr(module, "reset_parameters", None)) or _has_parts(module):
        return {}
    try:
        fresh: Any = copy.deepcopy(module).cpu()
        fresh.reset_parameters()
    except Exception:  # a user's module may refuse to be copied, or to be reset
        return {}
    return _own(fresh)


def _normal_like(parameter: Tensor) -> Tensor:
    values = parameter.detach().float().cpu()
    deviation = float(values.std(correction=0)) or _FALLBACK_DEVIATION
    return nn.init.trunc_normal_(torch.empty_like(values), std=deviation, a=-2 * deviation, b=2 * deviation)


def _settle_batch_norms(module: nn.Module, names: Sequence[str], inputs: Tensor) -> None:
    """Give the BatchNorms among ``names`` the mean and variance of what reaches them in one pass over ``inputs`` (B, 3, H, W)."""

    def measure(norm: nn.Module, arguments: Any) -> None:
        assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None  # noqa: PT018
        values = arguments[0].transpose(0, 1).flatten(1).float()
        norm.running_mean.copy_(values.mean(dim=1))
        norm.running_var.copy_(values.var(dim=1, correction=0))

    norms = [child for child in map(module.get_submodule, names) if isinstance(child, _BatchNorm)]
    hooks = [(norm, measure) for norm in norms if norm.running_mean is not None and norm.running_var is not None]
    with forward_pre_hooks(hooks), eval_frozen(module), torch.no_grad():
        module(inputs)
