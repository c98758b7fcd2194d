"""The output folder of one run: locked, resumed, appended to, and left whole.

Layout: ``overlays/``, ``maps/``, ``predictions.csv``, ``failures.csv``, ``run.json`` for the user, and ``.camcli/`` with the
lock, the journal and a scratch folder. See ``journal`` for why a run killed at any moment loses nothing but the image it
was at, and ``root`` for why nothing outside the folder is touched, whoever made it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any

from camcli.errors import SettingsError
from camcli.layout import BOXES, JOURNAL, LOCK, NEW_LOOK, OUTPUT_NAMES, OVERLAYS, OWN, RUN_RECORD
from camcli.output.checks import check_place, is_readable, is_unchanged
from camcli.output.files import row_files
from camcli.output.inflight import InFlight
from camcli.output.journal import Entry, read_header
from camcli.output.ledger import Ledger, own_files
from camcli.output.locks import claimed
from camcli.output.manifest import remove_report
from camcli.output.names import shard_name
from camcli.output.order import NO_FAILURE, in_order
from camcli.output.record import read_record
from camcli.output.redrawing import redrawing_look
from camcli.output.root import Root
from camcli.output.unconfirmed import Unconfirmed
from camcli.output.writers import output_error
from camcli.output.writing import Rewriter, RunWriter, confirm_all, sweep
from camcli.records import Checksum, Source, escape_name

_RETRIED = ("memory", NO_FAILURE)
"""Stages of failures that say nothing of the file: what failed there is tried again by every run."""


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
    ) -> None:
        self.place = path if shard is None else os.path.join(path, shard_name(*shard))
        shared = Root(path)
        self.root = shared if shard is None else shared.below(shard_name(*shard))
        self._shared = shared
        self.ledger = Ledger(self.root, settings)
        self._overwrite = overwrite
        self._held = contextlib.ExitStack()
        self._unconfirmed = Unconfirmed(self.root)
        self._in_flight = InFlight(self.root)
        self._folds_case = False

    @property
    def path(self) -> str:
        """The whole path of the folder."""
        return self.root.path

    def __enter__(self) -> OutputFolder:
        busy = f"another run is writing into {escape_name(self.path)!r}. Wait for it, or choose another folder with --output."
        check_place(self._shared.path)
        if self.root is not self._shared and self._shared.exists(os.path.basename(self.path)):
            check_place(self.path)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(claimed(self.root, busy, self._is_used))
                self._folds_case = self.root.exists(f"{OWN}/{os.path.basename(LOCK).upper()}")
                if not self._overwrite:
                    self.ledger.load()
                self._held = stack.pop_all()
        except OSError as error:
            raise output_error(error.filename or self.root.at(OWN), error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ledger.close()
        if not self.ledger.is_torn:
            with contextlib.suppress(OSError):  # the next run does it
                confirm_all(self.root, self.ledger, self._unconfirmed)
        self._unconfirmed.close()
        self._in_flight.end()
        self._held.close()

    def _is_used(self) -> bool:
        return any(map(self.root.exists, (JOURNAL, *OUTPUT_NAMES)))

    def begin(self, todo: Sequence[Source], deaths: Mapping[str, int] = MappingProxyType({})) -> RunWriter:
        """Make room for the results of ``todo``: drop their old rows, or everything with ``overwrite``. Raises OutputError.

        ``deaths``: of the suspects, as ``suspects`` counted them; remembered until a run ends by itself.
        """
        try:
            if self._overwrite:
                self._clear()
            else:
                self.root.remove(RUN_RECORD)  # which says that the run has come to its end
                self._drop({source.image for source in todo} & self.ledger.entries.keys())
                sweep(self.root, self.ledger, self._unconfirmed)
            self._in_flight.begin(deaths)
        except OSError as error:
            raise output_error(error.filename or self.root.at(OWN), error) from error
        return RunWriter(self.root, self.ledger, self._unconfirmed, self._in_flight, folds_case=self._folds_case)

    def rewriting(self) -> Rewriter:
        """What replaces rows of the run that is here, which has come to its end."""
        return Rewriter(self.root, self.ledger, self._unconfirmed)

    def _clear(self) -> None:
        """Remove what earlier runs left here: what the table and the log name, tables, journal and report. Raises OSError."""
        files = list(own_files(self.root))
        self._unconfirmed.doubt(files)
        self.ledger.clear()
        for name in (RUN_RECORD, BOXES, NEW_LOOK):
            self.root.remove(name)
        remove_report(self.root, [file for file in files if file.startswith(f"{OVERLAYS}/")])
        sweep(self.root, self.ledger, self._unconfirmed)

    def _drop(self, stale: set[str]) -> None:
        if not stale:
            return
        for _, rows in self.ledger.explained(image for image in self.ledger.entries if image in stale):
            self._unconfirmed.doubt(row_files(rows, self.ledger.settings))
        self.ledger.keep([image for image in self.ledger.entries if image not in stale])

    @property
    def redrawing(self) -> Mapping[str, Any] | None:
        """The look that a ``camcli render`` was giving to the overlays when it died; None where none did."""
        return redrawing_look(self.root)

    def pending(self, sources: Sequence[Source], *, retry_failed: bool = False, hashed: bool = False) -> list[Source]:
        """The sources that are not done, have changed since, or whose rows or overlays are gone. Changes nothing.

        An image that failed counts as done as long as its file is the same, and cannot be read where that was the reason; with
        ``retry_failed``, or where it failed for lack of memory, it does not. With ``hashed`` an image of which no SHA-256 was
        recorded is not done.
        """
        if not self.ledger.entries:
            return list(sources)
        damaged = self._damaged()

        def is_done(source: Source) -> bool:
            entry = self.ledger.entries.get(source.image)
            if entry is None or (entry.stage and retry_failed) or source.image in damaged or entry.stage in _RETRIED:
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

    def is_explained(self, image: str) -> bool:
        """Whether there are rows of ``image`` in the table of predictions."""
        entry = self.ledger.entries.get(image)
        return entry is not None and not entry.stage

    def _damaged(self) -> set[str]:
        """Images with rows that are not as they were written, or with a file that is gone, empty, or not as long as it was."""

        def is_whole(entry: Entry, data: bytes) -> bool:
            rows = self.ledger.own_rows(entry, data)
            if rows is None or entry.stage:
                return rows is not None
            return all(map(is_there, self.ledger.file_checksums(entry, rows)))

        def is_there(file: tuple[str, Checksum | None]) -> bool:
            size = size_of(file[0])
            return size > 0 if file[1] is None else size == file[1].size

        with self.root.sizes() as size_of:
            return {entry.image for entry, data in self.ledger.rows() if not is_whole(entry, data)}

    def tidy(self) -> None:
        """Remove what a run that did not end by itself has left over; for a run that has nothing to do."""
        self._in_flight.forget()

    def was_finished(self) -> bool:
        """Whether the last run came to its end, and so told of every failure that the tables hold. False once a run has begun."""
        return read_record(self.root).get("state") == "finished"

    def is_finished(self, sources: Sequence[Source]) -> bool:
        """Whether the last run came to its end: rows in the order of ``sources``, and ``run.json`` counts what the tables hold."""
        explained, failed = self.totals()
        said = {"state": "finished", "images": {"explained": explained, "failed": failed}}
        return in_order(self.ledger, sources) == list(self.ledger.entries) and said.items() <= read_record(self.root).items()

    def totals(self, sources: Iterable[Source] | None = None) -> tuple[int, int]:
        """How many of ``sources``, by default of all images in the tables, are explained, and how many failed."""
        entries = self.ledger.entries
        images = entries if sources is None else [source.image for source in sources if source.image in entries]
        failed = sum(bool(entries[image].stage) for image in images)
        return len(images) - failed, failed


def recorded_settings(path: str, shard: tuple[int, int] | None, *, overwrite: bool) -> Mapping[str, Any]:
    """The settings of the run in the output folder ``path``, or in that of a shard; empty where there is none to go on with.

    A record that cannot be read is empty too: who enters the folder is told what is wrong with it.
    """
    root = Root(path) if shard is None else Root(path).below(shard_name(*shard))
    try:
        header = None if overwrite else read_header(root)
    except (OSError, SettingsError):
        return {}
    return {} if header is None else header.settings
