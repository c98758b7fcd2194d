"""torchvision's classifiers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from camcli.models.build import as_module, unknown_weights, with_weights
from camcli.models.checkpoints import is_checkpoint, read_checkpoint
from camcli.models.download import explain_download_failure, is_cached
from camcli.models.labels import imagenet_labels
from camcli.models.request import ModelInfo, ModelRequest
from camcli.records import LoadedModel, Preprocess


class TorchvisionSource:
    """torchvision's classifiers, by name."""

    def owns(self, name: str) -> bool:
        """Whether torchvision lists it among its classifiers."""
        return name in _torchvision_names()

    def load(self, request: ModelRequest) -> LoadedModel:
        """The architecture with published weights, a checkpoint's, or random ones. Raises WeightsError."""
        from torchvision import models

        enum = models.get_model_weights(request.name)
        if request.random or is_checkpoint(request.weights):
            preprocess, fixed = _input_size(request, enum)

            def build(**options: Any) -> nn.Module:
                return _build_torchvision(request.name, **fixed, **options)

            return with_weights(request, build, preprocess, tuple(enum.__members__))
        weights = self._enum_member(request)
        try:
            module = models.get_model(request.name, weights=weights, progress=request.show_progress)
        except Exception as error:
            raise explain_download_failure(request.name, weights.url, error) from error
        return LoadedModel(
            request.name,
            module,
            preprocess_of_preset(weights.transforms()),
            tuple(weights.meta["categories"]),
            f"{type(weights).__name__}.{weights.name}",
        )

    def _enum_member(self, request: ModelRequest) -> Any:
        from torchvision import models

        enum = models.get_model_weights(request.name)
        wanted = request.weights.rpartition(".")[2]
        names = {"DEFAULT": enum.DEFAULT, **enum.__members__}
        if wanted not in names:
            raise unknown_weights(request, tuple(names))
        return names[wanted]

    def list(self) -> Iterator[ModelInfo]:
        """The classifiers with what their default weights publish."""
        from torchvision import models

        for name in _torchvision_names():
            weights = models.get_model_weights(name).DEFAULT
            accuracy = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
            crop = weights.transforms().crop_size[0]
            yield ModelInfo(name, "torchvision", weights.meta.get("num_params"), (crop, crop), accuracy, is_cached(weights.url))

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """Those of the weights; of a checkpoint, by the size of its head."""
        if is_checkpoint(request.weights):
            return self.load(request).classes
        if request.random:
            return imagenet_labels()
        return tuple(self._enum_member(request).meta["categories"])


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def _input_size(request: ModelRequest, enum: Any) -> tuple[Preprocess, dict[str, int]]:
    """How images are prepared, as the published weights of that size say, and the builder's option for the size.

    Of a Vision Transformer the size is part of the architecture: that of a checkpoint follows from its positions.
    """
    default = preprocess_of_preset(enum.DEFAULT.transforms())
    if not request.name.startswith("vit_"):
        return default, {}
    published = [preprocess_of_preset(member.transforms()) for member in (*enum.__members__.values(), enum.DEFAULT)]
    by_size = {preprocess.crop[0]: preprocess for preprocess in published}
    size = default.crop[0]
    if is_checkpoint(request.weights):
        patch = int(request.name.rpartition("_")[2])
        for key, tensor in read_checkpoint(request.weights).items():
            if key.endswith("encoder.pos_embedding") and tensor.ndim == 3:
                size = patch * math.isqrt(tensor.shape[1] - 1)
    unpublished = replace(default, crop=(size, size), resize_to=(size, size))
    return by_size.get(size, unpublished), {"image_size": size}


def _build_torchvision(name: str, **options: Any) -> nn.Module:
    """The bare architecture. GoogLeNet and Inception come without their training heads and with the input transform of
    their published weights, which fine-tuned checkpoints share.
    """
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "transform_input": True, "init_weights": True, **options}
    return as_module(models.get_model(name, weights=None, **options))


def preprocess_of_preset(preset: Any) -> Preprocess:
    """The same steps as torchvision's ImageClassification preset."""
    resize, crop = preset.resize_size, preset.crop_size
    return Preprocess(
        resize="short" if len(resize) == 1 else "squash",
        resize_to=(resize[0], resize[-1]),
        crop=(crop[0], crop[-1]),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
