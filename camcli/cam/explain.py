"""Explain a batch: heatmaps for every target, layer and method from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from camcli.cam import METHODS, Method, Scene, target_logit
from camcli.cam.contributions import channel_contributions
from camcli.cam.grid import to_spatial
from camcli.cam.variations import fuse_maps, variations
from camcli.errors import LayerError
from camcli.network import Network, Tapped, eager
from camcli.network.hooks import eval_frozen, forward_hooks, forward_pre_hooks, full_precision, gradients_of, logits_of
from camcli.records import Layer

ChooseTargets = Callable[[Tensor], Tensor]
"""logits (B, K) -> class indices (B, T), int64: the classes to explain for each image."""

LAYER_INDEPENDENT = "input"
"""The layer name in results of methods that do not depend on the layer."""


@dataclass(frozen=True)
class Options:
    """How maps are computed, apart from their method.

    ``smooth``, ``noise``, ``augment``: averaging, see ``variations``. ``counterfactual``: negate the gradients, to show evidence
    against the class (Selvaraju et al. 2017). ``fuse``: ``max``, ``mean`` or ``product`` over layers, or None. ``chunk``: maximum
    batch size of a method that needs many passes. ``binary``: the only logit is that of the second class, its negative that of the
    first. ``samples``, ``window``, ``stride``, ``seeds``: see ``Scene``. ``before_pass``: called before each forward or backward
    pass through the network; an exception in it ends the explanation. ``contributions``: also compute the contribution of every
    channel; see ``channel_contributions``.
    """

    smooth: int = 0
    noise: float = 0.15
    augment: bool = False
    counterfactual: bool = False
    fuse: str | None = None
    chunk: int = 16
    binary: bool = False
    samples: int | None = None
    window: int | None = None
    stride: int | None = None
    seeds: tuple[int, ...] | None = None
    before_pass: Callable[[], None] = lambda: None
    contributions: bool = False


@dataclass(frozen=True)
class Explanation:
    """The result for a batch of B images with T targets each.

    ``logits``: (B, K) float32 (float64 for a network in float64). ``targets``: (B, T) int64 class indices. ``maps``: (layer,
    method) -> (B, T, h, w), raw, of the logits' type, with the layer's height and width. ``metrics``: column -> (B, T, R) values,
    or (B, T, R, P) curves, float64, for the R maps of a class in the order of the rows; NaN for a map that was not measured.
    ``contributions``: layer -> (B, T, C), of each channel to the target's logit; empty if they were not asked for. With averaging
    they are means too. All are without gradient and on the inputs' device.
    """

    logits: Tensor
    targets: Tensor
    maps: dict[tuple[str, str], Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)
    contributions: dict[str, Tensor] = field(default_factory=dict)


def explain_batch(
    network: Network | nn.Module,
    inputs: Tensor,
    layers: Sequence[Layer],
    methods: Sequence[str],
    choose: ChooseTargets,
    options: Options | None = None,
) -> Explanation:
    """Heatmaps of normalised ``inputs`` (B, 3, H, W) for the classes that ``choose`` picks from the logits.

    ``network``: a prepared network, or a module, which is run as it is.

    The score is the logit (Selvaraju et al. 2017, section 3), not the probability, whose gradient vanishes where the softmax
    saturates. One forward pass serves all gradient methods; for each target, one backward pass down to the first layer serves all
    layers and gradient methods. Images do not influence each other. Afterwards the module's mode, ``requires_grad`` flags and hooks
    are as before; no ``.grad`` is written.

    Raises LayerError if a layer does not run, the logits do not depend on it, or a method cannot be negated; ConfigError for an
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
    """The mean of the maps of varied images; the classes are chosen from the original images."""
    options.before_pass()
    with torch.no_grad():
        logits = _logits(network.run(network.cast_inputs(inputs), ()), options)
    targets = choose(logits)
    found: dict[tuple[str, str], Tensor] = {}
    contributions: dict[str, Tensor] = {}
    count = 0
    for variation in variations(inputs, options.smooth, options.noise, options.augment):
        part = _explain(network, variation.inputs, layers, methods, lambda _: targets, options)
        for key, values in part.maps.items():
            undone = variation.undo(values.flatten(0, 1)).view_as(values)
            found[key] = found[key] + undone if key in found else undone
        for name, values in part.contributions.items():
            contributions[name] = contributions[name] + values if name in contributions else values
        count += 1
    return Explanation(
        logits,
        targets,
        {key: values / count for key, values in found.items()},
        contributions={name: values / count for name, values in contributions.items()},
    )


def check_options(methods: Sequence[Method], options: Options) -> None:
    """Raise LayerError for a method that cannot be combined with an option."""
    stuck = [method.name for method in methods if method.gradient is None]
    if options.counterfactual and stuck:
        raise LayerError(f"--counterfactual negates gradients; method {stuck[0]} has none to negate.")


def result_layers(layers: Sequence[str], method: str, fuse: str | None) -> list[str]:
    """The layer names in the results of ``method`` for the chosen ``layers``."""
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
        maps, contributions = _gradient_maps(logits, targets, tapped.outputs, spatial, layers, methods, options)
    for method in methods:
        for layer, activations in list(zip(layers, spatial, strict=True))[: 1 if method.layer_independent else None]:
            if method.scene is not None:
                scene = Scene(
                    network.module, inputs, layer, activations, logits.detach(), targets, options.chunk, options.samples,
                    options.window, options.stride, options.seeds,
                )  # fmt: skip
                with _two_classes(network.module, options.binary), _announced(network.module, options.before_pass):
                    found = full_precision(method.scene(scene)).detach()
                maps[LAYER_INDEPENDENT if method.layer_independent else layer.name, method.name] = found
    return Explanation(logits.detach(), targets, maps, contributions=contributions)


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
) -> tuple[dict[tuple[str, str], Tensor], dict[str, Tensor]]:
    """The maps of all gradient methods, from one backward pass for each target and each kind of score, and the contributions."""
    scores = list(dict.fromkeys(method.score for method in methods if method.gradient is not None and method.score is not None))
    if options.contributions and target_logit not in scores:
        scores.append(target_logit)
    steps = [(score, position) for score in scores for position in range(targets.shape[1])]
    found: dict[tuple[str, str], list[Tensor]] = {}
    channels: dict[str, list[Tensor]] = {}
    for step, (score, position) in enumerate(steps):
        # the gradient of the sum is that of each image: the score of image i depends on image i alone
        options.before_pass()
        total = score(logits, targets[:, position]).sum()
        gradients = gradients_of(-total if options.counterfactual else total, tapped, keep_graph=step + 1 < len(steps))
        for layer, activations, gradient in zip(layers, spatial, gradients, strict=True):
            cells = to_spatial(full_precision(gradient), layer.grid)
            for method in methods:
                if method.gradient is not None and method.score is score:
                    found.setdefault((layer.name, method.name), []).append(method.gradient(activations, cells))
            if options.contributions and score is target_logit:
                signed = -cells if options.counterfactual else cells  # contributions are always for the class
                channels.setdefault(layer.name, []).append(channel_contributions(activations, signed))
    maps = {key: torch.stack(parts, dim=1).detach() for key, parts in found.items()}
    return maps, {name: torch.stack(parts, dim=1).detach() for name, parts in channels.items()}


@contextmanager
def _two_classes(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, if ``wanted``, a module with one logit z returns two logits, -z and z."""

    def both(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        return torch.cat([-logits_of(output), logits_of(output)], dim=1)

    with forward_hooks([(module, both)] if wanted else []):
        yield


@contextmanager
def _announced(module: nn.Module, before_pass: Callable[[], None]) -> Iterator[None]:
    """Inside, ``before_pass`` is called before each forward pass of ``module``."""
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
    return Explanation(explanation.logits, explanation.targets, maps, explanation.metrics, explanation.contributions)


def top_classes(logits: Tensor, count: int) -> Tensor:
    """The ``count`` classes with the highest logits, best first; equal logits by index. (B, K) -> (B, count)."""
    return torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :count]
