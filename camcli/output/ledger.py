"""Tables and journal of an output folder: read back and mended, appended to, exchanged as a whole.

The journal says how many bytes of the tables are the rows of which image. So rows are never parsed to be kept, dropped or put
into another order: they are copied.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from camcli.errors import SettingsError
from camcli.output.checks import check_settings, exists, size_of
from camcli.output.journal import TABLES, Entry, header_line, read_entries, read_settings, table_ends
from camcli.output.writers import (
    FAILURE_COLUMNS,
    csv_line,
    failure_line,
    output_error,
    prediction_columns,
    prediction_line,
    write_whole,
)
from camcli.records import RUN_MARKER, Explained, Outcome, recovered, shown


def _table_headers(settings: Mapping[str, Any]) -> dict[str, bytes]:
    """The first line of each table of a run with ``settings``."""
    labelled, boxed = settings.get("class-from") is not None, settings.get("boxes") is not None
    return {
        "predictions.csv": csv_line(prediction_columns(labelled=labelled, boxed=boxed)),
        "failures.csv": csv_line(FAILURE_COLUMNS),
    }


def journal_path(folder: str) -> str:
    """Where the journal of the output folder ``folder`` is."""
    return os.path.join(folder, RUN_MARKER, "journal.jsonl")


def read_rows(folder: str) -> Iterator[dict[str, str]]:
    """Each whole row of the table of predictions in ``folder``, as it stands there; none where there is no table.

    A row that is damaged is left out: one with more or fewer cells than the header. Raises SettingsError for a table that cannot
    be one of camcli's.
    """
    path = os.path.join(folder, "predictions.csv")
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace", newline="") as file:
        try:
            rows = csv.reader(file)
            header = next(rows, [])
            yield from (dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header))
        except csv.Error as error:
            raise SettingsError(_foreign_table(path)) from error


def _foreign_table(path: str) -> str:
    return (
        f"{shown(path)!r} is not as camcli wrote it; has another program saved it? "
        "Put the original back, start anew with --overwrite, or choose another folder with --output."
    )


class Ledger:
    """The tables and the journal of the output folder at ``path``, for a run with ``settings``.

    ``entries``: what the journal knows, by image, in the order of the rows. ``headers``: the first line of each table; ``starts``:
    how many bytes that is. Nothing is opened for writing before the first ``append``. Its user holds the folder's lock.
    """

    def __init__(self, path: str, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.entries: dict[str, Entry] = {}
        self._path = path
        self.headers = _table_headers(settings)
        self.starts = {name: len(header) for name, header in self.headers.items()}
        self._columns = {name: header.decode("utf-8").rstrip("\n").split(",") for name, header in self.headers.items()}
        self._handles: dict[str, int] = {}
        self._ends: dict[str, int] = {}

    def _at(self, name: str) -> str:
        return os.path.join(self._path, name) if name in TABLES else os.path.join(self._path, RUN_MARKER, name)

    def load(self) -> None:
        """Read what earlier runs left, and cut off what they left half-done.

        Raises SettingsError where they had other settings, where another program has rewritten a table, or where there are
        tables without a journal.
        """
        self._finish_exchange()
        earlier = read_settings(self._at("journal.jsonl"))
        if earlier is None:
            if any(exists(self._at(name)) for name in TABLES):
                raise SettingsError(
                    f"{shown(self._path)!r} holds tables but no journal of the run that wrote them. "
                    "Start anew with --overwrite, or choose another folder with --output."
                )
            return
        check_settings(self._path, earlier, self.settings)
        sizes = {name: self._checked_size(name) for name in TABLES}
        kept, torn = read_entries(self._at("journal.jsonl"), self.starts, sizes)
        self.entries = {entry.image: entry for entry in kept}
        ends = table_ends(self.starts, kept)
        for name in TABLES:
            if sizes[name] > ends[name]:
                os.truncate(self._at(name), ends[name])
        if torn:
            write_whole(self._at("journal.jsonl"), b"".join(self._journal_lines(kept)), self._at("scratch"))

    def set_aside(self) -> set[str]:
        """The images that took a process down, by whatever journal there is: also of a run that is to be overwritten."""
        entries = list(self.entries.values())
        if not entries:  # not loaded, or nothing in it
            with contextlib.suppress(OSError):
                entries, _ = read_entries(self._at("journal.jsonl"), self.starts, None)
        return {entry.image for entry in entries if entry.stage == "crashed"}

    def _journal_lines(self, entries: Iterable[Entry]) -> Iterator[bytes]:
        yield header_line(self.settings)
        ends = dict(self.starts)
        for entry in entries:
            ends[entry.table] += entry.length
            yield entry.line(ends)

    def _checked_size(self, name: str) -> int:
        """The size of a table; one that is missing or shorter than its first line gets that line again.

        Raises SettingsError when another program has rewritten it.
        """
        header, path = self.headers[name], self._at(name)
        if size_of(path) < len(header):
            write_whole(path, header, self._at("scratch"))
        with open(path, "rb") as file:
            if file.read(len(header)) != header:
                raise SettingsError(_foreign_table(path))
        return size_of(path)

    def clear(self) -> None:
        """Remove tables and journal."""
        self.close()
        for unfinished in ("draft", "exchange"):
            shutil.rmtree(self._at(unfinished), ignore_errors=True)
        for name in ("journal.jsonl", *TABLES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._at(name))
        self.entries = {}

    def append(self, outcome: Outcome) -> None:
        """The rows of one image into its table, then its line into the journal. Raises OutputError."""
        if isinstance(outcome, Explained):
            rows, stage = b"".join(prediction_line(row) for row in outcome.rows), ""
        else:
            rows, stage = failure_line(outcome), outcome.stage
        entry = Entry(outcome.image, outcome.stamp, stage, len(rows))
        try:
            self.open()
            self._write(entry.table, rows)
            self._write("journal.jsonl", entry.line(self._ends))
        except OSError as error:
            raise output_error(self._at(entry.table), error) from error
        self.entries[entry.image] = entry

    def open(self) -> None:
        """Open tables and journal for appending; those that are missing begin with their first lines. Raises OSError."""
        if self._handles:
            return
        if not exists(self._at("journal.jsonl")):
            write_whole(self._at("journal.jsonl"), header_line(self.settings), self._at("scratch"))
        for name in (*TABLES, "journal.jsonl"):
            self._handles[name] = os.open(
                self._at(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666
            )
            self._ends[name] = size_of(self._at(name))
            if self._ends[name] == 0:
                self._write(name, self.headers[name])

    def _write(self, name: str, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._handles[name], view) :]
        self._ends[name] += len(data)

    def close(self) -> None:
        """Close what is open; ``append`` opens it again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def rows(self, images: Iterable[str] | None = None) -> Iterator[tuple[Entry, bytes]]:
        """The entries of ``images``, by default of all, each with its rows as they stand in its table."""
        with contextlib.ExitStack() as stack:
            tables = {name: stack.enter_context(open(self._at(name), "rb")) for name in TABLES if self.entries}
            offsets, ends = {}, dict(self.starts)
            for entry in self.entries.values():
                offsets[entry.image] = ends[entry.table]
                ends[entry.table] += entry.length
            for image in offsets if images is None else images:
                entry = self.entries[image]
                tables[entry.table].seek(offsets[image])
                yield entry, tables[entry.table].read(entry.length)

    def own_rows(self, entry: Entry, data: bytes) -> list[dict[str, str]] | None:
        """The rows of ``entry``, by column; None where ``data``, what stands in their place, are not all its own and whole."""
        columns = self._columns[entry.table]
        try:
            rows = list(csv.reader(data.decode("utf-8", "replace").rstrip("\n").split("\n")))
        except csv.Error:
            return None
        if not rows or any(len(row) != len(columns) or recovered(row[0]) != entry.image for row in rows):
            return None
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def keep(self, images: Iterable[str]) -> None:
        """Reduce tables and journal to ``images``, in that order. Raises OutputError."""
        self.exchange(self.rows(images))

    def exchange(self, contents: Iterable[tuple[Entry, bytes]]) -> None:
        """Replace tables and journal by entries and their rows, at once: a crash leaves the old or the new. Raises OutputError."""
        self.close()
        draft, kept = self._at("draft"), []
        shutil.rmtree(draft, ignore_errors=True)
        try:
            os.mkdir(draft)
            with contextlib.ExitStack() as stack:
                files = {name: stack.enter_context(open(os.path.join(draft, name), "wb")) for name in (*TABLES, "journal.jsonl")}
                for name, header in self.headers.items():
                    files[name].write(header)
                for entry, rows in contents:
                    files[entry.table].write(rows)
                    kept.append(entry)
                files["journal.jsonl"].writelines(self._journal_lines(kept))
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
            os.rename(draft, self._at("exchange"))  # from here on the new tables are the truth
            self._finish_exchange()
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise output_error(self._at("predictions.csv"), error) from error
        self.entries = {entry.image: entry for entry in kept}

    def _finish_exchange(self) -> None:
        exchange = self._at("exchange")
        if not exists(exchange):
            return
        for name in (*TABLES, "journal.jsonl"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(os.path.join(exchange, name), self._at(name))
        os.rmdir(exchange)
