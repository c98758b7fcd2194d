"""A worker: a process that reads images and paints their overlays. Knows no torch.

``python -m camcli.pipeline.worker HANDLE`` gets tasks on stdin and returns results on stdout; HANDLE is a file descriptor of the
shared memory for the network's inputs. It ends when stdin is closed, so never later than the process that started it. Signals of
the terminal are ignored: the main process decides what is finished after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from camcli.errors import OutputError, first_line
from camcli.images.limits import pillow_unlimited
from camcli.output.root import Root  # noqa: F401 - messages contain it
from camcli.pipeline import channel
from camcli.pipeline.ahead import ADDRESS_SPACE, Ahead
from camcli.pipeline.painting import Painter
from camcli.pipeline.reading import Held, NotAdmitted, Reader, give_back
from camcli.pipeline.tasks import Asking, Broken, Failed, Painted, PaintTask, PreparedImage, ReadTask, Settings, Task
from camcli.records import Failure, Stamp
from camcli.resources import keep_memory
from camcli.timing import StageTimer

READY = "ready"
"""The first message of a worker."""

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a worker ignores. They are blocked when it starts."""

_MOST_WAITING, _LONGEST = 8, 0.02
"""Results are sent together: at most so many, and at most so many seconds after the first."""

_SILENCE = 10.0
"""Seconds without a message after which a worker that gets answers from a server says that it goes on."""


class Tasks:
    """The tasks of a worker, done one after the other. Also used without a process of its own.

    ``inputs``: the shared memory, for which the settings say how it is divided. ``limited``: whether this process may have no more
    memory than its images need, so that a forged file cannot take it all. ``on_arrival``: called by another thread when ``arrived``
    has something to do. ``on_progress``: called while the task in progress waits for a server and gets answers.

    A task for an image that a server holds waits until that has been read ahead of time; others are done meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        inputs: np.ndarray,
        *,
        limited: bool = False,
        on_arrival: Callable[[], None] = lambda: None,
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        self.timer = StageTimer()
        self._settings = settings
        self._reader = Reader(settings, self.timer, limited=limited)
        self._painter = None if settings.painting is None else Painter(settings.painting, self.timer)
        shape = settings.slots, *settings.inputs.input_shape
        self._slots = inputs[: settings.slots * settings.inputs.input_bytes].reshape(shape)
        self._waiting: deque[Task] = deque()
        self._asking: dict[int, Task] = {}
        self._admitted: dict[int, int] = {}
        self._ahead: Ahead | None = None
        self._awaited: dict[int, Task] = {}
        self._on_arrival, self._on_progress = on_arrival, on_progress

    def add(self, tasks: Sequence[Task]) -> None:
        """Add tasks behind those that wait."""
        for task in tasks:
            if task.source.is_remote and not (isinstance(task, PaintTask) and self._reader.holds(task.number)):
                self._awaited[task.number] = task
                self._reading_ahead().add(task.number, task.source)
            else:
                self._waiting.append(task)

    def arrived(self, seconds: float = 0.0) -> None:
        """Go on with the tasks whose images have been read; waits so many seconds for one."""
        if self._ahead is not None:
            for number in self._ahead.arrived(seconds):
                task = self._awaited.pop(number, None)
                if task is not None:
                    self._waiting.append(task)

    @property
    def is_waiting(self) -> bool:
        """Whether a server is being read from."""
        return self._ahead is not None and bool(self._ahead)

    def _reading_ahead(self) -> Ahead:
        if self._ahead is None:
            self._reader.allow_more(ADDRESS_SPACE)
            self._ahead = Ahead(self._on_arrival)
            if self._on_progress is not None:
                from camcli.images.remote import store

                store.on_progress.append(self._on_progress)
        return self._ahead

    def admit(self, number: int, size: int) -> None:
        """Image ``number``, which asked, may take ``size`` bytes; its task comes first."""
        if number in self._asking:
            self._admitted[number] = size
            self._waiting.appendleft(self._asking.pop(number))

    def forget(self, numbers: Sequence[int]) -> None:
        """Do not keep the images ``numbers`` any longer, nor do their tasks."""
        dropped = set(numbers)
        for number in numbers:
            self._reader.drop(number)
            self._asking.pop(number, None)
            self._awaited.pop(number, None)
        if self._ahead is not None:
            self._ahead.drop(numbers)
        if any(task.number in dropped for task in self._waiting):
            self._waiting = deque(task for task in self._waiting if task.number not in dropped)

    def close(self) -> None:
        """Close what painting has opened, and read no further ahead."""
        if self._ahead is not None:
            self._ahead.close()
        if self._painter is not None:
            self._painter.close()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def do_next(self) -> PreparedImage | Painted | Failed | Asking:
        """The result of the next task, or that it needs more memory. Raises OutputError."""
        task = self._waiting.popleft()
        admitted = self._admitted.pop(task.number, 0)
        try:
            return self._read(task, admitted) if isinstance(task, ReadTask) else self._paint(task, admitted)
        except NotAdmitted as refused:
            self._asking[task.number] = task
            return Asking(task.number, refused.size, refused.words)

    def _read(self, task: ReadTask, admitted: int) -> PreparedImage | Failed:
        found = self._contents(task, admitted)
        if isinstance(found, Failure):
            return Failed(task.number, found)
        held, prepared = found
        self._slots[task.slot] = prepared
        return PreparedImage(task.number, task.source, held.image.stamp, held.view, task.slot)

    def _contents(self, task: Task, admitted: int, *, hashed: bool = False) -> tuple[Held, np.ndarray] | Failure:
        """The image of ``task``, from what was read ahead of time if it was. Raises NotAdmitted; then it is kept."""
        if self._ahead is None:
            return self._reader.read(task.number, task.source, admitted, hashed=hashed)
        found = self._reader.read(task.number, self._ahead.taken(task.number, task.source), admitted, hashed=hashed)
        self._ahead.drop([task.number])
        return found

    def _paint(self, task: PaintTask, admitted: int) -> Painted | Failed:
        assert self._painter is not None
        held = self._reader.take(task.number) or self._read_again(task, admitted)
        if isinstance(held, Failed):
            return held
        result, size = self._painter.paint(task, held.image.pixels, held.view), held.size
        del held
        give_back(size)
        return result

    def _read_again(self, task: PaintTask, admitted: int) -> Held | Failed:
        """An image whose worker died, or did not keep it because an earlier image needed its memory."""
        found = self._contents(task, admitted, hashed=bool(task.stamp.sha256))
        held = self._reader.take(task.number)
        if isinstance(found, Failure):
            return Failed(task.number, found)
        assert held is not None
        if not _is_same_file(task.stamp, held.image.stamp):
            reason = "the file changed while it was explained; the next run tries again"
            return Failed(task.number, Failure(task.source.image, "read", reason, task.stamp))
        return held


def _is_same_file(earlier: Stamp, now: Stamp) -> bool:
    """Whether a file that was read twice had the same contents. Only one of the stamps may have a SHA-256: a young file has one."""
    if earlier.sha256 and now.sha256:
        return earlier.sha256 == now.sha256
    return (earlier.size, earlier.mtime_ns, earlier.version) == (now.size, now.mtime_ns, now.version)


class _Pulse:
    """Shows the main process that this one goes on: calls ``send``, at most every _SILENCE seconds."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send, self._last = send, time.monotonic()

    def beat(self) -> None:
        """Something goes on. Any thread may call it."""
        if time.monotonic() - self._last > _SILENCE:
            self._last = time.monotonic()
            self._send()


def _listen(inbox: queue.SimpleQueue[Any]) -> None:
    """Put the messages of the main process into ``inbox``. When it has ended, so does this process, whatever it is doing."""
    with contextlib.suppress(OSError):
        for message in channel.messages_from(0):
            inbox.put(message)
    os._exit(0)


def serve(tasks: Tasks, receive: Callable[..., Any], send: Callable[[Any], None]) -> None:
    """Do the tasks that ``receive`` returns, for ever. ``receive(block)`` raises queue.Empty if there is no message."""
    results: list[Any] = []
    first = 0.0
    while True:
        with contextlib.suppress(queue.Empty):
            while True:
                kind, *values = receive(block=not tasks and not results)
                getattr(tasks, kind)(*values)
        if tasks:
            first = first if results else time.monotonic()
            results.append(tasks.do_next())
        if results and (not tasks or len(results) >= _MOST_WAITING or time.monotonic() - first > _LONGEST):
            send((results, tasks.timer.drain()))
            results = []


def _be_killed_first() -> None:
    """Make the system kill this process, and not the main process, when memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # only Linux has it
        file.write("1000")


def _without_core_dumps() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve the process that has started this one."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)  # stderr may be closed, and 2 free
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # C libraries print warnings about damaged files
        os.dup2(nowhere, stream)
    _be_killed_first()
    _without_core_dumps()
    keep_memory()
    cv2.setNumThreads(1)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sending = threading.Lock()

    def send(message: Any) -> None:
        with sending:
            channel.send(out, message)

    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError), pillow_unlimited():
        channel.send(out, READY)
        settings: Settings = inbox.get()
        shared = mmap.mmap(int(sys.argv[1]), 0)
        tasks = Tasks(
            settings,
            np.frombuffer(shared, np.uint8),
            limited=True,
            on_arrival=lambda: inbox.put(("arrived",)),
            on_progress=_Pulse(lambda: send(([], {}))).beat,
        )
        try:
            serve(tasks, inbox.get, send)
        except OutputError as error:
            channel.send(out, Broken(str(error), output=True))
        except BrokenPipeError:
            raise
        except Exception as error:
            channel.send(out, Broken(first_line(error), output=False))
    os._exit(0)


if __name__ == "__main__":
    main()
