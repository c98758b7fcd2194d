"""Reading sources that a server holds ahead of time, several together, while a worker decodes and paints others."""

from __future__ import annotations

import io
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from camcli.errors import ImageError, first_line
from camcli.records import Stamp
from camcli.source import Contents, Source, os_reason

_THREADS = 8
"""How many sources a process reads at the same time."""

_MOST_BYTES = 64 << 20
"""Maximum size in bytes of what a process reads ahead and keeps; a single source may be larger."""

_LARGEST = 8 << 20
"""Sources of more bytes are not read ahead but when they are decoded, in pieces."""

_STACK = 2 << 20
"""Size of the stack of a thread in bytes: a worker has a limit on its address space."""

ADDRESS_SPACE = 1 << 30
"""Address space in bytes that reading ahead takes: the libraries of the store, threads, and what they have read."""


@dataclass(frozen=True, slots=True)
class _Fetched(Source):
    """A source that was read. ``found``: its stamp if it is known. ``error``: why it could not be read, else None."""

    data: bytes
    found: Stamp | None
    error: ImageError | None

    def stamp(self) -> Stamp | None:
        """The stamp of the bytes that were read; None if none were."""
        return self.found

    def open(self) -> Contents:
        """The bytes that were read. Raises ImageError."""
        if self.error is not None:
            raise self.error
        assert self.found is not None
        return Contents(io.BytesIO(self.data), len(self.data), self.found)


def _fetched(source: Source) -> Source:
    """``source`` with its bytes, or with the reason why it cannot be read. A large one is returned as it is, to be read later."""
    error: ImageError
    try:
        with source.open() as contents:
            if contents.size > _LARGEST:
                return source
            return _Fetched(source.root, source.image, contents.file.read(contents.size), contents.stamp, None)
    except ImageError as reason:
        error = reason
    except MemoryError:
        error = ImageError("memory", "out of memory; the next run tries again")
    except OSError as reason:
        error = ImageError("read", os_reason(reason))
    except Exception as reason:  # a library of a store may raise almost anything
        error = ImageError("read", f"cannot be read: {first_line(reason)}")
    return _Fetched(source.root, source.image, b"", _known_stamp(source), error)


def _known_stamp(source: Source) -> Stamp | None:
    """The stamp of a source in its listing; None if asking for it would take another request."""
    listed = getattr(source, "listed", None)
    if isinstance(listed, Stamp):
        return listed
    return source.stamp() if hasattr(source, "archive") else None


class Ahead:
    """Reads sources ahead of time. ``on_arrival`` is called by another thread when one has been read; then call ``arrived``."""

    def __init__(self, on_arrival: Callable[[], None] = lambda: None) -> None:
        self._on_arrival = on_arrival
        self._waiting: deque[tuple[int, Source]] = deque()
        self._expected: dict[int, int] = {}  # the bytes of those that are being read or are kept
        self._dropped: set[int] = set()
        self._ready: dict[int, Source] = {}
        self._jobs: queue.SimpleQueue[tuple[int, Source] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[int, Source]] = queue.SimpleQueue()
        self._threads = 0
        self._reading = 0

    def add(self, number: int, source: Source) -> None:
        """Read ``source``, of image ``number``, when its turn comes."""
        self._dropped.discard(number)
        self._waiting.append((number, source))
        self._read_on()

    def __bool__(self) -> bool:
        """Whether something is being read or waits for it."""
        return self._reading > 0 or bool(self._waiting)

    def arrived(self, seconds: float = 0.0) -> list[int]:
        """The images that have been read since; waits so many seconds for one."""
        numbers: list[int] = []
        while self._reading:
            try:
                number, source = self._results.get(timeout=seconds) if seconds > 0 else self._results.get_nowait()
            except queue.Empty:
                break
            seconds = 0.0
            self._reading -= 1
            if number in self._dropped:
                self._dropped.discard(number)
                self._expected.pop(number, None)
                continue
            self._ready[number] = source
            self._expected[number] = len(source.data) if isinstance(source, _Fetched) else 0
            numbers.append(number)
        self._read_on()
        return numbers

    def taken(self, number: int, source: Source) -> Source:
        """``source`` as it was read; itself if it was not."""
        return self._ready.get(number, source)

    def drop(self, numbers: Collection[int]) -> None:
        """Do not read or keep the images ``numbers`` any longer."""
        unwanted = set(numbers)
        if any(number in unwanted for number, _ in self._waiting):
            self._waiting = deque(item for item in self._waiting if item[0] not in unwanted)
        for number in unwanted:
            if self._ready.pop(number, None) is not None:
                self._expected.pop(number, None)
            elif number in self._expected:
                self._dropped.add(number)
        self._read_on()

    def close(self) -> None:
        """Let the threads end when they have read what they are reading."""
        self._waiting.clear()
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _read_on(self) -> None:
        """Begin to read those that have room."""
        while self._waiting and self._reading < _THREADS:
            number, source = self._waiting[0]
            size = source.expected_bytes if source.expected_bytes <= _LARGEST else 0
            if self._expected and sum(self._expected.values()) + size > _MOST_BYTES:
                return
            self._waiting.popleft()
            self._expected[number] = size
            self._reading += 1
            self._jobs.put((number, source))
            if self._threads < min(_THREADS, self._reading):
                self._start()

    def _start(self) -> None:
        before = threading.stack_size(_STACK)
        try:
            threading.Thread(target=self._read, name="reading", daemon=True).start()
            self._threads += 1
        except RuntimeError:  # the system allows no more threads
            if not self._threads:
                self._jobs.put(None)
                self._read()
        finally:
            threading.stack_size(before)

    def _read(self) -> None:
        while (job := self._jobs.get()) is not None:
            number, source = job
            self._results.put((number, _fetched(source)))
            self._on_arrival()
