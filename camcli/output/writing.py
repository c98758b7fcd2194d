"""What a run writes into its folder once it has begun, in the only order in which it can be done.

``RunWriter`` takes files and rows, image by image; ``arrange`` ends that and gives an ``ArrangedRun``, which ``finish`` ends.
``Rewriter`` replaces the rows of a finished run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from camcli.layout import NEW_LOOK, OWN, PREDICTIONS, RUN_RECORD
from camcli.output.files import row_files
from camcli.output.inflight import InFlight
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.output.order import in_order
from camcli.output.record import checked_record, part_of
from camcli.output.root import Root
from camcli.output.unconfirmed import Unconfirmed
from camcli.output.writers import json_bytes, output_error
from camcli.records import Checksum, Outcome, Source, Success, checksum_of


class RunWriter:
    """A run that has begun, in a folder that this process holds. Threads may share ``write_files`` and ``holding``.

    ``folds_case``: whether the file system takes ``A.jpg`` and ``a.jpg`` for one name.
    """

    def __init__(self, root: Root, ledger: Ledger, unconfirmed: Unconfirmed, in_flight: InFlight, *, folds_case: bool) -> None:
        self.folds_case = folds_case
        self._root, self._ledger, self._unconfirmed, self._in_flight = root, ledger, unconfirmed, in_flight

    def holding(self, image: str) -> AbstractContextManager[None]:
        """Inside, ``image`` is in the hands of C code: should the process die, the next run knows."""
        return self._in_flight.holding(image)

    def write_files(self, image: str, files: Mapping[str, bytes]) -> tuple[Checksum, ...]:
        """Put the files of a row of ``image`` in their places; the checksum of each. Raises OutputError.

        ImageError (stage ``write``) where the file system cannot take a name.
        """
        try:
            self._unconfirmed.expect(image, list(files))
        except OSError as error:
            raise output_error(self._root.at(OWN), error) from error
        for name, data in files.items():
            self._root.write(name, data)
        return tuple(map(checksum_of, files.values()))

    def record(self, outcome: Outcome) -> None:
        """Append the rows of one image to its table, then its line to the journal. Raises OutputError."""
        self._ledger.append(outcome)
        if isinstance(outcome, Success):
            try:
                self._unconfirmed.confirm(outcome.image)
            except OSError as error:
                raise output_error(self._root.at(OWN), error) from error

    def arrange(self, sources: Sequence[Source]) -> ArrangedRun:
        """Bring the tables into the order of ``sources`` where they are not, and make empty ones where there are none.

        Raises OutputError.
        """
        try:
            self._ledger.open()
            confirm_all(self._root, self._ledger, self._unconfirmed)
        except OSError as error:
            raise output_error(error.filename or self._root.at(PREDICTIONS), error) from error
        ranked = in_order(self._ledger, sources)
        if ranked != list(self._ledger.entries):
            self._ledger.keep(ranked)
        return ArrangedRun(self._root)


class ArrangedRun:
    """A run whose tables are as they are to be."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def write(self, relative: str, data: bytes) -> None:
        """Put a file of the run in its place, complete or not at all. Raises OutputError."""
        self._root.write(relative, data)

    def finish(self, run_record: Mapping[str, Any]) -> None:
        """Write ``run.json``, after which the run has come to its end. Raises OutputError."""
        self.write(RUN_RECORD, json_bytes(run_record))


class Rewriter:
    """Replaces rows of a finished run, and the files that they name; made by ``OutputFolder.rewriting``."""

    def __init__(self, root: Root, ledger: Ledger, unconfirmed: Unconfirmed) -> None:
        self._root, self._ledger, self._unconfirmed = root, ledger, unconfirmed

    def doubt(self, names: Sequence[str]) -> None:
        """``names`` may lose their rows: those that no row names are removed in the end. Raises OutputError."""
        try:
            self._unconfirmed.doubt(names)
        except OSError as error:
            raise output_error(self._root.at(OWN), error) from error

    def begin_look(self, look: Mapping[str, Any]) -> None:
        """From now on overlays are of two looks, and on their way to ``look``. Raises OutputError."""
        self._root.write(NEW_LOOK, json_bytes(look))

    def exchange_look(self, look: Mapping[str, Any], contents: Iterable[tuple[Entry, bytes]]) -> None:
        """All overlays have ``look``: write that down, with entries and rows that name them. Raises OutputError."""
        try:
            record = checked_record(self._root)
        except OSError as error:
            raise output_error(error.filename or self._root.at(RUN_RECORD), error) from error
        self._ledger.drawn = {key: value for key, value in look.items() if value != self._ledger.settings.get(key)}
        self._ledger.exchange(contents)
        ArrangedRun(self._root).finish({**record, "settings": {**part_of(record, "settings"), **look}})
        self._root.remove(NEW_LOOK)
        sweep(self._root, self._ledger, self._unconfirmed)

    def exchange(self, contents: Iterable[tuple[Entry, bytes]]) -> ArrangedRun:
        """Replace all rows by ``contents``, at once; files that no row names any more are removed. Raises OutputError, OSError."""
        self._ledger.exchange(contents)
        sweep(self._root, self._ledger, self._unconfirmed)
        return ArrangedRun(self._root)


def sweep(root: Root, ledger: Ledger, unconfirmed: Unconfirmed) -> None:
    """Remove files that stand in the log although no row names them: of dropped rows, or of a run that was killed.

    Raises OSError.
    """
    names = unconfirmed.read()
    if names:
        for _, rows in ledger.explained():
            names.difference_update(row_files(rows, ledger.settings))
        for name in sorted(names):
            root.remove(name)
            root.remove_folder(os.path.dirname(name))
    unconfirmed.clear()


def confirm_all(root: Root, ledger: Ledger, unconfirmed: Unconfirmed) -> None:
    """Close the log: what this process has not confirmed in it is removed. Raises OSError."""
    if not unconfirmed.is_clear:
        sweep(root, ledger, unconfirmed)
    elif unconfirmed.is_begun:
        unconfirmed.clear()
