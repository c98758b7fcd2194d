"""Which images are in the hands of C code right now, in a file that outlives the process.

A decoder that crashes takes the process down without a word. So each thread writes the name of its image into a slot of one
small file before it hands the image over, and empties the slot afterwards: a system call of a microsecond or two. What the file
holds when a run begins are the images that the last one did not come back from, because of them or because it was killed.

A file beside it remembers these images over several deaths, until they are done or a run ends by itself, and counts how often a
process died with that image alone in hand: for what kills only inside a run, as lack of memory does. So what is put last because
of one death stays there after the next, and every restart gets further.
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
"""Bytes of a slot, and of the length at its beginning."""


class InFlight:
    """The slots in a file of ``root``. ``begin`` empties the file, ``end`` removes it."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._handle: int | None = None
        self._numbers = itertools.count()
        self._own = threading.local()

    def left_over(self) -> list[str]:
        """The images that a run which did not come to its end had in hand; none where the last run ended by itself."""
        try:
            with self._root.open(IN_FLIGHT) as file:
                slots = iter(lambda: file.read(_SLOT), b"")
                names = [slot[_LENGTH : _LENGTH + int.from_bytes(slot[:_LENGTH], "little")] for slot in slots]
        except OSError:
            return []
        return list(dict.fromkeys(os.fsdecode(name) for name in names if name))

    def deaths(self) -> dict[str, int]:
        """How often in a row a process died with that image alone in hand, for each that was in hand at any of the last deaths."""
        counts: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            found = parse_json(self._root.read(DEATHS))
            counts = {image: number for image, number in found.items() if type(number) is int} if isinstance(found, dict) else {}
        names = self.left_over()
        for name in names:
            counts[name] = counts.get(name, 0) + 1 if len(names) == 1 else 0
        return counts

    def begin(self, deaths: Mapping[str, int]) -> None:
        """Forget what was left over, but for the ``deaths`` counted so far. Raises OSError and OutputError.

        These are written first: a process may be killed here as well.
        """
        if deaths:
            self._root.write(DEATHS, json.dumps(dict(deaths)).encode("ascii"))
        else:
            self._root.remove(DEATHS)
        self._root.remove(IN_FLIGHT)
        with self._root.create(IN_FLIGHT) as file:
            self._handle = os.dup(file.fileno())

    def end(self) -> None:
        """Remove the files, when this process has begun them."""
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
    def holding(self, image: str) -> Iterator[None]:
        """Inside, ``image`` stands in this thread's slot. Not entered before ``begin``, nothing is written down."""
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
