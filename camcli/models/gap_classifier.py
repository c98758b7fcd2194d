"""A backbone truncated after one layer, with the classifier of Zhou et al. 2016: average pooling and one linear layer."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx, nn

from camcli.errors import LayerError, first_line
from camcli.network.hooks import capture_outputs, eval_frozen
from camcli.network.probe import probe_input
from camcli.records import Layer, LoadedModel

FEATURES = "features"
"""The name of the layer of a ``GapClassifier`` that is pooled."""


class GapClassifier(nn.Module):
    """The truncated backbone ``features``, the mean over its cells, and the linear layer ``head`` (Zhou et al. 2016, section 2)."""

    def __init__(self, features: fx.GraphModule, channels: int, classes: int, *, channels_last: bool) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(channels, classes)
        self._cells = (1, 2) if channels_last else (2, 3)

    def pooled(self, inputs: Tensor) -> Tensor:
        """The input of the linear layer: (B, 3, H, W) -> (B, C)."""
        features: Tensor = self.features(inputs)
        return features.mean(dim=self._cells)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W)."""
        logits: Tensor = self.head(self.pooled(inputs))
        return logits


class PooledFeatures(nn.Module):
    """A ``GapClassifier`` without its head: it returns the pooled features (B, C) in place of logits."""

    def __init__(self, classifier: GapClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs: Tensor) -> Tensor:
        """Pooled features (B, C) of images (B, 3, H, W)."""
        return self.classifier.pooled(inputs)


def cut_classifier(model: LoadedModel, layer: Layer, classes: int) -> GapClassifier:
    """The network of ``model`` up to ``layer``, average pooling, and a linear layer of zeros for ``classes``.

    It shares its parameters with the model, and is in evaluation mode. The backbone is truncated in the graph that ``torch.fx``
    records, and checked: for two noise images it must return what the layer returns in the whole network. Raises LayerError if it
    does not, if no graph can be recorded, and for a layer of tokens.
    """
    if layer.grid.kind == "tokens":
        raise LayerError(
            f"layer {layer.name!r} of {model.name} is a sequence of tokens, for which average pooling does not work: choose a "
            "convolutional backbone."
        )
    features = _cut(model, layer.name)
    parameter = next(model.module.parameters())
    images = probe_input(model.preprocess, parameter.device, parameter.dtype, count=2)
    with eval_frozen(model.module), capture_outputs(model.module, [layer.name]) as outputs, torch.no_grad():
        model.module(images)
        expected, found = outputs[layer.name].detach(), features(images)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())):
        raise LayerError(f"truncating {model.name} at {layer.name!r} changes its output: choose another layer or backbone.")
    channels_last = layer.grid.kind == "nhwc"
    classifier = GapClassifier(features, expected.shape[3 if channels_last else 1], classes, channels_last=channels_last)
    nn.init.zeros_(classifier.head.weight)
    nn.init.zeros_(classifier.head.bias)
    return classifier.to(parameter.device).eval()


def _cut(model: LoadedModel, name: str) -> fx.GraphModule:
    """The modules on which ``name`` depends, under their names in the whole network."""
    from timm.models import create_feature_extractor

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            extractor = create_feature_extractor(model.module, {name: FEATURES}).eval()
    except Exception as error:  # a forward pass that cannot be traced can raise anything
        reason = first_line(error)[:200]
        raise LayerError(f"{model.name} cannot be truncated at {name!r} ({reason}): choose another layer or backbone.") from error
    graph = extractor.graph
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (output.args[0][FEATURES],)
    return fx.GraphModule(extractor, graph)
