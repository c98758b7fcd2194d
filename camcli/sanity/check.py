"""The cascade: weights redrawn from the top down, and each layer alone; after each step every map compared with the original's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from camcli.errors import LayerError, UsageError
from camcli.network import run_hooked
from camcli.pipeline.engine import Engine, normalised
from camcli.pipeline.job import Job
from camcli.records import Findings, Heatmap
from camcli.sanity.randomize import LayerGroup, randomized
from camcli.sanity.similarity import NormalizedMap, Similarity, compare_maps, mean_similarity, normalized_map

MODES = ("cascading", "independent")
"""All layers down to the step's, or the step's alone (Adebayo et al. 2018, section 3)."""

BN_CALIBRATION_IMAGES = 16
"""Images, the first ones, by which redrawn BatchNorms learn their mean and variance: a number of its own, so that results do not
depend on the batch size."""

CHANCE_IMAGES = 4
"""Originals of other images, the next ones, with which a map is compared as well, to learn what chance gives."""

Key = tuple[str, str]
"""(layer, method): whose map it is."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One map after one step. ``step``: 0 is the original computed again, n the n-th stage. ``status``: as in ``Heatmap``.

    ``similarity``: to its own original; ``chance``: to those of other images, their mean, NaN where there are none.
    """

    image: str
    layer: str
    method: str
    mode: str
    step: int
    stage: str
    class_index: int
    status: str
    similarity: Similarity
    chance: Similarity


@dataclass(frozen=True)
class MapStrip:
    """The maps of one image through the cascade: (layer, method) -> the original's (h, w), then one after each step."""

    image: str
    class_name: str
    pixels: np.ndarray
    maps: Mapping[Key, list[np.ndarray]]


@dataclass(frozen=True)
class Check:
    """What a check has found: the steps of the cascade, what was measured after each, and the maps of some images."""

    groups: tuple[LayerGroup, ...]
    measurements: tuple[Measurement, ...]
    strips: tuple[MapStrip, ...]

    @property
    def keys(self) -> list[Key]:
        """(layer, method) of each map of an image, in order."""
        return list(dict.fromkeys((one.layer, one.method) for one in self.measurements))


def plain_job(job: Job) -> Job:
    """``job`` with its network as it was loaded: redrawn weights must not be hidden behind folded ones."""
    return replace(job, network=replace(job.network, run=partial(run_hooked, job.model.module), batch=None))


def available_methods(job: Job, wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of ``wanted`` that the network allows, and the others with the reason. Raises ConfigError for an unknown one.

    Raises UsageError, with the last reason, where none is left.
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
    tell: Callable[[int, int], None] = lambda _done, _of: None,
) -> Check:
    """The maps of ``images`` (name -> input (h, w, 3) uint8) after each step of both modes, compared with the original's.

    The class explained is the one that the network predicts before anything is redrawn, or the one that the job asks for, and
    stays the same. ``job``: of ``plain_job``. ``strips``: of how many images, the first ones, the maps are kept. ``tell``: called
    with steps done, of how many. The network is as it was afterwards, bit by bit. Raises what explaining raises.
    """
    inputs = list(images.values())
    originals = _explained(job, inputs)
    prepared = [_prepared(found) for found in originals]
    classes = [found.heatmaps[0].prediction for found in originals]
    fixed = replace(job, config=replace(job.config, topk=0, class_=()), classes=())
    settling = normalised(inputs[:BN_CALIBRATION_IMAGES], job)
    kept: list[dict[Key, list[np.ndarray]]] = [
        {_key(map_): [map_.values] for map_ in found.heatmaps} for found in originals[:strips]
    ]
    measurements: dict[tuple[str, int], list[Measurement]] = {}
    steps = list(_steps(groups))
    for done, (mode, step, stage, redrawn) in enumerate(steps):
        tell(done, len(steps))
        if mode == MODES[1] and step <= 1:  # what the cascade began with
            measurements[mode, step] = [replace(one, mode=mode) for one in measurements[MODES[0], step]]
            continue
        with randomized(job.model.module, redrawn, seed, settling):
            findings = _explained(fixed, inputs, [prediction.class_index for prediction in classes])
        measurements[mode, step] = [
            Measurement(
                image, *_key(map_), mode, step, stage, map_.prediction.class_index, map_.status, *_compared(map_, prepared, at)
            )
            for at, (image, found) in enumerate(zip(images, findings, strict=True))
            for map_ in found.heatmaps
        ]
        for strip, found in zip(kept, findings, strict=False):
            for map_ in found.heatmaps if mode == MODES[0] and step else ():
                strip[_key(map_)].append(map_.values)
    tell(len(steps), len(steps))
    shown = [
        MapStrip(name, prediction.class_name, pixels, maps)
        for (name, pixels), prediction, maps in zip(images.items(), classes, kept, strict=False)
    ]
    return Check(tuple(groups), tuple(itertools.chain.from_iterable(measurements.values())), tuple(shown))


def _steps(groups: Sequence[LayerGroup]) -> Iterator[tuple[str, int, str, Sequence[LayerGroup]]]:
    """(mode, step, name, what is redrawn) of every step; step 0, nothing, once in each mode."""
    for mode in MODES:
        yield mode, 0, "", ()
        for step, stage in enumerate(groups, 1):
            yield mode, step, stage.name, groups[:step] if mode == MODES[0] else (stage,)


def _explained(job: Job, inputs: Sequence[np.ndarray], labels: Sequence[int] | None = None) -> list[Findings]:
    """What is found in each of ``inputs``, in batches; for the classes ``labels`` where the job asks for none."""
    engine, findings = Engine(job), list[Findings]()
    for start in range(0, len(inputs), job.batch_size):
        part = slice(start, start + job.batch_size)
        findings += engine.collect(engine.explain(inputs[part], None if labels is None else labels[part]))
    return findings


def _key(map_: Heatmap) -> Key:
    return map_.layer, map_.method


def _prepared(found: Findings) -> dict[Key, NormalizedMap]:
    return {_key(map_): normalized_map(map_.values) for map_ in found.heatmaps}


def _compared(map_: Heatmap, prepared: Sequence[Mapping[Key, NormalizedMap]], position: int) -> tuple[Similarity, Similarity]:
    """How alike a map of the image at ``position`` is to its original, and to those of the next OTHERS images, on average."""
    ready, key = normalized_map(map_.values), _key(map_)
    others = [prepared[(position + apart) % len(prepared)][key] for apart in range(1, min(CHANCE_IMAGES + 1, len(prepared)))]
    return compare_maps(prepared[position][key], ready), mean_similarity([compare_maps(other, ready) for other in others])
