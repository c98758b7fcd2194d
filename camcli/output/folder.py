"""The output folder of one run: locked, resumed, appended to, and left whole.

Layout: ``overlays/``, ``maps/``, ``predictions.csv``, ``failures.csv``, ``run.json`` for the user, and ``.camcli/`` with the
lock, the journal and a scratch folder. See ``journal`` for why a run killed at any moment loses nothing but the image it
was at.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType, TracebackType
from typing import Any

from filelock import FileLock, Timeout

from camcli.errors import InUseError
from camcli.output.checks import (
    OURS,
    REDRAWING,
    check_one_look,
    check_place,
    exists,
    is_listable,
    is_readable,
    is_unchanged,
    read_record,
    size_of,
)
from camcli.output.files import files_of, report_files, stray_files
from camcli.output.inflight import InFlight
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger, journal_path
from camcli.output.names import shard_name
from camcli.output.writers import json_bytes, output_error, write_whole
from camcli.records import OUTPUT_FOLDERS, RUN_MARKER, Outcome, Source, recovered, shown


class OutputFolder:
    """An output folder held by this process: a context manager, locked from entry to exit.

    ``settings`` decide what is written, as JSON values: a folder made with others is refused, unless ``overwrite`` empties it
    first. ``shard``, as (index, count), is one of several runs that share ``path``: its own output folder lies inside. Entering
    raises OutputError (not writable, not camcli's), InUseError, or SettingsError with the differences. A folder in which nothing
    was recorded is left as it was found.
    """

    def __init__(
        self,
        path: str,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        shard: tuple[int, int] | None = None,
        redrawing: bool = False,
    ) -> None:
        self.place = path if shard is None else os.path.join(path, shard_name(*shard))
        self.path, self._shared = os.path.abspath(self.place), os.path.abspath(path)
        self.ledger = Ledger(self.path, settings)
        self._overwrite, self._redrawing = overwrite, redrawing
        self._created: list[str] = []
        self._lock = FileLock(self._at(RUN_MARKER, "lock"), timeout=0)
        self._in_flight = InFlight(self._at(RUN_MARKER, "in-flight"))

    def __enter__(self) -> OutputFolder:
        self._claim()
        try:
            if not self._overwrite:
                if not self._redrawing:
                    check_one_look(self.path)
                self.ledger.load()
        except OSError as error:
            self._release()
            raise output_error(error.filename or self._at(RUN_MARKER), error) from error
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ledger.close()
        self._in_flight.end()
        self._release()

    def _at(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    def _claim(self) -> None:
        """Create the folder where it is missing and take its lock."""
        check_place(self._shared)
        try:
            for folder in dict.fromkeys((self._shared, self.path, self._at(RUN_MARKER), self._at(RUN_MARKER, "scratch"))):
                if folder == self.path != self._shared:
                    check_place(folder)
                with contextlib.suppress(FileExistsError):
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
        try:
            leftovers = os.listdir(self._at(RUN_MARKER, "scratch"))
        except OSError as error:
            self._release()
            raise output_error(self._at(RUN_MARKER), error) from error
        for leftover in leftovers:
            with contextlib.suppress(OSError):
                os.unlink(self._at(RUN_MARKER, "scratch", leftover))

    def _release(self) -> None:
        try:
            empty = not any(map(exists, (journal_path(self.path), *map(self._at, OURS))))
        except OSError:  # what cannot be looked at may be there
            empty = False
        if empty:
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

    def _clear(self) -> None:
        """Remove what earlier runs left here; files that camcli did not write stay."""
        self.ledger.clear()
        for name in ("run.json", "boxes.json", REDRAWING, *report_files(self.path)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._at(name))
        self.sweep()

    def begin_redrawing(self) -> None:
        """From now on overlays are of two kinds, until ``finish_redrawing``. Raises OutputError."""
        self.write(REDRAWING, b"")

    def finish_redrawing(self, settings: Mapping[str, Any], contents: Iterable[tuple[Entry, bytes]]) -> None:
        """All overlays are as ``settings`` want them: write them down, with entries and rows that name them. Raises OutputError."""
        contents = list(contents)
        self.ledger.settings = dict(settings)
        self.ledger.exchange(contents)
        record = read_record(self.path)
        record["settings"] = {key: settings.get(key, value) for key, value in record.get("settings", {}).items()}
        self.finish(record)
        os.unlink(self._at(REDRAWING))
        self.sweep()

    def sweep(self) -> None:
        """Remove overlays and maps that no row of the table names: of dropped rows, or of a run that was killed."""
        for path in stray_files(self.path, self.ledger.settings):
            os.unlink(path)
        for top in OUTPUT_FOLDERS:
            for folder, _, _ in os.walk(self._at(top), topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def pending(self, sources: Sequence[Source], *, retry_failed: bool = False, hashed: bool = False) -> list[Source]:
        """The sources that are not done, have changed since, or whose rows or overlays are gone. Changes nothing.

        An image that failed counts as done as long as its file is the same, and cannot be read where that was the reason; with
        ``retry_failed`` it does not. With ``hashed`` an image of which no SHA-256 was recorded is not done.
        """
        if not self.ledger.entries:
            return list(sources)
        damaged = self._damaged()

        def is_done(source: Source) -> bool:
            entry = self.ledger.entries.get(source.image)
            if entry is None or (entry.stage and retry_failed) or source.image in damaged:
                return False
            if hashed and not entry.stage and not (entry.stamp and entry.stamp.sha256):
                return False
            if not is_unchanged(entry.stamp, source.path):
                return False
            return not (entry.stage == "read" and is_readable(source.path))

        return [source for source in sources if not is_done(source)]

    def suspects(self, todo: Sequence[Source]) -> dict[str, int]:
        """The images of ``todo`` that may take the process down, and how often it died with only that one in hand.

        They were in hand when a run did not end by itself, or had been set aside as ``crashed``.
        """
        deaths = self._in_flight.deaths()
        names = deaths.keys() | self.ledger.set_aside()  # with --overwrite too, which forgets everything else
        return {source.image: deaths.get(source.image, 0) for source in todo if source.image in names}

    def begin(self, todo: Sequence[Source], deaths: Mapping[str, int] = MappingProxyType({})) -> None:
        """Make room for the results of ``todo``: drop their old rows, or everything with ``overwrite``. Raises OutputError.

        ``deaths``: of the suspects, as ``suspects`` counted them; remembered until a run ends by itself.
        """
        if self._overwrite:
            self._clear()
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._at("run.json"))  # which says that the run has come to its end
            stale = {source.image for source in todo} & self.ledger.entries.keys()
            if stale:
                self.ledger.keep([image for image in self.ledger.entries if image not in stale])
            if not self._created:
                self.sweep()
        try:
            self._in_flight.begin(deaths)
        except OSError as error:
            raise output_error(self._at(RUN_MARKER), error) from error

    def is_explained(self, image: str) -> bool:
        """Whether there are rows of ``image`` in the table of predictions."""
        entry = self.ledger.entries.get(image)
        return entry is not None and not entry.stage

    def in_flight(self, image: str) -> AbstractContextManager[None]:
        """Inside, ``image`` is in the hands of C code: should the process die, the next run knows."""
        return self._in_flight.holding(image)

    def _damaged(self) -> set[str]:
        """Images whose rows are not as they were written, or of which a file is gone, or empty as a loss of power leaves it."""
        settings = self.ledger.settings

        def is_whole(entry: Entry, data: bytes) -> bool:
            rows = self.ledger.own_rows(entry, data)
            if rows is None or entry.stage:
                return rows is not None
            return all(size_of(self._at(name)) for row in rows for name in files_of(recovered(row["overlay"]), settings))

        return {entry.image for entry, data in self.ledger.rows() if not is_whole(entry, data)}

    def tidy(self) -> None:
        """Remove what a run that did not end by itself has left over; for a run that has nothing to do."""
        self._in_flight.forget()

    def is_finished(self, sources: Sequence[Source]) -> bool:
        """Whether the last run came to its end: rows in the order of ``sources``, and ``run.json`` counts what the tables hold."""
        explained, failed = self.totals()
        said = {"state": "finished", "images": {"explained": explained, "failed": failed}}
        return self._in_order(sources) == list(self.ledger.entries) and said.items() <= read_record(self.path).items()

    def _in_order(self, sources: Sequence[Source]) -> list[str]:
        """The images of the tables so that those of ``sources`` come in their order; as they stand where they do so already.

        Without folders that could not be read before and can be now.
        """
        order = {source.image: position for position, source in enumerate(sources)}
        folders = folders_of(source.image for source in sources)
        root = str(self.ledger.settings.get("inputs", ""))

        def is_outgrown(entry: Entry) -> bool:
            if entry.stage != "read" or entry.image in order:
                return False
            return entry.image in folders or is_listable(os.path.join(root, entry.image))

        images = [entry.image for entry in self.ledger.entries.values() if not is_outgrown(entry)]
        places = [order[image] for image in images if image in order]
        if all(earlier < later for earlier, later in itertools.pairwise(places)):
            return images
        return sorted(images, key=lambda image: order.get(image, len(order)))

    def write(self, relative: str, data: bytes) -> None:
        """Put a file of the run in its place, complete or not at all. Raises OutputError."""
        write_whole(self._at(relative), data, self._at(RUN_MARKER, "scratch"))

    def record(self, outcome: Outcome) -> None:
        """Append the rows of one image to its table, then its line to the journal. Raises OutputError."""
        self.ledger.append(outcome)

    def arrange(self, sources: Sequence[Source]) -> None:
        """Bring the tables into the order of ``sources`` where they are not, and make empty ones where there are none.

        Raises OutputError.
        """
        try:
            self.ledger.open()
        except OSError as error:
            raise output_error(self._at("predictions.csv"), error) from error
        ranked = self._in_order(sources)
        if ranked != list(self.ledger.entries):
            self.ledger.keep(ranked)

    def finish(self, run_record: Mapping[str, Any]) -> None:
        """Write ``run.json``, after which the run has come to its end. Raises OutputError."""
        self.write("run.json", json_bytes(run_record))

    def totals(self, sources: Iterable[Source] | None = None) -> tuple[int, int]:
        """How many of ``sources``, by default of all images in the tables, are explained, and how many failed."""
        entries = self.ledger.entries
        images = entries if sources is None else [source.image for source in sources if source.image in entries]
        failed = sum(bool(entries[image].stage) for image in images)
        return len(images) - failed, failed


def folders_of(images: Iterable[str]) -> set[str]:
    """Every folder that an image lies in: one that could not be read before had a row of its own."""
    folders: set[str] = set()
    for image in images:
        folder = os.path.dirname(image)
        while folder and folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
    return folders
