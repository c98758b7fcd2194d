"""The output folder of one run: locked, resumed, appended to, and left whole.

Layout: ``overlays/``, ``maps/``, ``predictions.csv``, ``failures.csv``, ``run.json`` for the user, and ``.camcli/`` with the
lock, the journal and a scratch folder. See ``journal`` for why a run killed at any moment loses nothing but the image it
was at.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from camcli.errors import InUseError, SettingsError
from camcli.output import journal as journals
from camcli.output.checks import TABLES, check_place, check_settings, is_readable, size_of, table_lines
from camcli.output.journal import Entry
from camcli.output.names import is_output_name
from camcli.output.writers import (
    FAILURE_COLUMNS,
    LABEL_COLUMNS,
    PREDICTION_COLUMNS,
    csv_line,
    failure_line,
    json_bytes,
    output_error,
    prediction_line,
    write_whole,
)
from camcli.records import RUN_MARKER, Explained, Failure, Outcome, Source, recovered, shown, stamp_of


class OutputFolder:
    """An output folder held by this process: a context manager, locked from entry to exit.

    ``settings`` decide what is written, as JSON values: a folder made with others is refused, unless ``overwrite`` empties it
    first. Entering raises OutputError (not writable, not camcli's), InUseError, or SettingsError with the differences. A
    folder in which nothing was recorded is left as it was found.
    """

    def __init__(self, path: str, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = os.path.abspath(path)
        self._settings = dict(settings)
        self._overwrite = overwrite
        labelled = self._settings.get("class-from") is not None
        self._headers = {
            "predictions.csv": csv_line((*PREDICTION_COLUMNS, *(LABEL_COLUMNS if labelled else ()))),
            "failures.csv": csv_line(FAILURE_COLUMNS),
        }
        self._entries: dict[str, Entry] = {}
        self._created: list[str] = []
        self._handles: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        self._lock = FileLock(self._at(RUN_MARKER, "lock"), timeout=0)

    def __enter__(self) -> OutputFolder:
        self._claim()
        try:
            self._load()
        except OSError as error:
            self._release()
            raise output_error(error.filename or self._at(RUN_MARKER), error) from error
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        self._release()

    def _at(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    @property
    def _journal_path(self) -> str:
        return self._at(RUN_MARKER, "journal.jsonl")

    def _claim(self) -> None:
        """Create the folder where it is missing and take its lock."""
        check_place(self.path)
        try:
            for folder in (self.path, self._at(RUN_MARKER), self._at(RUN_MARKER, "scratch")):
                if not os.path.isdir(folder):
                    os.mkdir(folder)
                    self._created.append(folder)
            self._lock.acquire()
        except Timeout as error:
            raise InUseError(
                f"another run is writing into {shown(self.path)!r}. Wait for it, or choose another folder with --output."
            ) from error
        except OSError as error:
            self._forget()
            raise output_error(self._at(RUN_MARKER), error) from error
        for leftover in os.listdir(self._at(RUN_MARKER, "scratch")):
            with contextlib.suppress(OSError):
                os.unlink(self._at(RUN_MARKER, "scratch", leftover))

    def _release(self) -> None:
        if not os.path.exists(self._journal_path):
            self._forget()  # while the lock is held: nobody else can be using what is removed
        self._lock.release()

    def _forget(self) -> None:
        """Remove what this process created, as far as it is empty."""
        if self._created:
            with contextlib.suppress(OSError):
                os.unlink(self._at(RUN_MARKER, "lock"))
        for folder in reversed(self._created):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def _load(self) -> None:
        self._finish_exchange()
        journal = journals.read_journal(self._journal_path)
        if journal is None and any(os.path.exists(self._at(name)) for name in TABLES) and not self._overwrite:
            raise SettingsError(
                f"{shown(self.path)!r} holds tables but no journal of the run that wrote them. "
                "Start anew with --overwrite, or choose another folder with --output."
            )
        if self._overwrite or journal is None:
            return
        check_settings(self.path, journal.settings, self._settings)
        sizes = {name: self._checked_size(name) for name in TABLES}
        kept = list(
            itertools.takewhile(
                lambda entry: entry.predictions_end <= sizes["predictions.csv"] and entry.failures_end <= sizes["failures.csv"],
                journal.entries,
            )
        )
        self._entries = {entry.image: entry for entry in kept}
        for name, end in (
            ("predictions.csv", kept[-1].predictions_end if kept else 0),
            ("failures.csv", kept[-1].failures_end if kept else 0),
        ):
            if sizes[name] > end:
                os.truncate(self._at(name), end)
        journal_text = journals.header_line(self._settings) + b"".join(entry.line() for entry in kept)
        if size_of(self._journal_path) != len(journal_text):
            write_whole(self._journal_path, journal_text, self._at(RUN_MARKER, "scratch"))

    def _checked_size(self, name: str) -> int:
        """The size of a table; one that is missing or shorter than its first line gets that line again.

        Raises SettingsError when another program has rewritten it.
        """
        header, path = self._headers[name], self._at(name)
        if size_of(path) < len(header):
            write_whole(path, header, self._at(RUN_MARKER, "scratch"))
        with open(path, "rb") as file:
            if file.read(len(header)) != header:
                raise SettingsError(
                    f"{shown(path)!r} is not as camcli wrote it; has another program saved it? "
                    "Put the original back, start anew with --overwrite, or choose another folder with --output."
                )
        return size_of(path)

    def _clear(self) -> None:
        """Remove what earlier runs left here; files that camcli did not write stay."""
        for path in (self._journal_path, *(self._at(name) for name in (*TABLES, "run.json"))):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._entries = {}
        self._sweep()

    def _sweep(self) -> None:
        """Remove overlays and maps that no row of the table names: of dropped rows, or of a run that was killed."""
        named = {recovered(row["overlay"]) for row in self._prediction_rows()}
        stems = {os.path.splitext(os.path.relpath(overlay, "overlays"))[0] for overlay in named if overlay}
        for top, extension in (("overlays", ".jpg"), ("maps", ".npy")):
            root = self._at(top)
            for folder, _, names in os.walk(root, topdown=False):
                for name in names:
                    stem = os.path.relpath(os.path.join(folder, name), root).removesuffix(extension)
                    if is_output_name(name) and stem not in stems:
                        os.unlink(os.path.join(folder, name))
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _prediction_rows(self) -> Iterator[dict[str, str]]:
        with contextlib.suppress(FileNotFoundError), open(self._at("predictions.csv"), encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)

    def pending(self, sources: Sequence[Source]) -> list[Source]:
        """The sources that are not done, have changed since, or whose overlays are gone. Changes nothing.

        An image that failed counts as done as long as its file is the same, and cannot be read where that was the reason.
        """
        if not self._entries or self._overwrite:
            return list(sources)
        missing = self._images_without_files()

        def is_done(source: Source) -> bool:
            entry = self._entries.get(source.image)
            if entry is None or source.image in missing or entry.stamp != stamp_of(source.path):
                return False
            return not (entry.stage == "read" and is_readable(source.path))

        return [source for source in sources if not is_done(source)]

    def begin(self, todo: Sequence[Source]) -> None:
        """Make room for the results of ``todo``: drop their old rows, or everything with ``overwrite``. Raises OutputError."""
        if self._overwrite:
            self._clear()
            return
        stale = {source.image for source in todo} & self._entries.keys()
        if stale:
            self._rewrite([entry for entry in self._entries.values() if entry.image not in stale])
        if not self._created:
            self._sweep()

    def _images_without_files(self) -> set[str]:
        """Images of which an overlay, or a map that should be there, is gone."""
        saves_maps = bool(self._settings.get("save-maps"))

        def is_whole(overlay: str) -> bool:
            stem = os.path.splitext(os.path.relpath(overlay, "overlays"))[0]
            return os.path.exists(self._at(overlay)) and (not saves_maps or os.path.exists(self._at("maps", f"{stem}.npy")))

        rows = self._prediction_rows()
        return {recovered(row["image"]) for row in rows if row["overlay"] and not is_whole(recovered(row["overlay"]))}

    def is_finished(self, sources: Sequence[Source]) -> bool:
        """Whether the last run came to its end: rows in the order of ``sources``, and ``run.json`` says the same counts."""
        try:
            with open(self._at("run.json"), "rb") as file:
                record = json.load(file)
        except (OSError, ValueError):
            return False
        explained, failed = self.totals(sources)
        said = {"state": "finished", "images": {"explained": explained, "failed": failed}}
        return self._in_order(sources) == list(self._entries.values()) and said.items() <= record.items()

    def _in_order(self, sources: Sequence[Source]) -> list[Entry]:
        order = {source.image: position for position, source in enumerate(sources)}
        return sorted(self._entries.values(), key=lambda entry: order.get(entry.image, len(order)))

    def write(self, relative: str, data: bytes) -> None:
        """Put a file of the run in its place, complete or not at all. Raises OutputError."""
        write_whole(self._at(relative), data, self._at(RUN_MARKER, "scratch"))

    def record(self, outcome: Outcome) -> None:
        """Append the rows of one image to its table, then its line to the journal. Raises OutputError."""
        try:
            if not self._handles:
                self._open_tables()
            if isinstance(outcome, Failure):
                self._append("failures.csv", failure_line(outcome))
            else:
                self._append("predictions.csv", b"".join(prediction_line(row) for row in outcome.rows))
            entry = self._entry_of(outcome)
            self._append("journal", entry.line())
        except OSError as error:
            raise output_error(self._at("predictions.csv"), error) from error
        self._entries[entry.image] = entry

    def _entry_of(self, outcome: Outcome) -> Entry:
        ends = self._ends["predictions.csv"], self._ends["failures.csv"]
        if isinstance(outcome, Explained):
            empty = sum(row.status != "ok" for row in outcome.rows)
            predicted = outcome.rows[0].predicted_class if outcome.rows else ""
            return Entry(outcome.image, outcome.stamp, "", empty, predicted, *ends)
        return Entry(outcome.image, outcome.stamp, outcome.stage, 0, "", *ends)

    def _open_tables(self) -> None:
        if not os.path.exists(self._journal_path):
            write_whole(self._journal_path, journals.header_line(self._settings), self._at(RUN_MARKER, "scratch"))
        for name, path in (*((name, self._at(name)) for name in TABLES), ("journal", self._journal_path)):
            self._handles[name] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            self._ends[name] = size_of(path)
            if self._ends[name] == 0:
                self._append(name, self._headers[name])

    def _append(self, name: str, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._handles[name], view)
            view = view[written:]
        self._ends[name] += len(data)

    def finish(self, sources: Sequence[Source], run_record: Mapping[str, Any]) -> None:
        """Bring the tables into the order of ``sources`` where they are not, and write ``run.json``."""
        ranked = self._in_order(sources)
        if ranked != list(self._entries.values()):
            self._rewrite(ranked)
        self.write("run.json", json_bytes(run_record))

    def totals(self, sources: Iterable[Source]) -> tuple[int, int]:
        """How many of ``sources`` are explained, and how many failed."""
        entries = [self._entries[source.image] for source in sources if source.image in self._entries]
        explained = sum(not entry.stage for entry in entries)
        return explained, len(entries) - explained

    def _rewrite(self, entries: Sequence[Entry]) -> None:
        """Reduce the tables and the journal to ``entries``, in that order, in one exchange that a crash cannot split."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        lines: dict[str, dict[str, list[bytes]]] = {name: {} for name in TABLES}
        for name, by_image in lines.items():
            for line, image in table_lines(self._at(name)):
                by_image.setdefault(image, []).append(line)
        ends = {name: len(header) for name, header in self._headers.items()}
        tables = {name: [header] for name, header in self._headers.items()}
        kept: list[Entry] = []
        for entry in entries:
            for name, by_image in lines.items():
                mine = by_image.get(entry.image, [])
                tables[name].extend(mine)
                ends[name] += sum(map(len, mine))
            kept.append(replace(entry, predictions_end=ends["predictions.csv"], failures_end=ends["failures.csv"]))
        journal = journals.header_line(self._settings) + b"".join(entry.line() for entry in kept)
        draft = self._at(RUN_MARKER, "draft")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            os.mkdir(draft)
            for name, data in (("journal.jsonl", journal), *((name, b"".join(table)) for name, table in tables.items())):
                with open(os.path.join(draft, name), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            os.rename(draft, self._at(RUN_MARKER, "exchange"))  # from here on the new tables are the truth
            self._finish_exchange()
        except OSError as error:
            raise output_error(self._at("predictions.csv"), error) from error
        self._entries = {entry.image: entry for entry in kept}

    def _finish_exchange(self) -> None:
        exchange = self._at(RUN_MARKER, "exchange")
        if not os.path.isdir(exchange):
            return
        for name in (*TABLES, "journal.jsonl"):
            target = self._journal_path if name == "journal.jsonl" else self._at(name)
            with contextlib.suppress(FileNotFoundError):
                os.replace(os.path.join(exchange, name), target)
        os.rmdir(exchange)
