"""The settings of an output folder: the options and files on which the results depend. A run with other settings is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from camcli.config.field import option_name
from camcli.config.run import CLUSTER_OPTIONS, WITHOUT_FILE, RunConfig
from camcli.documents import read_document
from camcli.errors import ConfigError
from camcli.layout import EXCHANGE, FITTED_MARK, FITTED_WEIGHTS, HUB_CONFIG, HUB_PROCESSOR
from camcli.records import escape_name


def run_settings(config: RunConfig, root: str) -> dict[str, Any]:
    """The settings of a run as JSON values. Runs may share an output folder only if their settings are equal.

    They are the options that affect results, ``root`` (the folder that the images' names are relative to), and SHA-256 digests: of
    the files given with ``--weights``, ``--labels`` and ``--class-from``, of the module that contains a model factory, and of the
    weights of a fitted model or of a folder of Hugging Face transformers. Raises ConfigError for a file that cannot be read.
    """
    settings = {**effective_settings(config.settings()), "inputs": root}
    files = (
        ("weights", config.weights),
        ("labels", config.labels),
        ("class-from", config.class_from),
        ("model", _model_file(config.model)),
    )
    for name, path in files:
        document = name == "labels" or (name == "class-from" and path not in WITHOUT_FILE)  # refused before a model is loaded
        if path is not None and (os.path.isfile(path) or (document and os.path.exists(path))):
            try:
                settings[f"{name}-sha256"] = _digest(path, whole=document)
            except OSError as error:
                raise ConfigError(f"--{name} {escape_name(path)}: {error.strerror}.") from error
    if "model-sha256" not in settings and os.path.isfile(os.path.join(config.model, HUB_CONFIG)):
        settings["model-sha256"] = _hub_digest(config.model)
    return settings


def _hub_digest(folder: str) -> str:
    """A SHA-256 of the configuration and the weights of a model of Hugging Face transformers in ``folder``. Raises ConfigError."""
    digest = hashlib.sha256()
    try:
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            read = name in (HUB_CONFIG, HUB_PROCESSOR) or name.endswith((".safetensors", ".safetensors.index.json"))
            if read and os.path.isfile(path):
                digest.update(f"{name!r} {_digest(path, whole=False)}\n".encode())
    except OSError as error:
        raise ConfigError(f"--model {escape_name(folder)}: {error.strerror}.") from error
    return digest.hexdigest()


def effective_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` without the options that have no effect in combination with the others, so that those may change.

    ``settings`` may come from an earlier version: a single ``region-threshold``, which such versions recorded, becomes the two
    settings for boxes and masks.
    """
    found = dict(settings)
    if "region-threshold" in found:
        both = found.pop("region-threshold")
        found = {"box-threshold": both, "mask-threshold": both} | found
    for name in _without_effect(found):
        found.pop(name, None)
    return found


def comparable_settings(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The effective settings of both runs, without options that have an effect in only one of them.

    Such an option need not be compared: the option that gives it its effect differs too.
    """
    before, after = effective_settings(earlier), effective_settings(now)
    idle = _without_effect(before).keys() | _without_effect(after).keys()
    for name in idle:
        before.pop(name, None)
        after.pop(name, None)
    return before, after


def _without_effect(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that have no effect in combination with the others: name -> the options that would give it an effect."""
    found: dict[str, str] = {}
    if not settings.get("masks"):
        found["mask-method"] = "--masks"
    if not settings.get("boxes"):
        found["box-threshold"] = "--boxes"
    if not settings.get("masks") or settings.get("mask-method") == "otsu":
        found["mask-threshold"] = "--masks with --mask-method threshold or grabcut"
    if not settings.get("save-maps"):
        found["maps-format"] = "--save-maps"
    if not settings.get("overlays", True):
        found["overlays-for"] = "--overlays"
    metrics = set(settings.get("metrics") or ())
    if not metrics & {"deletion", "insertion"}:
        found["steps"] = "--metrics deletion or insertion"
        found["baseline"] = "--metrics deletion or insertion"
    if not metrics - {"entropy", "sparsity", "complexity", "coherency", "sensitivity"}:
        found["metric-score"] = "--metrics with a metric that compares scores"
    if not settings.get("smooth"):
        found["noise"] = "--smooth"
    methods = settings.get("method") or ()
    if "occlusion" not in methods:
        found |= dict.fromkeys(("window", "stride"), "--method occlusion")
    if not {"rise", "integrated-gradients"} & {*methods}:
        found["samples"] = "--method rise or integrated-gradients"
    return found


def options_without_effect(config: RunConfig, given: Collection[str]) -> list[str]:
    """A sentence for each given option that has no effect; it names the option that is missing.

    ``given``: names of fields of RunConfig. An option whose value is not its default also counts as given.
    """
    idle = _without_effect(config.settings())
    if "box-threshold" in idle and "mask-threshold" in idle:
        idle["region-threshold"] = f"{idle['box-threshold']}, or {idle['mask-threshold']}"
    if config.engine != "ray":
        idle |= dict.fromkeys(CLUSTER_OPTIONS, "--engine ray")
    return [
        f"--{name} has no effect without {needed}."
        for field in dataclasses.fields(config)
        if (needed := idle.get(name := option_name(field)))
        and (field.name in given or getattr(config, field.name) != field.default)
    ]


_FORMER_THRESHOLD = 0.15
"""Earlier default of ``--region-threshold``, for boxes and for masks."""


def with_former_defaults(config: RunConfig, earlier: Mapping[str, Any]) -> RunConfig:
    """``config`` for resuming a folder with the settings ``earlier``: options that are not given have the default of that time."""
    if config.region_threshold is None and earlier.get("region-threshold") == _FORMER_THRESHOLD:
        return replace(config, region_threshold=_FORMER_THRESHOLD)
    return config


def _digest(path: str, *, whole: bool) -> str:
    """The SHA-256 of the file at ``path``. ``whole``: read it at once, as a document, which has a size limit. Raises OSError."""
    if whole:
        return hashlib.sha256(read_document(path)).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fitted_file(folder: str, name: str) -> str:
    """The path of the file ``name`` of the model in ``folder``, also after a ``camcli fit`` died while moving it there."""
    decided = os.path.join(folder, EXCHANGE, name)
    return decided if os.path.isfile(decided) else os.path.join(folder, name)


def _model_file(model: str) -> str | None:
    """The path of a fitted model's weights, or of the module in ``package.module:factory``; None for any other model.

    The module is found without importing it.
    """
    if os.path.isfile(fitted_file(model, FITTED_MARK)):
        return fitted_file(model, FITTED_WEIGHTS)
    if ":" not in model:
        return None
    relative = model.partition(":")[0].replace(".", os.sep)
    places = (os.path.join(folder or ".", relative + end) for folder in ("", *sys.path) for end in (".py", f"{os.sep}__init__.py"))
    return next((place for place in places if os.path.isfile(place)), None)
