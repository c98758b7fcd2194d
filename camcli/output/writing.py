"""Writing the results of a run into its folder. The classes allow only the right order of the steps.

``RunWriter`` writes files and rows, image by image. Its method ``arrange`` sorts the tables and returns an ``ArrangedRun``, whose
method ``finish`` writes ``run.json``. ``Rewriter`` replaces the rows of a finished run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from camcli.layout import OWN, PREDICTIONS, RUN_RECORD, UNFINISHED_RENDER
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.output.order import in_order
from camcli.output.record import checked_record, part_of
from camcli.output.root import Root
from camcli.output.unconfirmed import Unconfirmed
from camcli.output.writers import json_bytes, output_error
from camcli.records import Outcome, Success
from camcli.source import Source


class RunWriter:
    """Records the results of a run that has begun, in a folder that this process has locked.

    ``root``: the folder, into which others may write the files that ``expect`` was told. ``folds_case``: whether ``A.jpg`` and
    ``a.jpg`` are the same name on the file system.
    """

    def __init__(self, root: Root, ledger: Ledger, unconfirmed: Unconfirmed, *, folds_case: bool) -> None:
        self.root, self.folds_case = root, folds_case
        self._ledger, self._unconfirmed = ledger, unconfirmed

    def expect(self, files: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Log that files are about to be written: (image, its files) of several images. Raises OutputError."""
        try:
            self._unconfirmed.expect(files)
        except OSError as error:
            raise output_error(self.root.at(OWN), error) from error

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Append the rows of images to their tables, then their lines to the journal. Raises OutputError."""
        self._ledger.append(outcomes, folds_case=self.folds_case)
        try:
            self._unconfirmed.confirm([outcome.image for outcome in outcomes if isinstance(outcome, Success)])
        except OSError as error:
            raise output_error(self.root.at(OWN), error) from error

    def arrange(self, sources: Sequence[Source]) -> ArrangedRun:
        """Sort the tables in the order of ``sources``, and create missing ones empty. Raises OutputError."""
        try:
            self._ledger.open()
            confirm_all(self.root, self._ledger, self._unconfirmed)
        except OSError as error:
            raise output_error(error.filename or self.root.at(PREDICTIONS), error) from error
        ranked = in_order(self._ledger, sources)
        if ranked != list(self._ledger.entries):
            self._ledger.keep(ranked)
        return ArrangedRun(self.root)


class ArrangedRun:
    """A run whose tables are complete and in order."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def write(self, relative: str, data: bytes) -> None:
        """Write a file of the run, completely or not at all. Raises OutputError."""
        self._root.write(relative, data)

    def finish(self, run_record: Mapping[str, Any]) -> None:
        """Write ``run.json``, which marks the end of the run. Raises OutputError."""
        self.write(RUN_RECORD, json_bytes(run_record))


class Rewriter:
    """Replaces rows of a finished run and their files. ``OutputFolder.rewriting`` returns one."""

    def __init__(self, root: Root, ledger: Ledger, unconfirmed: Unconfirmed) -> None:
        self._root, self._ledger, self._unconfirmed = root, ledger, unconfirmed

    def mark_unconfirmed(self, names: Sequence[str]) -> None:
        """Log that the files ``names`` may lose their rows; those without a row are removed at the end. Raises OutputError."""
        try:
            self._unconfirmed.mark_unconfirmed(names)
        except OSError as error:
            raise output_error(self._root.at(OWN), error) from error

    def begin_look(self, look: Mapping[str, Any]) -> None:
        """Record that overlays are being redrawn with ``look``, so that it can be finished later. Raises OutputError."""
        self._root.write(UNFINISHED_RENDER, json_bytes(look))

    def exchange_look(self, look: Mapping[str, Any], contents: Iterable[tuple[Entry, bytes]]) -> None:
        """Record that all overlays have ``look``, and replace all rows by ``contents``. Raises OutputError."""
        try:
            record = checked_record(self._root)
        except OSError as error:
            raise output_error(error.filename or self._root.at(RUN_RECORD), error) from error
        self._ledger.redrawn = {key: value for key, value in look.items() if value != self._ledger.settings.get(key)}
        self._ledger.exchange(contents)
        ArrangedRun(self._root).finish({**record, "settings": {**part_of(record, "settings"), **look}})
        self._root.remove(UNFINISHED_RENDER)
        sweep(self._root, self._ledger, self._unconfirmed)

    def exchange(self, contents: Iterable[tuple[Entry, bytes]], owner: Callable[[Entry], Ledger] | None = None) -> ArrangedRun:
        """Replace all rows by ``contents`` at once, and remove files without a row. Raises OutputError, OSError.

        ``owner``: as for ``Ledger.exchange``.
        """
        self._ledger.exchange(contents, owner)
        sweep(self._root, self._ledger, self._unconfirmed)
        return ArrangedRun(self._root)


def sweep(root: Root, ledger: Ledger, unconfirmed: Unconfirmed) -> None:
    """Remove the files that are in the log and in no row: those of dropped rows, or of a run that was killed. Raises OSError."""
    names = unconfirmed.read()
    if names:
        for entry, rows in ledger.explained():
            names.difference_update(ledger.files(entry, rows))
        for name in sorted(names):
            root.remove(name)
            root.remove_folder(os.path.dirname(name))
    unconfirmed.clear()


def confirm_all(root: Root, ledger: Ledger, unconfirmed: Unconfirmed) -> None:
    """Empty the log, and remove the files in it that this process has not confirmed. Raises OSError."""
    if not unconfirmed.is_clear:
        sweep(root, ledger, unconfirmed)
    elif unconfirmed.is_begun:
        unconfirmed.clear()
