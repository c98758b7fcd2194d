"""Methods that need a layer's activations and the gradient of a score with respect to them.

Each is one function: from activations A and gradients dy/dA, both (B, C, h, w), to raw maps (B, h, w) of any scale. The maps of a
batch must not depend on each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camcli.cam import gradient_method, target_logit
from camcli.cam.grid import to_spatial
from camcli.errors import LayerError
from camcli.network.hooks import capture_outputs, eval_frozen, gradients_of, logits_of
from camcli.network.probe import random_direction
from camcli.records import Layer

FINER_REFERENCES = 3
FINER_STRENGTH = 0.6
"""The number of similar classes with which Finer-CAM compares, and the weight of the comparison: the paper's n and gamma."""


@gradient_method(
    "gradcam", source="Selvaraju et al. 2017, eq. 1-2", advice="the default: any network, any layer, passes the sanity checks"
)
def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their mean gradient, then ReLU (Selvaraju et al. 2017, eq. 1-2). (B, C, h, w) x2 -> (B, h, w)."""
    return _weighted(gradients.mean(dim=(2, 3)), activations).relu()


def require_linear_head(module: nn.Module, layer: Layer, image: Tensor) -> None:
    """Raise LayerError unless the logits are an average over ``layer``'s cells and one linear layer.

    Then, and only then, the gradient is the same in every cell and for every image. It is compared for ``image`` (1, 3, H, W) times
    several factors, some of them negative, in a random direction of the logits.
    """
    with eval_frozen(module), capture_outputs(module, [layer.name]) as outputs, torch.enable_grad():
        logits = logits_of(module(torch.cat([strength * image for strength in (1, -1, 0, 30, -30)])))
        (gradient,) = gradients_of((logits * random_direction(logits)).sum(), [outputs[layer.name]], keep_graph=False)
    cells = to_spatial(gradient, layer.grid)
    first = cells[:1, :, :1, :1]
    if not torch.allclose(cells, first.expand_as(cells), rtol=1e-3, atol=1e-6 * float(first.abs().max())):
        raise LayerError(
            f"method cam needs a network in which average pooling and one linear layer follow the chosen layer; more than "
            f"that follows {layer.name!r}. Choose the layer that is pooled, or method gradcam, which equals cam there."
        )


@gradient_method(
    "cam",
    source="Zhou et al. 2016, eq. 2",
    advice="exact if the network ends with average pooling and one linear layer; refused otherwise",
    check=require_linear_head,
)
def cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """The class's weights of the linear layer times the channels (Zhou et al. 2016, eq. 2), signed. (B, C, h, w) x2 -> (B, h, w).

    Before average pooling over h x w cells a weight is h w times the gradient in any cell.
    """
    return _weighted(gradients.sum(dim=(2, 3)), activations)


@gradient_method(
    "gradcam++", source="Chattopadhay et al. 2018, eq. 7 and 19", advice="several objects of one class; smoother than gradcam"
)
def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive gradients weighted cell by cell (Chattopadhay et al. 2018, eq. 7 and 19), then ReLU. (B, C, h, w) x2 -> (B, h, w).

    The higher derivatives are those of exp(y), so that they are powers of the gradient.
    """
    total = activations.sum(dim=(2, 3), keepdim=True)
    alpha = _ratio(gradients**2, 2 * gradients**2 + total * gradients**3)
    return _weighted((alpha * gradients.relu()).sum(dim=(2, 3)), activations).relu()


@gradient_method(
    "hirescam",
    source="Draelos and Carin 2020",
    advice="exactly where the evidence is; adds up to the logit before pooling",
)
def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Gradient times activation, summed over channels (Draelos and Carin 2020), signed. (B, C, h, w) x2 -> (B, h, w)."""
    return (gradients * activations).sum(dim=1)


@gradient_method("xgradcam", source="Fu et al. 2020", advice="like gradcam, with weights that satisfy two axioms")
def x_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their activation-weighted mean gradient (Fu et al. 2020), ReLU. (B, C, h, w) x2 -> (B, h, w)."""
    products = (gradients * activations).sum(dim=(2, 3), keepdim=True)
    weights = _ratio(products, activations.sum(dim=(2, 3), keepdim=True))
    return _weighted(weights[:, :, 0, 0], activations).relu()


@gradient_method("layercam", source="Jiang et al. 2021", advice="early and middle layers: fine detail")
def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive gradient times activation, cell by cell, then ReLU (Jiang et al. 2021). (B, C, h, w) x2 -> (B, h, w)."""
    return (gradients.relu() * activations).sum(dim=1).relu()


@gradient_method(
    "eigencam", source="Muhammad and Yeasin 2020", advice="the most salient features of the network; does not depend on the class"
)
def eigen_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First principal component of the activations over cells (Muhammad and Yeasin 2020), signed. (B, C, h, w) x2 -> (B, h, w)."""
    return _principal_map(activations)


@gradient_method("eigengradcam", source="grad-cam's extension of Muhammad and Yeasin 2020", advice="eigencam for the class")
def eigen_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """The first principal component of gradient times activation over cells, signed. (B, C, h, w) x2 -> (B, h, w)."""
    return _principal_map(gradients * activations)


def finer_score(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit minus gamma times the mean logit of its most similar classes (Zhang et al. 2025).

    Those are the FINER_REFERENCES classes whose logits are nearest to the target's. (B, K) and (B,) -> (B,).
    """
    own = target_logit(logits, targets)
    distance = (logits.detach() - own.detach()[:, None]).abs().scatter(1, targets[:, None], float("inf"))
    count = min(FINER_REFERENCES, logits.shape[1] - 1)
    if count == 0:
        return own
    nearest = torch.sort(distance, dim=1, stable=True).indices[:, :count]
    return own - FINER_STRENGTH * logits.gather(1, nearest).mean(dim=1)


@gradient_method(
    "finercam",
    source="Zhang et al. 2025",
    advice="fine-grained classes: what sets this one apart from the most similar ones",
    score=finer_score,
)
def finer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM of ``finer_score`` (Zhang et al. 2025). (B, C, h, w) x2 -> (B, h, w)."""
    return grad_cam(activations, gradients)


def _weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """The channels of ``activations`` (B, C, h, w) summed with ``weights`` (B, C), by one matrix product: maps (B, h, w)."""
    return torch.einsum("bc,bchw->bhw", weights, activations)


def _ratio(upper: Tensor, lower: Tensor) -> Tensor:
    """``upper / lower``, and 0 where ``lower`` is 0. An epsilon would be visible in maps of small scale."""
    return torch.where(lower == 0, torch.zeros_like(upper), upper / torch.where(lower == 0, torch.ones_like(lower), lower))


def _principal_map(features: Tensor) -> Tensor:
    """Cells projected on the first principal axis of the channels, the larger extreme positive. (B, C, h, w) -> (B, h, w).

    The sign of an axis is arbitrary: without a rule half of the maps would be inverted. Images that are not finite give NaN.
    """
    batch, channels, height, width = features.shape
    cells = features.flatten(2).transpose(1, 2).double()
    finite = cells.isfinite().all(dim=2).all(dim=1)
    cells = torch.where(finite[:, None, None], cells, 0.0)
    cells = cells - cells.mean(dim=1, keepdim=True)
    # scaled before squaring, so that small values do not underflow
    scale = cells.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(cells.dtype).tiny)
    unit = cells / scale
    if channels <= height * width:
        axis = torch.linalg.eigh(unit.transpose(1, 2) @ unit).eigenvectors[:, :, -1:]
        projected = (unit @ axis)[:, :, 0]
    else:
        values, vectors = torch.linalg.eigh(unit @ unit.transpose(1, 2))
        projected = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    flip = projected.amin(dim=1).abs() > projected.amax(dim=1)
    projected = torch.where(flip[:, None], -projected, projected) * scale[:, :, 0]
    projected = torch.where(finite[:, None], projected, float("nan"))
    return projected.reshape(batch, height, width).to(features.dtype)
