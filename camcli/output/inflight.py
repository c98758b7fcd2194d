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

_SLOT = 8192
_LENGTH = 4
"""Bytes of a slot, and of the length at its beginning."""


class InFlight:
    """The slots in the file at ``path``. ``begin`` empties the file, ``end`` removes it."""

    def __init__(self, path: str) -> None:
        self._path, self._deaths_path = path, f"{path}-deaths"
        self._handle: int | None = None
        self._numbers = itertools.count()
        self._own = threading.local()

    def left_over(self) -> list[str]:
        """The images that a run which did not come to its end had in hand; none where the last run ended by itself."""
        try:
            with open(self._path, "rb") as file:
                slots = iter(lambda: file.read(_SLOT), b"")
                names = [slot[_LENGTH : _LENGTH + int.from_bytes(slot[:_LENGTH], "little")] for slot in slots]
        except OSError:
            return []
        return list(dict.fromkeys(os.fsdecode(name) for name in names if name))

    def deaths(self) -> dict[str, int]:
        """How often in a row a process died with that image alone in hand, for each that was in hand at any of the last deaths."""
        counts: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError), open(self._deaths_path, "rb") as file:
            counts = {str(image): int(number) for image, number in dict(json.load(file)).items()}
        names = self.left_over()
        for name in names:
            counts[name] = counts.get(name, 0) + 1 if len(names) == 1 else 0
        return counts

    def begin(self, deaths: Mapping[str, int]) -> None:
        """Forget what was left over, but for the ``deaths`` counted so far. Raises OSError.

        These are written first, under another name: a process may be killed here as well.
        """
        if deaths:
            with open(f"{self._deaths_path}.new", "wb") as file:
                file.write(json.dumps(dict(deaths)).encode("ascii"))
            os.replace(f"{self._deaths_path}.new", self._deaths_path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._deaths_path)
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)

    def end(self) -> None:
        """Remove the files, when this process has begun them."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            self.forget()

    def forget(self) -> None:
        """Remove the files."""
        for path in (self._path, self._deaths_path, f"{self._deaths_path}.new"):
            with contextlib.suppress(OSError):
                os.unlink(path)

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
