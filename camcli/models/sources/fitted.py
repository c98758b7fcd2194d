"""Models made by ``camcli fit``: a folder with a description, the weights, and the class names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from camcli.config.fingerprint import fitted_file
from camcli.documents import parse_json, read_document
from camcli.errors import ModelError, WeightsError
from camcli.layout import FITTED_MARK, FITTED_WEIGHTS
from camcli.models.request import ModelInfo, ModelRequest
from camcli.models.sources import ModelSource, all_sources, register_source
from camcli.output.record import refuse_newer_format
from camcli.records import Grid, Layer, LoadedModel, Preprocess, escape_name, preprocess_of

if TYPE_CHECKING:
    from camcli.models.gap_classifier import GapClassifier


@dataclass(frozen=True)
class Fitted:
    """The description in a model's folder: the backbone, the layer after which it is cut, the preprocessing and the classes."""

    backbone: str
    layer: str
    grid: str
    preprocess: Preprocess
    classes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The description as JSON values."""
        return {"camcli-fit": FORMAT, **asdict(self)}


FORMAT = 1
"""Format of the description of a model that ``camcli fit`` has written."""


@register_source
class FittedSource(ModelSource):
    """Folders that ``camcli fit`` has written."""

    name = "fitted"
    priority = 40
    packages = ("timm",)  # whose code cuts the backbone
    offline_weights = "DEFAULT"  # they are in the folder

    def owns(self, name: str) -> bool:
        """Whether ``name`` is a folder with a model's description."""
        return os.path.isfile(fitted_file(name, FITTED_MARK))

    def load(self, request: ModelRequest) -> LoadedModel:
        """The classifier in the folder, bit-equal to the one that was fitted. Raises ModelError and WeightsError.

        The architecture comes from the backbone's source, the weights from the folder's safetensors file. If the backbone is the
        user's own code, loading it would run that code, so the user has to name it: ``request.weights`` must be the factory.
        """
        fitted = read_fitted(request.name)
        own_code = ":" in fitted.backbone
        if own_code and request.weights != fitted.backbone:
            raise WeightsError(
                f"{escape_name(request.name)}: loading it runs custom backbone code, "
                f"{escape_name(fitted.backbone)}. If you trust it, add "
                f"--weights {escape_name(fitted.backbone)}"
            )
        if not own_code and request.weights != "DEFAULT":
            raise WeightsError(f"{escape_name(request.name)} brings its own weights: leave --weights out.")
        weights = fitted_file(request.name, FITTED_WEIGHTS)
        tensors = _read_weights(weights, request.name, len(fitted.classes))
        classifier = empty_classifier(fitted)
        _fill_classifier(classifier, tensors, weights)
        description = f"fitted on {fitted.backbone} at {fitted.layer}"
        return LoadedModel(request.name, classifier, fitted.preprocess, fitted.classes, description)

    def list(self) -> Iterator[ModelInfo]:
        """Nothing: they can be in any folder."""
        yield from ()

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """The classes in the description."""
        return read_fitted(request.name).classes

    def complete_classes(self, name: str) -> Sequence[str] | None:
        """The classes in the description; none if it cannot be read."""
        if not self.owns(name):
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return [str(label) for label in parse_json(read_document(fitted_file(name, FITTED_MARK)))["classes"]]
        return ()


def read_fitted(folder: str) -> Fitted:
    """The description of the model in ``folder``. Raises ModelError where it cannot be read or is no such description."""
    path = fitted_file(folder, FITTED_MARK)
    try:
        found = parse_json(read_document(path))
        refuse_newer_format(folder, found, found.get("camcli-fit"), FORMAT)
        if found.get("camcli-fit") != FORMAT:
            raise ModelError(f"{escape_name(path)!r} does not describe a model of this version of camcli fit.")
        _refuse_unwritten(found["classes"], found["grid"])
        classes = tuple(found["classes"])
        preprocess = preprocess_of(found["preprocess"])
        return Fitted(str(found["backbone"]), str(found["layer"]), str(found["grid"]), preprocess, classes)
    except OSError as error:
        raise ModelError(f"cannot read {escape_name(path)!r}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{escape_name(path)!r} does not describe a model of camcli fit: {error}.") from error


def _refuse_unwritten(classes: Any, grid: Any) -> None:
    """Raise ValueError for classes and grids that ``camcli fit`` never writes; later they would fail with an obscure error."""
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes are not a list of names")
    if grid not in ("nchw", "nhwc"):
        raise ValueError(f"there is no grid {grid!r}")


def empty_classifier(fitted: Fitted) -> GapClassifier:
    """The architecture of ``fitted``, without trained weights. Raises ModelError, LayerError."""
    from camcli.models.gap_classifier import cut_classifier

    others = (source for source in all_sources() if source.name != FittedSource.name)  # a description may not name another one
    source = next((source for source in others if source.owns(fitted.backbone)), None)
    if source is None:
        raise ModelError(f"there is no model {escape_name(fitted.backbone)!r}, on which this one was fitted.")
    backbone = source.load(ModelRequest(fitted.backbone, "none"))
    backbone.module.eval().requires_grad_(False)
    backbone = LoadedModel(backbone.name, backbone.module, fitted.preprocess, backbone.classes, backbone.weights)
    layer = Layer(fitted.layer, Grid(fitted.grid, 0, 0))
    return cut_classifier(backbone, layer, len(fitted.classes))


def _read_weights(path: str, name: str, classes: int) -> Mapping[str, Any]:
    """The tensors of the safetensors file at ``path``, whose head has as many ``classes`` as the description names.

    Raises WeightsError before the architecture is built: a damaged description may name so many classes that their head would
    fill the memory.
    """
    from camcli.models.checkpoints import read_checkpoint

    if not os.path.isfile(path):
        raise WeightsError(f"{escape_name(name)} has no {os.path.basename(path)}: the folder is incomplete.")
    tensors = read_checkpoint(path)
    head = tensors.get("head.weight")
    if head is None or head.ndim != 2 or head.shape[0] != classes:
        found = "no such matrix" if head is None else " x ".join(map(str, head.shape))
        raise WeightsError(
            f"{escape_name(path)} does not fit the model beside it: head.weight is {found}, and {FITTED_MARK} names "
            f"{classes:,} classes."
        )
    return tensors


def _fill_classifier(classifier: GapClassifier, tensors: Mapping[str, Any], path: str) -> None:
    """Load the weights ``tensors``, read from ``path``, into ``classifier``. Raises WeightsError where they do not fit."""
    try:
        classifier.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{escape_name(path)} does not fit the model beside it: {escape_name(reason)}") from error
