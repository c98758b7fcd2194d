"""Networks whose right heatmap is known, as factories for ``--model tests.networks:NAME``."""

from __future__ import annotations

import os
import signal
import time
from collections import OrderedDict

import torch
from torch import nn

from camcli.records import Preprocess


class Brightness(nn.Module):
    """Class ``bright`` is the mean brightness, ``dark`` its negative; Grad-CAM at ``cells`` is the picture itself, coarse."""

    categories = ("bright", "dark")

    def __init__(self, preprocess: Preprocess, cell: int = 8) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.cells = nn.Conv2d(3, 1, cell, stride=cell, bias=False)
        self.cells.weight.data.fill_(1 / (3 * cell * cell))
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data[:] = torch.tensor([[1.0], [-1.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x).mean((2, 3)))


def brightness() -> nn.Module:
    """As most networks are trained: shorter side to 256, centre crop of 224; black is 0."""
    return Brightness(Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def wide_brightness() -> nn.Module:
    """An input that is not square."""
    return Brightness(Preprocess("cover", (200, 300), (192, 256), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def red() -> nn.Module:
    """Class ``bright`` sees red only: exchanged channels give another picture."""
    module = Brightness(Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    module.cells.weight.data[:, 1:] = 0
    return module


def breaks() -> nn.Module:
    """NaN for images with a pixel of full red: a network that overflows on some inputs."""

    class Overflows(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            factor = torch.where(x.amax((1, 2, 3)) > 0.99, float("nan"), 1.0)
            return super().forward(x) * factor[:, None]

    return Overflows(Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def with_classes(num_classes: int = 4) -> nn.Module:
    """A network whose head can have any size."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 9, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))


def long_names() -> nn.Module:
    """Layers whose names differ only behind the fortieth character, as in a MaxViT: two convolutions at ``DEEP``."""
    torch.manual_seed(4)
    module = nn.Sequential()
    module.conv_a, module.conv_b = nn.Conv2d(3, 6, 9, stride=8), nn.Conv2d(6, 6, 3, padding=1)
    for name in reversed(DEEP.split(".")):
        module = nn.Sequential(OrderedDict([(name, module)]))
    module.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(6, 9))
    return module


DEEP = "blocks.0.layers.0.layers.MBconv.layers"


def colours() -> nn.Module:
    """Random convolutions and a head of five classes: something to be cut and taught."""
    torch.manual_seed(5)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 8, stride=8), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    module.preprocess = Preprocess("squash", (64, 64), (64, 64))
    return module


def reads_values() -> nn.Module:
    """A forward pass that looks at the values of its input: no graph can be recorded of it."""

    class Looks(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if float(x.sum()) > 0 else x + 1)

    return Looks(Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def slow_brightness() -> nn.Module:
    """A fifth of a second a batch: time to interrupt a run."""

    class Slow(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.2)
            return super().forward(x)

    return Slow(Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def kills_at_red() -> nn.Module:
    """A forward pass that ends its process at an image that is all red, as a fault of a driver does."""

    class Kills(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            means = x.mean((2, 3))
            if bool((means[:, 0] - means[:, 1:].amax(1) > 0.9).any()):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(x)

    return Kills(Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def grey() -> nn.Module:
    """A network that takes one channel and does not say so."""
    torch.manual_seed(6)
    return nn.Sequential(
        nn.Conv2d(1, 6, 9, stride=8),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def two_channels() -> nn.Module:
    """A network that takes two channels."""
    return nn.Sequential(nn.Conv2d(2, 6, 9, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


def four_colours() -> nn.Module:
    """Classes for red, green, blue and darkness, which ``cells`` sees on squares of 8 pixels; any size of input will do."""

    class Colours(nn.Module):
        categories = ("red", "green", "blue", "dark")
        preprocess = Preprocess("squash", (64, 64), (64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU())
            weight, bias = self.cells[0].weight.data, self.cells[0].bias.data
            weight[:] = -1 / 64
            for colour in range(3):
                weight[colour, colour] = 1 / 64
            bias[:] = torch.tensor([-0.5, -0.5, -0.5, 0.5])
            self.head = nn.Linear(4, 4, bias=False)
            self.head.weight.data[:] = 40 * torch.eye(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cells(x).mean((2, 3)))

    return Colours()
