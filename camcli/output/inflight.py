"""The images that C code is working on right now, in a file that survives the process.

A decoder that crashes ends the process without an error message. So each thread writes the name of its image into a slot of a
small file before it calls C code, and empties the slot afterwards; each is a system call of one or two microseconds. The names in
the file when a run begins are the images that the last run was working on when it died. They may have crashed it, or it was
killed.

A second file remembers these images over several deaths, until they are done or a run ends by itself. It counts how often a process
died while working on one image alone: some images crash only inside a run, for lack of memory, say. The images in it are explained
last, so that each restart gets further.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping

from camcli.documents import parse_json
from camcli.layout import DEATHS, IN_FLIGHT
from camcli.output.root import Root

_SLOT = 8192
_LENGTH = 4
"""Size of a slot, and of the length of the name at its beginning, in bytes."""


class InFlight:
    """The file of slots in ``root``. ``begin`` empties it, ``end`` removes it."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._handle: int | None = None
        self._numbers = itertools.count()
        self._own = threading.local()

    def left_over(self) -> list[str]:
        """The images that the last run was working on when it died; empty if it ended by itself."""
        try:
            with self._root.open(IN_FLIGHT) as file:
                slots = iter(lambda: file.read(_SLOT), b"")
                names = [slot[_LENGTH : _LENGTH + int.from_bytes(slot[:_LENGTH], "little")] for slot in slots]
        except OSError:
            return []
        return list(dict.fromkeys(os.fsdecode(name) for name in names if name))

    def deaths(self) -> dict[str, int]:
        """The images in progress at any of the last deaths: image -> how often in a row a process died working on it alone."""
        counts: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            found = parse_json(self._root.read(DEATHS))
            counts = {image: number for image, number in found.items() if type(number) is int} if isinstance(found, dict) else {}
        names = self.left_over()
        for name in names:
            counts[name] = counts.get(name, 0) + 1 if len(names) == 1 else 0
        return counts

    def begin(self, deaths: Mapping[str, int]) -> None:
        """Create an empty file of slots, and record the ``deaths`` counted so far. Raises OSError and OutputError.

        ``deaths`` are written first, because the process may be killed here as well.
        """
        if deaths:
            self._root.write(DEATHS, json.dumps(dict(deaths)).encode("ascii"))
        else:
            self._root.remove(DEATHS)
        self._root.remove(IN_FLIGHT)
        with self._root.create(IN_FLIGHT) as file:
            self._handle = os.dup(file.fileno())

    def end(self) -> None:
        """Remove the files if this process has created them."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            self.forget()

    def forget(self) -> None:
        """Remove the files."""
        for name in (IN_FLIGHT, DEATHS):
            with contextlib.suppress(OSError):
                self._root.remove(name)

    @contextlib.contextmanager
    def mark(self, image: str) -> Iterator[None]:
        """Context in which the slot of this thread has the name ``image``. Before ``begin`` nothing is written."""
        name = os.fsencode(image)
        if self._handle is None or len(name) > _SLOT - _LENGTH:
            yield
            return
        if not hasattr(self._own, "offset"):
            self._own.offset = next(self._numbers) * _SLOT
        self._write(len(name).to_bytes(_LENGTH, "little") + name)
        try:
            yield
        finally:
            self._write(bytes(_LENGTH))

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk stops the run elsewhere
            if self._handle is not None:
                os.pwrite(self._handle, data, self._own.offset)
