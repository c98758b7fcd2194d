"""A check from names to files: what is asked for, whether it is there already, the images, the record it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from camcli import __version__
from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.errors import InputError
from camcli.images.decode import decode_image
from camcli.images.geometry import input_window, prepare_input
from camcli.network.probe import probe_input
from camcli.network.threads import torch_threads
from camcli.pipeline.job import Job, package_versions, prepare_job
from camcli.records import Failure, Source, stamp_of
from camcli.sanity.check import available_methods, check_maps, plain_job
from camcli.sanity.config import SanityConfig
from camcli.sanity.randomize import LayerGroup, find_layer_groups
from camcli.sanity.verdict import JUDGED_BY, KEEPS, LOSES, Verdict, judge
from camcli.sanity.write import known, write_check

_SHARED = ("model", "weights", "labels", "layer", "fit", "max-pixels")
"""Options of a run that decide what a check finds."""


@dataclass(frozen=True)
class Study:
    """A check before its first image: the network, its ``groups`` from the top, and ``refused``: methods it does not allow."""

    config: SanityConfig
    job: Job
    groups: tuple[LayerGroup, ...]
    refused: Mapping[str, str]


def check_settings_of(config: SanityConfig, run: RunConfig, root: str) -> dict[str, Any]:
    """What must be equal for a check to be the same, as JSON values. ``root``: the folder that names of images are relative to."""
    shared = run_settings(run, root)
    settings = {name: value for name, value in shared.items() if name in _SHARED or name == "inputs" or name.endswith("-sha256")}
    return settings | config.settings()


def images_of(sources: Sequence[Source]) -> dict[str, Any]:
    """Name -> size and modification time of each image, as JSON values; None where there is no file."""
    stamps = {source.image: stamp_of(source.path) for source in sources}
    return {name: None if stamp is None else [stamp.size, stamp.mtime_ns] for name, stamp in stamps.items()}


def prepare_study(config: SanityConfig, run: RunConfig, info: Callable[[str], None], *, show_progress: bool = False) -> Study:
    """Load the model, look every name up, and find the order of its layers. Raises as ``prepare_job`` does.

    A method that the network does not allow is left out; UsageError where none is left.
    """
    first = replace(run, method=("gradcam",), class_=() if config.class_ is None else (config.class_,), topk=None)
    job = plain_job(prepare_job(first.check(), show_progress=show_progress, info=info))
    methods, refused = available_methods(job, config.method)
    job = job.with_targets(method=tuple(methods))
    image = probe_input(job.model.preprocess, job.device, job.network.dtype)
    return Study(config, job, tuple(find_layer_groups(job.model.module, image, config.steps)), refused)


def read_inputs(sources: Sequence[Source], job: Job) -> tuple[dict[str, np.ndarray], list[Failure]]:
    """Name -> input of the network (h, w, 3) uint8 of each image that can be read, and what is wrong with the others.

    Raises InputError where none can be read.
    """
    inputs: dict[str, np.ndarray] = {}
    failures: list[Failure] = []
    for source in sources:
        image = decode_image(source, job.config.max_pixels)
        if isinstance(image, Failure):
            failures.append(image)
            continue
        view = input_window((image.pixels.shape[1], image.pixels.shape[0]), job.model.preprocess, job.config.resize_mode)
        inputs[source.image] = prepare_input(image.pixels, view, job.model.preprocess)
    if not inputs:
        raise InputError(f"none of the images can be read; the first: {failures[0].image}: {failures[0].reason}")
    return inputs, failures


def run_study(
    study: Study,
    inputs: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    tell: Callable[[int, int], None],
) -> dict[str, Any]:
    """Check the maps of ``inputs`` (name -> (h, w, 3) uint8) and write everything; the record of the check, JSON values.

    ``record``: what is to stand in it besides. Raises what explaining raises, and OutputError.
    """
    config = study.config
    with torch_threads(study.job.config.threads):
        found = check_maps(study.job, inputs, study.groups, seed=config.seed, strips=config.strip, tell=tell)
    verdicts = judge(found)
    whole = {**record, **_facts(study, verdicts)}
    write_check(config.output, found, verdicts, whole)
    return whole


def _facts(study: Study, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    job = study.job
    return {
        "camcli": __version__,
        "model": {"name": job.model.name, "weights": job.model.weights, "classes": len(job.model.classes)},
        "device": str(job.device),
        "layers": [layer.name for layer in job.layers],
        "stages": {stage.name: list(stage.modules) for stage in study.groups},
        "not_checked": dict(study.refused),
        "judged_by": {"measure": JUDGED_BY, "keeps_from": KEEPS, "loses_below": LOSES},
        "verdicts": [{name: known(value) for name, value in asdict(verdict).items()} for verdict in verdicts],
        "versions": package_versions("scipy", "scikit-image", "matplotlib"),
    }
