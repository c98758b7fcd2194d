"""One forward pass, many explanations: every target, layer and method of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camcli.cam import METHODS, Method, Scene
from camcli.cam.grid import to_spatial
from camcli.cam.variations import fuse_maps, variations
from camcli.errors import LayerError
from camcli.network import Network, Tapped, eager
from camcli.network.hooks import eval_frozen, forward_hooks, forward_pre_hooks, full_precision, gradients_of, logits_of
from camcli.records import Layer

ChooseTargets = Callable[[Tensor], Tensor]
"""logits (B, K) -> class indices (B, T), int64: which classes of each image to explain."""

LAYER_INDEPENDENT = "input"
"""The layer's name in results of methods that do not depend on a layer."""


@dataclass(frozen=True)
class Options:
    """How maps are computed beyond their method.

    ``smooth``, ``noise``, ``augment``: averaging, see ``variations``. ``counterfactual``: gradients negated, what speaks against
    the class (Selvaraju et al. 2017). ``fuse``: ``max`` or ``mean`` over layers, or None. ``chunk``: images at once
    where a method needs many passes. ``binary``: one logit stands for two classes, its negative for the first. ``before_pass``:
    called before each pass through the network, forward or backward; what it raises ends the explanation.
    """

    smooth: int = 0
    noise: float = 0.15
    augment: bool = False
    counterfactual: bool = False
    fuse: str | None = None
    chunk: int = 16
    binary: bool = False
    before_pass: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Explanation:
    """What was found for a batch of B images and T targets each.

    ``logits``: (B, K) float32 (float64 for a network of that). ``targets``: (B, T) int64 class indices. ``maps``: (layer,
    method) -> (B, T, h, w), of the same type, raw; h and w are the layer's own. All without gradient, on the inputs' device.
    """

    logits: Tensor
    targets: Tensor
    maps: dict[tuple[str, str], Tensor]


def explain_batch(
    network: Network | nn.Module,
    inputs: Tensor,
    layers: Sequence[Layer],
    methods: Sequence[str],
    choose: ChooseTargets,
    options: Options | None = None,
) -> Explanation:
    """Heatmaps of ``inputs`` (B, 3, H, W), normalised, for the classes that ``choose`` picks from the logits.

    ``network``: prepared, or a module, which is run as it is.

    The score explained is the logit (Selvaraju et al. 2017, section 3), not the probability, whose gradient vanishes where
    the softmax saturates. One forward pass serves every gradient method, one backward pass through what follows the first layer
    serves every layer and method of a target. Images do not influence each other. The module is as it was afterwards: mode,
    ``requires_grad`` flags, hooks; no ``.grad`` is written.

    Raises LayerError when a layer does not run, the logits do not depend on it, or a method cannot be negated; ConfigError for an
    unknown method.
    """
    options = options or Options()
    chosen = [METHODS[name] for name in dict.fromkeys(methods)]
    check_options(chosen, options)
    if isinstance(network, nn.Module):
        network = eager(network)
    with eval_frozen(network.module):
        if options.smooth or options.augment:
            explanation = _averaged(network, inputs, layers, chosen, choose, options)
        else:
            explanation = _explain(network, inputs, layers, chosen, choose, options)
    return _fused(explanation, layers, chosen, options.fuse)


def _averaged(
    network: Network, inputs: Tensor, layers: Sequence[Layer], methods: Sequence[Method], choose: ChooseTargets, options: Options
) -> Explanation:
    """The mean over varied copies of the images; the classes are those of the images themselves."""
    options.before_pass()
    with torch.no_grad():
        logits = _logits(network.run(network.cast_inputs(inputs), ()), options)
    targets = choose(logits)
    found: dict[tuple[str, str], Tensor] = {}
    count = 0
    for variation in variations(inputs, options.smooth, options.noise, options.augment):
        part = _explain(network, variation.inputs, layers, methods, lambda _: targets, options)
        for key, values in part.maps.items():
            undone = variation.undo(values.flatten(0, 1)).view_as(values)
            found[key] = found[key] + undone if key in found else undone
        count += 1
    return Explanation(logits, targets, {key: values / count for key, values in found.items()})


def check_options(methods: Sequence[Method], options: Options) -> None:
    """Raise LayerError for a method that an option does not allow."""
    stuck = [method.name for method in methods if method.gradient is None]
    if options.counterfactual and stuck:
        raise LayerError(f"--counterfactual negates gradients; method {stuck[0]} has none to negate.")


def result_layers(layers: Sequence[str], method: str, fuse: str | None) -> list[str]:
    """The names of layers under which the maps of ``method`` come, for the layers asked for."""
    if METHODS[method].layer_independent:
        return [LAYER_INDEPENDENT]
    return [f"fuse-{fuse}"] if fuse and len(layers) > 1 else list(layers)


def _explain(
    network: Network, inputs: Tensor, layers: Sequence[Layer], methods: Sequence[Method], choose: ChooseTargets, options: Options
) -> Explanation:
    inputs = network.cast_inputs(inputs)
    options.before_pass()
    with torch.enable_grad():
        tapped = network.run(inputs, [layer.name for layer in layers])
        logits = _logits(tapped, options)
        targets = choose(logits.detach())
        spatial = [
            to_spatial(full_precision(tensor.detach()), layer.grid) for tensor, layer in zip(tapped.outputs, layers, strict=True)
        ]
        maps = _gradient_maps(logits, targets, tapped.outputs, spatial, layers, methods, options)
    for method in methods:
        for layer, activations in list(zip(layers, spatial, strict=True))[: 1 if method.layer_independent else None]:
            if method.scene is not None:
                scene = Scene(network.module, inputs, layer, activations, logits.detach(), targets, options.chunk)
                with _two_classes(network.module, options.binary), _announced(network.module, options.before_pass):
                    found = full_precision(method.scene(scene)).detach()
                maps[LAYER_INDEPENDENT if method.layer_independent else layer.name, method.name] = found
    return Explanation(logits.detach(), targets, maps)


def _logits(tapped: Tapped, options: Options) -> Tensor:
    return torch.cat([-tapped.logits, tapped.logits], dim=1) if options.binary else tapped.logits


def _gradient_maps(
    logits: Tensor,
    targets: Tensor,
    tapped: list[Tensor],
    spatial: list[Tensor],
    layers: Sequence[Layer],
    methods: Sequence[Method],
    options: Options,
) -> dict[tuple[str, str], Tensor]:
    """The maps of all gradient methods: one backward pass for each target and each kind of score."""
    scores = list(dict.fromkeys(method.score for method in methods if method.gradient is not None and method.score is not None))
    steps = [(score, position) for score in scores for position in range(targets.shape[1])]
    found: dict[tuple[str, str], list[Tensor]] = {}
    for step, (score, position) in enumerate(steps):
        # the sum over images separates: image i's score depends on image i alone
        options.before_pass()
        total = score(logits, targets[:, position]).sum()
        gradients = gradients_of(-total if options.counterfactual else total, tapped, keep_graph=step + 1 < len(steps))
        for layer, activations, gradient in zip(layers, spatial, gradients, strict=True):
            cells = to_spatial(full_precision(gradient), layer.grid)
            for method in methods:
                if method.gradient is not None and method.score is score:
                    found.setdefault((layer.name, method.name), []).append(method.gradient(activations, cells))
    return {key: torch.stack(parts, dim=1).detach() for key, parts in found.items()}


@contextmanager
def _two_classes(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, a module of one logit z returns the two logits -z and z, if that is ``wanted``."""

    def both(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        return torch.cat([-logits_of(output), logits_of(output)], dim=1)

    with forward_hooks([(module, both)] if wanted else []):
        yield


@contextmanager
def _announced(module: nn.Module, before_pass: Callable[[], None]) -> Iterator[None]:
    """Inside, ``before_pass`` is called before each forward pass of ``module``, whichever method sends it there."""
    with forward_pre_hooks([(module, lambda _module, _inputs: before_pass())]):
        yield


def _fused(explanation: Explanation, layers: Sequence[Layer], methods: Sequence[Method], how: str | None) -> Explanation:
    if how is None or len(layers) < 2:
        return explanation
    maps: dict[tuple[str, str], Tensor] = {}
    for method in methods:
        if method.layer_independent:
            maps[LAYER_INDEPENDENT, method.name] = explanation.maps[LAYER_INDEPENDENT, method.name]
        else:
            maps[f"fuse-{how}", method.name] = fuse_maps([explanation.maps[layer.name, method.name] for layer in layers], how)
    return Explanation(explanation.logits, explanation.targets, maps)


def top_classes(logits: Tensor, count: int) -> Tensor:
    """The ``count`` classes with the highest logits, best first, the lower index first among equals. (B, K) -> (B, count)."""
    return torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :count]
