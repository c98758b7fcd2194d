"""Perturbation methods: they change the image or a layer and compare the logits. No gradients, many forward passes, in chunks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from camcli.cam import Scene, scene_method
from camcli.cam.grid import from_spatial
from camcli.network.hooks import full_precision, logits_of, override_output
from camcli.records import Grid


@scene_method(
    "scorecam",
    source="Wang et al. 2020, algorithm 1",
    passes="1 a channel",
    one_by_one=True,
    advice="gradient-free: weights each channel by the logit of the image masked with it",
)
def score_cam(scene: Scene) -> Tensor:
    """Channels weighted by a softmax over the target's logits for the image masked with each channel, then ReLU.

    The mask is the channel, scaled to [0, 1] and enlarged bilinearly (Wang et al. 2020). A constant channel masks the whole
    image. All targets share the passes. Scene of (B, 3, H, W) -> (B, T, h, w).
    """
    size = scene.inputs.shape[2:]
    maps: list[Tensor] = []
    for i in range(len(scene.inputs)):
        channels = scene.activations[i, :, None]
        large = functional.interpolate(channels, size, mode="bilinear", align_corners=False)
        low, high = large.amin(dim=(2, 3), keepdim=True), large.amax(dim=(2, 3), keepdim=True)
        spread = high - low
        masks = torch.where(spread > 0, (large - low) / torch.where(spread > 0, spread, 1.0), 0.0)
        # all constant channels give the same masked image: one pass serves them
        varied = (spread[:, 0, 0, 0] > 0).nonzero()[:, 0]
        flat = _logits(scene, torch.zeros_like(scene.inputs[i : i + 1]))
        logits = flat.expand(len(channels), -1).clone()
        for part in torch.split(varied, scene.chunk):
            logits[part] = _logits(scene, masks[part] * scene.inputs[i])
        weights = logits[:, scene.targets[i]].softmax(dim=0)
        maps.append(torch.einsum("ct,chw->thw", weights, scene.activations[i]))
    return torch.stack(maps).relu()


@scene_method(
    "ablationcam",
    source="Desai and Ramaswamy 2020",
    passes="1 a channel",
    one_by_one=True,
    advice="gradient-free: weights each channel by the drop of the logit without it",
)
def ablation_cam(scene: Scene) -> Tensor:
    """Channels weighted by the relative drop of the logit when the channel is set to zero, then ReLU.

    The drop is divided by the logit's absolute value, the paper's slope (Desai and Ramaswamy 2020) where the logit is
    positive; dividing by a negative logit would invert the map. Scene of (B, 3, H, W) -> (B, T, h, w).
    """
    maps: list[Tensor] = []
    for i in range(len(scene.inputs)):
        activations = scene.activations[i]
        alive = activations.flatten(1).any(dim=1).nonzero()[:, 0]  # ablating a channel of zeros changes nothing
        targets = scene.targets[i]
        drops = activations.new_zeros((len(activations), len(targets)))
        for part in torch.split(alive, scene.chunk):
            ablated = activations.expand(len(part), -1, -1, -1).clone()
            ablated[torch.arange(len(part)), part] = 0
            inputs = scene.inputs[i : i + 1].expand(len(part), -1, -1, -1)
            exchange = partial(_in_layout, ablated, grid=scene.layer.grid)
            with override_output(scene.module, scene.layer.name, exchange):
                drops[part] = scene.logits[i, targets] - _logits(scene, inputs)[:, targets]
        size = scene.logits[i, targets].abs()
        weights = drops / torch.where(size > 0, size, 1.0)
        maps.append(torch.einsum("ct,chw->thw", weights, activations))
    return torch.stack(maps).relu()


def _in_layout(spatial: Tensor, output: Tensor, grid: Grid) -> Tensor:
    return from_spatial(spatial, output, grid)


def _logits(scene: Scene, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return full_precision(logits_of(scene.module(inputs.to(scene.inputs.dtype))))
