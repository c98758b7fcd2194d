"""The model sources. Each module in this folder registers one; no list has to be extended.

The modules are imported before PyTorch is, when a shell completes a name. Therefore they import torch, and every module that
imports it, inside functions.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from camcli.errors import ModelError, did_you_mean
from camcli.models.labels import read_labels
from camcli.models.request import CHECKPOINT_SUFFIXES, ModelInfo, ModelRequest, why_exported
from camcli.records import LoadedModel

if TYPE_CHECKING:
    import torch


class ModelSource(Protocol):
    """A place that models come from. Each source must define the members that have no default here.

    ``name``: unique; the column ``source`` of ``camcli models``. ``priority``: a model's name is offered to the source with the
    lowest number first. ``prefix``: what all names of the source begin with. ``packages``: the PyPI packages whose versions
    ``run.json`` records. ``listed_by_default``: whether ``camcli models`` lists the source when it is given no pattern. ``hint``: a
    sentence that ``camcli models`` prints below its table. ``offline_weights``: the ``--weights`` with which a model can be
    examined, its layers for example, without a download.
    """

    name: str
    priority: int
    prefix: str = ""
    packages: tuple[str, ...] = ()
    listed_by_default: bool = True
    hint: str = ""
    offline_weights: str = "none"

    @abstractmethod
    def owns(self, name: str) -> bool:
        """Whether the model ``name`` belongs to this source."""

    @abstractmethod
    def load(self, request: ModelRequest) -> LoadedModel:
        """The model. Raises ModelError or WeightsError."""

    @abstractmethod
    def list(self) -> Iterator[ModelInfo]:
        """All models of this source, by name; nothing if they cannot be listed."""

    @abstractmethod
    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """The class names of a model, if possible without loading its weights."""

    def complete_names(self) -> Iterable[str]:
        """The model names that a shell proposes. Must not import torch."""
        return ()

    def complete_classes(self, name: str) -> Sequence[str] | None:
        """The class names that a shell proposes for the model ``name``; None for another source's model. Must not import torch."""
        return None


_MEMBERS = (*ModelSource.__annotations__, *(name for name, value in vars(ModelSource).items() if inspect.isfunction(value)))
"""What a source must have; the defaults come with the base class."""

_REGISTERED: dict[str, ModelSource] = {}

_Source = TypeVar("_Source", bound=ModelSource)


def register_source(kind: type[_Source]) -> type[_Source]:
    """A class decorator that registers one instance of a model source.

    Raises TypeError for a source that lacks a member, ValueError for a name that is taken.
    """
    abstract: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    missing = [member for member in _MEMBERS if member in abstract or not hasattr(kind, member)]
    if missing:
        raise TypeError(f"model source {kind.__qualname__} lacks {', '.join(missing)}; see camcli.models.sources.ModelSource")
    if kind.name in _REGISTERED:
        raise ValueError(f"model source {kind.name!r} is registered twice")
    _REGISTERED[kind.name] = kind()
    return kind


def all_sources() -> list[ModelSource]:
    """Every source, in the order in which a model's name is offered to them: by priority, then by name."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return sorted(_REGISTERED.values(), key=lambda source: (source.priority, source.name))


def source_of(name: str) -> ModelSource:
    """The source that a model's name belongs to.

    Raises ModelError for a name that no source knows, with the nearest names.
    """
    for source in all_sources():
        if source.owns(name):
            return source
    exported = why_exported(name)
    if exported is not None:
        raise ModelError(f"{name!r} is {exported}")
    if name.lower().endswith(CHECKPOINT_SUFFIXES):
        raise ModelError(
            f"{name!r} is a file of weights, not a model. Name the architecture that it was trained with too: "
            f"--model ARCH --weights {name}, where ARCH is a name such as resnet50. See them all: camcli models"
        )
    known = [info.name for info in list_models()]
    raise ModelError(f"there is no model {name!r}.{did_you_mean(name, known)} See them all: camcli models")


def load_model(request: ModelRequest, device: torch.device | str = "cpu") -> LoadedModel:
    """The model ready to run on ``device``: evaluation mode, no gradients for its parameters.

    Raises ModelError for an unknown name, with the nearest ones; WeightsError for weights that do not exist, cannot be
    downloaded, do not fit or would run code; LabelsError when ``labels`` does not fit the head; ConfigError for changes of the
    preprocessing that do not fit the network.
    """
    model = source_of(request.name).load(request)
    model = replace(model, preprocess=request.changes.applied(model.preprocess))
    if request.labels is not None and len(model.classes) > 1:  # a model with one logit may have two names: the caller decides
        model = replace(model, classes=read_labels(request.labels, len(model.classes)))
    model.module.eval().requires_grad_(False).to(device)
    return model


def weights_at_hand(name: str) -> str:
    """The ``--weights`` with which the model ``name`` can be examined, its layers for example, without a download."""
    return source_of(name).offline_weights


def list_models(*, hidden: bool = True) -> Iterator[ModelInfo]:
    """Every model that a source can list. ``hidden``: also the sources that are not listed by default."""
    for source in all_sources():
        if hidden or source.listed_by_default:
            yield from source.list()


def class_names(request: ModelRequest) -> tuple[str, ...]:
    """The class names of a model, without loading its weights where possible."""
    names = source_of(request.name).labels(request)
    return read_labels(request.labels, len(names)) if request.labels is not None else names


def recorded_packages() -> tuple[str, ...]:
    """The PyPI packages of all sources, whose versions ``run.json`` records."""
    return tuple(dict.fromkeys(package for source in all_sources() for package in source.packages))
