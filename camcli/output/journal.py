"""The journal: which images are done, the size and time of their files, and the settings of the run.

It has one JSON object a line. The first line contains the settings. Every other line is one image, and is appended after the files
and the table rows of that image are written:

    {"image": "sub/cat.jpg", "size": 240512, "mtime_ns": 1732..., "stage": "", "predictions": 1234, "failures": 18,
     "rows": 2769214313, "files": [[48213, 3735928559]], "check": 305419896}

``predictions`` and ``failures`` are the sizes in bytes of the two tables after that image. The journal decides: rows that it does
not record are cut off a table, and an image whose rows are missing in a table is explained again. ``sha256`` is the digest of the
image file, if ``--hash`` is given or if size and time cannot show a change. ``rows`` is the CRC-32 of the image's rows, ``files``
the size and CRC-32 of each of their files in order, and ``check`` the CRC-32 of the line up to that point. Journals of earlier
versions have no ``rows``, ``files`` and ``check``; they can still be read. ``folded`` is there if it is true; see ``Entry``. A run
with binary tables also records, for each of them, its size after that image and the CRC-32 of the image's bytes in it, as
``"maps": [52480, 912873211]`` or ``"contributions": [...]``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from camcli import __version__
from camcli.config.field import default_values, from_json, option_name
from camcli.config.run import RunConfig
from camcli.documents import parse_json
from camcli.errors import ConfigError, SettingsError
from camcli.layout import BINARY_TABLES, CONTRIBUTIONS_TABLE, FAILURES, JOURNAL, MAPS_TABLE, PREDICTIONS, TABLES
from camcli.output.exchange import current_place
from camcli.output.record import refuse_newer_format
from camcli.output.root import Root
from camcli.records import Checksum, Stamp, escape_name

VERSION = 1

_KEYS = {MAPS_TABLE: "maps", CONTRIBUTIONS_TABLE: "contributions"}
"""The key of each binary table in a line."""

_STAGE = re.compile(r"[a-z]{0,20}")
_MOST_LINE = 1 << 20
"""Maximum length of a line in bytes; no journal of camcli has a longer one."""


@dataclass(frozen=True)
class Header:
    """The first line of a journal.

    ``settings``: the settings of the run that made the folder. ``redrawn``: the settings that ``camcli render`` has changed since.
    """

    settings: Mapping[str, Any]
    redrawn: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def current(self) -> dict[str, Any]:
        """The settings of the files in the folder now. An option that the line does not name has its default."""
        return {**default_values(RunConfig), **self.settings, **self.redrawn}

    def line(self) -> bytes:
        """The header as a line of the journal."""
        redrawn = {"drawn": dict(self.redrawn)} if self.redrawn else {}
        return _line({"camcli_journal": VERSION, "camcli": __version__, "settings": dict(self.settings), **redrawn})


@dataclass(frozen=True, slots=True)
class Entry:
    """The journal line of one image. ``stage``: the stage that failed, or empty. ``length``: bytes of its rows in the table.

    ``rows``: the CRC-32 of the rows. ``files``: the checksums of their files, in order. Both are None in a line of an earlier
    version. ``folded``: the names of its files have a hash, because the file system took them for those of another image.
    ``packed``: size and CRC-32 of its bytes in each binary table of the run; empty if it has none.
    """

    image: str
    stamp: Stamp | None
    stage: str
    length: int
    rows: int | None = None
    files: tuple[Checksum, ...] | None = None
    folded: bool = False
    packed: tuple[Checksum, ...] = ()

    @property
    def table(self) -> str:
        """The table that contains the rows of the image."""
        return FAILURES if self.stage else PREDICTIONS

    def add_to(self, ends: dict[str, int]) -> None:
        """Add the lengths of its rows to ``ends``, the sizes of the tables."""
        ends[self.table] += self.length
        if self.packed:
            for name, part in zip((name for name in BINARY_TABLES if name in ends), self.packed, strict=True):
                ends[name] += part.size

    def line(self, ends: Mapping[str, int]) -> bytes:
        """The entry as a line of the journal. ``ends``: the sizes of the tables after its rows."""
        record: dict[str, Any] = {"image": self.image, "size": None, "mtime_ns": None}
        if self.stamp is not None:
            record.update(size=self.stamp.size, mtime_ns=self.stamp.mtime_ns)
            if self.stamp.sha256:
                record["sha256"] = self.stamp.sha256
            if self.stamp.version:
                record["version"] = self.stamp.version
        record.update(stage=self.stage, predictions=ends[PREDICTIONS], failures=ends[FAILURES])
        for place, name in enumerate(name for name in BINARY_TABLES if name in ends):
            record[_KEYS[name]] = [ends[name], self.packed[place].crc32 if self.packed else 0]
        if self.rows is not None:
            record["rows"] = self.rows
        if self.files is not None:
            record["files"] = list(self.files)
        if self.folded:
            record["folded"] = True
        return _line(record)


def _line(record: Mapping[str, Any]) -> bytes:
    """``record`` as a line of the journal, with its CRC-32 at the end."""
    body = json.dumps(record, separators=(",", ":")).encode("ascii")[:-1]
    return b'%s,"check":%d}\n' % (body, zlib.crc32(body))


def read_header(root: Root) -> Header | None:
    """The first line of the journal in ``root``; None if there is no journal or its first line is incomplete.

    Raises SettingsError for a line that no version of camcli can have written, or one of a newer format. Raises OSError.
    """
    try:
        with root.open(current_place(root, JOURNAL)) as file:
            first = _parsed(file.readline(_MOST_LINE))
    except FileNotFoundError:  # only this: an unreadable journal is not a missing one
        return None
    if first is None:
        return None
    version, settings, redrawn = first.get("camcli_journal"), first.get("settings"), first.get("drawn", {})
    refuse_newer_format(root.path, first, version, VERSION)
    if version != VERSION or not isinstance(settings, dict) or not isinstance(redrawn, dict):
        raise _damaged_header(root, "it contains no settings")
    try:
        _check_settings({**settings, **redrawn})
    except ConfigError as error:
        raise _damaged_header(root, str(error)) from error
    return Header(settings, redrawn)


def _damaged_header(root: Root, why: str) -> SettingsError:
    return SettingsError(
        f"line 1 of {escape_name(root.at(JOURNAL))!r} is damaged: {why.rstrip('.')}. "
        "Start again with --overwrite, or choose another folder with --output."
    )


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value that no run can have recorded."""
    fields = {option_name(field): field for field in dataclasses.fields(RunConfig)}
    for name, value in settings.items():
        if name in fields:
            from_json(fields[name], value)
        elif (name == "inputs" or name.endswith("-sha256")) and not (isinstance(value, str) and "\0" not in value):
            raise ConfigError(f"{name} is {value!r}")


def entries_of(file: BinaryIO, starts: Mapping[str, int], sizes: Mapping[str, int] | None) -> tuple[list[Entry], int]:
    """The entries of an open journal, and how many lines at its end are invalid. Raises OSError.

    The first invalid line is incomplete or damaged, or the tables are too short for its rows; all lines after it are invalid too.
    ``starts``: sizes of the tables' header lines in bytes. ``sizes``: sizes of the tables; None to trust the journal.
    """
    entries: list[Entry] = []
    binaries = [name for name in BINARY_TABLES if name in starts]
    ends = [starts[name] for name in (*TABLES, *binaries)]
    torn = 0
    limits = None if sizes is None else [sizes[name] for name in (*TABLES, *binaries)]
    file.readline(_MOST_LINE)
    for line in _lines(file):
        record = None if torn else _parsed(line)
        entry = None if record is None else _entry(record, ends, limits, binaries)
        if entry is None:
            torn += 1
        else:
            entries.append(entry)
    return entries, torn


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_MOST_LINE):
        yield line


def table_ends(starts: Mapping[str, int], entries: Iterable[Entry]) -> dict[str, int]:
    """The sizes of tables that contain exactly the rows of ``entries``. ``starts``: sizes of their header lines in bytes."""
    ends = dict(starts)
    for entry in entries:
        entry.add_to(ends)
    return ends


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None if the line is incomplete or its CRC-32 is wrong."""
    if not line.endswith(b"}\n"):
        return None
    body, mark, check = line[:-2].rpartition(b',"check":')
    if mark and check != b"%d" % zlib.crc32(body):
        return None
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _entry(record: dict[str, Any], ends: list[int], sizes: Sequence[int] | None, binaries: Sequence[str]) -> Entry | None:
    """The entry of a line; None if it is damaged or a table is too short for it.

    ``ends``: set to where its rows end in each table. ``binaries``: the binary tables of the run.
    """
    values: list[Any] = [record.get(key) for key in ("image", "stage", "size", "mtime_ns")]
    image, stage, size, mtime_ns = values
    sha256, version, rows, files = record.get("sha256", ""), record.get("version", ""), record.get("rows"), record.get("files")
    packed: list[Any] = [record.get(_KEYS[name]) for name in binaries]
    if not all(map(_is_checksum, packed)):
        return None
    now: list[Any] = [record.get("predictions"), record.get("failures"), *(end for end, _ in packed)]
    whole = [
        _is_name(image) and isinstance(stage, str) and _STAGE.fullmatch(stage),
        isinstance(sha256, str) and isinstance(version, str),
        (size is None and mtime_ns is None) or (_is_count(size) and type(mtime_ns) is int),
        rows is None or _is_count(rows),
        files is None or (isinstance(files, list) and all(map(_is_checksum, files))),
        all(_is_count(end) and end >= before for end, before in zip(now, ends, strict=True)),
    ]
    if not all(whole) or (sizes is not None and any(end > size for end, size in zip(now, sizes, strict=True))):
        return None
    stamp = None if size is None else Stamp(size, mtime_ns, sha256, version)
    checksums = None if files is None else tuple(Checksum(*file) for file in files)
    parts = [Checksum(end - before, crc32) for (end, crc32), before in zip(packed, ends[len(TABLES) :], strict=True)]
    length = sum(now[: len(TABLES)]) - sum(ends[: len(TABLES)])
    own = tuple(parts) if any(part.size for part in parts) else ()
    entry = Entry(str(image), stamp, str(stage), length, rows, checksums, record.get("folded") is True, own)
    ends[:] = now
    return entry


def _is_name(value: Any) -> bool:
    """Whether ``value`` is a string that can be the name of a file."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _is_checksum(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
