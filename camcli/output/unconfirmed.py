"""A write-ahead log of files that have no row yet, so that only such files are removed after a process has died.

The files of a row are written before the row. Before that, their names are written to this log; they are dropped from it when the
row is in the table. The next run removes files that are in the log and in no row, and never a file that only has a similar name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Sequence

from camcli.documents import parse_json
from camcli.layout import ROW_FOLDERS, UNCONFIRMED
from camcli.output.names import is_output_name
from camcli.output.root import Root

_ENOUGH = 1 << 20
"""Size in bytes at which the log is rewritten without the confirmed names."""


class Unconfirmed:
    """The log in ``root``."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._waiting: dict[str, list[str]] = {}
        self._has_marked = False
        self._handle: int | None = None
        self._size = 0

    @property
    def is_clear(self) -> bool:
        """Whether every name that this process has logged is confirmed."""
        return not self._waiting and not self._has_marked

    @property
    def is_begun(self) -> bool:
        """Whether this process has written to the log."""
        return self._handle is not None

    def read(self) -> set[str]:
        """The overlays, maps and masks in the log; other names are ignored. Raises OSError."""
        found: set[str] = set()
        with contextlib.suppress(FileNotFoundError), self._root.open(UNCONFIRMED) as file:
            while line := file.readline(_ENOUGH):
                with contextlib.suppress(ValueError):
                    names = parse_json(line)
                    found.update(names if isinstance(names, list) and all(isinstance(name, str) for name in names) else ())
        return {name for name in found if name.startswith(tuple(f"{top}/" for top in ROW_FOLDERS)) and is_output_name(name)}

    def expect(self, files: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Log that files are about to be written: (image, its files) of several images. ``confirm`` ends that. Raises OSError."""
        self._waiting.update({image: list(names) for image, names in files if names})
        self._append([names for _, names in files if names])

    def mark_unconfirmed(self, names: Sequence[str]) -> None:
        """Log that the files ``names`` are about to lose their rows. Raises OSError."""
        self._has_marked = True
        self._append([names] if names else [])

    def confirm(self, images: Sequence[str]) -> None:
        """Drop the files of ``images``, whose rows are in the table now. Raises OSError."""
        for image in images:
            self._waiting.pop(image, None)
        if self._size > _ENOUGH:
            self.close()
            self._root.write(UNCONFIRMED, b"".join(map(_line, self._waiting.values())))

    def _append(self, lines: Sequence[Sequence[str]]) -> None:
        if not lines:
            return
        if self._handle is None:
            self._handle = self._root.append(UNCONFIRMED)
            self._size = os.fstat(self._handle).st_size
            if self._size:  # its last line may be incomplete
                os.write(self._handle, b"\n")
        data = b"".join(map(_line, lines))
        if os.write(self._handle, data) < len(data):  # incomplete, as on a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._root.at(UNCONFIRMED))
        self._size += len(data)

    def close(self) -> None:
        """Close the log and keep its contents."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def clear(self) -> None:
        """Remove the log, because no file is unconfirmed any more. Raises OSError."""
        self.close()
        self._waiting.clear()
        self._has_marked = False
        self._root.remove(UNCONFIRMED)


def _line(names: Sequence[str]) -> bytes:
    return json.dumps(list(names)).encode("ascii") + b"\n"
