"""Shared pieces: small seeded networks, real photographs, and the command line run inside the test process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import nn

from tests.browser import chromium
from tests.commands import own_signals
from tests.forks import Forks, shared, use_no_processes
from tests.pictures import encoded, photo

# no test may reach a model hub, nor take the weights that a developer has cached
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCH_HOME"] = "/nonexistent/torch-home"

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_images"

use_no_processes()

# the same commit gives the same verdict everywhere: no test draws what another run of it would not
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded():
    """Every test begins at the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def forks() -> Forks:
    """A server that forks runs of the command."""
    return shared()


@dataclass
class Result:
    """What a command left: exit code and the two streams."""

    code: int
    out: str
    err: str


@pytest.fixture
def camcli(capsys):
    """Call the command line as ``camcli("run", "imgs")``."""
    from camcli.cli import app

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with own_signals(), pytest.raises(SystemExit) as ended:
            app.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def imgs(tmp_path):
    """Six photos in a tree, two of them with the same stem."""
    folder = tmp_path / "imgs"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(["a.jpg", "a.png", "A.JPG", "a.jpg.png", "sub/a.jpg", "sub/b.png"]):
        path = folder / name
        path.write_bytes(encoded(photo(seed), "PNG" if name.endswith("png") else "JPEG"))
    return folder


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; skips where there is none."""
    with chromium() as page:
        yield page
        assert page.capabilities["browserName"] == "chrome"


class Cam(nn.Module):
    """Convolution, global average pooling, one linear layer: the network of Zhou et al. 2016."""

    def __init__(self, channels: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, channels, 3, stride=2, padding=1)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


@pytest.fixture
def cam_network() -> Cam:
    torch.manual_seed(0)
    return Cam().eval()


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """A folder from which modules can be imported, for ``package.module:factory``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if not name.startswith(("torch", "timm", "camcli", "captum", "pytorch_grad_cam", "torchcam", "numpy", "cv2", "PIL")):
            sys.modules.pop(name, None)
