"""Preparing a run: load the model and resolve all names. Also the contents of ``run.json``."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from camcli import __version__
from camcli.cam import METHODS, Method
from camcli.cam.explain import Options, check_options, result_layers
from camcli.config.run import RunConfig
from camcli.errors import ClassError, ConfigError, LabelsError
from camcli.models.device import resolve_device
from camcli.models.labels import find_class, read_labels
from camcli.models.layers import resolve_layers
from camcli.models.own_module import own_model, own_preprocess
from camcli.models.request import ModelRequest
from camcli.models.sources import class_names, load_model, recorded_packages, source_of, weights_at_hand
from camcli.network import Network, eager
from camcli.network.memory import fitting_batch_size, refuse_too_little
from camcli.network.prepare import Preparation, prepare_network, worth_compiling
from camcli.network.probe import probe_input
from camcli.pipeline.findings import Names
from camcli.pipeline.tasks import InputSettings
from camcli.pipeline.true_labels import true_classes
from camcli.records import Counts, Layer, LoadedModel, Preprocess, preprocess_record
from camcli.source import Source
from camcli.timing import StageTimer


@dataclass(frozen=True)
class Job:
    """A model and everything that a run needs to explain images with it. All names are resolved.

    ``classes``: the indices of the classes given with ``--class``. ``labels``: image -> true class; None without ``--class-from``.
    ``options``: how the maps are computed. ``network``: the model prepared for this job. ``batch_size``: that of the config, or as
    many images as fit into memory.
    """

    config: RunConfig
    model: LoadedModel
    device: torch.device
    layers: tuple[Layer, ...]
    classes: tuple[int, ...]
    options: Options
    labels: Mapping[str, int] | None
    network: Network
    batch_size: int

    def __repr__(self) -> str:
        layers = ", ".join(layer.name for layer in self.layers)
        return f"<camcli model {self.model.name}: {len(self.model.classes)} classes, layers {layers}, on {self.device}>"

    def with_targets(self, **changes: Any) -> Job:
        """A job with the same model and other classes or methods. ``changes``: fields of RunConfig. Raises as ``prepare_job``."""
        config = replace(self.config, **changes).check()
        methods = [METHODS[name] for name in config.method]
        options = _options(config, self.options.binary)
        _check_methods(methods, self.layers, self.model, self.device, options, self.network.dtype)
        size = config.batch_size or self.batch_size
        return replace(self, config=config, classes=_found_classes(config, self.model), options=options, batch_size=size)

    @property
    def inputs(self) -> InputSettings:
        """The settings for turning files into inputs of the network."""
        config = self.config
        return InputSettings(self.model.preprocess, config.resize_mode, config.max_pixels, config.hash)

    @cached_property
    def names(self) -> Names:
        """The classes, and (layer, method) of each map of a class, in the order of the rows."""
        names = [layer.name for layer in self.layers]
        pairs = [(layer, method) for method in self.config.method for layer in result_layers(names, method, self.options.fuse)]
        order = {name: position for position, name in enumerate(dict.fromkeys([*names, *(layer for layer, _ in pairs)]))}
        return Names(self.model.classes, tuple(sorted(pairs, key=lambda pair: order[pair[0]])))

    @cached_property
    def contribution_layers(self) -> tuple[str, ...]:
        """The layer of the contributions of each of ``names.results``: the last one if its map is not of one layer."""
        own = [layer.name for layer in self.layers]
        return tuple(layer if layer in own else own[-1] for layer, _ in self.names.results)


def prepare_job(
    config: RunConfig,
    sources: Sequence[Source] = (),
    *,
    left: int | None = None,
    show_progress: bool = False,
    info: Callable[[str], None] = lambda _: None,
) -> Job:
    """A job for ``config``: loads the model, resolves all names and prepares the network. No image is read.

    ``left``: how many of ``sources`` are still to explain; None for all. ``info`` is called with messages about slow steps.
    Raises a UsageError for something that does not exist: ConfigError, DeviceError, ModelError, LayerError or ClassError.
    """
    methods = [METHODS[name] for name in config.method]
    device = resolve_device(config.device)
    request = ModelRequest(config.model, config.weights, config.labels, show_progress, config.input_changes)
    model = load_model(request, device)
    model, binary = _with_head(model, config)
    labels = true_classes(config.class_from, sources, model.classes) if config.class_from is not None else None
    classes = _found_classes(config, model)
    layers = tuple(resolve_layers(model, config.layer))
    options = _options(config, binary)
    _check_methods(methods, layers, model, device, options, torch.float32)
    notes = [method.warning for method in methods if method.warning]
    names = [layer.name for layer in layers]
    through_all = any(method.scene is not None for method in methods)
    batch_size = config.batch_size or fitting_batch_size(model, names, device, through_all=through_all)
    compiled = worth_compiling(config.compile, len(sources) if left is None else left)
    if compiled:
        info(f"Compiling {model.name}; this takes up to a minute the first time.")
    wanted = Preparation(config.precision, compiled, batch_size, config.threads)
    network = prepare_network(model, names, device, wanted, notes.append)
    refuse_too_little(model, names, device)
    options = replace(options, chunk=batch_size)
    model = replace(model, notes=(*model.notes, *dict.fromkeys(notes)))
    return Job(config, model, device, layers, classes, options, labels, network, batch_size)


def check_names(config: RunConfig, changed: Collection[str]) -> None:
    """Raise the UsageError that ``prepare_job`` would raise for a misspelt model, method, class or layer. Loads no weights.

    ``changed``: the names of the options to check.
    """
    if "model" in changed:
        source_of(config.model)
    for name in config.method if "method" in changed else ():
        METHODS[name]
    if {"model", "weights", "labels", "class"} & set(changed):
        classes = class_names(ModelRequest(config.model, config.weights, config.labels, changes=config.input_changes))
        for wanted in config.class_:
            find_class(wanted, classes)
    if config.layer and {"model", "layer"} & set(changed):
        request = ModelRequest(config.model, weights_at_hand(config.model), changes=config.input_changes)
        resolve_layers(load_model(request), config.layer)


def prepare_module(module: nn.Module, config: RunConfig, preprocess: Preprocess | None) -> Job:
    """A job for the classifier ``module``, which is left unchanged. Raises what ``prepare_job`` raises.

    ``preprocess``: None for the module's attribute ``preprocess``, or timm's configuration of it.
    """
    preprocess = preprocess or own_preprocess(module) or Preprocess()
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    model = replace(own_model(config.model, module, preprocess), weights="as given")
    if config.labels is not None:
        model = replace(model, classes=read_labels(config.labels, len(model.classes)))
    layers = tuple(resolve_layers(model, config.layer))
    return Job(config, model, device, layers, (), _options(config, binary=False), None, eager(module), config.batch_size or 16)


def _found_classes(config: RunConfig, model: LoadedModel) -> tuple[int, ...]:
    if config.top_count > len(model.classes):
        raise ClassError(f"--topk {config.top_count} is too large: {model.name} has {len(model.classes)} classes.")
    return tuple(dict.fromkeys(find_class(wanted, model.classes) for wanted in config.class_))


def _options(config: RunConfig, binary: bool) -> Options:
    return Options(
        config.smooth, config.noise, config.augment, config.counterfactual, config.fuse, config.batch_size or 16, binary,
        config.samples, config.window, config.stride, contributions=config.save_contributions,
    )  # fmt: skip


def _with_head(model: LoadedModel, config: RunConfig) -> tuple[LoadedModel, bool]:
    """The model with a name for each class, and whether its single logit stands for two classes."""
    if len(model.classes) != 1:
        return model, False
    if config.head != "sigmoid":
        raise ConfigError(f"{model.name} has a single logit, and softmax of a single logit is always 1: use --head sigmoid.")
    if config.labels is None:
        return model, False
    names = read_labels(config.labels, None)
    if len(names) > 2:
        raise LabelsError(
            f"--labels {config.labels} names {len(names)} classes, but {model.name} has a single logit, which needs one or two."
        )
    return replace(model, classes=names), len(names) == 2


def _check_methods(
    methods: Sequence[Method],
    layers: Sequence[Layer],
    model: LoadedModel,
    device: torch.device,
    options: Options,
    dtype: torch.dtype,
) -> None:
    """Raise LayerError if a method does not work with the model, a layer or an option."""
    image = probe_input(model.preprocess, device, dtype)
    check_options(methods, options)
    for method in methods:
        for layer in layers[: 1 if method.layer_independent else None]:
            if method.check is not None:
                method.check(model.module, layer, image)


def run_record(job: Job, counts: Counts, totals: tuple[int, int], seconds: float, state: str, stages: StageTimer) -> dict[str, Any]:
    """The contents of ``run.json``. ``totals``: how many images in the tables are explained and failed, over all runs."""
    return {
        "camcli": __version__,
        "state": state,
        "settings": job.config.as_dict(),
        "model": {"name": job.model.name, "weights": job.model.weights, "classes": len(job.model.classes)},
        "preprocess": preprocess_record(job.model.preprocess),
        "layers": [layer.name for layer in job.layers],
        "device": str(job.device),
        "network": {"batch_size": job.batch_size, "runs": job.network.description or "fp32, not compiled"},
        "images": {"explained": totals[0], "failed": totals[1]},
        "this_run": {**counts.as_dict(), "seconds": round(seconds, 3), "stages": stages.seconds()},
        "versions": package_versions(),
    }


def package_versions(*more: str) -> dict[str, str | None]:
    """Versions of Python, of the packages on which the results depend, and of ``more``; None for one that is not installed."""
    packages = ("torch", *recorded_packages(), "opencv-python", "numpy", "pillow", *more)
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
