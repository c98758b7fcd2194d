"""From a folder of labelled images to a model's folder: every step of ``camcli fit``, in order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from camcli.config.run import RunConfig
from camcli.errors import ConfigError, ModelError
from camcli.fit.config import FitConfig
from camcli.fit.data import PARTS, Dataset, Duplicates, divide, find_duplicates, read_dataset, refuse_equal_classes
from camcli.fit.features import FeatureCache, cache_key, compute_features
from camcli.fit.finetune import LEARNING_RATE, RANDOM_LEARNING_RATE, Epoch, Tuning, blocks_of, fine_tune, predict
from camcli.fit.folder import ModelFolder, dataset_digest
from camcli.fit.linear_probe import Head, train_head
from camcli.fit.metrics import measure
from camcli.fit.model_card import model_files
from camcli.fit.records import Backbone, Examples, Result
from camcli.models.device import resolve_device
from camcli.models.gap_classifier import FEATURES, GapClassifier, PooledFeatures, cut_classifier
from camcli.models.layers import resolve_layers
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model, source_of
from camcli.models.sources.fitted import Fitted, FittedSource, read_fitted
from camcli.pipeline.job import Job, feature_job
from camcli.records import Failure, Layer, Preprocess, escape_name


class Listener(Protocol):
    """Who is told how far it is."""

    def info(self, text: str) -> None:
        """A line for those who watch."""

    def warn(self, text: str) -> None:
        """A line about something the user should know."""

    def failed(self, failure: Failure) -> None:
        """An image that is left out."""

    def images(self, done: int, of: int) -> None:
        """How many images have their features."""


def fit_model(config: FitConfig, listener: Listener, stop: threading.Event) -> Result:
    """Train a classifier on the images of ``config.data`` and write it to ``config.output``.

    Nothing is done where that folder holds a model of the same settings and images. After ``stop`` is set what was computed is
    kept and no model is written. Raises ConfigError and the other UsageErrors for what does not exist or does not fit,
    SettingsError for a folder with another model, RunError.
    """
    dataset = read_dataset(config.data, config.output)
    settings = {**config.settings(), "data": dataset.root}
    folder = ModelFolder(config.output, settings, dataset_digest(dataset), overwrite=config.overwrite)
    with folder:
        if folder.is_done:
            return Result(dataset, folder.metrics(), already=True, failures=folder.failures())
        backbone = load_backbone(config, len(dataset.classes))
        if dataset.unlabelled_count:
            listener.warn(f"images that lie in no folder of a class take no part: {dataset.unlabelled_count:,}.")
        for note in backbone.model.notes:
            listener.warn(note)
        listener.info(
            f"{len(dataset.sources):,} images of {len(dataset.classes)} classes; {config.backbone} cut at {backbone.layer.name}."
        )
        result = Result(dataset)
        job = _job(config, backbone, listener)
        cache = _cache(config, dataset, backbone, folder)
        examples = _examples(dataset, job, cache, config, result, listener, stop)
        if examples is None:
            return result
        _warn_of_duplicates(examples, dataset, listener)
        head = train_head(examples.tensors("train"), examples.tensors("val"), len(dataset.classes))
        give_head(backbone.classifier, head)
        if config.unfreeze:
            result.epochs = _tuned(config, backbone, examples, job, listener, stop)
            if stop.is_set():
                return result
        logits = {part: _logits(backbone.classifier, examples, part, job if config.unfreeze else None) for part in PARTS}
        result.metrics = measure(examples.tensors("val")[1].tolist(), logits["val"].argmax(dim=1).tolist(), dataset.classes)
        folder.write(model_files(config, backbone, examples, head, result, logits), describe(config, backbone, dataset))
        cache.forget_others()
    return result


def _logits(classifier: GapClassifier, examples: Examples, part: str, job: Job | None) -> Tensor:
    """What the model says of a part: from the features, or with a ``job`` from the images, where the features are others by now."""
    if job is not None:
        return predict(classifier, examples.labelled(part), job)
    weight, bias = classifier.head.weight.detach().cpu(), classifier.head.bias.detach().cpu()
    return functional.linear(examples.tensors(part)[0], weight, bias)


def load_backbone(config: FitConfig, classes: int) -> Backbone:
    """The network of ``config``, cut, with a head of zeros for ``classes``.

    Raises ModelError, WeightsError, LayerError, DeviceError, and ConfigError where fewer blocks lie before the cut than are to be
    trained.
    """
    if isinstance(source_of(config.backbone), FittedSource):
        stands_on = escape_name(read_fitted(config.backbone).backbone)
        raise ModelError(f"{escape_name(config.backbone)} was fitted itself: name the network on which it stands, {stands_on}.")
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
    """``preprocess`` as it is for ``crop``; for ``squash`` and ``pad`` such that the whole image becomes the network's input."""
    if resize_mode == "crop":
        return preprocess
    return replace(preprocess, resize="squash" if resize_mode == "squash" else "contain", resize_to=preprocess.crop)


def _job(config: FitConfig, backbone: Backbone, listener: Listener) -> Job:
    asked = RunConfig(model=config.backbone, batch_size=config.batch_size, max_pixels=config.max_pixels, hash=True)
    pooled = replace(backbone.model, module=PooledFeatures(backbone.classifier).eval())
    return feature_job(asked, pooled, Layer(f"classifier.{FEATURES}", backbone.layer.grid), listener.warn)


def _cache(config: FitConfig, dataset: Dataset, backbone: Backbone, folder: ModelFolder) -> FeatureCache:
    """The features that are in ``folder``: those of this backbone, and of images of this folder made into inputs as now."""
    described = {
        "data": dataset.root,  # elsewhere a file of the same name, size and time may be another one
        "backbone": config.backbone,
        "layer": [backbone.layer.name, backbone.layer.grid.kind],
        "preprocess": asdict(backbone.model.preprocess),
        "max-pixels": config.max_pixels,  # an image that is left out now may have been computed before
    }
    cache = FeatureCache(folder.root, cache_key(backbone.classifier.features, described))
    cache.load()
    return cache


def _examples(
    dataset: Dataset,
    job: Job,
    cache: FeatureCache,
    config: FitConfig,
    result: Result,
    listener: Listener,
    stop: threading.Event,
) -> Examples | None:
    """The images with their features, computed or found, divided into parts; None after ``stop``."""
    todo = [source for source in dataset.sources if cache.get(source) is None]
    if 0 < len(todo) < len(dataset.sources):
        listener.info(f"Features of {len(dataset.sources) - len(todo):,} images were computed before.")
    try:
        for done, outcome in enumerate(compute_features(todo, job, cache, stop), 1):
            listener.images(done, len(todo))
            if isinstance(outcome, Failure):
                result.failures.append(outcome)
                listener.failed(outcome)
    finally:
        cache.flush()
    if stop.is_set():
        return None
    found = [(place, cache.get(source)) for place, source in enumerate(dataset.sources)]
    known = [(place, own) for place, own in found if own is not None]
    failed = {failure.image for failure in result.failures}
    for place, own in found:
        if own is None and dataset.sources[place].image not in failed:
            result.failures.append(Failure(dataset.sources[place].image, "read", "it was changed or removed in the meantime"))
            listener.failed(result.failures[-1])
    labels = tuple(dataset.labels[place] for place, _ in known)
    digests = tuple(own.sha256 for _, own in known)
    predefined_split = ["" if dataset.predefined_split is None else dataset.predefined_split[place] for place, _ in known]
    _refuse_unreadable(dataset, labels, predefined_split)
    refuse_equal_classes(dataset.classes, labels, digests)
    parts = (
        divide(labels, digests, dataset.classes, config.val, config.seed) if dataset.predefined_split is None else predefined_split
    )
    features = torch.stack([torch.from_numpy(own.features) for _, own in known])
    return Examples(tuple(dataset.sources[place] for place, _ in known), labels, digests, tuple(parts), features)


def _refuse_unreadable(dataset: Dataset, labels: Sequence[int], predefined_split: Sequence[str]) -> None:
    known = set(zip(labels, predefined_split, strict=True))
    for part in PARTS if dataset.predefined_split is not None else ("",):
        lost = next((name for index, name in enumerate(dataset.classes) if (index, part) not in known), None)
        if lost is not None:
            place = f" in {part}" if part else ""
            raise ConfigError(f"no image of class {lost!r}{place} can be read; a model cannot be fitted without it.")


def _warn_of_duplicates(examples: Examples, dataset: Dataset, listener: Listener) -> None:
    duplicates: Duplicates = find_duplicates(
        [source.image for source in examples.sources], examples.labels, examples.parts, examples.digests
    )
    if duplicates.example is not None:
        one, other = duplicates.example
        listener.warn(f"{duplicates.between:,} images are in two classes at once, byte by byte: {one!r} and {other!r}.")
    if duplicates.across:
        listener.warn(f"{duplicates.across:,} images are in both train and val, byte by byte: the figures below are too good.")


def give_head(classifier: GapClassifier, head: Head) -> None:
    """Put the trained weights into ``classifier``."""
    with torch.no_grad():
        classifier.head.weight.copy_(head.weight)
        classifier.head.bias.copy_(head.bias)


def _tuned(
    config: FitConfig, backbone: Backbone, examples: Examples, job: Job, listener: Listener, stop: threading.Event
) -> list[Epoch]:
    random = config.weights.casefold() == "none"
    rate = config.learning_rate
    if rate is None:
        rate = RANDOM_LEARNING_RATE if random else LEARNING_RATE
    tuning = Tuning(config.unfreeze, config.epochs, rate, config.seed, random)
    return fine_tune(
        backbone.classifier,
        examples.labelled("train"),
        examples.labelled("val"),
        replace(job, batch_size=min(job.batch_size, 16)),
        tuning,
        lambda epoch: listener.info(f"Epoch {epoch.number}: validation loss {epoch.val_loss:.4f}, accuracy {epoch.accuracy:.1%}."),
        stop,
    )


def describe(config: FitConfig, backbone: Backbone, dataset: Dataset) -> Fitted:
    """What the model's folder says of the model."""
    return Fitted(config.backbone, backbone.layer.name, backbone.layer.grid.kind, backbone.model.preprocess, dataset.classes)
