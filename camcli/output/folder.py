"""The output folder of one run: claiming it, finding out what is still to do, and starting to write.

For the user it contains ``overlays/``, ``maps/``, ``predictions.csv``, ``failures.csv`` and ``run.json``; for camcli,
``.camcli/`` with the lock, the journal and a scratch folder. ``journal`` explains why a run that is killed loses only the images
in progress, and ``root`` why nothing outside the folder is touched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any

from camcli.errors import SettingsError
from camcli.layout import BOXES, EVALUATION, FORMER_FILES, JOURNAL, LOCK, OUTPUT_NAMES, OVERLAYS, OWN, RUN_RECORD, UNFINISHED_RENDER
from camcli.output.checks import check_place, is_unchanged
from camcli.output.journal import Entry, read_header
from camcli.output.ledger import Ledger, files_in_table
from camcli.output.locks import claimed
from camcli.output.manifest import remove_report
from camcli.output.names import shard_name
from camcli.output.order import NOT_A_FAILURE, in_order
from camcli.output.parts import remove_parts
from camcli.output.record import read_record
from camcli.output.redrawing import redrawing_look
from camcli.output.root import Root
from camcli.output.unconfirmed import Unconfirmed
from camcli.output.writers import output_error
from camcli.output.writing import Rewriter, RunWriter, confirm_all, sweep
from camcli.records import Checksum
from camcli.source import Source, each

_RETRIED = ("memory", NOT_A_FAILURE)
"""Stages of failures that do not depend on the file alone: every run retries these images."""


class OutputFolder:
    """Context manager: an output folder that this process has locked, from entry to exit.

    ``settings``: the settings of the run, as JSON values. A folder with other settings is refused, unless ``overwrite`` is set,
    which removes the earlier run. ``shard``, (index, count): the run is one of several that share ``path``, with an output folder
    of its own inside. Entering raises OutputError if the folder is not writable or not camcli's, InUseError if another process
    has locked it, and SettingsError, with the differences, for other settings. If nothing is recorded, the folder is left as it
    was.
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
        outer = Root(path)
        self.root = outer if shard is None else outer.below(shard_name(*shard))
        self._outer = outer
        self.ledger = Ledger(self.root, settings)
        self._overwrite = overwrite
        self._lock_stack = contextlib.ExitStack()
        self._unconfirmed = Unconfirmed(self.root)
        self._folds_case = False

    @property
    def path(self) -> str:
        """The absolute path of the folder."""
        return self.root.path

    def __enter__(self) -> OutputFolder:
        check_place(self._outer.path)
        if self.root is not self._outer and self._outer.exists(os.path.basename(self.path)):
            check_place(self.path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(claimed(self.root, "run", self._is_used))
            self._folds_case = self.root.exists(f"{OWN}/{os.path.basename(LOCK).upper()}")
            if not self._overwrite:
                self.ledger.load()
            self._lock_stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ledger.close()
        if not self.ledger.is_torn:
            with contextlib.suppress(OSError):  # the next run does it
                confirm_all(self.root, self.ledger, self._unconfirmed)
        self._unconfirmed.close()
        self._lock_stack.close()

    def _is_used(self) -> bool:
        return any(map(self.root.exists, (JOURNAL, *OUTPUT_NAMES)))

    def begin(self, todo: Sequence[Source]) -> RunWriter:
        """A writer for the results of ``todo``. Their old rows are removed first; with ``overwrite``, the whole earlier run.

        Raises OutputError.
        """
        try:
            if self._overwrite:
                self._clear()
            else:
                self.root.remove(RUN_RECORD)  # it states that the run is finished
                self.drop({source.image for source in todo} & self.ledger.entries.keys())
                sweep(self.root, self.ledger, self._unconfirmed)
            self.tidy()
        except OSError as error:
            raise output_error(error.filename or self.root.at(OWN), error) from error
        return RunWriter(self.root, self.ledger, self._unconfirmed, folds_case=self._folds_case)

    def rewriting(self) -> Rewriter:
        """A writer that replaces rows of the finished run in this folder."""
        return Rewriter(self.root, self.ledger, self._unconfirmed)

    def _clear(self) -> None:
        """Remove the earlier run: tables, journal, report, and the files that the table and the log name. Raises OSError."""
        files = list(files_in_table(self.root))
        self._unconfirmed.mark_unconfirmed(files)
        self.ledger.clear()
        for name in (RUN_RECORD, BOXES, UNFINISHED_RENDER, *EVALUATION):
            self.root.remove(name)
        remove_parts(self.root)
        remove_report(self.root, [file for file in files if file.startswith(f"{OVERLAYS}/")])
        sweep(self.root, self.ledger, self._unconfirmed)

    def drop(self, stale: set[str]) -> None:
        """Remove the rows of the images ``stale`` from the tables. Raises OSError and OutputError."""
        if not stale:
            return
        for entry, rows in self.ledger.explained(image for image in self.ledger.entries if image in stale):
            self._unconfirmed.mark_unconfirmed(self.ledger.files(entry, rows))
        self.ledger.keep([image for image in self.ledger.entries if image not in stale])

    @property
    def redrawing(self) -> Mapping[str, Any] | None:
        """The look that an unfinished ``camcli render`` was giving to the overlays; None if no render is unfinished."""
        return redrawing_look(self.root)

    def pending(self, sources: Sequence[Source], *, retry_failed: bool = False, hashed: bool = False) -> list[Source]:
        """The sources that are not explained yet, have changed since, or whose rows or overlays are damaged. Changes nothing.

        An image that failed is not pending while its file is unchanged, unless it failed for lack of memory, failed because it
        could not be read and can be read now, or ``retry_failed`` is set. With ``hashed``, an image without a recorded SHA-256 is
        pending.
        """
        if not self.ledger.entries:
            return list(sources)
        damaged = self._damaged

        def is_done(source: Source) -> bool:
            entry = self.ledger.entries.get(source.image)
            if entry is None or (entry.stage and retry_failed) or source.image in damaged or entry.stage in _RETRIED:
                return False
            if hashed and not entry.stage and not (entry.stamp and entry.stamp.sha256):
                return False
            if not is_unchanged(entry.stamp, source):
                return False
            return not (entry.stage == "read" and source.is_readable())

        return [source for source, done in zip(sources, each(is_done, sources), strict=True) if not done]

    def is_explained(self, image: str) -> bool:
        """Whether the table of predictions has rows of ``image``."""
        entry = self.ledger.entries.get(image)
        return entry is not None and not entry.stage

    @cached_property
    def _damaged(self) -> set[str]:
        """The images with rows that have changed since they were written, or with a file that is missing, empty or of another
        size. Found out once, when it is first asked.
        """
        packed = [self.ledger.packed(name) for name in self.ledger.binaries]

        def is_whole(entry: Entry, data: bytes) -> bool:
            rows = self.ledger.own_rows(entry, data)
            if rows is None or entry.stage:
                return rows is not None
            return all(table.is_whole(entry) for table in packed) and all(map(is_there, self.ledger.file_checksums(entry, rows)))

        def is_there(file: tuple[str, Checksum | None]) -> bool:
            size = size_of(file[0])
            return size > 0 if file[1] is None else size == file[1].size

        with self.root.sizes() as size_of:
            return {entry.image for entry, data in self.ledger.rows() if not is_whole(entry, data)}

    def tidy(self) -> None:
        """Remove files that only earlier versions have written."""
        for name in FORMER_FILES:
            with contextlib.suppress(OSError):
                self.root.remove(name)

    def was_finished(self) -> bool:
        """Whether the last run finished, and so reported every failure in the tables. False as soon as a run has begun."""
        return read_record(self.root).get("state") == "finished"

    def is_finished(self, sources: Sequence[Source]) -> bool:
        """Whether the last run finished: its rows are in the order of ``sources``, and ``run.json`` counts the same images."""
        explained, failed = self.totals()
        said = {"state": "finished", "images": {"explained": explained, "failed": failed}}
        return in_order(self.ledger, sources) == list(self.ledger.entries) and said.items() <= read_record(self.root).items()

    def totals(self, sources: Iterable[Source] | None = None) -> tuple[int, int]:
        """How many of ``sources`` are explained and how many failed. None counts all images in the tables."""
        entries = self.ledger.entries
        images = entries if sources is None else [source.image for source in sources if source.image in entries]
        failed = sum(bool(entries[image].stage) for image in images)
        return len(images) - failed, failed


def recorded_settings(path: str, shard: tuple[int, int] | None, *, overwrite: bool) -> Mapping[str, Any]:
    """The settings of the run in the output folder ``path`` or in its ``shard``; empty if there is no run to resume.

    They are also empty for a record that cannot be read. Entering the folder raises the error in that case.
    """
    root = Root(path) if shard is None else Root(path).below(shard_name(*shard))
    try:
        header = None if overwrite else read_header(root)
    except (OSError, SettingsError):
        return {}
    return {} if header is None else header.settings
