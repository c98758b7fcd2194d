"""The tables and the journal of an output folder: reading and repairing them, appending to them, replacing them.

The journal records where in the tables the rows of each image are. So rows are kept, dropped and reordered by copying bytes.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, get_type_hints

from camcli.config.run import CURVES, METRIC_COLUMNS
from camcli.errors import InputError, SettingsError
from camcli.layout import BINARY_TABLES, CONTRIBUTIONS_TABLE, FAILURES, JOURNAL, MAPS_TABLE, PREDICTIONS, TABLES
from camcli.output.checks import check_settings
from camcli.output.exchange import current_place, exchanged, finish_exchange
from camcli.output.files import packs_maps, row_files
from camcli.output.journal import Entry, Header, entries_of, read_header, table_ends
from camcli.output.names import folded, is_own_overlay
from camcli.output.packed import PackedSources, PackedTable
from camcli.output.root import Root
from camcli.output.writers import (
    FAILURE_COLUMNS,
    csv_line,
    failure_line,
    output_error,
    prediction_columns,
)
from camcli.records import Checksum, Outcome, Prediction, Row, Success, checksum_of, escape_name, unescape_name

_TYPES = {name: kind for name, kind in get_type_hints(Row).items() if kind in (int, float)}
_BOXES = re.compile(r"(\d{1,9}( \d{1,9}){3}(;\d{1,9}( \d{1,9}){3})*)?")
_NUMBER = r"-?\d{1,9}(\.\d{1,9})?(e[+-]\d{1,3})?"
_METRIC, _CURVE = re.compile(f"({_NUMBER})?"), re.compile(f"({_NUMBER}( {_NUMBER}){{0,9999}})?")
"""A number as ``writers.cell_text`` writes it, and a curve of them; or nothing."""

_SIZE = re.compile(r"\d{1,18}")
_BINARY_START = b"camcli arrays 1\n"
"""The first bytes of a binary table."""

_MOST_ROWS = 64 << 20
"""Maximum size of the rows of one image, in bytes."""


def _table_headers(settings: Mapping[str, Any]) -> dict[str, bytes]:
    """The header line of each table of a run with ``settings``."""
    asked = {MAPS_TABLE: packs_maps(settings), CONTRIBUTIONS_TABLE: bool(settings.get("save-contributions"))}
    binaries = [name for name in BINARY_TABLES if asked[name]]
    labelled, boxed, metrics = settings.get("class-from") is not None, settings.get("boxes") is not None, settings.get("metrics")
    return {
        PREDICTIONS: csv_line(prediction_columns(labelled=labelled, boxed=boxed, metrics=metrics or ())),
        FAILURES: csv_line(FAILURE_COLUMNS),
        **dict.fromkeys(binaries, _BINARY_START),
    }


class Ledger:
    """The tables and the journal in ``root``, for a run with ``settings``. Whoever writes with it must hold the folder's lock.

    ``entries``: image -> journal entry, in the order of the rows. ``headers``: the header line of each table; ``starts``: its
    size in bytes. ``binaries``: the binary tables of the run. ``redrawn``: the settings that ``camcli render`` has changed since.
    ``is_torn``: a table has rows that the journal does not record; the next ``load`` cuts them off. Nothing is opened for writing
    before the first ``append``.
    """

    def __init__(self, root: Root, settings: Mapping[str, Any], redrawn: Mapping[str, Any] | None = None) -> None:
        self.settings = dict(settings)
        self.redrawn = dict(redrawn or {})
        self.entries: dict[str, Entry] = {}
        self._root = root
        self.headers = _table_headers(settings)
        self.starts = {name: len(header) for name, header in self.headers.items()}
        self.binaries = [name for name in self.headers if name in BINARY_TABLES]
        self._places = (*self.headers, JOURNAL)
        self._columns = {name: self.headers[name].decode("utf-8").rstrip("\n").split(",") for name in TABLES}
        self.is_torn = False
        self._handles: dict[str, int] = {}
        self._ends: dict[str, int] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table of predictions."""
        return tuple(self._columns[PREDICTIONS])

    @property
    def header(self) -> Header:
        """The first line of the journal."""
        return Header(self.settings, self.redrawn)

    def load(self) -> None:
        """Read tables and journal of earlier runs, and cut off rows and lines that are incomplete.

        Raises SettingsError if the earlier runs had other settings, if another program has rewritten a table, or if there are
        tables but no journal.
        """
        finish_exchange(self._root, self._places)
        earlier = read_header(self._root)
        if earlier is None:
            if any(self._root.exists(name) for name in TABLES):
                raise SettingsError(
                    f"{escape_name(self._root.path)!r} contains tables but no journal of the run that wrote them. "
                    "Start again with --overwrite, or choose another folder with --output."
                )
            return
        self.settings, self.redrawn = check_settings(self._root.path, earlier, self.settings)
        for name in self.headers:
            self._check_start(name)
        torn = self.read()
        ends = table_ends(self.starts, self.entries.values())
        for name in self.headers:
            if self._root.size(name) > ends[name]:
                self._root.truncate(name, ends[name])
        if torn:
            self._root.write(JOURNAL, b"".join(self._journal_lines(self.entries.values())))

    def read(self) -> int:
        """Read ``entries`` from the journal, as far as the tables contain their rows. Returns the number of invalid lines.

        Changes nothing in the folder, also when a process died while it replaced the tables. Raises OSError.
        """
        sizes = {name: self._root.size(current_place(self._root, name)) for name in self.headers}
        with self._root.open(current_place(self._root, JOURNAL)) as file:
            kept, torn = entries_of(file, self.starts, sizes)
        self.entries = {}
        for entry in kept:
            if entry.image in self.entries:  # no run writes an image twice
                return torn + len(kept) - len(self.entries)
            self.entries[entry.image] = entry
        return torn

    def _check_start(self, name: str) -> None:
        """Write the header line of a table again if the table is missing or shorter than that line.

        Raises SettingsError if another program has rewritten the table.
        """
        header, start = self.headers[name], b""
        with contextlib.suppress(FileNotFoundError), self._root.open(name) as file:
            start = file.read(len(header))
        if len(start) < len(header) or (start != header and header.startswith(start.rstrip(b"\0"))):
            self._root.write(name, header)  # cut, or filled with zeros by a loss of power
        elif start != header:
            raise _foreign_table(self._root.at(name))

    def _journal_lines(self, entries: Iterable[Entry]) -> Iterator[bytes]:
        yield self.header.line()
        yield from _lines_after(entries, self.starts)

    def clear(self) -> None:
        """Remove tables and journal. Raises OSError."""
        self.close()
        with contextlib.suppress(OSError):
            finish_exchange(self._root, (*TABLES, *BINARY_TABLES, JOURNAL))
        for name in (JOURNAL, *TABLES, *BINARY_TABLES):
            self._root.remove(name)
        self.entries, self.redrawn = {}, {}

    def append(self, outcomes: Sequence[Outcome], *, folds_case: bool = False) -> None:
        """Append the rows of images to their tables, then their lines to the journal. Raises OutputError.

        ``folds_case``: whether the files of the images were named for a file system that does not distinguish ``A`` from ``a``.
        """
        entries: list[Entry] = []
        rows: dict[str, list[bytes]] = {}
        for outcome in outcomes:
            if isinstance(outcome, Success):
                lines, stage, files = outcome.lines, "", outcome.checksums
                packed = tuple(map(checksum_of, outcome.packed)) if any(outcome.packed) else ()
            else:
                lines, stage, files = failure_line(outcome), outcome.stage, ()
                packed = ()
            is_folded = folds_case and outcome.image != folded(outcome.image)
            entries.append(Entry(outcome.image, outcome.stamp, stage, len(lines), zlib.crc32(lines), files, is_folded, packed))
            rows.setdefault(entries[-1].table, []).append(lines)
            for name, data in zip(self.binaries, outcome.packed if packed and isinstance(outcome, Success) else (), strict=False):
                rows.setdefault(name, []).append(data)
        before: dict[str, int] = {}
        table = PREDICTIONS
        try:
            self.open()
            before = dict(self._ends)
            for table, lines_of_table in rows.items():
                self._write(table, b"".join(lines_of_table))
            self._write(JOURNAL, b"".join(_lines_after(entries, before)))
        except OSError as error:
            self._take_back(before)
            raise output_error(self._root.at(table), error) from error
        self.entries.update((entry.image, entry) for entry in entries)

    def _take_back(self, ends: Mapping[str, int]) -> None:
        """Cut tables and journal back to the sizes ``ends``, so that no row is without a journal line."""
        try:
            for name, end in ends.items():
                os.ftruncate(self._handles[name], end)
        except OSError:
            self.is_torn = True

    def open(self) -> None:
        """Open tables and journal for appending; missing ones are created with their header lines. Raises OSError."""
        if self._handles:
            return
        if not self._root.exists(JOURNAL):
            self._root.write(JOURNAL, self.header.line())
        for name in self._places:
            self._handles[name] = self._root.append(name)
            self._ends[name] = os.fstat(self._handles[name]).st_size
            if self._ends[name] == 0:
                self._write(name, self.headers[name])

    def _write(self, name: str, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._handles[name], view) :]
        self._ends[name] += len(data)

    def close(self) -> None:
        """Close tables and journal; ``append`` opens them again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def rows(self, images: Iterable[str] | None = None) -> Iterator[tuple[Entry, bytes]]:
        """The entries of ``images``, by default of all, each with the bytes of its rows in the table."""
        with contextlib.ExitStack() as stack:
            tables = {
                name: stack.enter_context(self._root.open(current_place(self._root, name))) for name in TABLES if self.entries
            }
            offsets, ends = {}, {name: self.starts[name] for name in TABLES}
            for entry in self.entries.values():
                offsets[entry.image] = ends[entry.table]
                ends[entry.table] += entry.length
            for image in offsets if images is None else images:
                entry = self.entries[image]
                tables[entry.table].seek(offsets[image])
                yield entry, tables[entry.table].read(min(entry.length, _MOST_ROWS))

    def explained(self, images: Iterable[str] | None = None) -> Iterator[tuple[Entry, list[dict[str, str]]]]:
        """The entries of explained ``images``, by default of all, each with its rows: column -> cell. Skips damaged rows."""
        for entry, data in self.rows(images):
            rows = None if entry.stage else self.own_rows(entry, data)
            if rows is not None:
                yield entry, rows

    def sound_rows(self) -> Iterator[tuple[Entry, bytes]]:
        """The entry of each explained image and the bytes of its rows, in the order of the table. Skips damaged rows."""
        for entry, data in self.rows():
            if not entry.stage and (zlib.crc32(data) == entry.rows or self.own_rows(entry, data) is not None):
                yield entry, data

    def own_rows(self, entry: Entry, data: bytes) -> list[dict[str, str]] | None:
        """The rows of ``entry``, column -> cell, from ``data``, the bytes in their place; None if a row is damaged or foreign.

        A row is foreign if its overlay is not at the path where camcli writes it. So a forged table can never make camcli read,
        replace or remove any other file.
        """
        if entry.rows is not None and zlib.crc32(data) != entry.rows:
            return None
        columns = self._columns[entry.table]
        try:
            cells = list(csv.reader(data.decode("utf-8").rstrip("\n").split("\n")))
        except (csv.Error, UnicodeDecodeError):
            return None
        if not cells or any(len(row) != len(columns) or unescape_name(row[0]) != entry.image for row in cells):
            return None
        rows = [dict(zip(columns, row, strict=True)) for row in cells]
        if not entry.stage and not all(map(_is_row, rows)):
            return None
        return rows

    def files(self, entry: Entry, rows: list[dict[str, str]]) -> list[str]:
        """The files of the ``rows`` of ``entry``, in order."""
        return row_files(rows, self.settings, folded=entry.folded)

    def file_checksums(self, entry: Entry, rows: list[dict[str, str]]) -> list[tuple[str, Checksum | None]]:
        """The files of the ``rows`` of ``entry``, each with its recorded checksum or None."""
        files = self.files(entry, rows)
        known = entry.files if entry.files is not None and len(entry.files) == len(files) else (None,) * len(files)
        return list(zip(files, known, strict=True))

    def keep(self, images: Iterable[str]) -> None:
        """Keep only ``images`` in tables and journal, in that order. Raises OutputError."""
        self.exchange(self.rows(images))

    def packed(self, name: str) -> PackedTable:
        """The binary table ``name``, for reading."""
        return PackedTable(self._root, self, name)

    def exchange(self, contents: Iterable[tuple[Entry, bytes]], owner: Callable[[Entry], Ledger] | None = None) -> None:
        """Replace tables and journal at once by ``contents``, entries with their rows. Raises OutputError.

        ``owner``: the ledger whose binary tables have the arrays of an entry; by default this one.
        """
        self.close()
        kept: list[Entry] = []
        with exchanged(self._root, self._places) as files, PackedSources(self.binaries) as sources:
            for name, header in self.headers.items():
                files[name].write(header)
            for entry, rows in contents:
                files[entry.table].write(rows)
                if entry.packed:
                    sources.copy(entry, self if owner is None else owner(entry), files)
                kept.append(entry)
            files[JOURNAL].writelines(self._journal_lines(kept))
        self.entries = {entry.image: entry for entry in kept}


def _lines_after(entries: Iterable[Entry], ends: Mapping[str, int]) -> Iterator[bytes]:
    """The lines of ``entries`` in the journal. ``ends``: the sizes of the tables before their rows."""
    ends = dict(ends)
    for entry in entries:
        entry.add_to(ends)
        yield entry.line(ends)


def read_ledger(path: str) -> Ledger:
    """The ledger of the run in the folder ``path``, for reading only.

    Raises InputError if there is no run, and SettingsError if this version cannot read its journal.
    """
    root = Root(path)
    try:
        header = read_header(root)
        if header is None:
            raise InputError(
                f"{escape_name(path)!r} holds no run of camcli: it has no {JOURNAL}, or the first line of that file is damaged."
            )
        ledger = Ledger(root, header.settings, header.redrawn)
        for name, start in ledger.headers.items():
            with root.open(current_place(root, name)) as file:
                if file.read(len(start)) != start:
                    raise _foreign_table(root.at(name))
        ledger.read()
    except OSError as error:
        raise InputError(f"cannot read {escape_name(error.filename or path)!r}: {error.strerror}.") from error
    return ledger


def _foreign_table(path: str) -> SettingsError:
    return SettingsError(
        f"{escape_name(path)!r} has changed since camcli wrote it; another program may have saved it. "
        "Restore the original, start again with --overwrite, or choose another folder with --output."
    )


def _table_rows(root: Root) -> Iterator[dict[str, str]]:
    """The rows of the table of predictions, column -> cell, without the journal. For a folder that is about to be emptied."""
    with contextlib.suppress(FileNotFoundError), root.open(PREDICTIONS) as file:
        lines = (line.decode("utf-8", "replace").replace("\0", "") for line in file)
        with contextlib.suppress(csv.Error):
            rows = csv.reader(lines)
            header = next(rows, [])
            yield from (dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header))


def files_in_table(root: Root) -> Iterator[str]:
    """The files that the table names, if they are where camcli writes them. Raises OSError."""
    settings: Mapping[str, Any] = {"save-maps": True, "masks": True}  # if the journal cannot be read
    with contextlib.suppress(SettingsError):
        header = read_header(root)
        settings = settings if header is None else header.settings
    for _, rows in itertools.groupby(filter(_is_row, _table_rows(root)), itemgetter("image")):
        of_image = list(rows)
        yield from {file: None for is_folded in (False, True) for file in row_files(of_image, settings, folded=is_folded)}


def _is_row(row: Mapping[str, str]) -> bool:
    """Whether all cells are valid, and the overlay is empty or at the path where camcli writes it."""
    try:
        for column, kind in _TYPES.items():
            kind(row[column])
        if row["status"] not in ("ok", "empty", "nonfinite") or min(int(row["rank"]), int(row["class_index"])) < 0:
            return False
        if not (_BOXES.fullmatch(row.get("bboxes", "")) and _SIZE.fullmatch(row.get("image_w", "0") + row.get("image_h", "0"))):
            return False
        if not all((_CURVE if column in CURVES.values() else _METRIC).fullmatch(row.get(column, "")) for column in METRIC_COLUMNS):
            return False
        overlay, prediction, extras = unescape_name(row["overlay"]), _prediction(row), _extras(row)
        return not overlay or is_own_overlay(overlay, unescape_name(row["image"]), prediction, extras)
    except (KeyError, ValueError):
        return False


def _prediction(row: Mapping[str, str]) -> Prediction:
    return Prediction(int(row["rank"]), int(row["class_index"]), unescape_name(row["class_name"]), 0.0, 0.0)


def _extras(row: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The possible parts of a file name after rank and class: layer and method are in it if the run has several."""
    layer, method = unescape_name(row["layer"]), unescape_name(row["method"])
    return [(), (method,), (layer,), (layer, method)]
