"""A backbone that is ready to compute features, and the images as its inputs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from camcli.fit.config import FitConfig
from camcli.models.gap_classifier import FEATURES, GapClassifier, PooledFeatures
from camcli.network import Network
from camcli.network.inputs import input_tensor
from camcli.network.memory import fitting_batch_size
from camcli.network.prepare import Preparation, prepare_network
from camcli.pipeline.stages import InputImage, prepared_batches
from camcli.pipeline.tasks import InputSettings
from camcli.records import Failure, LoadedModel
from camcli.source import Source


@dataclass(frozen=True)
class FeatureExtractor:
    """A backbone that is ready to compute features, which its ``network`` returns as logits (B, C).

    ``inputs``: how files become its inputs; ``batch_size``: how many at once.
    """

    name: str
    network: Network
    device: torch.device
    inputs: InputSettings
    batch_size: int

    def batches(self, sources: Sequence[Source], stop: threading.Event | None = None) -> Iterator[list[InputImage | Failure]]:
        """``sources`` as prepared images in batches, in order; a Failure in the place of one that cannot be read."""
        return prepared_batches(sources, self.inputs, self.batch_size, stop)

    def tensor(self, images: Sequence[np.ndarray]) -> Tensor:
        """Prepared ``images``, each (h, w, 3) uint8, as (B, 3, h, w) float32 on the device."""
        return input_tensor(images, self.inputs.preprocess, self.device)


def prepare_extractor(
    config: FitConfig, model: LoadedModel, classifier: GapClassifier, warn: Callable[[str], None]
) -> FeatureExtractor:
    """The backbone of ``classifier``, made from ``model``, on the device of its parameters.

    ``warn`` receives a sentence about what could not be done. Raises OutOfMemoryError.
    """
    pooled, layers = replace(model, module=PooledFeatures(classifier).eval()), [f"classifier.{FEATURES}"]
    device = next(parameter.device for parameter in pooled.module.parameters())
    batch_size = config.batch_size or fitting_batch_size(pooled, layers, device)
    network = prepare_network(pooled, layers, device, Preparation(), warn)
    inputs = InputSettings(model.preprocess, "crop", config.max_pixels, hashed=True)
    return FeatureExtractor(model.name, network, device, inputs, batch_size)
