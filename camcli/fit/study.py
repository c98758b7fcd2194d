"""A training from a folder of labelled images to the folder of a model: all steps of ``camcli fit`` in order."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from camcli.fit.backbone import load_backbone
from camcli.fit.config import FitConfig
from camcli.fit.data import PARTS, Dataset, read_dataset
from camcli.fit.examples import gather_examples
from camcli.fit.extractor import FeatureExtractor, prepare_extractor
from camcli.fit.features import FeatureCache, cache_key
from camcli.fit.finetune import LEARNING_RATE, RANDOM_LEARNING_RATE, Epoch, FineTuning, fine_tune, predict
from camcli.fit.folder import ModelFolder, dataset_digest
from camcli.fit.linear_probe import LinearProbe, train_probe
from camcli.fit.metrics import measure
from camcli.fit.model_card import model_files
from camcli.fit.records import Backbone, Examples, Result, Training
from camcli.images.limits import pillow_unlimited
from camcli.listener import Listener
from camcli.models.gap_classifier import GapClassifier
from camcli.models.sources.fitted import Fitted
from camcli.output.root import Root
from camcli.records import preprocess_record


@dataclass(frozen=True)
class Study:
    """A prepared training: the images, the backbone, the extractor that computes features, and the features computed before."""

    config: FitConfig
    dataset: Dataset
    backbone: Backbone
    extractor: FeatureExtractor
    cache: FeatureCache


@pillow_unlimited()
def fit_model(config: FitConfig, listener: Listener, stop: threading.Event) -> Result:
    """Train a classifier on the images of ``config.data`` and write it to ``config.output``, whose lock is held meanwhile.

    Nothing is done if that folder already holds a model of the same settings and images. After ``stop`` is set computed features
    are kept, but no model is written. Raises ConfigError and other UsageErrors for wrong names and values, SettingsError for a
    folder with another model, and RunError.
    """
    dataset = read_dataset(config.data, config.output)
    settings = {**config.settings(), "data": dataset.root}
    with ModelFolder(config.output, settings, dataset_digest(dataset), overwrite=config.overwrite) as folder:
        if folder.is_done:
            return Result(folder.metrics(), already=True, failures=tuple(folder.failures()))
        study = prepare_study(config, dataset, folder.root, listener)
        training = run_study(study, listener, stop)
        if training is None:
            return Result()
        write_study(study, training, folder)
    return Result(training.metrics, failures=training.failures, epochs=training.epochs)


def prepare_study(config: FitConfig, dataset: Dataset, root: Root, listener: Listener) -> Study:
    """Load the backbone and the features that were computed before. ``root``: the model's folder. Raises as ``load_backbone``."""
    backbone = load_backbone(config, len(dataset.classes))
    if dataset.unlabelled_count:
        listener.warn(f"images outside of the class folders are not used: {dataset.unlabelled_count:,}.")
    for note in backbone.model.notes:
        listener.warn(note)
    listener.info(
        f"{len(dataset.sources):,} images of {len(dataset.classes)} classes; backbone {config.backbone} up to "
        f"{backbone.layer.name}."
    )
    return Study(
        config,
        dataset,
        backbone,
        prepare_extractor(config, backbone.model, backbone.classifier, listener.warn),
        _cache(config, dataset, backbone, root),
    )


def run_study(study: Study, listener: Listener, stop: threading.Event) -> Training | None:
    """The finished training; None if ``stop`` was set. Nothing but features is written.

    Raises as ``gather_examples`` and ``fine_tune`` do.
    """
    config, dataset, classifier = study.config, study.dataset, study.backbone.classifier
    gathered = gather_examples(config, dataset, study.extractor, study.cache, listener, stop)
    if gathered is None:
        return None
    examples, failures = gathered
    probe = train_probe(examples.tensors("train"), examples.tensors("val"), len(dataset.classes))
    _copy_probe(classifier, probe)
    epochs = _fine_tuned(study, examples, listener, stop) if config.unfreeze else []
    if stop.is_set() and config.unfreeze:
        return None
    logits = {part: _logits(classifier, examples, part, study.extractor if config.unfreeze else None) for part in PARTS}
    metrics = measure(examples.tensors("val")[1].tolist(), logits["val"].argmax(dim=1).tolist(), dataset.classes)
    return Training(examples, failures, probe, tuple(epochs), logits, metrics)


def write_study(study: Study, training: Training, folder: ModelFolder) -> None:
    """Write the files of the model and remove features of other settings. Raises OutputError."""
    folder.write(model_files(study.config, study.backbone, study.dataset, training), describe(study))
    study.cache.forget_others()


def describe(study: Study) -> Fitted:
    """The description of the model for its folder."""
    backbone = study.backbone
    return Fitted(
        study.config.backbone, backbone.layer.name, backbone.layer.grid.kind, backbone.model.preprocess, study.dataset.classes
    )


def _cache(config: FitConfig, dataset: Dataset, backbone: Backbone, root: Root) -> FeatureCache:
    """The features in ``root`` that were computed with this backbone and preprocessing, from images of this folder."""
    described = {
        "data": dataset.root,  # in another folder a file of the same name, size and time may be another image
        "backbone": config.backbone,
        "layer": [backbone.layer.name, backbone.layer.grid.kind],
        "preprocess": preprocess_record(backbone.model.preprocess),
        "max-pixels": config.max_pixels,  # an image that is too large now may have been computed before
    }
    cache = FeatureCache(root, cache_key(backbone.classifier.features, described))
    cache.load()
    return cache


def _logits(classifier: GapClassifier, examples: Examples, part: str, extractor: FeatureExtractor | None) -> Tensor:
    """The model's logits (N, K) for a part: from the features, or from the images if fine-tuning changed the features."""
    if extractor is not None:
        return predict(classifier, examples.labelled(part), extractor)
    weight, bias = classifier.head.weight.detach().cpu(), classifier.head.bias.detach().cpu()
    return functional.linear(examples.tensors(part)[0], weight, bias)


def _copy_probe(classifier: GapClassifier, probe: LinearProbe) -> None:
    """Copy the trained weights into the linear layer of ``classifier``."""
    with torch.no_grad():
        classifier.head.weight.copy_(probe.weight)
        classifier.head.bias.copy_(probe.bias)


def _fine_tuned(study: Study, examples: Examples, listener: Listener, stop: threading.Event) -> list[Epoch]:
    """Fine-tune the last blocks. Returns the epochs."""
    config = study.config
    random = config.weights.casefold() == "none"
    rate = config.learning_rate
    if rate is None:
        rate = RANDOM_LEARNING_RATE if random else LEARNING_RATE
    return fine_tune(
        study.backbone.classifier,
        examples.labelled("train"),
        examples.labelled("val"),
        replace(study.extractor, batch_size=min(study.extractor.batch_size, 16)),
        FineTuning(config.unfreeze, config.epochs, rate, config.seed, random),
        lambda epoch: listener.info(f"Epoch {epoch.number}: validation loss {epoch.val_loss:.4f}, accuracy {epoch.accuracy:.1%}."),
        stop,
    )
