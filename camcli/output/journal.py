"""The journal: which images are done, from which bytes, with which settings.

One JSON object a line, appended after the files and the table's rows are written. The first line holds the settings. Every
other line is one image:

    {"image": "sub/cat.jpg", "size": 240512, "mtime_ns": 1732..., "stage": "", "predictions": 1234, "failures": 18}

``predictions`` and ``failures`` are the sizes of the two tables after that image. So the journal is the truth and the tables
follow it: whatever a table holds beyond the last journal line that it covers is cut off, and what it lacks is done again.
``sha256`` of the image's bytes stands there too, where it was asked for or where size and time alone could not tell a change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camcli.records import Stamp

VERSION = 1

TABLES = ("predictions.csv", "failures.csv")
"""The tables of every run."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal knows of one image. ``stage``: where it failed, or empty. ``length``: bytes of its rows in their table."""

    image: str
    stamp: Stamp | None
    stage: str
    length: int

    @property
    def table(self) -> str:
        """The table that its rows are in."""
        return "failures.csv" if self.stage else "predictions.csv"

    def line(self, ends: Mapping[str, int]) -> bytes:
        """The entry as a line of the journal. ``ends``: the sizes of the tables after its rows."""
        record: dict[str, Any] = {"image": self.image, "size": None, "mtime_ns": None}
        if self.stamp is not None:
            record.update(size=self.stamp.size, mtime_ns=self.stamp.mtime_ns)
            if self.stamp.sha256:
                record["sha256"] = self.stamp.sha256
        record.update(stage=self.stage, predictions=ends["predictions.csv"], failures=ends["failures.csv"])
        return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


def header_line(settings: Mapping[str, Any]) -> bytes:
    """The journal's first line."""
    return json.dumps({"camcli_journal": VERSION, "settings": settings}, separators=(",", ":")).encode("ascii") + b"\n"


def read_settings(path: str) -> dict[str, Any] | None:
    """The settings in the journal at ``path``; None where there is no journal or not even its first line is whole."""
    try:
        with open(path, "rb") as file:
            first = _parsed(file.readline())
    except FileNotFoundError:  # and nothing else: a journal that cannot be read now is not a missing one
        return None
    if first is None or first.get("camcli_journal") != VERSION:
        return None
    settings: dict[str, Any] = first["settings"]
    return settings


def read_entries(path: str, starts: Mapping[str, int], sizes: Mapping[str, int] | None) -> tuple[list[Entry], int]:
    """The entries of the journal at ``path`` and how many lines at its end do not count.

    Those are the first torn line, or the first whose rows the tables do not hold, and all after it. ``starts``: bytes of the
    tables' headers. ``sizes``: of the tables, None for as long as the journal says.
    """
    entries: list[Entry] = []
    ends = [starts[name] for name in TABLES]
    torn = 0
    with open(path, "rb") as file:
        file.readline()
        limits = None if sizes is None else [sizes[name] for name in TABLES]
        for line in file:
            record = _parsed(line)
            entry = None if record is None or torn else _entry(record, ends, limits)
            if entry is None:
                torn += 1
            else:
                entries.append(entry)
    return entries, torn


def table_ends(starts: Mapping[str, int], entries: Iterable[Entry]) -> dict[str, int]:
    """The sizes of the tables with the rows of ``entries`` and no others. ``starts``: bytes of their headers."""
    ends = dict(starts)
    for entry in entries:
        ends[entry.table] += entry.length
    return ends


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _entry(record: dict[str, Any], ends: list[int], sizes: Sequence[int] | None) -> Entry | None:
    """The entry of a line; ``ends`` are moved on to where its rows end. None for a damaged line, or where a table is shorter."""
    try:
        now = [int(record["predictions"]), int(record["failures"])]
        size, mtime_ns = record["size"], record["mtime_ns"]
        stamp = None if size is None else Stamp(size, mtime_ns, record.get("sha256", ""))
        entry = Entry(str(record["image"]), stamp, str(record["stage"]), sum(now) - sum(ends))
    except (KeyError, TypeError, ValueError):
        return None
    if any(end < before for end, before in zip(now, ends, strict=True)):
        return None
    if sizes is not None and any(end > size for end, size in zip(now, sizes, strict=True)):
        return None
    ends[:] = now
    return entry
