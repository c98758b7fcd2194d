"""What to do about an output folder that holds a run with other settings, as commands to copy."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from camcli.config.run import LOOKS
from camcli.output.names import shard_of_name
from camcli.records import escape_name

_TELLING = ("model", "method", "layer", "class", "class-from", "weights", "style", "inputs")
"""Settings that name a folder best, in this order; then any other that differs."""

_LONGEST = 40
"""Characters of what is put behind a folder's name."""


def ways_on(path: str, earlier: Mapping[str, Any], now: Mapping[str, Any], different: Sequence[str]) -> str:
    """Sentences with options to copy, for a run with the settings ``now`` into the folder at ``path``, made with ``earlier``.

    ``different``: the names of the settings that differ. The folder that is proposed does not exist yet.
    """
    folder = shlex.quote(escape_name(free_folder(path, now, different)))
    repaint = _repaint_command(path, earlier, now, different)
    first = f"Only the look differs. Repaint the overlays that are there: {repaint}. " if repaint else ""
    return f"{first}{'Or use' if repaint else 'Use'} another folder: -o {folder}. To replace what is there: --overwrite."


def free_folder(path: str, now: Mapping[str, Any], different: Sequence[str]) -> str:
    """A folder beside the one at ``path`` that does not exist yet, named after a setting that differs: ``heatmaps-resnet50``.

    A shard's folder lies in the one that ``--output`` names, so the name is that one's.
    """
    whole = os.path.dirname(path) if shard_of_name(os.path.basename(path)) else path
    near = os.path.relpath(whole)
    place = whole if near.startswith(os.pardir) or near == os.curdir else near
    names = [name for name in (*_TELLING, *different) if name in different]
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
    """A few letters that say what ``value`` is; empty for a default or a digest, which say nothing."""
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
    """The ``camcli render`` that gives the overlays the look ``now``; None where more differs, or no maps were stored."""
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
