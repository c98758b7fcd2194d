"""A module of the user's own: the preprocessing and the class names that it declares."""

from __future__ import annotations

import torch
from torch import nn

from camcli.errors import ModelError, message_of
from camcli.models.build import as_module
from camcli.models.channels import WAY_OUT, first_convolution, for_channels, grey_note
from camcli.models.labels import default_labels
from camcli.models.preprocess import preprocess_of_preset, preprocess_of_timm
from camcli.network.hooks import eval_frozen, logits_of
from camcli.records import LoadedModel, Preprocess


def own_model(name: str, module: nn.Module, preprocess: Preprocess) -> LoadedModel:
    """A module of the user's own, with a class name for each logit. Raises ModelError if it does not run.

    If it does not run with three channels, and its first convolution takes one, it gets grey images.
    """
    notes: tuple[str, ...] = ()
    as_module(module)
    try:
        count = _logit_count(name, module, preprocess)
    except ModelError as error:
        first = first_convolution(module)
        channels = 3 if first is None or preprocess.channels != 3 else first[1].in_channels
        if channels == 3:
            raise
        if channels != 1:
            raise ModelError(f"{name} takes images of {channels} channels. {WAY_OUT}") from error
        preprocess = for_channels(preprocess, channels)
        count = _logit_count(name, module, preprocess)
        notes = (grey_note(name, preprocess),)
    return LoadedModel(name, module, preprocess, _own_classes(name, module, count), "", notes)


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


def _logit_count(name: str, module: nn.Module, preprocess: Preprocess) -> int:
    """The number of logits for one image. Raises ModelError if the module does not run."""
    height, width = preprocess.crop
    try:
        with eval_frozen(module), torch.no_grad():
            parameter = next(module.parameters(), torch.zeros(0))
            image = torch.zeros((1, preprocess.channels, height, width), device=parameter.device, dtype=parameter.dtype)
            return logits_of(module(image)).shape[1]
    except Exception as error:  # the user's own forward may raise anything
        raise ModelError(
            f"{name} does not run on one image of {preprocess.channels} x {height} x {width}: {type(error).__name__}: "
            f"{message_of(error)}"
        ) from error


def _own_classes(name: str, module: nn.Module, count: int) -> tuple[str, ...]:
    """The module's attribute ``categories``, else ``class N`` for each of ``count`` logits."""
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
