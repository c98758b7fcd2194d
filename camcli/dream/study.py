"""One command of ``camcli dream``: resolve the targets, keep the pictures that exist, make and write the others."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.dream.config import DreamConfig
from camcli.dream.optimize import Metrics, ModelView, optimize
from camcli.dream.targets import Target, check_targets, find_targets
from camcli.dream.write import SHEET, TABLE, check_folder, read_picture_record, write_picture, write_sheet, write_table
from camcli.errors import ImageError, ModelError, OutOfMemoryError, SettingsError
from camcli.listener import Listener
from camcli.models.device import resolve_device
from camcli.models.layers import resolve_layers
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model
from camcli.network.memory import bytes_through
from camcli.network.prepare import Preparation, prepare_network
from camcli.network.threads import torch_threads
from camcli.output.checks import differences, with_defaults
from camcli.output.locks import claimed
from camcli.output.root import Root
from camcli.records import Failure, LoadedModel, escape_name
from camcli.resources import available_memory


@dataclass(frozen=True)
class Study:
    """A prepared command with all names resolved. ``settings``: of each target's picture. ``todo``: targets without a picture."""

    config: DreamConfig
    model: LoadedModel
    model_view: ModelView
    targets: tuple[Target, ...]
    settings: Mapping[Target, dict[str, Any]]
    todo: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """The targets whose pictures were written, and the failures of the others. Both are incomplete if the study was stopped."""

    written: tuple[Target, ...]
    failures: tuple[Failure, ...]


def prepare_study(config: DreamConfig, request: ModelRequest, device: str) -> Study:
    """Load the model, resolve all names, and look which pictures the folder already holds. Nothing is written.

    Raises the UsageError of a name that does not exist, ModelError for a network of grey images, SettingsError for a picture with
    other settings unless ``overwrite`` is set, OutputError for a file that camcli did not write, and OutOfMemoryError for a size
    that needs more memory than is free.
    """
    config = config.check()
    place = resolve_device(device)
    model = load_model(request, place)
    if model.preprocess.channels != 3:
        raise ModelError(f"camcli dream paints in colour, and {model.name} takes grey images of one channel.")
    layers = resolve_layers(model, config.layer) if config.channel or config.unit else []
    targets = find_targets(model, config.class_, layers, config.channel, config.unit)
    size = model.preprocess.crop if config.size is None else (config.size, config.size)
    names = [f"{target.stem}.png" for target in targets]
    animations = [f"{target.stem}.webp" for target in targets]
    root = Root(config.output)
    check_folder(root, [*names, *animations, TABLE, *([SHEET] if len(targets) > 1 else [])])
    settings = {target: _settings(config, request, target, size) for target in targets}
    todo = tuple(target for target in targets if not _exists(config, target, settings[target]))
    _refuse_too_large(model, size, place)
    notes = list(model.notes)
    network = prepare_network(model, [layer.name for layer in layers], place, Preparation(), notes.append)
    check_targets(network, model, targets, size, place)
    return Study(config, model, ModelView(network, model.preprocess, size, place), targets, settings, todo)


def _refuse_too_large(model: LoadedModel, size: tuple[int, int], device: torch.device) -> None:
    """Raise OutOfMemoryError on the CPU, where the kernel would kill the process; a GPU raises an error by itself."""
    if device.type != "cpu" or size[0] * size[1] <= 4 * model.preprocess.crop[0] * model.preprocess.crop[1]:
        return
    needed, free = bytes_through(model, size), available_memory()
    if needed > free:
        raise OutOfMemoryError(
            f"a picture of {size[1]} x {size[0]} pixels needs about {needed / 1e9:.0f} GB of memory with {model.name}, and "
            f"{free / 1e9:.0f} GB are free: try a smaller --size."
        )


def _settings(config: DreamConfig, request: ModelRequest, target: Target, size: tuple[int, int]) -> dict[str, Any]:
    """The settings that determine a picture, except the device, as JSON values."""
    model = run_settings(RunConfig(model=request.name, weights=request.weights), "")
    about_model: dict[str, Any] = {
        name: model[name] for name in ("model", "weights", "model-sha256", "weights-sha256") if name in model
    }
    what = target.words if target.class_index is None else f"class {target.class_index} ({target.words})"
    return {**about_model, "target": what, **config.settings(), "size": list(size)}


def _exists(config: DreamConfig, target: Target, settings: Mapping[str, Any]) -> bool:
    """Whether picture and animation exist with these settings. Raises SettingsError if they have other settings."""
    root, name = Root(config.output), f"{target.stem}.png"
    record = read_picture_record(root, name) if os.path.isdir(root.path) else None
    if record is None:
        return False
    recorded = record.get("settings")
    earlier = with_defaults(recorded if isinstance(recorded, dict) else {}, settings, DreamConfig)
    different = differences(earlier, settings)
    if different and not config.overwrite:
        raise SettingsError(
            f"{escape_name(root.at(name))!r} was made with other settings ({different}). "
            "Choose another folder with --output, or replace it with --overwrite."
        )
    animation = read_picture_record(root, f"{target.stem}.webp") if config.frames is not None else None
    return not different and (config.frames is None or animation == {"settings": recorded, "frames": config.frames})


def run_study(study: Study, listener: Listener, stop: threading.Event) -> StudyResult:
    """Make the missing pictures in order and write each one when it is finished, then the table and the contact sheet.

    The folder is locked meanwhile. After ``stop`` is set the work ends with the current step, and the picture in progress is not
    written. ``listener`` receives each step, each finished picture, and each failure. Raises OutputError, InUseError.
    """
    root = Root(study.config.output)
    written: list[Target] = []
    failures: list[Failure] = []
    steps, total = itertools.count(1), len(study.todo) * study.config.steps
    # one thread by default: with the bundled model a second thread is no faster, it is eight times slower when it shares its core
    # with another program, and it makes the last digits depend on the machine
    with claimed(root, "camcli dream", lambda: root.exists(TABLE)), torch_threads(study.config.threads):
        for target in study.todo:
            name, started = escape_name(target.words), time.monotonic()

            def on_step(activation: float, name: str = name) -> None:
                listener.progress(next(steps), total, f"{name} {activation:.1f}")

            try:
                dream = optimize(study.model_view, target, study.config, stop, on_step)
            except ImageError as error:
                failures.append(Failure(f"{target.stem}.png", error.stage, str(error)))
                listener.failed(failures[-1])
                continue
            if dream is None:
                break
            write_picture(root, target, dream, study.config, study.settings[target])
            write_table(root)
            written.append(target)
            listener.info(f"{name}: {_description(dream.metrics)}, {time.monotonic() - started:.1f} s")
        write_table(root)
        write_sheet(root, study.targets)
    return StudyResult(tuple(written), tuple(failures))


def _description(metrics: Metrics) -> str:
    """The activation at the start and at the end, and the probability of a class."""
    activation = f"activation {metrics.start:.3g} to {metrics.end:.3g}"
    if metrics.probability_moved is None:
        return activation
    return f"{activation}, probability {metrics.probability_moved:.3f} (median over random transformations)"
