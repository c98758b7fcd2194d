"""``run.json``, read as what it is: a document that anybody may have edited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from camcli.documents import parse_json
from camcli.layout import RUN_RECORD
from camcli.output.root import Root

_MOST_BYTES = 16 << 20


def read_record(root: Root) -> dict[str, Any]:
    """``run.json`` in ``root``; empty where there is none that can be read: the run has not come to its end."""
    try:
        return checked_record(root)
    except (OSError, ValueError):
        return {}


def checked_record(root: Root) -> dict[str, Any]:
    """``run.json`` in ``root``. Raises OSError, and ValueError where it is damaged."""
    record = parse_json(root.read(RUN_RECORD, _MOST_BYTES))
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def part_of(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object ``name`` of a record; an empty one where there is none."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def seconds_of(record: Mapping[str, Any]) -> float:
    """How long the run took, by its record; 0 where it does not say."""
    seconds: Any = part_of(record, "this_run").get("seconds")
    return float(seconds) if type(seconds) in (int, float) and math.isfinite(seconds) else 0.0
