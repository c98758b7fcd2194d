"""The journal: which images are done, from which bytes, with which settings.

One JSON object a line, appended after the files and the table's rows are written. The first line holds the settings. Every
other line is one image:

    {"image": "sub/cat.jpg", "size": 240512, "mtime_ns": 1732..., "stage": "", "empty": 0,
     "top": "tabby", "predictions": 1234, "failures": 18}

``predictions`` and ``failures`` are the sizes of the two tables after that image. So the journal is the truth and the tables
follow it: whatever a table holds beyond the last journal line that it covers is cut off, and what it lacks is done again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from camcli.records import Stamp

VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal knows of one image. ``stage``: where it failed, empty for an explained one."""

    image: str
    stamp: Stamp | None
    stage: str
    empty_maps: int
    predicted: str
    predictions_end: int
    failures_end: int

    def line(self) -> bytes:
        """The entry as a line of the journal."""
        size, mtime = (self.stamp.size, self.stamp.mtime_ns) if self.stamp else (None, None)
        record = {
            "image": self.image,
            "size": size,
            "mtime_ns": mtime,
            "stage": self.stage,
            "empty": self.empty_maps,
            "top": self.predicted,
            "predictions": self.predictions_end,
            "failures": self.failures_end,
        }
        return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


@dataclass(frozen=True)
class Journal:
    """A journal as read: the settings of its run and its entries in the order they were written."""

    settings: dict[str, Any]
    entries: tuple[Entry, ...]


def header_line(settings: dict[str, Any]) -> bytes:
    """The journal's first line."""
    return json.dumps({"camcli_journal": VERSION, "settings": settings}, separators=(",", ":")).encode("ascii") + b"\n"


def read_journal(path: str) -> Journal | None:
    """The journal at ``path``, up to its first torn line; None where there is none or not even its first line is whole."""
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        first = _parsed(file.readline())
        if first is None or first.get("camcli_journal") != VERSION:
            return None
        entries: list[Entry] = []
        for line in file:
            record = _parsed(line)
            if record is None:
                break
            entries.append(_entry(record))
    return Journal(first["settings"], tuple(entries))


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _entry(record: dict[str, Any]) -> Entry:
    stamp = None if record["size"] is None else Stamp(record["size"], record["mtime_ns"])
    return Entry(
        record["image"],
        stamp,
        record["stage"],
        record["empty"],
        record["top"],
        record["predictions"],
        record["failures"],
    )
