"""A folder with one folder per class -> labelled images, and their split into training and validation."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camcli.addresses import is_address, masked
from camcli.errors import InputError
from camcli.images.discover import Search, discover_sources
from camcli.layout import FITTED_MARK
from camcli.records import escape_name
from camcli.source import Source

PARTS = ("train", "val")
_FEWEST = 2
"""A class needs this many different images: one for training and one for validation."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images. ``labels``: the class of each source, an index into ``classes``. ``predefined_split``: the part of each
    source (``train`` or ``val``) if DATA has these folders, otherwise None. ``unlabelled_count``: images outside of class folders.
    """

    root: str
    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    labels: tuple[int, ...]
    predefined_split: tuple[str, ...] | None
    unlabelled_count: int = 0


@dataclass(frozen=True)
class Duplicates:
    """Numbers of images with an identical file in another class (``between``) or in the other part (``across``).

    ``example``: two identical files of different classes, None if there are none.
    """

    between: int
    example: tuple[str, str] | None
    across: int


def read_dataset(folder: str, output: str) -> Dataset:
    """The images in ``folder/CLASS/...``, or in ``folder/train/CLASS/...`` and ``folder/val/CLASS/...``.

    Classes are sorted by name, as in torchvision's ImageFolder. The folder ``output`` is left out. Raises InputError if there are
    fewer than two classes, if a class has no images, or if a class exists in only one of train and val.
    """
    if is_address(folder):
        raise InputError(f"{escape_name(masked(folder))!r} is an address; camcli fit reads folders of this machine: copy it first.")
    if not os.path.isdir(folder):
        raise InputError(
            f"{escape_name(folder)!r} is not a folder; camcli fit needs one folder per class: DATA/cats/..., DATA/dogs/..."
        )
    top = _folders(folder, output)
    divided = set(PARTS) == set(top)
    if not divided and set(PARTS) & set(top):
        raise InputError(
            f"{escape_name(folder)!r} holds {' and '.join(sorted(set(PARTS) & set(top)))} beside other folders: give "
            "both train and val, or neither."
        )
    classes = _classes(folder, top, output, divided=divided)
    numbers = {name: index for index, name in enumerate(classes)}
    root = os.path.abspath(folder)
    depth = 2 if divided else 1
    sources, labels, predefined_split = [], [], []
    found = discover_sources([folder], Search(output))
    for source in found:
        parts = source.image.split("/")
        if len(parts) > depth and parts[depth - 1] in numbers:  # otherwise the image is in no class folder
            sources.append(Source(root, source.image))
            labels.append(numbers[parts[depth - 1]])
            predefined_split.append(parts[0] if divided else "")
    _refuse_empty(folder, classes, labels, predefined_split, divided=divided)
    return Dataset(
        root, classes, tuple(sources), tuple(labels), tuple(predefined_split) if divided else None, len(found) - len(sources)
    )


def _folders(folder: str, output: str) -> list[str]:
    try:
        found = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_dir()]
        found = [name for name in found if not os.path.isfile(os.path.join(folder, name, FITTED_MARK))]  # a model of camcli fit
    except OSError as error:
        raise InputError(f"cannot list {escape_name(folder)!r}: {error.strerror}.") from error
    return sorted(name for name in found if os.path.realpath(os.path.join(folder, name)) != os.path.realpath(output))


def _classes(folder: str, top: Sequence[str], output: str, *, divided: bool) -> tuple[str, ...]:
    classes = tuple(top)
    if divided:
        train, val = (_folders(os.path.join(folder, part), output) for part in PARTS)
        if train != val:
            odd = sorted(set(train) ^ set(val))
            raise InputError(
                f"the classes in train and val of {escape_name(folder)!r} are not the same: {_named(odd)} only in one of them."
            )
        classes = tuple(train)
    if len(classes) < 2:
        found = f"only {_named(classes)}" if classes else "no folder"
        raise InputError(
            f"{escape_name(folder)!r} holds {found}; a classifier needs at least two classes: DATA/cats/..., DATA/dogs/..."
        )
    return classes


def _refuse_empty(
    folder: str, classes: Sequence[str], labels: Iterable[int], predefined_split: Iterable[str], *, divided: bool
) -> None:
    counts = Counter(zip(labels, predefined_split, strict=True))
    for part in PARTS if divided else ("",):
        empty = [name for index, name in enumerate(classes) if not counts[index, part]]
        if empty:
            place = os.path.join(folder, part) if part else folder
            link = any(os.path.islink(os.path.join(place, name)) for name in empty)
            why = " (links to folders are not followed)" if link else ""
            raise InputError(f"no images in {_named(empty)} of {escape_name(place)!r}{why}: add images, or remove it.")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(escape_name(name)) for name in names[:3]) + more


def refuse_equal_classes(classes: Sequence[str], labels: Sequence[int], digests: Sequence[str]) -> None:
    """Raise InputError if two classes consist of identical files. ``digests``: the SHA-256 of each image's file."""
    contents: dict[int, set[str]] = defaultdict(set)
    for label, digest in zip(labels, digests, strict=True):
        contents[label].add(digest)
    seen: dict[frozenset[str], int] = {}
    for label, found in sorted(contents.items()):
        other = seen.setdefault(frozenset(found), label)
        if other != label:
            raise InputError(
                f"classes {_named([classes[other]])} and {_named([classes[label]])} have the same files and cannot be told apart."
            )


def find_duplicates(images: Sequence[str], labels: Sequence[int], parts: Sequence[str], digests: Sequence[str]) -> Duplicates:
    """Count files that exist more than once with identical bytes, in another class or in the other part."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        groups[digest].append(place)
    between = across = 0
    example = None
    for places in groups.values():
        if len({labels[place] for place in places}) > 1:
            between += len(places)
            other = next(place for place in places if labels[place] != labels[places[0]])
            example = example or (images[places[0]], images[other])
        across += len(places) if len({parts[place] for place in places}) > 1 else 0
    return Duplicates(between, example, across)


def stratified_split(labels: Sequence[int], digests: Sequence[str], classes: Sequence[str], share: float, seed: int) -> list[str]:
    """``train`` or ``val`` for each image: a stratified random split with the same validation ``share`` (0 to 1) in every class.

    Identical files of a class come into the same part, so that no validation image is also a training image. Raises InputError for
    a class with fewer than two different images.
    """
    contents: list[dict[str, None]] = [{} for _ in classes]  # the digests of each class, in the order of the images
    for label, digest in zip(labels, digests, strict=True):
        contents[label][digest] = None
    draw = np.random.default_rng(seed)
    chosen: set[tuple[int, str]] = set()
    for label, name in enumerate(classes):
        different = list(contents[label])
        if len(different) < _FEWEST:
            raise InputError(
                f"class {_named([name])} has {len(different)} different readable image(s); it needs {_FEWEST} or more."
            )
        count = min(max(1, round(share * len(different))), len(different) - 1)
        chosen.update((label, different[place]) for place in draw.permutation(len(different))[:count])
    return ["val" if found in chosen else "train" for found in zip(labels, digests, strict=True)]


def counts_of(labels: Sequence[int], parts: Sequence[str], classes: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """For each class the numbers of its training and validation images."""
    found = Counter(zip(labels, parts, strict=True))
    return {name: (found[index, "train"], found[index, "val"]) for index, name in enumerate(classes)}
