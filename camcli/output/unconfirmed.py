"""A write-ahead log of files without a row: what a process that dies leaves behind is known by name, and nothing else is removed.

The files of a row are written before the row. Their names are put down here before that, and forgotten once the row is in the
table. So the next run removes what no row names although it stands here, and never a file that only looks like one of ours.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Sequence

from camcli.documents import parse_json
from camcli.layout import ROW_FOLDERS, UNCONFIRMED
from camcli.output.names import is_output_name
from camcli.output.root import Root

_ENOUGH = 1 << 20
"""Bytes after which the log is written again, without what has been confirmed since."""


class Unconfirmed:
    """The log in ``root``. Threads may share it."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._waiting: dict[str, list[str]] = {}
        self._doubtful = False
        self._handle: int | None = None
        self._size = 0

    @property
    def is_clear(self) -> bool:
        """Whether nothing in the log is in doubt: all that this process has expected is confirmed."""
        return not self._waiting and not self._doubtful

    @property
    def is_begun(self) -> bool:
        """Whether this process has written into the log."""
        return self._handle is not None

    def read(self) -> set[str]:
        """The files that stand in the log, as far as their names are those of overlays, maps and masks. Raises OSError."""
        found: set[str] = set()
        with contextlib.suppress(FileNotFoundError), self._root.open(UNCONFIRMED) as file:
            while line := file.readline(_ENOUGH):
                with contextlib.suppress(ValueError):
                    names = parse_json(line)
                    found.update(names if isinstance(names, list) and all(isinstance(name, str) for name in names) else ())
        return {name for name in found if name.startswith(tuple(f"{top}/" for top in ROW_FOLDERS)) and is_output_name(name)}

    def expect(self, image: str, names: Sequence[str]) -> None:
        """``names`` are about to be written for ``image``, whose rows will be confirmed. Raises OSError."""
        with self._lock:
            self._waiting.setdefault(image, []).extend(names)
            self._append(names)

    def doubt(self, names: Sequence[str]) -> None:
        """``names`` are about to lose their rows. Raises OSError."""
        with self._lock:
            self._doubtful = True
            self._append(names)

    def confirm(self, image: str) -> None:
        """The rows of ``image`` are in the table. Raises OSError."""
        with self._lock:
            self._waiting.pop(image, None)
            if self._size > _ENOUGH:
                self.close()
                self._root.write(UNCONFIRMED, b"".join(map(_line, self._waiting.values())))

    def _append(self, names: Sequence[str]) -> None:
        if not names:
            return
        if self._handle is None:
            self._handle = self._root.append(UNCONFIRMED)
            self._size = os.fstat(self._handle).st_size
            if self._size:  # its last line may be torn
                os.write(self._handle, b"\n")
        line = _line(names)
        if os.write(self._handle, line) < len(line):  # torn, as by a full disk: these files are not written then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._root.at(UNCONFIRMED))
        self._size += len(line)

    def close(self) -> None:
        """Close the log; what stands in it stays."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def clear(self) -> None:
        """Remove the log: nothing is unconfirmed any more. Raises OSError."""
        self.close()
        self._waiting.clear()
        self._doubtful = False
        self._root.remove(UNCONFIRMED)


def _line(names: Sequence[str]) -> bytes:
    return json.dumps(list(names)).encode("ascii") + b"\n"
