"""A worker as the main process sees it: in a process of its own, or in the main process itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from camcli.errors import OutputError, RunError
from camcli.pipeline.channel import Channel
from camcli.pipeline.tasks import Broken, Settings, Task
from camcli.pipeline.worker import IGNORED, READY, Tasks

_PATIENCE = 1.0
"""Seconds that closing waits for a worker to end by itself."""

_LOOK = 0.1
"""Seconds that the main process waits for a server at a time."""


class LocalWorker:
    """Does the tasks in the main process, one at each ``receive``."""

    def __init__(self) -> None:
        self.in_hand: dict[int, Task] = {}
        self.channel: Channel | None = None
        self._tasks: Tasks | None = None

    def begin(self, settings: Settings, inputs: np.ndarray) -> None:
        """Take the settings of the run. ``inputs``: the shared memory, (N,) uint8."""
        self._tasks = Tasks(settings, inputs)

    def send(self, kind: str, *values: Any) -> None:
        """Let it do something: the name of a method of ``Tasks`` and its arguments."""
        getattr(self._tasks, kind)(*values)

    @property
    def is_ready(self) -> bool:
        """Whether it has a task, or one that waits for a server."""
        return self._tasks is not None and (bool(self._tasks) or self._tasks.is_waiting)

    def receive(self) -> list[tuple[list[Any], dict[str, float]]]:
        """The results that are there, each list with the times of its stages."""
        if self._tasks is None:
            return []
        self._tasks.arrived(0.0 if self._tasks else _LOOK)
        if not self._tasks:
            return []
        result = self._tasks.do_next()
        return [([result], self._tasks.timer.drain())]

    def close(self) -> None:
        """Close what it has opened."""
        if self._tasks is not None:
            self._tasks.close()
        self._tasks = None


class WorkerProcess:
    """A worker in a process of its own. ``shared``: file descriptor of the memory for inputs. Raises OSError if it cannot start.

    ``in_hand``: the tasks without a result, by number. ``silent``: seconds that the pool has waited for a result of them.
    """

    def __init__(self, shared: int) -> None:
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        found = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        with _signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "camcli.pipeline.worker", str(shared)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": found},
                pass_fds=(shared,),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.channel = Channel(self._process.stdin.fileno(), self._process.stdout.fileno())
        self.in_hand: dict[int, Task] = {}
        self.silent = 0.0
        self.has_started = False

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def begin(self, settings: Settings, inputs: np.ndarray) -> None:
        """Take the settings of the run. ``inputs``: the shared memory, (N,) uint8."""
        self.channel.send(settings)

    def send(self, kind: str, *values: Any) -> None:
        """Let it do something: the name of a method of ``Tasks`` and its arguments."""
        self.channel.send((kind, *values))

    def receive(self) -> list[tuple[list[Any], dict[str, float]]]:
        """The results that have come, each list with the times of its stages. Raises OutputError and RunError."""
        messages = self.channel.receive()
        if messages:
            self.silent = 0.0
        if READY in messages:
            self.has_started = True
            messages.remove(READY)
        for message in messages:
            if isinstance(message, Broken):
                if message.output:
                    raise OutputError(message.message)
                raise RunError(f"a worker process failed: {message.message}. Try --workers 0, which shows where.")
        return messages

    def kill(self) -> int:
        """End the process at once, if it has not ended. Returns its exit code, negative for a signal."""
        self._process.kill()
        return self._ended()

    def ask_to_end(self) -> None:
        """Close the pipe that the worker reads from, which ends it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self) -> None:
        """Wait until the process has ended, and kill it if it does not end by itself."""
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self.kill()

    def _ended(self) -> int:
        self.ask_to_end()
        code = self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started now never sees the signals that a worker ignores, not even before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


Worker = LocalWorker | WorkerProcess


def shared_file() -> int:
    """A file descriptor of memory that processes share. It has no name, so nothing is left when all of them are killed.

    A name in /dev/shm would be left, and containers often have little space there.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("camcli", getattr(os, "MFD_CLOEXEC", 0))
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def fill_standard_streams() -> None:
    """Open the null device where stdin, stdout or stderr is closed, so that no pipe to a worker gets the number of one of them."""
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(handle, True)
    os.close(handle)


def end_in_words(code: int) -> str:
    """How a process ended, from its exit code, which is negative for a signal."""
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"{signal.Signals(-code).name} (signal {-code})"
    except ValueError:
        return f"signal {-code}"
