"""The maps of a batch that are to be measured, one behind the other, and the scores of changed images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from camcli.cam.explain import Options
from camcli.network import Network
from camcli.records import Layer


@dataclass(frozen=True)
class MetricSettings:
    """What to measure and how. ``names``: the metrics. The others are the options of the same names; ``head`` and ``score`` too."""

    names: tuple[str, ...]
    head: str = "softmax"
    score: str = "probability"
    steps: int = 20
    baseline: str | None = None


@dataclass(frozen=True)
class Scorer:
    """The scores of classes for changed inputs, computed with the prepared ``network``, at most ``options.chunk`` inputs a pass."""

    network: Network
    options: Options
    settings: MetricSettings

    def logits(self, inputs: Tensor) -> Tensor:
        """The logits (N, K) of ``inputs`` (N, 3, H, W)."""
        parts: list[Tensor] = []
        with torch.no_grad():
            for part in torch.split(inputs, self.options.chunk):
                self.options.before_pass()
                logits = self.network.run(self.network.cast_inputs(part), ()).logits
                parts.append(torch.cat([-logits, logits], dim=1) if self.options.binary else logits)
        return torch.cat(parts)

    def of_logits(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The scores (N, T) of the ``classes`` (N, T) from ``logits`` (N, K), float64: a probability, or the logit."""
        exact = precise(logits)
        if self.settings.score == "logit":
            return exact.gather(1, classes)
        return (exact.softmax(dim=1) if self.settings.head == "softmax" else exact.sigmoid()).gather(1, classes)

    def __call__(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """The scores (N,) of one class (N,) for each of ``inputs`` (N, 3, H, W)."""
        return self.of_logits(self.logits(inputs), classes[:, None])[:, 0]


def precise(tensor: Tensor) -> Tensor:
    """``tensor`` (any shape) in float64, or in float32 on Apple's GPUs, which have no float64."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


@dataclass(frozen=True)
class Items:
    """N maps that are measured, of a batch of B images with T classes and R maps a class.

    ``inputs`` (B, 3, H, W), normalised. ``targets`` (B, T). ``scores`` (B, T): those of the original images. ``layers``: of the
    network. ``results``: (layer, method) of each of the R maps. ``maps``: R tensors (B, T, h, w), raw. ``images``, ``positions``
    and ``numbers`` (N,): for each item its image, its place among the T classes, and its map.
    """

    inputs: Tensor
    targets: Tensor
    scores: Tensor
    layers: Sequence[Layer]
    results: Sequence[tuple[str, str]]
    maps: Sequence[Tensor]
    images: Tensor
    positions: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def classes(self) -> Tensor:
        """The class of each item (N,)."""
        return self.targets[self.images, self.positions]

    @cached_property
    def original(self) -> Tensor:
        """The score of the original image for each item (N,), float64."""
        return self.scores[self.images, self.positions]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the inputs."""
        return self.inputs.shape[2], self.inputs.shape[3]

    def of_result(self, number: int) -> Tensor:
        """The places (M,) of the items of map ``number`` of the classes."""
        return (self.numbers == number).nonzero()[:, 0]

    def by_result(self) -> Iterator[tuple[Tensor, Tensor]]:
        """For each of the R maps that has items: their places (M,), and their raw maps (M, h, w)."""
        for number, maps in enumerate(self.maps):
            places = self.of_result(number)
            if len(places):
                yield places, maps[self.images[places], self.positions[places]]

    def placed(self, items: Tensor) -> Tensor:
        """The maps of ``items`` (M,) on the input: scaled to their peaks and enlarged, (M, H, W) float32 in [0, 1]."""
        found = torch.empty((len(items), *self.size), device=self.inputs.device)
        numbers = self.numbers[items]
        for number in sorted(set(numbers.tolist())):
            chosen = (numbers == number).nonzero()[:, 0]
            maps = self.maps[number][self.images[items[chosen]], self.positions[items[chosen]]]
            found[chosen] = on_input(to_peak(maps), self.size)
        return found

    def chunks(self, size: int) -> Iterator[Tensor]:
        """The numbers of all items, at most ``size`` at a time: (M,) each."""
        yield from torch.split(torch.arange(len(self), device=self.inputs.device), max(1, size))


def to_peak(maps: Tensor) -> Tensor:
    """Each map (N, h, w) divided by its peak, negative values set to 0, as ``render.maps.scale_map`` does: float32 in [0, 1]."""
    positive = maps.clamp_min(0)
    peak = positive.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, positive / torch.where(peak > 0, peak, 1.0), positive).float()


def on_input(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) where they belong on the network's input, (N, H, W): the grid of a layer covers the input evenly.

    Bilinear, as ``render.maps.place_map`` places the same map on the image.
    """
    return functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0].clamp(0, 1)
