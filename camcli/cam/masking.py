"""Methods that hide parts of the image and watch the logit. They need no gradients and no layer, but many forward passes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from camcli.cam import Scene, scene_method
from camcli.network.hooks import full_precision, logits_of

RISE_MASKS = 1000
"""Number of masks without ``--samples``. The paper takes 4,000 for VGG-16 and 8,000 for ResNet-50."""

RISE_CELLS, RISE_SHARE, RISE_SEED = 7, 0.5, 0
"""Cells of a mask before it is enlarged, in each direction; the probability that a cell is shown (Petsiuk et al. 2018, 4.1)."""

OCCLUSION_PART = 7
"""Without ``--window``, occlusion hides squares of this fraction of the input's shorter side: 32 of 224 pixels."""


@scene_method(
    "rise",
    source="Petsiuk et al. 2018, eq. 6",
    passes="1,000, or --samples",
    advice="gradient-free, any network: how much showing a place raises the logit",
    layer_independent=True,
    one_by_one=True,
)
def rise(scene: Scene) -> Tensor:
    """The mean of random masks, weighted by the logits of the images masked with them, at the input's size.

    The mean logit is subtracted first, so that 0 means no influence, where the paper has an unknown constant. What is hidden has
    the mean colour. The masks are the same for every image. Scene of (B, C, H, W) -> (B, T, H, W), signed.
    """
    count = scene.samples or RISE_MASKS
    inputs, size = scene.inputs, scene.inputs.shape[2:]
    start = scene.logits.gather(1, scene.targets)
    weighted = start.new_zeros((*start.shape, *size))
    total, shown = torch.zeros_like(start), start.new_zeros(size)
    for masks in _in_chunks(random_masks(count, (size[0], size[1])), scene.chunk):
        masks = masks.to(start)
        shown += masks.sum(dim=0)
        for i in range(len(inputs)):
            # relative to the whole image's logit: small numbers lose fewer digits in the sums
            scores = _logits(scene, inputs[i] * masks[:, None].to(inputs))[:, scene.targets[i]] - start[i]
            weighted[i] += torch.einsum("mt,mhw->thw", scores, masks)
            total[i] += scores.sum(dim=0)
    return (weighted - (total / count)[..., None, None] * shown) / (count * RISE_SHARE)


def random_masks(count: int, size: tuple[int, int]) -> Iterator[Tensor]:
    """``count`` seeded masks of ``size`` (H, W) in [0, 1]: random grids, enlarged bilinearly and cut at a random offset.

    Petsiuk et al. 2018, section 3.2. The expected value of every pixel is RISE_SHARE.
    """
    generator = torch.Generator().manual_seed(RISE_SEED)
    cell = tuple(math.ceil(side / RISE_CELLS) for side in size)
    large = [(RISE_CELLS + 1) * side for side in cell]
    for _ in range(count):
        grid = (torch.rand((1, 1, RISE_CELLS, RISE_CELLS), generator=generator) < RISE_SHARE).float()
        top, left = (int(torch.randint(side, (1,), generator=generator)) for side in cell)
        enlarged = functional.interpolate(grid, large, mode="bilinear", align_corners=False)[0, 0]
        yield enlarged[top : top + size[0], left : left + size[1]]


@scene_method(
    "occlusion",
    source="Zeiler and Fergus 2014, section 4.2",
    passes="1 a position",
    advice="gradient-free, any network: how much the logit falls when a square is hidden",
    layer_independent=True,
    one_by_one=True,
)
def occlusion(scene: Scene) -> Tensor:
    """The fall of the logit when a square is hidden, averaged over the squares that cover a pixel, at the input's size.

    The square, filled with the mean colour, moves by ``stride`` pixels; at the right and lower edge it may reach beyond the image.
    Scene of (B, C, H, W) -> (B, T, H, W), signed.
    """
    height, width = scene.inputs.shape[2:]
    window = scene.window or max(1, min(height, width) // OCCLUSION_PART)
    stride = min(scene.stride or max(1, window // 2), window)  # a larger one would leave out pixels
    places = [(top, left) for top in _starts(height, window, stride) for left in _starts(width, window, stride)]
    start = scene.logits.gather(1, scene.targets)
    falls = start.new_zeros((*start.shape, height, width))
    covered = start.new_zeros((height, width))
    for top, left in places:
        covered[top : top + window, left : left + window] += 1
    for i in range(len(scene.inputs)):
        for first in range(0, len(places), scene.chunk):
            part = places[first : first + scene.chunk]
            hidden = scene.inputs[i].expand(len(part), -1, -1, -1).clone()
            for image, (top, left) in zip(hidden, part, strict=True):
                image[:, top : top + window, left : left + window] = 0
            scores = start[i] - _logits(scene, hidden)[:, scene.targets[i]]
            for score, (top, left) in zip(scores, part, strict=True):
                falls[i, :, top : top + window, left : left + window] += score[:, None, None]
    return falls / covered.clamp_min(1)


def _starts(side: int, window: int, stride: int) -> list[int]:
    return [stride * step for step in range(math.ceil(max(0, side - window) / stride) + 1)]


def _in_chunks(masks: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    held: list[Tensor] = []
    for mask in masks:
        held.append(mask)
        if len(held) == size:
            yield torch.stack(held)
            held = []
    if held:
        yield torch.stack(held)


def _logits(scene: Scene, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return full_precision(logits_of(scene.module(inputs.to(scene.inputs.dtype))))
