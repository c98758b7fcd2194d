"""The network of the runs in these folders: random, seeded, five classes."""

import torch
from torch import nn

from camcli import Preprocess


def colours():
    torch.manual_seed(5)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 8, stride=8), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    module.preprocess = Preprocess("squash", (64, 64), (64, 64))
    return module
