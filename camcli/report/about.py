"""The head of a report: model, layer, method, device, date, command and settings of the run.

``run.json`` and the journal are untrusted data. Every value is checked for its type, control characters in texts are escaped, and
values that are missing or of another type are left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from camcli.config.field import as_json, option_name
from camcli.config.run import RunConfig

_LONGEST_TEXT, _LONGEST_COMMAND = 300, 4000
_MOST_LISTED = 4

Facts = list[tuple[str, str]]
"""Pairs of name and text."""


@dataclass(frozen=True)
class About:
    """The head of a report. ``facts``: about the run. ``changed``: settings that differ from their defaults. ``unchanged``: the
    other settings. ``date``: in ISO 8601. ``day``: the date as text. Both are empty if the date is unknown.
    """

    model: str
    weights: str
    finished: bool
    facts: Facts
    date: str
    day: str
    command: str
    changed: Facts
    unchanged: Facts


def about_run(record: Mapping[str, Any], settings: Mapping[str, Any], layers: Iterable[str], methods: Iterable[str]) -> About:
    """The head of the report of a run. ``record``: its ``run.json``. ``settings``: from its journal; they take precedence.

    ``layers`` and ``methods``: the names in the run's table.
    """
    model, run = _object(record.get("model")), _object(record.get("this_run"))
    facts = [
        ("Layer", _listed(layers)),
        ("Method", _listed(methods)),
        ("Device", _text_of(record.get("device"))),
        ("Images from", _listed(_texts(run.get("inputs")) or _texts([settings.get("inputs")]))),
    ]
    started = _time_of(run.get("started"))
    changed, unchanged = _settings({**_object(record.get("settings")), **settings})
    return About(
        model=_text_of(model.get("name")) or _text_of(settings.get("model")) or "unknown model",
        weights=_text_of(model.get("weights")) or _text_of(settings.get("weights")),
        finished=record.get("state") == "finished",
        facts=[fact for fact in facts if fact[1]],
        date=started.isoformat() if started else "",
        day=_day(started) if started else "",
        command=_text_of(run.get("command"), _LONGEST_COMMAND),
        changed=changed,
        unchanged=unchanged,
    )


def legible(text: str, most: int = _LONGEST_TEXT) -> str:
    r"""``text`` on one line, at most ``most`` characters; control and format characters and surrogates are escaped (``\x1b``)."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text_of(value: Any, most: int = _LONGEST_TEXT) -> str:
    return legible(value, most) if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str) and text] if isinstance(value, list) else []


def _listed(texts: Iterable[str]) -> str:
    every = list(dict.fromkeys(texts))
    shown = ", ".join(legible(text) for text in every[:_MOST_LISTED])
    return shown if len(every) <= _MOST_LISTED else f"{shown} and {len(every) - _MOST_LISTED:,} more"


def _time_of(value: Any) -> datetime | None:
    """The time in an ISO 8601 text with a time zone; None for anything else."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def _day(time: datetime) -> str:
    zone = time.strftime("%z")
    return f"{time:%Y-%m-%d %H:%M} UTC{'' if zone == '+0000' else f'{zone[:3]}:{zone[3:5]}'}"


def _settings(values: Mapping[str, Any]) -> tuple[Facts, Facts]:
    """Options with values as text, in the order of the help: those that differ from their defaults, and the others."""
    changed: Facts = []
    unchanged: Facts = []
    for field in dataclasses.fields(RunConfig):
        name, default = option_name(field), as_json(field, field.default)
        if name in values:
            value = values[name]
            (unchanged if _is_same(value, default) else changed).append((f"--{name}", _setting(value)))
    return changed, unchanged


def _is_same(value: Any, default: Any) -> bool:
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)


def _setting(value: Any) -> str:
    if value is None or value == []:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return f"{float(value):,.15g}" if abs(value) < 1e15 else "a number too large"
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return _listed(map(str, value))
    return "damaged"
