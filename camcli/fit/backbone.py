"""The backbone of a training: a network that is used up to one layer."""

from __future__ import annotations

from dataclasses import replace

from camcli.errors import ConfigError, ModelError
from camcli.fit.config import FitConfig
from camcli.fit.finetune import blocks_of
from camcli.fit.records import Backbone
from camcli.models.device import resolve_device
from camcli.models.gap_classifier import cut_classifier
from camcli.models.layers import resolve_layers
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model, source_of
from camcli.models.sources.fitted import FittedSource, read_fitted
from camcli.records import Preprocess, escape_name


def load_backbone(config: FitConfig, classes: int) -> Backbone:
    """The network of ``config`` up to its layer, with a linear layer of zeros for ``classes`` classes.

    Raises ModelError, WeightsError, LayerError, DeviceError, and ConfigError if ``--unfreeze`` is larger than the number of blocks.
    """
    if isinstance(source_of(config.backbone), FittedSource):
        own = escape_name(read_fitted(config.backbone).backbone)
        raise ModelError(f"{escape_name(config.backbone)} was trained by camcli fit and is no backbone: name its own, {own}.")
    device = resolve_device(config.device)
    model = load_model(ModelRequest(config.backbone, config.weights), device)
    model = replace(model, preprocess=preprocess_for(model.preprocess, config.resize_mode))
    (layer,) = resolve_layers(model, [config.layer] if config.layer else [])
    classifier = cut_classifier(model, layer, classes)
    count = len(blocks_of(classifier.features))
    if config.unfreeze > count:
        raise ConfigError(f"--unfreeze {config.unfreeze}: {config.backbone} has {count} blocks before the cut.")
    return Backbone(model, layer, classifier)


def preprocess_for(preprocess: Preprocess, resize_mode: str) -> Preprocess:
    """``preprocess`` itself for ``crop``; for ``squash`` and ``pad`` a version that uses the whole image."""
    if resize_mode == "crop":
        return preprocess
    return replace(preprocess, resize="squash" if resize_mode == "squash" else "contain", resize_to=preprocess.crop)
