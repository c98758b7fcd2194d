"""What binds an output folder: the options and files that decide what a run writes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from camcli.config.field import option_name
from camcli.config.run import RunConfig
from camcli.documents import read_document
from camcli.errors import ConfigError
from camcli.layout import EXCHANGE, FITTED_MARK, FITTED_WEIGHTS
from camcli.records import escape_name


def run_settings(config: RunConfig, root: str) -> dict[str, Any]:
    """What must be equal for two runs to share an output folder, as JSON values.

    The options that decide the results, ``root`` (the folder that the images' names are relative to), and the SHA-256 of the
    files given with ``--weights``, ``--labels`` and ``--class-from``, of the module that holds a model factory, and of a fitted
    model's weights. Raises
    ConfigError for a file that cannot be read.
    """
    settings = {**effective_settings(config.settings()), "inputs": root}
    files = (
        ("weights", config.weights),
        ("labels", config.labels),
        ("class-from", config.class_from),
        ("model", _model_file(config.model)),
    )
    for name, path in files:
        document = name == "labels" or (name == "class-from" and path != "folder")  # refused before a model is loaded
        if path is not None and (os.path.isfile(path) or (document and os.path.exists(path))):
            try:
                settings[f"{name}-sha256"] = _digest(path, whole=document)
            except OSError as error:
                raise ConfigError(f"--{name} {escape_name(path)}: {error.strerror}.") from error
    return settings


def effective_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` of a run of any version, without those that have no effect beside the others: they bind nothing.

    Earlier versions recorded one ``region-threshold`` for boxes and masks, which are two settings here.
    """
    found = dict(settings)
    if "region-threshold" in found:
        both = found.pop("region-threshold")
        found = {"box-threshold": both, "mask-threshold": both} | found
    for name in _idle(found):
        found.pop(name, None)
    return found


def comparable_settings(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both as ``effective_settings`` gives them, without what has an effect in one alone: what decides that differs as well."""
    before, after = effective_settings(earlier), effective_settings(now)
    idle = _idle(before).keys() | _idle(after).keys()
    for name in idle:
        before.pop(name, None)
        after.pop(name, None)
    return before, after


def _idle(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that have no effect beside the others, and what would give them one, in words."""
    found: dict[str, str] = {}
    if not settings.get("masks"):
        found["mask-method"] = "--masks"
    if not settings.get("boxes"):
        found["box-threshold"] = "--boxes"
    if not settings.get("masks") or settings.get("mask-method") == "otsu":
        found["mask-threshold"] = "--masks with --mask-method threshold or grabcut"
    if not settings.get("smooth"):
        found["noise"] = "--smooth"
    return found


def idle_options(config: RunConfig, given: Collection[str]) -> list[str]:
    """A sentence for each option of ``given``, the names of fields of RunConfig, that has no effect, and what it needs to have one.

    An option whose value is not its default counts as given.
    """
    idle = _idle(config.settings())
    if "box-threshold" in idle and "mask-threshold" in idle:
        idle["region-threshold"] = f"{idle['box-threshold']}, or {idle['mask-threshold']}"
    return [
        f"--{name} has no effect without {needed}."
        for field in dataclasses.fields(config)
        if (needed := idle.get(name := option_name(field)))
        and (field.name in given or getattr(config, field.name) != field.default)
    ]


_FORMER_THRESHOLD = 0.15
"""What ``--region-threshold`` was for masks too where it was not given."""


def with_former_defaults(config: RunConfig, earlier: Mapping[str, Any]) -> RunConfig:
    """``config`` for a folder with the settings ``earlier``: with the default of then where nothing is given."""
    if config.region_threshold is None and earlier.get("region-threshold") == _FORMER_THRESHOLD:
        return replace(config, region_threshold=_FORMER_THRESHOLD)
    return config


def _digest(path: str, *, whole: bool) -> str:
    """The SHA-256 of the file at ``path``. ``whole``: it is a document, which is small. Raises OSError."""
    if whole:
        return hashlib.sha256(read_document(path)).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fitted_file(folder: str, name: str) -> str:
    """Where the file ``name`` of the model in ``folder`` is: also where a ``camcli fit`` died while it moved it there."""
    decided = os.path.join(folder, EXCHANGE, name)
    return decided if os.path.isfile(decided) else os.path.join(folder, name)


def _model_file(model: str) -> str | None:
    """The weights of a fitted model, or the source file of the module in ``package.module:factory``, without importing it.

    None where there is none.
    """
    if os.path.isfile(fitted_file(model, FITTED_MARK)):
        return fitted_file(model, FITTED_WEIGHTS)
    if ":" not in model:
        return None
    relative = model.partition(":")[0].replace(".", os.sep)
    places = (os.path.join(folder or ".", relative + end) for folder in ("", *sys.path) for end in (".py", f"{os.sep}__init__.py"))
    return next((place for place in places if os.path.isfile(place)), None)
