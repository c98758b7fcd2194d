"""From suspicion to proof: does a class go away when the suspected evidence is covered, and does it come when it is pasted?"""

from __future__ import annotations

import csv
import io
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from camcli.cluster.config import ClusterConfig
from camcli.cluster.flags import excess, place_of
from camcli.cluster.read import Arrays, Collection, Item, RunData, collect
from camcli.cluster.write import IMAGE_COLUMNS, IMAGES
from camcli.config.field import with_values
from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.errors import ConfigError, InputError
from camcli.images.decode import decode_image
from camcli.images.finder import SourceFinder
from camcli.images.geometry import prepare_pixels
from camcli.listener import Listener
from camcli.network.hooks import eval_frozen
from camcli.network.inputs import input_tensor
from camcli.network.threads import torch_threads
from camcli.output.root import Root
from camcli.pipeline.findings import HEADS
from camcli.pipeline.job import Job, prepare_job
from camcli.records import Box, Failure, escape_name, unescape_name
from camcli.render.maps import place_map, scale_map

MATTERS = 0.1
"""The class goes away if its probability falls by at least this much more than in other images, and by less than this in those."""

_REGION, _MOST_COVERED = 0.5, 0.2
"""The region of a map: at least 50 percent of its peak, and at most 20 percent of the network's input, before it is widened."""

_RESAMPLES = 2000
_FEWEST = 10
_DONORS = 8
_RADIUS, _GRAIN = 3, 2.0
"""Pixels: around which inpainting looks for colours; finer structure than this is grain."""

_MODEL_OPTIONS = ("model", "weights", "labels", "layer", "head", "fit", "max-pixels")

_Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """An image, as its item, the network's input (h, w, 3) uint8, and its map (gh, gw) float32, raw."""

    item: Item
    pixels: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Test:
    """A prepared test of a group of the class number ``target``.

    ``members``: images of the group, the most typical first. ``others``: images that are compared. ``foreign``: images of other
    classes, for pasting. ``where`` (gh, gw): what its mean map has more than that of the rest of its class, or None if its
    evidence has no place of its own. ``failed``: images that cannot be read.
    """

    number: int
    name: str
    target: int
    job: Job
    where: np.ndarray | None
    members: list[Case]
    others: list[Case]
    foreign: list[Case]
    failed: int


def prepare_test(
    folders: Sequence[str],
    config: ClusterConfig,
    record: Mapping[str, Any],
    place: str,
    shared: Mapping[str, Any],
    listener: Listener,
) -> Test:
    """Load the model of the runs and the images for a test of group ``config.test`` of the study in ``place``.

    ``record``: of the study. ``shared``: options of RunConfig. Raises InputError if there is no such group, or if model or images
    are not those of the run; and what ``prepare_job`` raises.
    """
    assert config.test is not None
    facts = _group_facts(record, config.test)
    found = collect(folders, config)
    if not all(run.maps is not None and run.maps.has_maps for run in found.runs):
        raise InputError("--test needs the maps of the run, which say where the evidence is: run with --save-maps.")
    membership = _membership(Root(place), record["paths"])
    name = str(facts["class"])
    items = found.classes.get(name, [])
    own = [item for item in items if membership.get((item.run, item.entry.image), (0, 0.0))[0] == config.test]
    own.sort(key=lambda item: membership[item.run, item.entry.image][1])
    if not own:
        raise InputError(
            f"the images of group {config.test} are not in the runs any longer; make the groups again with --overwrite."
        )
    job = _job_of(found.runs, shared, listener)
    if name not in job.model.classes:
        raise InputError(f"{job.model.name} has no class {escape_name(name)!r}.")
    random = np.random.default_rng(config.seed)
    taken = {id(item) for item in own}
    rest = [item for item in items if id(item) not in taken]
    foreign = [item for key, each in found.classes.items() if key != name for item in each]
    others = rest if len(rest) >= _FEWEST else [*rest, *foreign]
    chosen = _sampled(own, config.test_images, random), _sampled(others, config.test_images, random)
    pasted = _sampled(foreign, config.test_images, random) if config.paste else []
    loader = _Loader(found, job)
    total = sum(map(len, chosen)) + len(pasted)
    cases = [loader.cases(part, total, listener) for part in (*chosen, pasted)]
    if len(cases[0]) < 2 or len(cases[1]) < 2:
        raise InputError(f"group {config.test} cannot be tested: fewer than two images of it, or of others, can be read.")
    where = None
    if {"fixed", "outside"} & set(facts["flags"]):
        where = _mean_map(found, own, config)
        where = excess(where, _mean_map(found, rest, config)) if rest else where
    return Test(config.test, name, job.model.classes.index(name), job, where, cases[0], cases[1], cases[2], loader.failed)


def _mean_map(found: Collection, items: Sequence[Item], config: ClusterConfig) -> np.ndarray:
    """The mean of the maps of ``items``, each scaled to the sum 1: (gh, gw)."""
    maps = Arrays(found, items, "where", config.sample)
    return np.asarray(sum(block.sum(axis=0, dtype=np.float64) for _, block in maps.blocks()) / len(items)).reshape(maps.shape)


def _group_facts(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The record of a group, with its class. Raises InputError."""
    groups = {group["group"]: {**group, "class": each["class"]} for each in record["classes"] for group in each["groups"]}
    if number not in groups:
        raise InputError(f"there is no group {number}; the groups are 1 to {max(groups, default=0)}.")
    return groups[number]


def _membership(root: Root, paths: Sequence[str]) -> dict[tuple[int, str], tuple[int, float]]:
    """(run, image) -> group and distance from its centre, as ``clusters.csv`` in ``root`` says. Raises InputError.

    ``paths``: of the runs, as they were named when the groups were made.
    """
    runs = {unescape_name(escape_name(path)): number for number, path in enumerate(paths)}
    known: dict[tuple[int, str], tuple[int, float]] = {}
    try:
        rows = csv.DictReader(io.StringIO(root.read(IMAGES).decode("utf-8")))
        if tuple(rows.fieldnames or ()) != IMAGE_COLUMNS:
            raise ValueError("it has other columns")
        for row in rows:
            number = runs[unescape_name(row["run"])]
            if row["group"]:
                known[number, unescape_name(row["image"])] = int(row["group"]), float(row["distance"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"{escape_name(root.at(IMAGES))!r} cannot be read: {error}. Make the groups again with --overwrite."
        ) from error
    return known


def _job_of(runs: Sequence[RunData], shared: Mapping[str, Any], listener: Listener) -> Job:
    """The model with which the runs were made, ready to predict. Raises InputError if it has changed, or the runs had several."""
    settings = [run.ledger.settings for run in runs]
    keys = (*_MODEL_OPTIONS, "model-sha256", "weights-sha256")
    if any(each.get(key) != settings[0].get(key) for each in settings for key in keys):
        raise InputError("the runs were made with different models or input sizes: test a group of one run alone.")
    known = {key: value for key, value in settings[0].items() if key in _MODEL_OPTIONS}
    try:
        config = with_values(RunConfig(**shared), known).check()
        now = run_settings(config, str(settings[0].get("inputs", "")))
    except ConfigError as error:
        raise InputError(f"the model of the run cannot be loaded: {error}") from error
    for key in ("model-sha256", "weights-sha256"):
        if settings[0].get(key) != now.get(key):
            raise InputError(f"--{key.removesuffix('-sha256')} has changed since the run: make the run again, or restore the file.")
    job = prepare_job(config, info=listener.info)
    for note in job.model.notes:
        listener.warn(note)
    return job


def _sampled(items: Sequence[Item], count: int, random: np.random.Generator) -> list[Item]:
    """At most ``count`` of ``items``, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[place] for place in np.sort(random.choice(len(items), count, replace=False))]


class _Loader:
    """Reads the images of items again, as inputs of the network. ``failed``: how many could not be read."""

    def __init__(self, found: Collection, job: Job) -> None:
        self._found, self._job = found, job
        self._finders = [SourceFinder(str(run.ledger.settings.get("inputs", ""))) for run in found.runs]
        self.failed = self._done = 0

    def cases(self, items: Sequence[Item], total: int, listener: Listener) -> list[Case]:
        """The cases of ``items``, in order, without those that cannot be read."""
        maps = Arrays(self._found, items, "where", len(items)) if items else None
        cases = []
        for number, item in enumerate(items):
            self._done += 1
            listener.progress(self._done, total)
            image = decode_image(self._finders[item.run].find(item.entry.image), self._job.config.max_pixels)
            if isinstance(image, Failure):
                self.failed += 1
                listener.failed(image)
                continue
            _, pixels = prepare_pixels(image.pixels, self._job.model.preprocess, self._job.config.resize_mode)
            assert maps is not None
            assert maps.held is not None
            cases.append(Case(item, pixels, maps.held[number].reshape(maps.shape)))
        return cases


def region_of(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The region that a map (gh, gw) marks in an input of ``size`` (H, W): (H, W) bool, True inside.

    It is where the map, enlarged, has at least 50 percent of its peak, but at most 20 percent of the input; and half a cell more on
    every side, because evidence may be at the edge of a cell. A map without a positive value has none.
    """
    height, width = size
    placed = place_map(
        scale_map(values), (0.0, 0.0, float(width), float(height)), Box(0, 0, width, height), (width, height)
    ).whole()
    if not placed.max() > 0:
        return np.zeros(size, bool)
    marked = placed >= max(_REGION, float(np.quantile(placed, 1 - _MOST_COVERED)))
    near = np.ones((2 * (height // values.shape[0] // 2) + 1, 2 * (width // values.shape[1] // 2) + 1), np.uint8)
    return np.asarray(cv2.dilate(marked.astype(np.uint8), near).astype(bool))


def covered(pixels: np.ndarray, region: np.ndarray, fill: str) -> np.ndarray:
    """``pixels`` (h, w, 3) uint8 with ``region`` (h, w) bool filled: from the colours at its edge (Telea 2004), or a blur of those
    around it. Nothing of the region itself is used. The grain of the mirrored image is added, so that the filling is no smoother
    than the rest.
    """
    if not region.any() or region.all():
        return pixels
    given = np.ascontiguousarray(pixels)
    filled: np.ndarray
    if fill == "inpaint":
        filled = cv2.inpaint(given, region.astype(np.uint8), _RADIUS, cv2.INPAINT_TELEA).astype(np.float32)
    else:
        outside = (~region).astype(np.float32)
        spread = max(2.0, math.sqrt(float(region.sum())) / 2)
        weights = cv2.GaussianBlur(outside, (0, 0), spread)
        filled = cv2.GaussianBlur(given * outside[:, :, None], (0, 0), spread) / np.maximum(weights, 1e-6)[:, :, None]
    grain = given.astype(np.float32) - cv2.GaussianBlur(given.astype(np.float32), (0, 0), _GRAIN)
    near = cv2.dilate(region.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    grain[near] = 0
    filled += grain[:, ::-1]
    return np.where(region[:, :, None], np.clip(np.rint(filled), 0, 255).astype(np.uint8), pixels)


def run_test(test: Test, config: ClusterConfig, listener: Listener, stop: threading.Event) -> dict[str, Any] | None:
    """The result of a test, as JSON values; None if ``stop`` was set. Raises what the network raises."""
    random = np.random.default_rng(config.seed)
    size = test.members[0].pixels.shape[:2]
    regions = [region_of(case.values if test.where is None else test.where, size) for case in test.members]
    borrowed = [regions[place] for place in random.integers(0, len(regions), len(test.others))]
    predict = _Predictor(test, stop)
    before = predict([case.pixels for case in test.members])
    after = predict([covered(case.pixels, region, config.fill) for case, region in zip(test.members, regions, strict=True)])
    own = [test.job.model.classes.index(case.item.class_name) for case in test.others]
    control = predict([case.pixels for case in test.others])
    hidden = predict([covered(case.pixels, region, config.fill) for case, region in zip(test.others, borrowed, strict=True)])
    if before is None or after is None or control is None or hidden is None:
        return None
    falls = before[:, test.target] - after[:, test.target]
    numbers = np.arange(len(own))
    control_falls = control[numbers, own] - hidden[numbers, own]
    difference = _interval(random, lambda pick: float(pick(falls).mean() - pick(control_falls).mean()))
    rows = [
        _row("group, evidence covered", before[:, test.target], after[:, test.target], falls, random),
        _row("other images, same size covered", control[numbers, own], hidden[numbers, own], control_falls, random),
    ]
    apart, harm = float(falls.mean() - control_falls.mean()), float(control_falls.mean())
    rows.append(_figures("difference", len(falls), None, None, apart, difference))
    result: dict[str, Any] = {
        "group": test.number,
        "class": test.name,
        "region": "map of each image" if test.where is None else f"place of the group: {place_of(test.where)}",
        "covered": round(float(np.mean([region.mean() for region in regions])), 4),
        "fill": config.fill,
        "seed": config.seed,
        "confirmed": difference[0] > MATTERS and harm < MATTERS,
        "failed": test.failed,
    }
    verdict = _verdict(test, apart, difference, harm)
    if config.paste:
        pasted = _paste(test, regions, predict, random)
        if pasted is None:
            return None
        rows += pasted[0]
        verdict = f"{verdict} {pasted[1]}"
    return {**result, "verdict": verdict, "rows": rows}


def _verdict(test: Test, apart: float, interval: tuple[float, float], harm: float) -> str:
    """A sentence. ``apart``: how much more the probability falls in the group, with its interval; ``harm``: its fall in others."""
    name = escape_name(test.name)
    figures = f"{apart:.2f} more than in other images (95 % interval {interval[0]:.2f} to {interval[1]:.2f})"
    if interval[0] > MATTERS and harm >= MATTERS:
        return f"Undecided: in other images the probability falls by {harm:.2f} too if as much is covered; try another --fill."
    if interval[0] > MATTERS:
        return f"Confirmed: without the evidence of group {test.number} the probability of {name} falls by {figures}."
    if interval[1] < MATTERS:
        return f"Not confirmed: without the evidence of group {test.number} the probability of {name} falls by {figures}."
    return f"Undecided: the probability of {name} falls by {figures}; test more images with --test-images."


class _Predictor:
    """Probabilities of inputs, in batches. Returns None once ``stop`` is set."""

    def __init__(self, test: Test, stop: threading.Event) -> None:
        self._job, self._stop = test.job, stop

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        job, found = self._job, []
        with torch_threads(job.config.threads), eval_frozen(job.network.module), torch.no_grad():
            for start in range(0, len(inputs), job.batch_size):
                if self._stop.is_set():
                    return None
                tensor = input_tensor(list(inputs[start : start + job.batch_size]), job.model.preprocess, job.device)
                logits = job.network.run(job.network.cast_inputs(tensor), ()).logits
                logits = torch.cat([-logits, logits], dim=1) if job.options.binary else logits
                found.append(HEADS[job.config.head](logits.float().cpu().numpy().astype(np.float64)))
        return np.concatenate(found) if found else np.zeros((0, len(job.model.classes)))


def _paste(
    test: Test, regions: Sequence[np.ndarray], predict: _Predictor, random: np.random.Generator
) -> tuple[list[dict[str, Any]], str] | None:
    """How often images of other classes become the class when evidence of the group, or as much of others, is pasted into them."""
    if not test.foreign:
        return [], "There is no image of another class to paste into."
    donors = list(zip(test.members, regions, strict=True))[:_DONORS]
    before = predict([case.pixels for case in test.foreign])
    with_evidence, with_others = [], []
    for case in test.foreign:
        donor, region = donors[int(random.integers(len(donors)))]
        other = test.others[int(random.integers(len(test.others)))]
        with_evidence.append(np.where(region[:, :, None], donor.pixels, case.pixels))
        with_others.append(np.where(region[:, :, None], other.pixels, case.pixels))
    after, control = predict(with_evidence), predict(with_others)
    if before is None or after is None or control is None:
        return None
    rates = [float((each.argmax(axis=1) == test.target).mean()) for each in (before, after, control)]
    count = len(test.foreign)
    rows = [
        _figures("predicted as the class, evidence pasted", count, rates[0], rates[1], None, _wilson(rates[1], count)),
        _figures("predicted as the class, others pasted", count, rates[0], rates[2], None, _wilson(rates[2], count)),
    ]
    words = f"Pasted into images of other classes, the evidence makes {rates[1]:.0%} of them {escape_name(test.name)}"
    return rows, f"{words}; as much of other images makes {rates[2]:.0%}."


def _row(what: str, before: np.ndarray, after: np.ndarray, falls: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    interval = _interval(random, lambda pick: float(pick(falls).mean()))
    return _figures(what, len(falls), float(before.mean()), float(after.mean()), float(falls.mean()), interval)


def _figures(
    what: str, images: int, before: float | None, after: float | None, fall: float | None, interval: tuple[float, float]
) -> dict[str, Any]:
    values = {"before": before, "after": after, "fall": fall, "from": interval[0], "to": interval[1]}
    return {"what": what, "images": images, **{key: None if value is None else round(value, 5) for key, value in values.items()}}


def _interval(random: np.random.Generator, figure: Callable[[Callable[[_Array], _Array]], float]) -> tuple[float, float]:
    """The 95 percent interval of ``figure`` by the percentile bootstrap (Efron 1979); ``figure`` gets a function that resamples."""
    found = [figure(lambda values: values[random.integers(0, len(values), len(values))]) for _ in range(_RESAMPLES)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _wilson(rate: float, count: int) -> tuple[float, float]:
    """The 95 percent interval of a rate of ``count`` images (Wilson 1927)."""
    z = 1.959964
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
