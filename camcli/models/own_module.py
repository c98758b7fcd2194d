"""A module of the user's own: the preprocessing and the class names that it declares."""

from __future__ import annotations

import torch
from torch import nn

from camcli.errors import ModelError, message_of
from camcli.models.labels import default_labels
from camcli.models.preprocess import preprocess_of_preset, preprocess_of_timm
from camcli.network.hooks import eval_frozen, logits_of
from camcli.records import LoadedModel, Preprocess


def own_model(name: str, module: nn.Module, preprocess: Preprocess) -> LoadedModel:
    """A module of the user's own, with a class name for each logit. Raises ModelError if it does not run."""
    return LoadedModel(name, module, preprocess, _own_classes(name, module, preprocess), "")


def own_preprocess(module: nn.Module) -> Preprocess | None:
    """The preprocessing in a module's attribute ``preprocess``, else that of a timm model; None if there is neither."""
    own = getattr(module, "preprocess", None)
    if isinstance(own, Preprocess):
        return own
    if own is not None and all(hasattr(own, word) for word in ("resize_size", "crop_size", "mean", "std", "interpolation")):
        return preprocess_of_preset(own)
    if getattr(module, "pretrained_cfg", None):
        return preprocess_of_timm(module)
    return None


def _own_classes(name: str, module: nn.Module, preprocess: Preprocess) -> tuple[str, ...]:
    """The module's attribute ``categories``, else ``class N`` for each logit of one image."""
    height, width = preprocess.crop
    try:
        with eval_frozen(module), torch.no_grad():
            parameter = next(module.parameters(), torch.zeros(0))
            count = logits_of(module(torch.zeros((1, 3, height, width), device=parameter.device, dtype=parameter.dtype))).shape[1]
    except Exception as error:  # the user's own forward may raise anything
        raise ModelError(
            f"{name} does not run on one image of 3 x {height} x {width}: {type(error).__name__}: {message_of(error)}"
        ) from error
    categories = getattr(module, "categories", None)
    if categories is None:
        return default_labels(count, imagenet=False)
    try:
        names = tuple(str(category) for category in categories)
    except Exception as error:  # the user's own attribute may be anything
        raise ModelError(f"the categories of {name} cannot be read: {type(error).__name__}: {message_of(error)}") from error
    if len(names) != count:
        raise ModelError(f"{name} names {len(names)} categories and returns {count} logits.")
    return names
