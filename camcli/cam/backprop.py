"""Attribution methods that use gradients for the input, and for the biases of every layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from camcli.cam import Scene, scene_method, target_logit
from camcli.cam.gradient import grad_cam
from camcli.cam.grid import to_spatial
from camcli.errors import LayerError
from camcli.network.hooks import capture_outputs, eval_frozen, full_precision, gradients_of, logits_of
from camcli.records import Layer

_RELUS = frozenset(
    {functional.relu, functional.relu6, functional.hardtanh, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_,
     functional.relu_, functional.hardtanh_}
)  # fmt: skip
_OTHERS = frozenset(
    {functional.silu, functional.gelu, functional.hardswish, functional.leaky_relu, functional.elu, functional.celu,
     functional.selu, functional.mish, functional.softplus, functional.prelu, functional.rrelu}
)  # fmt: skip
_INSANE = (
    "guided backpropagation acts as an edge detector: its maps hardly change when the weights are randomized "
    "(Adebayo et al. 2018). Do not read them as an explanation. To measure this for your network and images: camcli sanity"
)


INTEGRATION_STEPS = 50
"""Steps of integrated gradients without ``--samples``; the paper finds 20 to 300 enough (section 5)."""


class _KeepPositive(torch.autograd.Function):
    """Identity forward; backward, only positive gradients pass."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp_min(0)


class _GuidedRelus(TorchFunctionMode):
    """Only positive gradients pass back through ReLU and ReLU6, as module or function (Springenberg et al. 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.relus = 0
        self.others: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in _OTHERS:
            self.others.add(function.__name__)
        if function in _RELUS and isinstance(result, Tensor):
            self.relus += 1
            if result.requires_grad:
                return _KeepPositive.apply(result)
        return result


def require_relus(module: nn.Module, layer: Layer, image: Tensor) -> None:
    """Raise LayerError unless all activation functions that run for ``image`` (1, 3, H, W) are ReLU or ReLU6.

    Guided backpropagation is defined only for them.
    """
    with eval_frozen(module), torch.no_grad(), _GuidedRelus() as mode:
        module(image)
    if mode.others or not mode.relus:
        found = ", ".join(sorted(mode.others)) or "none"
        raise LayerError(f"guided backpropagation is defined for networks of ReLU and ReLU6; this one has {found}.")


def _guided_gradients(scene: Scene) -> Iterator[Tensor]:
    """The guided gradient of each target's logit for the input: T times (B, 3, H, W)."""
    for position in range(scene.targets.shape[1]):
        inputs = scene.inputs.clone().requires_grad_()
        with torch.enable_grad(), _GuidedRelus():
            score = target_logit(full_precision(logits_of(scene.module(inputs))), scene.targets[:, position]).sum()
        yield torch.autograd.grad(score, inputs)[0]


@scene_method(
    "guided-backprop",
    source="Springenberg et al. 2014",
    passes="2 a target",
    advice="for comparison only: fails the sanity checks",
    layer_independent=True,
    warning=_INSANE,
    check=require_relus,
)
def guided_backprop(scene: Scene) -> Tensor:
    """The largest absolute guided gradient over colours, at the input's own size. Scene of (B, 3, H, W) -> (B, T, H, W)."""
    return torch.stack([gradient.abs().amax(dim=1) for gradient in _guided_gradients(scene)], dim=1)


@scene_method(
    "guided-gradcam",
    source="Selvaraju et al. 2017, Guided Grad-CAM",
    passes="3 a target",
    advice="for comparison only: fails the sanity checks",
    warning=_INSANE,
    check=require_relus,
)
def guided_grad_cam(scene: Scene) -> Tensor:
    """Guided gradients times the enlarged Grad-CAM map, largest absolute value over colours.

    Scene of (B, 3, H, W) -> (B, T, H, W).
    """
    size, maps = scene.inputs.shape[2:], []
    for position, guided in enumerate(_guided_gradients(scene)):
        with capture_outputs(scene.module, [scene.layer.name]) as outputs, torch.enable_grad():
            logits = full_precision(logits_of(scene.module(scene.inputs)))
            score = target_logit(logits, scene.targets[:, position]).sum()
            (gradient,) = gradients_of(score, [outputs[scene.layer.name]], keep_graph=False)
        coarse = grad_cam(scene.activations, to_spatial(full_precision(gradient), scene.layer.grid))[:, None]
        large = functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
        maps.append((guided * large).abs().amax(dim=1))
    return torch.stack(maps, dim=1)


@scene_method(
    "fullgrad",
    source="Srinivas and Fleuret 2019",
    passes="1, and 1 backward a target",
    advice="the whole network at once, input and biases",
    layer_independent=True,
)
def full_grad(scene: Scene) -> Tensor:
    """Input-gradient and bias-gradients, each absolute, scaled to [0, 1] and enlarged, summed over layers and channels.

    Scene of (B, 3, H, W) -> (B, T, H, W).
    """
    size, maps = scene.inputs.shape[2:], []
    for position in range(scene.targets.shape[1]):
        of_input, of_biases = full_gradients(scene.module, scene.inputs, scene.targets[:, position])
        total = _scaled(of_input).sum(dim=1)
        for part in of_biases:
            if part.ndim == 4:
                total = total + functional.interpolate(_scaled(part), size, mode="bilinear", align_corners=False).sum(dim=1)
        maps.append(total)
    return torch.stack(maps, dim=1)


def full_gradients(module: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Input times its gradient (B, 3, H, W), and bias times its gradient for every layer with a bias.

    The latter are (B, C, h, w) for convolutions and batch normalisations, and (B, all) for linear layers.

    Together they sum to the target's logit in a network of ReLUs (Srinivas and Fleuret 2019, proposition 1). A batch
    normalisation's bias is the implicit one, beta - mu * gamma / sigma.
    """
    biased = {name: bias for name, child in module.named_modules() if (bias := _bias(child)) is not None}
    inputs = inputs.detach().clone().requires_grad_()
    with eval_frozen(module), capture_outputs(module, biased) as outputs, torch.enable_grad():
        score = target_logit(full_precision(logits_of(module(inputs))), targets).sum()
        names = [name for name in outputs if outputs[name].requires_grad]
        gradients = gradients_of(score, [inputs, *(outputs[name] for name in names)], keep_graph=False)
    parts = []
    for name, gradient in zip(names, gradients[1:], strict=True):
        if isinstance(module.get_submodule(name), nn.Linear):
            parts.append((gradient * biased[name]).flatten(1).detach())
        else:
            parts.append((gradient * biased[name].view(1, -1, 1, 1)).detach())
    return (gradients[0] * inputs).detach(), parts


@scene_method(
    "integrated-gradients",
    source="Sundararajan et al. 2017, eq. 3",
    passes="50, or --samples, and as many backward a target",
    advice="pixels; adds up to the logit minus that of a plain image of the mean colour",
    layer_independent=True,
    one_by_one=True,
)
def integrated_gradients(scene: Scene) -> Tensor:
    """The input times its mean gradient on the straight way from the mean colour to the image, summed over colours.

    The map adds up to the difference of the logits of both ends (completeness, proposition 1), as far as the steps are fine
    enough. The steps are the nodes of Gauss-Legendre quadrature. Scene of (B, C, H, W) -> (B, T, H, W), signed.
    """
    nodes, shares = np.polynomial.legendre.leggauss(scene.samples or INTEGRATION_STEPS)
    places, weights = (torch.from_numpy(values).to(scene.inputs) for values in ((nodes + 1) / 2, shares / 2))
    maps = scene.logits.new_zeros((*scene.targets.shape, *scene.inputs.shape[2:]))
    for i, image in enumerate(scene.inputs):
        for place, weight in zip(torch.split(places, scene.chunk), torch.split(weights, scene.chunk), strict=True):
            inputs = (place.view(-1, 1, 1, 1) * image).requires_grad_()
            with torch.enable_grad():
                logits = full_precision(logits_of(scene.module(inputs)))
                for position, target in enumerate(scene.targets[i].tolist()):
                    more = position + 1 < scene.targets.shape[1]
                    (gradient,) = torch.autograd.grad(logits[:, target].sum(), inputs, retain_graph=more)
                    mean = torch.einsum("s,schw->chw", full_precision(weight), full_precision(gradient))
                    maps[i, position] += (mean * full_precision(image)).sum(dim=0)
    return maps


def _bias(module: nn.Module) -> Tensor | None:
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
        gamma = module.weight if module.weight is not None else 1.0
        beta = module.bias if module.bias is not None else 0.0
        return (beta - module.running_mean * gamma / (module.running_var + module.eps).sqrt()).detach()
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        return module.bias.detach()
    return None


def _scaled(part: Tensor) -> Tensor:
    """Absolute values, for each image scaled to [0, 1] over all channels and cells, as in the authors' code."""
    size = full_precision(part).abs()
    low, high = size.amin(dim=(1, 2, 3), keepdim=True), size.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(high > low, (size - low) / torch.where(high > low, high - low, 1.0), 0.0)
