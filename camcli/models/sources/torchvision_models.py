"""torchvision's classifiers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from camcli.models.labels import imagenet_labels
from camcli.models.request import ModelInfo, ModelRequest
from camcli.models.source_text import imagenet_names, registered_models
from camcli.models.sources import ModelSource, register_source
from camcli.records import LoadedModel, Preprocess

if TYPE_CHECKING:
    from torch import nn


@register_source
class TorchvisionSource(ModelSource):
    """torchvision's classifiers, by name."""

    name = "torchvision"
    priority = 20
    packages = ("torchvision",)

    def owns(self, name: str) -> bool:
        """Whether torchvision lists ``name`` among its classifiers."""
        return name in _torchvision_names()

    def load(self, request: ModelRequest) -> LoadedModel:
        """The architecture with published, a checkpoint's or random weights. Raises WeightsError."""
        from torchvision import models

        from camcli.models.build import with_weights
        from camcli.models.download import explain_download_failure
        from camcli.models.preprocess import preprocess_of_preset

        enum = models.get_model_weights(request.name)
        if request.random or request.checkpoint:
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

        from camcli.models.build import unknown_weights

        enum = models.get_model_weights(request.name)
        wanted = request.weights.rpartition(".")[2]
        names = {"DEFAULT": enum.DEFAULT, **enum.__members__}
        if wanted not in names:
            raise unknown_weights(request, tuple(names))
        return names[wanted]

    def list(self) -> Iterator[ModelInfo]:
        """The classifiers with the figures that their default weights publish."""
        from torchvision import models

        from camcli.models.download import is_cached

        for name in _torchvision_names():
            weights = models.get_model_weights(name).DEFAULT
            accuracy = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
            crop = weights.transforms().crop_size[0]
            yield ModelInfo(name, "torchvision", weights.meta.get("num_params"), (crop, crop), accuracy, is_cached(weights.url))

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """The names that the weights publish; for a checkpoint, names for the size of its head."""
        if request.checkpoint:
            return self.load(request).classes
        if request.random:
            return imagenet_labels()
        return tuple(self._enum_member(request).meta["categories"])

    def complete_names(self) -> Iterable[str]:
        """The classifiers that torchvision's source registers."""
        return registered_models("torchvision")

    def complete_classes(self, name: str) -> Sequence[str] | None:
        """ImageNet's."""
        return imagenet_names() if name in registered_models("torchvision") else None


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def _input_size(request: ModelRequest, enum: Any) -> tuple[Preprocess, dict[str, int]]:
    """The preprocessing of the published weights of the same input size, and the builder's option for the size.

    The input size is part of the architecture of a Vision Transformer: a checkpoint's size follows from its position embedding.
    """
    from camcli.models.checkpoints import read_checkpoint
    from camcli.models.preprocess import preprocess_of_preset

    default = preprocess_of_preset(enum.DEFAULT.transforms())
    if not request.name.startswith("vit_"):
        return default, {}
    published = [preprocess_of_preset(member.transforms()) for member in (*enum.__members__.values(), enum.DEFAULT)]
    by_size = {preprocess.crop[0]: preprocess for preprocess in published}
    size = default.crop[0]
    if request.checkpoint:
        patch = int(request.name.rpartition("_")[2])
        for key, tensor in read_checkpoint(request.weights).items():
            if key.endswith("encoder.pos_embedding") and tensor.ndim == 3:
                size = patch * math.isqrt(tensor.shape[1] - 1)
    unpublished = replace(default, crop=(size, size), resize_to=(size, size))
    return by_size.get(size, unpublished), {"image_size": size}


def _build_torchvision(name: str, **options: Any) -> nn.Module:
    """The architecture without trained weights. GoogLeNet and Inception come without their auxiliary heads, and with the input
    transform of their published weights, which fine-tuned checkpoints share.
    """
    from torchvision import models

    from camcli.models.build import as_module

    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "transform_input": True, "init_weights": True, **options}
    return as_module(models.get_model(name, weights=None, **options))
