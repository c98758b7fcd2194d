"""One command: targets found, what is already there left alone, the rest dreamt, written and put into the table."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.dream.config import DreamConfig
from camcli.dream.optimize import Dream, ModelView, optimize
from camcli.dream.targets import Target, check_targets, find_targets
from camcli.dream.write import (
    SHEET,
    TABLE,
    animation_bytes,
    check_folder,
    png_bytes,
    read_picture,
    read_picture_record,
    sheet_of,
    write_table,
)
from camcli.errors import ImageError, OutOfMemoryError, SettingsError
from camcli.models.device import resolve_device
from camcli.models.layers import resolve_layers
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model
from camcli.network.memory import bytes_through
from camcli.network.prepare import Preparation, prepare_network
from camcli.network.threads import torch_threads
from camcli.output.checks import differences
from camcli.output.locks import claimed
from camcli.output.root import Root
from camcli.output.writers import output_error
from camcli.records import Failure, LoadedModel, escape_name
from camcli.resources import available_memory


@dataclass(frozen=True)
class Study:
    """A command with every name resolved. ``settings``: of each picture, by its target; ``todo``: those that are not there yet."""

    config: DreamConfig
    model: LoadedModel
    model_view: ModelView
    targets: tuple[Target, ...]
    settings: Mapping[Target, dict[str, Any]]
    todo: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Dreamt:
    """A picture that was written, and the seconds it took."""

    target: Target
    dream: Dream
    seconds: float


def prepare_study(config: DreamConfig, request: ModelRequest, device: str) -> Study:
    """Load the model, look every name up, and see what the folder already holds; nothing is written.

    Raises the UsageError of whatever does not exist, SettingsError for a picture that was made otherwise, unless ``overwrite`` is
    set, OutputError for files that are not camcli's, and OutOfMemoryError for a picture too large for the host.
    """
    config = config.check()
    place = resolve_device(device)
    model = load_model(request, place)
    layers = resolve_layers(model, config.layer) if config.channel or config.unit else []
    targets = find_targets(model, config.class_, layers, config.channel, config.unit)
    size = model.preprocess.crop if config.size is None else (config.size, config.size)
    names = [f"{target.stem}.png" for target in targets]
    animations = [f"{target.stem}.webp" for target in targets]
    root = Root(config.output)
    check_folder(root, [*names, *animations, TABLE, *([SHEET] if len(targets) > 1 else [])])
    settings = {target: _settings(config, request, target, size) for target in targets}
    todo = tuple(target for target in targets if not _is_there(config, target, settings[target]))
    _refuse_too_large(model, size, place)
    notes = list(model.notes)
    network = prepare_network(model, [layer.name for layer in layers], place, Preparation(), notes.append)
    check_targets(network, model, targets, size, place)
    return Study(config, model, ModelView(network, model.preprocess, size, place), targets, settings, todo)


def _refuse_too_large(model: LoadedModel, size: tuple[int, int], device: torch.device) -> None:
    """Raise OutOfMemoryError before the kernel ends the process; a GPU says so itself."""
    if device.type != "cpu" or size[0] * size[1] <= 4 * model.preprocess.crop[0] * model.preprocess.crop[1]:
        return
    needed, free = bytes_through(model, size), available_memory()
    if needed > free:
        raise OutOfMemoryError(
            f"a picture of {size[1]} x {size[0]} pixels takes about {needed / 1e9:.0f} GB with {model.name}, and "
            f"{free / 1e9:.0f} GB are free: try a smaller --size."
        )


def _settings(config: DreamConfig, request: ModelRequest, target: Target, size: tuple[int, int]) -> dict[str, Any]:
    """What must be equal for two pictures to be the same, as JSON values, but for the device."""
    model = run_settings(RunConfig(model=request.name, weights=request.weights), "")
    about_model: dict[str, Any] = {
        name: model[name] for name in ("model", "weights", "model-sha256", "weights-sha256") if name in model
    }
    what = target.words if target.class_index is None else f"class {target.class_index} ({target.words})"
    return {**about_model, "target": what, **config.settings(), "size": list(size)}


def _is_there(config: DreamConfig, target: Target, settings: Mapping[str, Any]) -> bool:
    """Whether picture and animation were made with these settings. Raises SettingsError where with others."""
    root, name = Root(config.output), f"{target.stem}.png"
    record = read_picture_record(root, name) if os.path.isdir(root.path) else None
    if record is None:
        return False
    earlier = record.get("settings")
    different = differences(earlier if isinstance(earlier, dict) else {}, settings)
    if different and not config.overwrite:
        raise SettingsError(
            f"{escape_name(root.at(name))!r} was made with other settings ({different}). "
            "Choose another folder with --output, or replace it with --overwrite."
        )
    animation = read_picture_record(root, f"{target.stem}.webp") if config.frames is not None else None
    return not different and (config.frames is None or animation == {"settings": settings, "frames": config.frames})


def make_dreams(
    study: Study, stop: threading.Event, tell: Callable[[Target, float], None] = lambda _target, _activation: None
) -> Iterator[Dreamt | Failure]:
    """Dream what is to do, in order; the folder's lock is held meanwhile. Each picture is written before it is given out.

    Ends early where ``stop`` is set; the picture in hand is then left out. ``tell`` hears target and activation at each step.
    Raises OutputError, InUseError.
    """
    root = Root(study.config.output)
    # one thread by default: with the bundled model a second one gains nothing, takes eight times as long where it shares its
    # core with another program, and makes the last digits depend on the machine
    with _held(root, study.config.output), torch_threads(study.config.threads):
        for target in study.todo:
            started = time.monotonic()
            try:
                dream = optimize(study.model_view, target, study.config, stop, lambda value, target=target: tell(target, value))  # type: ignore[misc]
            except ImageError as error:
                yield Failure(f"{target.stem}.png", error.stage, str(error))
                continue
            if dream is None:
                break
            _write(study, root, target, dream)
            write_table(root)
            yield Dreamt(target, dream, time.monotonic() - started)
        write_table(root)
        write_sheet(study, root)


def _write(study: Study, root: Root, target: Target, dream: Dream) -> None:
    """The animation first: whoever finds the picture finds both."""
    settings = study.settings[target]
    animation = f"{target.stem}.webp"
    if dream.frames:
        root.write_changed(animation, animation_bytes(dream.frames, {"settings": settings, "frames": study.config.frames}))
    else:
        root.remove(animation)  # of an earlier picture
    record = {"settings": settings, "row": _row(study, target, dream)}
    root.write_changed(f"{target.stem}.png", png_bytes(dream.picture, record))


def _row(study: Study, target: Target, dream: Dream) -> dict[str, Any]:
    height, width = study.model_view.size
    row, column = target.cell or (None, None)
    metrics = dream.metrics
    return {
        "target": "class" if target.layer is None else "channel" if target.cell is None else "unit",
        "class_index": target.class_index,
        "class_name": None if target.class_index is None else target.words,
        "layer": target.layer and target.layer.name,
        "channel": target.channel,
        "unit_y": row,
        "unit_x": column,
        "activation_start": metrics.start,
        "activation_end": metrics.end,
        "activation_moved": metrics.moved,
        "probability": metrics.probability,
        "probability_moved": metrics.probability_moved,
        "probability_least": metrics.probability_least,
        "prior": study.config.prior,
        "steps": study.config.steps,
        "width": width,
        "height": height,
        "seed": study.config.seed,
    }


def write_sheet(study: Study, root: Root) -> None:
    """Write ``sheet.png``, all pictures of the command in its order, where it has several. Raises OutputError."""
    if len(study.targets) < 2:
        return
    there: Sequence[Target] = [target for target in study.targets if root.size(f"{target.stem}.png")]
    try:
        pictures = [read_picture(root, f"{target.stem}.png") for target in there]
    except OSError as error:
        raise output_error(error.filename or root.path, error) from error
    if pictures:
        sheet = sheet_of(pictures, [target.words for target in there])
        root.write_changed(SHEET, png_bytes(sheet, {"sheet": [f"{target.stem}.png" for target in there]}))


@contextmanager
def _held(root: Root, place: str) -> Iterator[None]:
    """Inside, the folder is there and nobody else writes into it."""
    busy = f"another camcli is writing into {escape_name(place)!r}. Wait for it, or choose another with --output."
    try:
        with claimed(root, busy, lambda: root.exists(TABLE)):
            yield
    except OSError as error:
        raise output_error(error.filename or root.path, error) from error
