"""Models from the user's own code."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from camcli.errors import ModelError, did_you_mean, message_of
from camcli.models.request import ModelInfo, ModelRequest
from camcli.models.sources import ModelSource, register_source
from camcli.records import LoadedModel, Preprocess

if TYPE_CHECKING:
    from torch import nn


@register_source
class FactorySource(ModelSource):
    """The user's own code, as ``package.module:factory``. It runs with all the user's rights."""

    name = "factory"
    priority = 50
    hint = "Your own: package.module:factory."

    def owns(self, name: str) -> bool:
        """Whether ``name`` has a colon."""
        return ":" in name

    def load(self, request: ModelRequest) -> LoadedModel:
        """The module that the factory returns, with a checkpoint's weights if one is given. Raises ModelError and WeightsError.

        The module's attribute ``preprocess`` may be a torchvision ImageClassification preset or a ``camcli.records.Preprocess``,
        and its attribute ``categories`` the class names.
        """
        from camcli.models.build import as_module, unknown_weights, with_weights
        from camcli.models.own_module import own_model, own_preprocess

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
        if request.checkpoint:
            model = with_weights(request, build, Preprocess(), ("DEFAULT",), aim_at_imagenet=False)
            module, weights = model.module, model.weights
        elif request.weights in ("DEFAULT", "none"):
            module, weights = build(), "as the factory returns them"
        else:
            raise unknown_weights(request, ("DEFAULT",))
        preprocess = own_preprocess(module)
        if preprocess is None:
            preprocess = Preprocess()
            if not request.changes:
                notes = (f"{request.name} has no attribute 'preprocess': resize 256, crop 224, ImageNet's mean and std are used.",)
        found = own_model(request.name, module, request.changes.applied(preprocess))
        return replace(found, weights=weights, notes=(*notes, *found.notes))

    def list(self) -> Iterator[ModelInfo]:
        """Nothing: only the user knows them."""
        yield from ()

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """The names that the module gives."""
        return self.load(request).classes

    def complete_classes(self, name: str) -> Sequence[str] | None:
        """None are proposed: the user's code would have to run."""
        return () if self.owns(name) else None


def _import_factory(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # as python -m does: finds modules in the current folder
    try:
        target: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(f"cannot import {module_name!r} for --model {name!r}: {message_of(error)}.") from error
    except (Exception, SystemExit) as error:  # SystemExit: a script that parses its own command line
        raise ModelError(f"{module_name!r} fails when imported: {type(error).__name__}: {message_of(error)}") from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            known = [word for word in vars(target) if not word.startswith("_")]
            raise ModelError(f"{module_name!r} has no {attribute!r}.{did_you_mean(attribute, known)}")
        target = getattr(target, part)
    if not callable(target):
        raise ModelError(f"{name!r} is not callable: it must be a function that returns the model.")
    return target  # type: ignore[no-any-return]


def _called(name: str, factory: Callable[..., Any], options: dict[str, Any]) -> Any:
    import torch

    from camcli.models.build import RANDOM_SEED

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)  # a factory with random weights makes the same network in every run
            return factory(**options)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name} fails: {type(error).__name__}: {message_of(error)}") from error


def _parameters(factory: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return frozenset()
