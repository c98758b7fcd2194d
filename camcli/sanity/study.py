"""A check from names to files: settings, prepared network, images, the check itself, and the record that is written."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from camcli import __version__
from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.errors import InputError
from camcli.images.decode import decode_image
from camcli.images.geometry import prepare_pixels
from camcli.listener import Listener
from camcli.network.probe import probe_input
from camcli.network.threads import torch_threads
from camcli.pipeline.job import Job, package_versions, prepare_job
from camcli.pipeline.stopping import Stopped
from camcli.records import Failure
from camcli.sanity.check import Check, available_methods, check_maps, eager_job
from camcli.sanity.config import SanityConfig
from camcli.sanity.randomize import LayerGroup, find_layer_groups
from camcli.sanity.verdict import JUDGED_BY, KEEPS, LOSES, Verdict, judge
from camcli.sanity.write import FORMAT, none_if_nan, write_check
from camcli.source import Source

_SHARED = (
    "model", "weights", "labels", "mean", "std", "resize", "crop", "interpolation", "layer", "fit", "max-pixels",
)  # fmt: skip
"""Options of ``camcli run`` that affect the results of a check."""


@dataclass(frozen=True)
class Study:
    """A prepared check: the network with all names resolved, and its layer groups from the top layer down.

    ``refused``: methods that the network does not support, with the reason.
    """

    config: SanityConfig
    job: Job
    groups: tuple[LayerGroup, ...]
    refused: Mapping[str, str]


def study_settings(config: SanityConfig, run: RunConfig, root: str) -> dict[str, Any]:
    """The settings that a folder's check must have to be the same check, as JSON values. ``root``: folder of the image names."""
    shared = run_settings(run, root)
    settings = {name: value for name, value in shared.items() if name in _SHARED or name == "inputs" or name.endswith("-sha256")}
    return settings | config.settings()


def image_stamps(sources: Sequence[Source]) -> dict[str, Any]:
    """For each image name its size and modification time, as JSON values; None if there is no such file."""
    stamps = {source.image: source.stamp() for source in sources}
    return {name: None if stamp is None else [stamp.size, stamp.mtime_ns] for name, stamp in stamps.items()}


def prepare_study(config: SanityConfig, run: RunConfig, listener: Listener, *, show_progress: bool = False) -> Study:
    """Load the model, resolve all names and find the order of the layers. Raises as ``prepare_job`` does.

    Methods that the network does not support are left out; UsageError if none is left. ``show_progress``: of a download.
    """
    first = replace(run, method=("gradcam",), class_=() if config.class_ is None else (config.class_,), topk=None)
    job = eager_job(prepare_job(first.check(), show_progress=show_progress, info=listener.info))
    methods, refused = available_methods(job, config.method)
    job = job.with_targets(method=tuple(methods))
    image = probe_input(job.model.preprocess, job.device, job.network.dtype)
    return Study(config, job, tuple(find_layer_groups(job.model.module, image, config.steps)), refused)


def read_inputs(sources: Sequence[Source], job: Job) -> tuple[dict[str, np.ndarray], list[Failure]]:
    """The network inputs (h, w, 3) uint8 of all images that can be read, by name, and the failures of the others.

    Raises InputError if no image can be read.
    """
    inputs: dict[str, np.ndarray] = {}
    failures: list[Failure] = []
    for source in sources:
        image = decode_image(source, job.config.max_pixels)
        if isinstance(image, Failure):
            failures.append(image)
            continue
        _, inputs[source.image] = prepare_pixels(image.pixels, job.model.preprocess, job.config.resize_mode)
    if not inputs:
        raise InputError(f"none of the images can be read; the first: {failures[0].image}: {failures[0].reason}")
    return inputs, failures


def run_study(study: Study, inputs: Mapping[str, np.ndarray], listener: Listener, stop: threading.Event) -> Check | None:
    """The check of ``inputs`` (name -> (h, w, 3) uint8); None if ``stop`` was set before its end. Nothing is written.

    Raises what ``Engine.explain`` raises.
    """
    try:
        with torch_threads(study.job.config.threads):
            return check_maps(
                study.job, inputs, study.groups, seed=study.config.seed, strips=study.config.strip, listener=listener, stop=stop
            )
    except Stopped:
        return None


def write_study(study: Study, check: Check, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the folder of a finished check and return its record, JSON values. Raises OutputError.

    ``record``: what the record says besides the results: settings, images, failures.
    """
    verdicts = judge(check)
    complete = {**record, **_results(study, verdicts)}
    write_check(study.config.output, check, verdicts, complete)
    return complete


def _results(study: Study, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    job = study.job
    return {
        "format": FORMAT,
        "camcli": __version__,
        "model": {"name": job.model.name, "weights": job.model.weights, "classes": len(job.model.classes)},
        "device": str(job.device),
        "layers": [layer.name for layer in job.layers],
        "stages": {group.name: list(group.modules) for group in study.groups},
        "not_checked": dict(study.refused),
        "judged_by": {"measure": JUDGED_BY, "keeps_from": KEEPS, "loses_below": LOSES},
        "verdicts": [{name: none_if_nan(value) for name, value in asdict(verdict).items()} for verdict in verdicts],
        "versions": package_versions("scipy", "scikit-image", "matplotlib"),
    }
