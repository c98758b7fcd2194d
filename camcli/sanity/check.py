"""The randomization test itself: randomize weights step by step, and compare every map with the original after each step."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from camcli.errors import LayerError, UsageError
from camcli.listener import Listener, SilentListener
from camcli.network import run_hooked
from camcli.network.inputs import input_tensor
from camcli.pipeline.engine import Engine
from camcli.pipeline.job import Job
from camcli.pipeline.stopping import Stopped, Watch
from camcli.records import Findings, Heatmap
from camcli.sanity.randomize import LayerGroup, randomized
from camcli.sanity.similarity import NormalizedMap, Similarity, compare_maps, mean_similarity, normalized_map

MODES = ("cascading", "independent")
"""Cascading: all layers from the top down to the current one are randomized. Independent: the current layer alone (Adebayo et al.
2018, section 3)."""

BN_CALIBRATION_IMAGES = 16
"""Randomized BatchNorm layers get their mean and variance from the first 16 images, whatever the batch size is, so that results do
not depend on the batch size."""

CHANCE_IMAGES = 4
"""The chance level of a map is its mean similarity to the original maps of the next four images."""

Key = tuple[str, str]
"""(layer, method) of a map."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The similarity of one map to its original after one step.

    ``step``: 0 is the trained network, computed a second time; n is the step of layer group n, counted from 1. ``group``: the name
    of that layer group, empty for step 0. ``status``: as in ``Heatmap``. ``similarity``: to the original map of the same image.
    ``chance``: mean similarity to the original maps of other images, NaN if there is only one image.
    """

    image: str
    layer: str
    method: str
    mode: str
    step: int
    group: str
    class_index: int
    status: str
    similarity: Similarity
    chance: Similarity


@dataclass(frozen=True)
class MapStrip:
    """The maps of one image in cascading mode. ``maps``: for each (layer, method) the original (h, w), then one map per step."""

    image: str
    class_name: str
    pixels: np.ndarray
    maps: Mapping[Key, list[np.ndarray]]


@dataclass(frozen=True)
class Check:
    """The result of a check: its layer groups in the order of randomization, all measurements, and the maps of some images."""

    groups: tuple[LayerGroup, ...]
    measurements: tuple[Measurement, ...]
    strips: tuple[MapStrip, ...]

    @property
    def keys(self) -> list[Key]:
        """(layer, method) of each map of an image, in order."""
        return list(dict.fromkeys((one.layer, one.method) for one in self.measurements))


def eager_job(job: Job) -> Job:
    """``job`` with the network as it was loaded, without folded layers: folded weights would hide the randomized ones."""
    return replace(job, network=replace(job.network, run=partial(run_hooked, job.model.module), batch=None))


def available_methods(job: Job, wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The methods among ``wanted`` that the network supports, and for each of the others the reason why not.

    Raises ConfigError for an unknown method, and UsageError if the network supports none.
    """
    found: list[str] = []
    refused: dict[str, str] = {}
    for name in dict.fromkeys(wanted):
        try:
            job.with_targets(method=(name,))
            found.append(name)
        except LayerError as error:
            refused[name] = str(error)
    if not found:
        raise UsageError(f"none of the methods can be checked: {list(refused.values())[-1]}")
    return found, refused


def check_maps(
    job: Job,
    images: Mapping[str, np.ndarray],
    groups: Sequence[LayerGroup],
    *,
    seed: int,
    strips: int = 1,
    listener: Listener | None = None,
    stop: threading.Event | None = None,
) -> Check:
    """The check of ``images`` (name -> network input (h, w, 3) uint8) over all steps of both modes.

    The explained class is the one that the trained network predicts, or the one that the job names; it stays the same in every
    step. ``job`` comes from ``eager_job``. The maps of the first ``strips`` images are kept. ``listener`` receives the number of
    steps done. The network's weights are restored bit by bit. Once ``stop`` is set Stopped is raised, at the next batch or one
    second later at the next pass of the current batch. Raises what ``Engine.explain`` raises.
    """
    listener, stop = listener or SilentListener(), stop or threading.Event()
    explain = partial(_explain, stop=stop, before_pass=Watch(stop, lambda _: None).before_pass)
    inputs = list(images.values())
    originals = explain(job, inputs)
    normalized = [_normalized(found) for found in originals]
    classes = [found.heatmaps[0].prediction for found in originals]
    fixed = replace(job, config=replace(job.config, topk=0, class_=()), classes=())
    calibration = input_tensor(inputs[:BN_CALIBRATION_IMAGES], job.model.preprocess, job.device)
    kept: list[dict[Key, list[np.ndarray]]] = [
        {_key(map_): [map_.values] for map_ in found.heatmaps} for found in originals[:strips]
    ]
    measurements: dict[tuple[str, int], list[Measurement]] = {}
    steps = list(_steps(groups))
    for done, (mode, step, name, changed) in enumerate(steps):
        listener.progress(done, len(steps))
        if mode == MODES[1] and step <= 1:  # the cascade begins with the same two steps
            measurements[mode, step] = [replace(one, mode=mode) for one in measurements[MODES[0], step]]
            continue
        with randomized(job.model.module, changed, seed, calibration):
            findings = explain(fixed, inputs, [prediction.class_index for prediction in classes])
        measurements[mode, step] = [
            Measurement(
                image, *_key(map_), mode, step, name, map_.prediction.class_index, map_.status, *_compared(map_, normalized, at)
            )
            for at, (image, found) in enumerate(zip(images, findings, strict=True))
            for map_ in found.heatmaps
        ]
        for strip, found in zip(kept, findings, strict=False):
            for map_ in found.heatmaps if mode == MODES[0] and step else ():
                strip[_key(map_)].append(map_.values)
    listener.progress(len(steps), len(steps))
    shown = [
        MapStrip(name, prediction.class_name, pixels, maps)
        for (name, pixels), prediction, maps in zip(images.items(), classes, kept, strict=False)
    ]
    return Check(tuple(groups), tuple(itertools.chain.from_iterable(measurements.values())), tuple(shown))


def _steps(groups: Sequence[LayerGroup]) -> Iterator[tuple[str, int, str, Sequence[LayerGroup]]]:
    """(mode, step, name of the layer group, groups to randomize) of every step; each mode begins with step 0, nothing."""
    for mode in MODES:
        yield mode, 0, "", ()
        for step, group in enumerate(groups, 1):
            yield mode, step, group.name, groups[:step] if mode == MODES[0] else (group,)


def _explain(
    job: Job,
    inputs: Sequence[np.ndarray],
    labels: Sequence[int] | None = None,
    *,
    stop: threading.Event,
    before_pass: Callable[[], None],
) -> list[Findings]:
    """The findings of each input, computed in batches; for the classes ``labels`` if the job names none.

    Raises Stopped before the next batch if ``stop`` is set, and what ``before_pass`` raises before a pass through the network.
    """
    engine, findings = Engine(job, before_pass), list[Findings]()
    for start in range(0, len(inputs), job.batch_size):
        if stop.is_set():
            raise Stopped
        part = slice(start, start + job.batch_size)
        found = engine.collect(engine.explain(inputs[part], None if labels is None else labels[part]))
        findings += [] if found is None else found.each(job.names)
    return findings


def _key(map_: Heatmap) -> Key:
    return map_.layer, map_.method


def _normalized(found: Findings) -> dict[Key, NormalizedMap]:
    return {_key(map_): normalized_map(map_.values) for map_ in found.heatmaps}


def _compared(map_: Heatmap, originals: Sequence[Mapping[Key, NormalizedMap]], position: int) -> tuple[Similarity, Similarity]:
    """Similarity of a map of the image at ``position`` to its own original, and its mean over those of the next images."""
    current, key = normalized_map(map_.values), _key(map_)
    others = [originals[(position + apart) % len(originals)][key] for apart in range(1, min(CHANCE_IMAGES + 1, len(originals)))]
    return compare_maps(originals[position][key], current), mean_similarity([compare_maps(other, current) for other in others])
