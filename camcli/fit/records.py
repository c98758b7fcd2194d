"""Records that are passed between the steps of a training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from camcli.fit.finetune import Epoch, LabelledImages
from camcli.fit.linear_probe import LinearProbe
from camcli.fit.metrics import Metrics
from camcli.models.gap_classifier import GapClassifier
from camcli.records import Failure, Layer, LoadedModel
from camcli.source import Source


@dataclass(frozen=True)
class Result:
    """What a call of ``fit_model`` returns. ``metrics``: on the validation part, None if the training was stopped.

    ``already``: the folder already held this model, and nothing was done.
    """

    metrics: Metrics | None = None
    already: bool = False
    failures: tuple[Failure, ...] = ()
    epochs: tuple[Epoch, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """A network that is used up to a layer. ``classifier``: that part with a linear layer; it shares its weights with ``model``.

    ``model.preprocess`` says how images become its input.
    """

    model: LoadedModel
    layer: Layer
    classifier: GapClassifier


@dataclass(frozen=True)
class Examples:
    """The readable images: class index, SHA-256 of the file, part (``train`` or ``val``), and pooled features (N, C)."""

    sources: tuple[Source, ...]
    labels: tuple[int, ...]
    digests: tuple[str, ...]
    parts: tuple[str, ...]
    features: Tensor

    def positions(self, part: str) -> list[int]:
        """The positions of the images of a part."""
        return [position for position, own in enumerate(self.parts) if own == part]

    def labelled(self, part: str) -> LabelledImages:
        """The images of a part with their class indices."""
        positions = self.positions(part)
        return LabelledImages([self.sources[at] for at in positions], [self.labels[at] for at in positions])

    def tensors(self, part: str) -> tuple[Tensor, Tensor]:
        """Features (N, C) and class indices (N,) of a part."""
        positions = self.positions(part)
        return self.features[positions], torch.tensor([self.labels[at] for at in positions])


@dataclass(frozen=True)
class Training:
    """A finished training. ``logits``: for each part (N, K), in the order of its images. ``metrics``: on the validation part.

    ``epochs``: of fine-tuning, empty without ``--unfreeze``.
    """

    examples: Examples
    failures: tuple[Failure, ...]
    probe: LinearProbe
    epochs: tuple[Epoch, ...]
    logits: dict[str, Tensor]
    metrics: Metrics
