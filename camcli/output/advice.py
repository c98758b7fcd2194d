"""Advice for a run into a folder that holds a run with other settings: options and commands to copy."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from camcli.config.run import LOOKS
from camcli.output.names import shard_of_name
from camcli.records import escape_name

_NAMING_SETTINGS = ("model", "method", "layer", "class", "class-from", "weights", "style", "inputs")
"""Settings after which a new folder is named, in this order, before any other setting that differs."""

_LONGEST = 40
"""Maximum length of the suffix of a proposed folder name, in characters."""


def settings_advice(path: str, earlier: Mapping[str, Any], now: Mapping[str, Any], different: Sequence[str]) -> str:
    """Sentences with options to copy, for a run with settings ``now`` into the folder ``path`` of a run with settings ``earlier``.

    ``different``: the names of the settings that differ. They propose a folder that does not exist yet.
    """
    folder = shlex.quote(escape_name(free_folder(path, now, different)))
    repaint = _repaint_command(path, earlier, now, different)
    first = f"Only the look of the overlays differs. To repaint them: {repaint}. " if repaint else ""
    return f"{first}To use another folder: -o {folder}. To replace the earlier run: --overwrite."


def free_folder(path: str, now: Mapping[str, Any], different: Sequence[str]) -> str:
    """The path of a folder beside ``path`` that does not exist yet, named after a setting that differs: ``heatmaps-resnet50``.

    For the folder of a shard, the name is derived from the folder of ``--output`` around it.
    """
    whole = os.path.dirname(path) if shard_of_name(os.path.basename(path)) else path
    near = os.path.relpath(whole)
    place = whole if near.startswith(os.pardir) or near == os.curdir else near
    names = [name for name in (*_NAMING_SETTINGS, *different) if name in different]
    ending = next(filter(None, (_ending(name, now.get(name)) for name in names)), "")
    stem = f"{place}-{ending}" if ending else place
    return next(folder for folder in _numbered(stem, plain=bool(ending)) if not os.path.lexists(folder))


def _numbered(stem: str, *, plain: bool) -> Iterator[str]:
    if plain:
        yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


def _ending(name: str, value: Any) -> str:
    """A short suffix that names ``value``; empty for a default value or a digest."""
    if name.endswith("-sha256") or value in (None, False, "") or value == []:
        return ""
    text = str(value[0] if isinstance(value, list) else value)
    if value is True:
        text = name
    elif isinstance(value, (int, float)):
        text = f"{name}-{text}"
    last = re.split(r"[/:]", text.rstrip("/"))[-1]
    return re.sub(r"[^\w.]+", "-", last).strip("-.")[:_LONGEST]


def _repaint_command(path: str, earlier: Mapping[str, Any], now: Mapping[str, Any], different: Sequence[str]) -> str | None:
    """The ``camcli render`` command that gives the overlays the look ``now``; None if more differs or no maps are stored."""
    if not set(different) <= set(LOOKS) or not earlier.get("save-maps"):
        return None
    options: list[str] = []
    for name in different:
        value = now.get(name)
        if value is None:
            return None
        options += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    near = os.path.relpath(path)
    place = path if near.startswith(os.pardir) else near
    return shlex.join(["camcli", "render", escape_name(place), *options])
