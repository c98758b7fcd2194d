"""Controls: maps that know nothing of the network. A method that is no better than they are has explained nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from camcli.cam import Scene, scene_method

COARSE = 7
"""Height and width of ``uniform`` and ``random``, in cells: as coarse as the last layer of most networks."""

FINE = 28
"""Height and width of ``center``, in cells."""

SPREAD = 0.25
"""Standard deviation of ``center``, as a fraction of the input's height and width."""


@scene_method(
    "uniform",
    source="control",
    passes="1",
    advice="control: every place counts the same",
    layer_independent=True,
    control=True,
    constant=True,
)
def uniform(scene: Scene) -> Tensor:
    """Ones. Scene of (B, 3, H, W) -> (B, T, COARSE, COARSE)."""
    return _of_all(scene, torch.ones(len(scene.inputs), COARSE, COARSE))


@scene_method(
    "random",
    source="control",
    passes="1",
    advice="control: noise from a seed that is made of the image's name",
    layer_independent=True,
    control=True,
)
def random(scene: Scene) -> Tensor:
    """Independent values from 0 to 1, the same for all classes of an image. Scene of (B, 3, H, W) -> (B, T, COARSE, COARSE).

    The values depend on the seed of the image alone, not on the device.
    """
    seeds = scene.seeds or (0,) * len(scene.inputs)
    maps = [torch.rand((COARSE, COARSE), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return _of_all(scene, torch.stack(maps))


@scene_method(
    "center",
    source="control",
    passes="1",
    advice="control: a Gaussian in the middle, where photographers put things",
    layer_independent=True,
    control=True,
)
def center(scene: Scene) -> Tensor:
    """A Gaussian about the middle of the input, of standard deviation SPREAD. Scene of (B, 3, H, W) -> (B, T, FINE, FINE)."""
    place = (2 * torch.arange(FINE) + 1 - FINE) / (2 * FINE)
    along = torch.exp(-0.5 * (place / SPREAD) ** 2)
    return _of_all(scene, (along[:, None] * along).expand(len(scene.inputs), -1, -1))


def _of_all(scene: Scene, maps: Tensor) -> Tensor:
    """``maps`` (B, h, w) for all T classes: (B, T, h, w), on the device of the scene."""
    return maps.to(scene.inputs.device)[:, None].expand(-1, scene.targets.shape[1], -1, -1)
