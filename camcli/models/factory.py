"""Models from the user's own code."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from camcli.errors import ModelError, did_you_mean
from camcli.models.build import RANDOM_SEED, as_module, unknown_weights, with_weights
from camcli.models.checkpoints import is_checkpoint
from camcli.models.labels import default_labels
from camcli.models.request import ModelInfo, ModelRequest
from camcli.models.timm_models import preprocess_of_timm
from camcli.models.torchvision_models import preprocess_of_preset
from camcli.network.hooks import eval_frozen, logits_of
from camcli.records import LoadedModel, Preprocess


class FactorySource:
    """The user's own code, as ``package.module:factory``. It runs, with all the rights of the user."""

    def owns(self, name: str) -> bool:
        """Whether it holds a colon."""
        return ":" in name

    def load(self, request: ModelRequest) -> LoadedModel:
        """What the factory returns, with a checkpoint's weights where one is given. Raises ModelError and WeightsError.

        The module may say how it wants its images in an attribute ``preprocess`` (a torchvision ImageClassification preset or
        a ``camcli.records.Preprocess``) and name its classes in ``categories``.
        """
        factory = _import_factory(request.name)
        takes_classes = "num_classes" in _parameters(factory)

        def build(**options: Any) -> nn.Module:
            if options and not takes_classes:
                raise ModelError(
                    f"{request.name} takes no num_classes, so its head cannot follow the checkpoint's; "
                    "let the factory build the head of the right size."
                )
            return as_module(_called(request.name, factory, options))

        notes: tuple[str, ...] = ()
        if is_checkpoint(request.weights):
            model = with_weights(request, build, Preprocess(), ("DEFAULT",), aim_at_imagenet=False)
            module, weights = model.module, model.weights
        elif request.weights in ("DEFAULT", "none"):
            module, weights = build(), "as the factory returns them"
        else:
            raise unknown_weights(request, ("DEFAULT",))
        preprocess = own_preprocess(module)
        if preprocess is None:
            preprocess = Preprocess()
            notes = (f"{request.name} has no attribute 'preprocess': resize 256, crop 224, ImageNet's mean and std are used.",)
        return replace(own_model(request.name, module, preprocess), weights=weights, notes=notes)

    def list(self) -> Iterator[ModelInfo]:
        """Nothing: they are the user's."""
        yield from ()

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """Those of the module."""
        return self.load(request).classes


def own_model(name: str, module: nn.Module, preprocess: Preprocess) -> LoadedModel:
    """A module of the user's own with as many class names as it has logits. Raises ModelError when it does not run."""
    return LoadedModel(name, module, preprocess, _own_classes(name, module, preprocess), "")


def _import_factory(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # as python -m does: the user's module lies where the user stands
    try:
        target: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(f"cannot import {module_name!r} for --model {name!r}: {_words(error)}.") from error
    except (Exception, SystemExit) as error:  # SystemExit: a script that parses its own command line
        raise ModelError(f"{module_name!r} fails when imported: {type(error).__name__}: {_words(error)}") from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            known = [word for word in vars(target) if not word.startswith("_")]
            raise ModelError(f"{module_name!r} has no {attribute!r}.{did_you_mean(attribute, known)}")
        target = getattr(target, part)
    if not callable(target):
        raise ModelError(f"{name!r} is not callable: it must be a function that returns the model.")
    return target  # type: ignore[no-any-return]


def _called(name: str, factory: Callable[..., Any], options: dict[str, Any]) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)  # a factory with random weights makes the same network in every run
            return factory(**options)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name} fails: {type(error).__name__}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """What an error of the user's code says, on one line."""
    try:
        return " ".join(str(error).split())
    except Exception:  # its own __str__ fails
        return "(its text cannot be read)"


def _parameters(factory: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return frozenset()


def own_preprocess(module: nn.Module) -> Preprocess | None:
    """How a module says that it wants its images: by its attribute ``preprocess``, or as one of timm's; None where it does not."""
    own = getattr(module, "preprocess", None)
    if isinstance(own, Preprocess):
        return own
    if own is not None and all(hasattr(own, word) for word in ("resize_size", "crop_size", "mean", "std", "interpolation")):
        return preprocess_of_preset(own)
    if getattr(module, "pretrained_cfg", None):
        return preprocess_of_timm(module)
    return None


def _own_classes(name: str, module: nn.Module, preprocess: Preprocess) -> tuple[str, ...]:
    """``categories`` of the module, else plain numbers for as many classes as one image's logits have."""
    height, width = preprocess.crop
    try:
        with eval_frozen(module), torch.no_grad():
            parameter = next(module.parameters(), torch.zeros(0))
            count = logits_of(module(torch.zeros((1, 3, height, width), device=parameter.device, dtype=parameter.dtype))).shape[1]
    except Exception as error:  # the user's own forward may raise anything
        raise ModelError(
            f"{name} does not run on one image of 3 x {height} x {width}: {type(error).__name__}: {_words(error)}"
        ) from error
    categories = getattr(module, "categories", None)
    if categories is None:
        return default_labels(count, imagenet=False)
    try:
        names = tuple(str(category) for category in categories)
    except Exception as error:  # the user's own attribute may be anything
        raise ModelError(f"the categories of {name} cannot be read: {type(error).__name__}: {_words(error)}") from error
    if len(names) != count:
        raise ModelError(f"{name} names {len(names)} categories and returns {count} logits.")
    return names
