"""Reading ``run.json``, which anybody may have edited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from camcli import __version__
from camcli.documents import parse_json
from camcli.errors import SettingsError
from camcli.layout import RUN_RECORD
from camcli.output.root import Root
from camcli.records import escape_name

_MOST_BYTES = 16 << 20


def read_record(root: Root) -> dict[str, Any]:
    """``run.json`` in ``root``; empty if it is missing or damaged, as for a run that is not finished."""
    try:
        return checked_record(root)
    except (OSError, ValueError):
        return {}


def checked_record(root: Root) -> dict[str, Any]:
    """``run.json`` in ``root``. Raises OSError, and ValueError if it is damaged."""
    record = parse_json(root.read(RUN_RECORD, _MOST_BYTES))
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def part_of(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object ``name`` in a record; empty if there is none."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def seconds_of(record: Mapping[str, Any]) -> float:
    """The duration of the run in seconds, from its record; 0 if it is not recorded."""
    seconds: Any = part_of(record, "this_run").get("seconds")
    return float(seconds) if type(seconds) in (int, float) and math.isfinite(seconds) else 0.0


def refuse_newer_format(path: str, record: Mapping[str, Any], format_version: Any, readable: int) -> None:
    """Raise SettingsError if ``record`` of the folder ``path`` has a newer format than this version of camcli can read."""
    if type(format_version) is not int or format_version <= readable:
        return
    writer = f"camcli {record['camcli']}" if "camcli" in record else "a newer version of camcli"
    raise SettingsError(
        f"{escape_name(path)!r} was written by {escape_name(writer)} in format {format_version}. This is camcli "
        f"{__version__}, which "
        f"reads format {readable}. Update camcli, or choose another folder with --output."
    )
