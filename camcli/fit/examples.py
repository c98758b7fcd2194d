"""Images -> examples: compute the features of all images, leave out what cannot be read, and split train and validation."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from camcli.errors import ConfigError
from camcli.fit.config import FitConfig
from camcli.fit.data import PARTS, Dataset, find_duplicates, refuse_equal_classes, stratified_split
from camcli.fit.extractor import FeatureExtractor
from camcli.fit.features import FeatureCache, compute_features
from camcli.fit.records import Examples
from camcli.listener import Listener
from camcli.records import Failure


def gather_examples(
    config: FitConfig, dataset: Dataset, extractor: FeatureExtractor, cache: FeatureCache, listener: Listener, stop: threading.Event
) -> tuple[Examples, tuple[Failure, ...]] | None:
    """The readable images with features and part, and the failures of the others; None if ``stop`` was set.

    Raises ConfigError if a class has no readable image, InputError if two classes are equal or a class is too small to be split,
    OutputError, and OutOfMemoryError.
    """
    failures = _compute_missing(dataset, extractor, cache, listener, stop)
    if stop.is_set():
        return None
    found = [(position, cache.get(source)) for position, source in enumerate(dataset.sources)]
    known = [(position, own) for position, own in found if own is not None]
    failed = {failure.image for failure in failures}
    for position, own in found:
        if own is None and dataset.sources[position].image not in failed:
            failures.append(Failure(dataset.sources[position].image, "read", "it was changed or removed during the training"))
            listener.failed(failures[-1])
    labels = tuple(dataset.labels[position] for position, _ in known)
    digests = tuple(own.sha256 for _, own in known)
    given = None if dataset.predefined_split is None else [dataset.predefined_split[position] for position, _ in known]
    _refuse_unreadable_class(dataset, labels, given)
    refuse_equal_classes(dataset.classes, labels, digests)
    parts = stratified_split(labels, digests, dataset.classes, config.val, config.seed) if given is None else given
    features = torch.stack([torch.from_numpy(own.features) for _, own in known])
    sources = tuple(dataset.sources[position] for position, _ in known)
    examples = Examples(sources, labels, digests, tuple(parts), features)
    _warn_of_duplicates(examples, listener)
    return examples, tuple(failures)


def _compute_missing(
    dataset: Dataset, extractor: FeatureExtractor, cache: FeatureCache, listener: Listener, stop: threading.Event
) -> list[Failure]:
    """Compute the features that the cache lacks. Returns the failures of images that cannot be read."""
    todo = [source for source in dataset.sources if cache.get(source) is None]
    if 0 < len(todo) < len(dataset.sources):
        listener.info(f"Features of {len(dataset.sources) - len(todo):,} images were computed before.")
    failures: list[Failure] = []
    try:
        for done, outcome in enumerate(compute_features(todo, extractor, cache, stop), 1):
            listener.progress(done, len(todo))
            if isinstance(outcome, Failure):
                failures.append(outcome)
                listener.failed(outcome)
    finally:
        cache.flush()
    return failures


def _refuse_unreadable_class(dataset: Dataset, labels: Sequence[int], given: Sequence[str] | None) -> None:
    """Raise ConfigError if a class has no readable image; with a predefined split, in one of its parts."""
    known = set(zip(labels, [""] * len(labels) if given is None else given, strict=True))
    for part in ("",) if given is None else PARTS:
        missing = next((name for index, name in enumerate(dataset.classes) if (index, part) not in known), None)
        if missing is not None:
            place = f" in {part}" if part else ""
            raise ConfigError(f"no image of class {missing!r}{place} can be read; every class needs one.")


def _warn_of_duplicates(examples: Examples, listener: Listener) -> None:
    images = [source.image for source in examples.sources]
    duplicates = find_duplicates(images, examples.labels, examples.parts, examples.digests)
    if duplicates.example is not None:
        one, other = duplicates.example
        listener.warn(f"{duplicates.between:,} images have an identical file in another class, such as {one!r} and {other!r}.")
    if duplicates.across:
        listener.warn(f"{duplicates.across:,} images are in both train and val (identical files); the figures below are too high.")
