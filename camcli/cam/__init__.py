"""Class activation maps and other attribution methods. They compute maps from tensors and know no files.

There are two families of methods. A *gradient* method is a pure function of a layer's activations and gradients: one forward pass,
and one backward pass for each target, serve all gradient methods and all layers. A *scene* method needs more of the network:
further forward passes, or gradients of other tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from camcli.records import Layer
from camcli.registry import Registry


@dataclass(frozen=True)
class Scene:
    """A batch and the network, for methods that need more than one layer's activations and gradients.

    ``inputs``: (B, 3, H, W), normalised. ``layer`` with its ``activations`` (B, C, h, w). ``logits``: (B, K). ``targets``:
    (B, T) class indices. ``chunk``: maximum batch size of further passes. No tensor carries a gradient. ``samples``, ``window`` and
    ``stride``: the options of these names; None for the method's own. ``seeds``: a number for each image, for methods that draw
    lots; None for 0.
    """

    module: nn.Module
    inputs: Tensor
    layer: Layer
    activations: Tensor
    logits: Tensor
    targets: Tensor
    chunk: int
    samples: int | None = None
    window: int | None = None
    stride: int | None = None
    seeds: tuple[int, ...] | None = None


GradientMethod = Callable[[Tensor, Tensor], Tensor]
"""(activations, gradients), both (B, C, h, w) -> maps (B, h, w), raw."""

SceneMethod = Callable[[Scene], Tensor]
"""A scene -> maps (B, T, h, w), raw."""

Score = Callable[[Tensor, Tensor], Tensor]
"""logits (B, K) and target classes (B,) -> scores (B,), which are differentiated."""


@dataclass(frozen=True)
class Method:
    """An attribution method: a function of one of the two families, and what ``camcli methods`` prints about it.

    ``score``: the value that a gradient method differentiates. ``layer_independent``: the map does not depend on the layer.
    ``one_by_one``: the method runs many variants of each image, so batches of images do not make it faster. ``control``: the map
    does not depend on the network; ``constant``: it is the same everywhere on purpose, so it does not count as empty. ``check``:
    called with (module, layer, one image) before the first image; raises LayerError if the method does not apply.
    """

    name: str
    source: str
    passes: str
    advice: str
    gradient: GradientMethod | None = None
    scene: SceneMethod | None = None
    score: Score | None = None
    layer_independent: bool = False
    one_by_one: bool = False
    control: bool = False
    constant: bool = False
    warning: str = ""
    check: Callable[[nn.Module, Layer, Tensor], None] | None = None


METHODS: Registry[Method] = Registry(
    "method",
    "camcli.cam.gradient",
    "camcli.cam.perturbation",
    "camcli.cam.backprop",
    "camcli.cam.attention",
    "camcli.cam.masking",
    "camcli.cam.controls",
)
"""Every method by the name that ``--method`` takes."""


def target_logit(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each image's target class: (B, K) and (B,) -> (B,). The score of every method that names no other."""
    return logits.gather(1, targets[:, None])[:, 0]


def gradient_method(name: str, *, source: str, advice: str, **options: Any) -> Callable[[GradientMethod], GradientMethod]:
    """Register a function of activations and gradients under ``name``. ``options``: further fields of Method."""

    def register(function: GradientMethod) -> GradientMethod:
        facts = {"passes": "1, and 1 backward", "score": target_logit, **options}
        METHODS.register(name)(Method(name, source, advice=advice, gradient=function, **facts))
        return function

    return register


def scene_method(name: str, *, source: str, passes: str, advice: str, **options: Any) -> Callable[[SceneMethod], SceneMethod]:
    """Register a function of a Scene under ``name``. ``passes``: its cost in forward passes; ``options``: fields of Method."""

    def register(function: SceneMethod) -> SceneMethod:
        METHODS.register(name)(Method(name, source, passes, advice, scene=function, **options))
        return function

    return register
