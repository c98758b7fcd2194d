"""The analysis of the runs: components and groups of every class, described and ordered by suspicion."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from camcli.cluster.config import ClusterConfig
from camcli.cluster.features import Components, components_of, joined_space, one_thread, picture_of
from camcli.cluster.flags import Measured, flags_of, is_suspected, suspicion
from camcli.cluster.gap import redraw
from camcli.cluster.groups import NONE, Grouping, find_groups, grouped, silhouettes
from camcli.cluster.read import Arrays, Collection, Item
from camcli.errors import InputError
from camcli.listener import Listener
from camcli.records import count_words, escape_name

SHOWN = 8
"""Images that stand for a group, for an end of a component, or for a channel."""

CHANNELS, WRITTEN_COMPONENTS = 5, 5
ONE_PERCENT = 0.01


@dataclass(frozen=True)
class Channel:
    """A channel that sets a group apart. ``difference``: of its mean contribution from that of the rest, in standard deviations.

    ``inside`` and ``outside``: its mean contribution to the logit. ``images``: those that use it most, by number in the class.
    """

    index: int
    difference: float
    inside: float
    outside: float
    images: tuple[int, ...]


@dataclass
class Group:
    """A group of images of a class. ``number``: among all groups, the most suspicious first. ``members``: numbers in the class.

    ``typical`` and ``untypical``: the members nearest to its centre and farthest from it. ``accuracy``: in the group and outside;
    None without labels. ``mean_map`` (h, w) adds up to 1; None without maps.
    """

    label: int
    members: np.ndarray
    typical: tuple[int, ...]
    untypical: tuple[int, ...]
    share: float
    silhouette: float
    accuracy: tuple[float | None, float | None]
    confidence: tuple[float, float | None]
    mean_map: np.ndarray | None
    channels: tuple[Channel, ...]
    flags: dict[str, str]
    suspicion: float
    suspected: bool
    number: int = 0


@dataclass
class ClassResult:
    """The groups of a class. ``items``: its images. ``components``: of the contributions, None without. ``places`` (N, 2)."""

    name: str
    items: list[Item]
    components: Components | None
    grouping: Grouping
    places: np.ndarray
    mean_map: np.ndarray | None
    groups: list[Group] = field(default_factory=list)

    def ends(self, component: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The images with the lowest and with the highest values of a component."""
        assert self.components is not None
        order = np.argsort(self.components.logits[:, component], kind="stable")
        return tuple(order[:SHOWN].tolist()), tuple(order[::-1][:SHOWN].tolist())


@dataclass
class Study:
    """All classes, those with the most suspicious groups first. ``small``: classes with too few images."""

    classes: list[ClassResult]
    small: int
    damaged: int

    @property
    def groups(self) -> list[tuple[ClassResult, Group]]:
        """All groups, the most suspicious first."""
        pairs = [(each, group) for each in self.classes for group in each.groups]
        return sorted(pairs, key=lambda pair: pair[1].number)


def study_runs(found: Collection, config: ClusterConfig, listener: Listener, stop: threading.Event) -> Study | None:
    """Group the images of every class of ``found`` that has enough. None if ``stop`` was set.

    Raises InputError if no class has enough images, or there is no class that ``--class`` names.
    """
    for name in config.class_:
        if name not in found.classes:
            raise InputError(f"no image is of class {escape_name(name)!r}.")
    names = [name for name in found.classes if not config.class_ or name in config.class_]
    chosen = [name for name in names if len(found.classes[name]) >= config.min_images]
    if not chosen:
        largest = max(names, key=lambda name: len(found.classes[name]))
        raise InputError(
            f"no class has {config.min_images} images; {escape_name(largest)!r} has {len(found.classes[largest])}, the most. "
            "Add images, or lower --min-images."
        )
    results, damaged = [], found.damaged
    with one_thread():
        for done, name in enumerate(chosen, 1):
            if stop.is_set():
                return None
            result, lost = _study_class(found, name, config)
            damaged += lost
            if result is not None:
                results.append(result)
            listener.progress(done, len(chosen), escape_name(name))
    pairs = [(group, result) for result in results for group in result.groups]
    pairs.sort(key=lambda pair: (not pair[0].suspected, -pair[0].suspicion, pair[1].name, pair[0].label))
    for number, (group, _) in enumerate(pairs, 1):
        group.number = number
    for result in results:
        result.groups.sort(key=lambda group: group.number)
    results.sort(key=lambda result: (result.groups[0].number if result.groups else len(pairs) + 1, result.name))
    if damaged:
        listener.warn(f"{count_words(damaged, 'image')} left out: damaged or missing data. To check a folder: camcli verify")
    if found.without:
        listener.warn(
            f"{count_words(found.without, 'image')} left out: no row of the {config.by} class. With --class or --class-from, "
            "run with --topk 1 too."
        )
    return Study(results, len(names) - len(chosen), damaged)


def _study_class(found: Collection, name: str, config: ClusterConfig) -> tuple[ClassResult | None, int]:
    """The groups of a class, and how many of its images are damaged; None if too few are left."""
    kinds = [kind for kind in ("what", "where") if config.evidence in (kind, "both")]
    items = found.classes[name]
    arrays = {kind: Arrays(found, items, kind, config.sample) for kind in _kinds_at_hand(found)}
    whole = np.logical_and.reduce([each.check() for each in arrays.values()])
    lost = int((~whole).sum())
    if lost:
        items = [item for item, good in zip(items, whole, strict=True) if good]
        if len(items) < config.min_images:
            return None, lost
        arrays = {kind: Arrays(found, items, kind, config.sample) for kind in arrays}
    components = {kind: components_of(arrays[kind], len(items), config.seed) for kind in arrays if kind in kinds or kind == "what"}
    space = joined_space([components[kind] for kind in kinds])
    grouping = find_groups(space, config.sample, config.seed)
    gaps = [-math.inf] * len(grouping.centres)
    if "what" in kinds:
        labels, gaps = redraw(grouping.labels, joined_space([components["what"]]), config.seed)
        grouping = grouped(space, labels, dense=grouping.dense)
    places = picture_of(space, config.layout, config.seed)
    result = ClassResult(name, items, components.get("what"), grouping, places, None)
    _describe(result, arrays, silhouettes(space, grouping.labels, config.seed), gaps)
    return result, lost


def _kinds_at_hand(found: Collection) -> list[str]:
    """What all runs have stored. The maps are shown and the channels listed also where only the other is compared."""
    kinds = []
    if all(run.contributions is not None for run in found.runs):
        kinds.append("what")
    if all(run.maps is not None and run.maps.has_maps for run in found.runs):
        kinds.append("where")
    return kinds


def _describe(result: ClassResult, arrays: dict[str, Arrays], silhouette: Sequence[float], gaps: Sequence[float]) -> None:
    """Fill the groups of ``result`` with what is measured of them."""
    labels, items = result.grouping.labels, result.items
    count = int(labels.max(initial=NONE)) + 1
    maps = _mean_maps(arrays["where"], labels, count) if "where" in arrays else None
    likeness = _likeness(arrays["where"], labels, maps) if maps is not None else [0.0] * count
    channels, few = _channels(arrays["what"], labels, count) if "what" in arrays else ([()] * count, [0.0] * count)
    probability = np.array([item.probability for item in items])
    if maps is not None:
        result.mean_map = _normalized(maps.sum(axis=0)).reshape(arrays["where"].shape)
    for label in range(count):
        members = np.flatnonzero(labels == label)
        if not len(members):
            continue
        order = members[np.argsort(result.grouping.distances[members], kind="stable")]
        inside, outside = labels == label, labels != label
        right = _right(items, inside), _right(items, outside)
        pair = None
        if maps is not None:
            shape = arrays["where"].shape
            pair = (_normalized(maps[label]).reshape(shape), _normalized(maps.sum(axis=0) - maps[label]).reshape(shape))
        measured = Measured(
            len(members) / len(items), silhouette[label], pair, likeness[label], right,
            (probability[inside], probability[outside]), gaps[label], few[label],
        )  # fmt: skip
        flags = flags_of(measured)
        result.groups.append(
            Group(
                label,
                members,
                tuple(order[:SHOWN].tolist()),
                tuple(order[::-1][:SHOWN].tolist()),
                measured.share,
                silhouette[label],
                (_ratio(right[0]), _ratio(right[1])),
                (float(probability[inside].mean()), float(probability[outside].mean()) if outside.any() else None),
                None if pair is None else pair[0],
                channels[label],
                flags,
                suspicion(flags, silhouette[label]),
                is_suspected(flags),
            )
        )


def _right(items: Sequence[Item], chosen: np.ndarray) -> tuple[int, int]:
    """How many of the ``chosen`` images are right, and how many have a label."""
    known = [item.correct for item, one in zip(items, chosen, strict=True) if one and item.correct is not None]
    return sum(known), len(known)


def _ratio(counts: tuple[int, int]) -> float | None:
    return counts[0] / counts[1] if counts[1] else None


def _mean_maps(maps: Arrays, labels: np.ndarray, count: int) -> np.ndarray:
    """The sum of the maps of each group, and in the last row of the images without a group: (count + 1, D) float64."""
    sums = np.zeros((count + 1, int(np.prod(maps.shape))))
    for part, block in maps.blocks():
        own = np.where(labels[part] == NONE, count, labels[part])
        for label in np.unique(own):
            sums[label] += block[own == label].sum(axis=0, dtype=np.float64)
    return sums


def _likeness(maps: Arrays, labels: np.ndarray, sums: np.ndarray) -> list[float]:
    """For each group the mean cosine between its maps and its mean map."""
    total, counts = np.zeros(len(sums) - 1), np.zeros(len(sums) - 1)
    unit = sums[:-1] / np.maximum(np.linalg.norm(sums[:-1], axis=1, keepdims=True), 1e-30)
    for part, block in maps.blocks():
        own = labels[part]
        rows = np.flatnonzero(own != NONE)
        norms = np.maximum(np.linalg.norm(block[rows], axis=1), 1e-30)
        cosines = (block[rows] * unit[own[rows]]).sum(axis=1) / norms
        np.add.at(total, own[rows], cosines)
        np.add.at(counts, own[rows], 1)
    return [float(value) for value in total / np.maximum(counts, 1)]


def _normalized(values: np.ndarray) -> np.ndarray:
    total = float(values.sum())
    return np.asarray(values / total if total > 0 else np.zeros_like(values))


def _channels(contributions: Arrays, labels: np.ndarray, count: int) -> tuple[list[tuple[Channel, ...]], list[float]]:
    """For each group the channels whose contribution differs most from that of the other images, in standard deviations.

    And for each group the share that 1 percent of the channels have in its extra evidence, which is the sum of all increases.
    """
    size = int(np.prod(contributions.shape))
    sums, squares, counts = np.zeros((count + 1, size)), np.zeros(size), np.zeros(count + 1)
    for part, block in contributions.blocks():
        own = np.where(labels[part] == NONE, count, labels[part])
        squares += (block.astype(np.float64) ** 2).sum(axis=0)
        for label in np.unique(own):
            sums[label] += block[own == label].sum(axis=0, dtype=np.float64)
            counts[label] += int((own == label).sum())
    whole = max(1.0, float(counts.sum()))
    deviation = np.sqrt(np.maximum(squares / whole - (sums.sum(axis=0) / whole) ** 2, 0))
    chosen: list[list[tuple[int, float, float, float]]] = []
    few = []
    for label in range(count):
        inside = sums[label] / max(1.0, counts[label])
        outside = (sums.sum(axis=0) - sums[label]) / max(1.0, whole - counts[label])
        more = np.sort(np.maximum(inside - outside, 0))[::-1]
        few.append(float(more[: max(1, round(ONE_PERCENT * size))].sum() / max(float(more.sum()), 1e-30)))
        different = np.where(deviation > 0, (inside - outside) / np.where(deviation > 0, deviation, 1.0), 0.0)
        best = np.argsort(-np.abs(different * np.abs(inside - outside)), kind="stable")[:CHANNELS]  # clear, and large in the logit
        chosen.append([(int(index), float(different[index]), float(inside[index]), float(outside[index])) for index in best])
    users = _users(contributions, sorted({index for own in chosen for index, *_ in own}))
    return [tuple(Channel(*each, users[each[0]]) for each in own) for own in chosen], few


def _users(contributions: Arrays, channels: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """For each of ``channels`` the images to which it contributes most."""
    values = np.concatenate([block[:, list(channels)] for _, block in contributions.blocks()]) if channels else np.zeros((0, 0))
    return {
        channel: tuple(np.argsort(-values[:, column], kind="stable")[:SHOWN].tolist()) for column, channel in enumerate(channels)
    }
