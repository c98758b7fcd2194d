"""What crosses from step to step of a fitting."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from camcli.fit.data import Dataset
from camcli.fit.finetune import Epoch, Labelled
from camcli.fit.metrics import Metrics
from camcli.models.gap_classifier import GapClassifier
from camcli.records import Failure, Layer, LoadedModel, Source


@dataclass
class Result:
    """What a fitting made. ``metrics`` are those of the validation part; None where it was stopped."""

    dataset: Dataset
    metrics: Metrics | None = None
    already: bool = False
    failures: list[Failure] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class Backbone:
    """A network cut at a layer.

    ``classifier`` shares its weights with ``model``, which wants its images as ``model.preprocess``.
    """

    model: LoadedModel
    layer: Layer
    classifier: GapClassifier


@dataclass(frozen=True)
class Examples:
    """The readable images: their classes, the SHA-256 of their files, their part, and their features (N, C)."""

    sources: tuple[Source, ...]
    labels: tuple[int, ...]
    digests: tuple[str, ...]
    parts: tuple[str, ...]
    features: Tensor

    def places(self, part: str) -> list[int]:
        """Which of them belong to a part."""
        return [place for place, own in enumerate(self.parts) if own == part]

    def labelled(self, part: str) -> Labelled:
        """Those of a part, without their features."""
        places = self.places(part)
        return Labelled([self.sources[place] for place in places], [self.labels[place] for place in places])

    def tensors(self, part: str) -> tuple[Tensor, Tensor]:
        """Features (N, C) and labels (N,) of a part."""
        places = self.places(part)
        return self.features[places], torch.tensor([self.labels[place] for place in places])
