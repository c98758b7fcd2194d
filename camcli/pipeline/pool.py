"""The workers of a run: processes that read images and paint overlays, and what happens when one dies.

A worker may die because a decoder crashes on a damaged file, or because the system kills it when memory runs out. It is replaced.
What it had in hand is done again, each image alone in a fresh process. An image that ends that process too has failed; no other
image is blamed. With 0 workers everything is done in the main process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np

from camcli.errors import RunError
from camcli.images.threads import single_threaded_opencv
from camcli.pipeline.memory import Memory
from camcli.pipeline.processes import LocalWorker, Worker, WorkerProcess, end_in_words, fill_standard_streams, shared_file
from camcli.pipeline.tasks import Asking, Failed, PaintTask, PreparedImage, ReadTask, Result, Settings, Task
from camcli.records import Failure
from camcli.resources import available_cores, available_memory
from camcli.timing import StageTimer

LONGEST_TASK = 120.0
"""Seconds after which a worker that has returned nothing is taken for hanging. The largest images take about ten seconds."""

_LONGEST_START = 60.0
"""The same for a worker that is not ready yet, if that is more: a busy machine with a slow disk takes seconds."""

_TRIES = 2
"""How often a process that works on one image alone must die before the image has failed: one death may be chance."""

_CHUNK = 4
"""Number of images in a message that orders their reading."""

_MOST_FAILED_STARTS, _MOST_LATER = 3, 10
"""How many workers may die in a row before they are ready: at the beginning of a run, and after others were ready."""


@dataclass
class _Suspects:
    """The images that a dead worker had in hand. ``waiting``: their tasks, each for a process of its own; ``deaths``: in it."""

    waiting: deque[Task] = field(default_factory=deque)
    images: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)
    process: WorkerProcess | None = None


class Pool:
    """Starts ``count`` workers at once; ``begin`` gives them their settings. A context manager: all have ended at its end.

    An image has a number. ``read`` and ``paint`` order work on images, ``wait`` returns results. An image that was read is kept by
    its worker until it is painted or forgotten. ``inputs``: slots (N, h, w, 3) uint8 that contain the network's inputs.
    """

    def __init__(self, count: int) -> None:
        fill_standard_streams()
        self.count = count
        self.inputs = np.empty((0, 0, 0, 3), np.uint8)
        self._shared = shared_file() if count else -1
        self._settings: Settings | None = None
        self._memory = Memory(count)
        self._timer = StageTimer()
        self._workers: list[Worker] = []
        self._holders: dict[int, Worker] = {}
        self._asking: dict[int, tuple[Worker, Asking]] = {}
        self._suspects = _Suspects()
        self._failed_starts = 0
        self._has_started = False
        self._results: list[Result] = []
        self._last_wait = time.monotonic()
        self._stack = contextlib.ExitStack()
        try:
            for _ in range(count):
                self._start()
            if not self._workers:
                self._stack.enter_context(single_threaded_opencv())
                self._workers.append(LocalWorker())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process numbers of the workers."""
        every = [*self._workers, self._suspects.process]
        return [worker.pid for worker in every if isinstance(worker, WorkerProcess)]

    def wait_until_ready(self) -> None:
        """Wait until all workers have started."""
        while not all(worker.has_started for worker in self._workers if isinstance(worker, WorkerProcess)):
            self.wait(0.1)

    def begin(self, settings: Settings, timer: StageTimer) -> None:
        """Give the workers the settings of the run. ``settings.allowance`` is replaced. ``timer``: receives their times."""
        self._timer = timer
        self._settings = replace(settings, allowance=self._memory.allowance)
        size = max(1, settings.slots * settings.inputs.input_bytes)
        memory: Any = bytearray()
        if self._shared >= 0:
            try:
                os.ftruncate(self._shared, size)
                memory = mmap.mmap(self._shared, size)
            except OSError:  # a limit on the size of files (ulimit -f) is one on shared memory too
                self._do_without_processes()
        memory = memory or bytearray(size)
        self._memory_view = np.frombuffer(memory, np.uint8)
        used = self._memory_view[: settings.slots * settings.inputs.input_bytes]
        self.inputs = used.reshape(settings.slots, *settings.inputs.input_shape)
        for worker in self._workers:
            worker.begin(self._settings, self._memory_view)

    def read(self, tasks: Sequence[ReadTask]) -> None:
        """Read images, in this order in each worker."""
        for start in range(0, len(tasks), _CHUNK):
            worker = min(self._workers, key=lambda worker: len(worker.in_hand))
            self._order(worker, tasks[start : start + _CHUNK])

    def paint(self, tasks: Sequence[PaintTask]) -> None:
        """Paint images, each by the worker that has read it."""
        parts: dict[int, tuple[Worker, list[PaintTask]]] = {}
        for task in tasks:
            if task.number in self._suspects.images:
                self._suspects.waiting.append(task)
                continue
            worker = self._holders.pop(task.number, None) or min(self._workers, key=lambda worker: len(worker.in_hand))
            parts.setdefault(id(worker), (worker, []))[1].append(task)
        for worker, part in parts.values():
            self._order(worker, part)

    def forget(self, numbers: Sequence[int]) -> None:
        """Do not keep images that will not be painted."""
        parts: dict[int, tuple[Worker, list[int]]] = {}
        for number in numbers:
            worker = self._holders.pop(number, None)
            self._memory.release(number)
            if worker is not None:
                parts.setdefault(id(worker), (worker, []))[1].append(number)
        for worker, part in parts.values():
            worker.send("forget", part)

    def cancel_reading(self) -> None:
        """Read no more of the images that were ordered. Those that are being read may still come."""
        reads = [number for number, (worker, _) in self._asking.items() if isinstance(worker.in_hand[number], ReadTask)]
        for number in reads:
            del self._asking[number]
        for worker in self._everyone():
            numbers = [task.number for task in worker.in_hand.values() if isinstance(task, ReadTask)]
            if numbers:
                worker.send("forget", numbers)
            for number in numbers:
                del worker.in_hand[number]
        waiting = self._suspects.waiting
        self._suspects.waiting = deque(task for task in waiting if isinstance(task, PaintTask))

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to wait for."""
        return not (self._results or self._suspects.waiting or any(worker.in_hand for worker in self._everyone()))

    @property
    def is_stuck(self) -> bool:
        """Whether every image in hand waits for memory, so that waiting alone gets nowhere."""
        in_hand = sum(len(worker.in_hand) for worker in self._everyone())
        return bool(self._asking) and in_hand == len(self._asking) and not (self._results or self._suspects.waiting)

    def make_room(self) -> None:
        """When stuck: give the first image that waits all memory. Later images are not kept; they are read again to be painted."""
        number = min(self._asking)
        self.forget([held for held in self._holders if held > number])
        worker, asking = self._asking[number]
        if self._memory.has_room(asking.size, alone=True):
            self._admit(number)
            return
        del self._asking[number]
        task = worker.in_hand.pop(number)
        worker.send("forget", [number])
        self._results.append(Failed(number, Failure(task.source.image, "memory", asking.words)))

    def wait(self, timeout: float, also: int | None = None) -> list[Result]:
        """The results that have come; waits at most ``timeout`` seconds for one. Raises OutputError and RunError.

        ``also``: returns early too when this file descriptor can be read.
        """
        self._give_memory()
        self._try_suspects()
        local = any(isinstance(worker, LocalWorker) and worker.is_ready for worker in self._workers)
        self._poll(0.0 if local or self._results else timeout, also)
        now = time.monotonic()
        waited, self._last_wait = min(1.0, now - self._last_wait), now
        for worker in self._everyone():
            for results, times in worker.receive():
                self._timer.add_all(times)
                for result in results:
                    self._handle(worker, result)
            if isinstance(worker, WorkerProcess):
                self._check(worker, waited)
        found, self._results = self._results, []
        return found

    def close(self) -> None:
        """End all workers."""
        everyone = self._everyone()
        for worker in everyone:
            if isinstance(worker, WorkerProcess):
                worker.ask_to_end()
        for worker in everyone:
            worker.close()
        self._workers, self._suspects.process = [], None
        self._stack.close()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def _do_without_processes(self) -> None:
        """Let the main process do everything. Nothing has been ordered yet."""
        for worker in self._workers:
            worker.close()
        self._workers = [LocalWorker()]

    def _everyone(self) -> list[Worker]:
        process = self._suspects.process
        return self._workers + ([] if process is None else [process])

    def _start(self) -> None:
        """Start a worker. If the system allows no more processes, there are fewer of them, or at last the main process works."""
        try:
            worker: Worker = WorkerProcess(self._shared)
        except OSError:
            if self._workers:
                return
            worker = LocalWorker()
        self._workers.append(worker)
        if self._settings is not None:
            worker.begin(self._settings, self._memory_view)

    def _order(self, worker: Worker, tasks: Sequence[Task]) -> None:
        for task in tasks:
            worker.in_hand[task.number] = task
        worker.send("add", tasks)

    def _handle(self, worker: Worker, result: Any) -> None:
        if isinstance(result, Asking):
            if result.number in worker.in_hand:  # otherwise it was cancelled a moment ago
                self._asking[result.number] = (worker, result)
            return
        worker.in_hand.pop(result.number, None)
        if isinstance(result, PreparedImage):
            alone = worker is self._suspects.process
            keep = self._settings is not None and self._settings.painting is not None and not alone
            if keep:
                self._holders[result.number] = worker
            else:
                self._memory.release(result.number)
            if alone:  # nothing else is in its hand while another image is tried
                worker.send("forget", [result.number])
        else:
            self._memory.release(result.number)
            self._suspects.images.discard(result.number)
        self._results.append(result)

    def _give_memory(self) -> None:
        """Admit the images that wait for memory, in order, as far as there is memory."""
        for number in sorted(self._asking):
            if not self._memory.has_room(self._asking[number][1].size, alone=False):
                return
            self._admit(number)

    def _admit(self, number: int) -> None:
        worker, asking = self._asking.pop(number)
        self._memory.grant(number, asking.size)
        worker.send("admit", number, asking.size)

    def _poll(self, timeout: float, also: int | None) -> None:
        poll = select.poll()
        for worker in self._everyone():
            if worker.channel is not None:
                poll.register(worker.channel.receiving, select.POLLIN)
                if worker.channel.is_full:
                    poll.register(worker.channel.sending, select.POLLOUT)
        if also is not None:
            poll.register(also, select.POLLIN)
        poll.poll(1000 * timeout)
        for worker in self._everyone():
            if worker.channel is not None and worker.channel.is_full:
                worker.channel.flush()

    def _check(self, worker: WorkerProcess, waited: float) -> None:
        """Replace ``worker`` if it has died, or hangs."""
        worker.silent = worker.silent + waited if worker.in_hand.keys() - self._asking.keys() else 0.0
        longest = LONGEST_TASK if worker.has_started else max(LONGEST_TASK, _LONGEST_START)
        if not worker.channel.ended and worker.silent <= longest:
            return
        hangs = not worker.channel.ended
        code = worker.kill()
        self._has_started = self._has_started or any(one.has_started for one in self._everyone() if isinstance(one, WorkerProcess))
        self._failed_starts = 0 if worker.has_started else self._failed_starts + 1
        if self._failed_starts >= (_MOST_LATER if self._has_started else _MOST_FAILED_STARTS):
            raise RunError(f"the worker processes end before they are ready, with exit code {code}. Try --workers 0.")
        for number in [number for number, (asker, _) in self._asking.items() if asker is worker]:
            del self._asking[number]
        tasks = list(worker.in_hand.values())
        for task in tasks:
            self._memory.release(task.number)
        if worker is self._suspects.process:
            self._suspects.process = None
            if not worker.has_started:  # so the image is not the reason
                self._suspects.waiting.extendleft(tasks)
                return
            self._died_alone(tasks, f"it did not end within {LONGEST_TASK:.0f} seconds" if hangs else end_in_words(code), code)
            return
        held = [number for number, holder in self._holders.items() if holder is worker]
        for number in held:
            del self._holders[number]
            self._memory.release(number)
        self._suspects.images.update(held, (task.number for task in tasks))
        self._suspects.waiting.extend(sorted(tasks, key=lambda task: task.number))
        self._workers.remove(worker)
        self._start()

    def _died_alone(self, tasks: Sequence[Task], how: str, code: int) -> None:
        """Try the image again that was the only one in the hand of a dead worker, or give it up."""
        for task in tasks:
            self._suspects.deaths[task.number] += 1
            if self._suspects.deaths[task.number] < _TRIES:
                self._suspects.waiting.appendleft(task)
                continue
            self._suspects.images.discard(task.number)
            stamp = task.source.stamp()
            failure = Failure(task.source.image, "crashed", f"a process that works on this image alone dies: {how}", stamp)
            if code == -signal.SIGKILL and "seconds" not in how:  # no file sends that signal, but the system does
                failure = Failure(task.source.image, "memory", "the system ended the process that worked on this image alone")
            self._results.append(Failed(task.number, failure))

    def _try_suspects(self) -> None:
        """Give the process for suspects its next task when it has none; end it when there are no more."""
        suspects = self._suspects
        if suspects.process is not None and suspects.process.in_hand:
            return
        if not suspects.waiting:
            if suspects.process is not None:
                suspects.process.close()
                suspects.process = None
            return
        assert self._settings is not None
        if suspects.process is None:
            try:
                suspects.process = WorkerProcess(self._shared)
            except OSError as error:
                raise RunError(f"cannot start another process: {error.strerror}. Try --workers 0.") from error
            suspects.process.begin(self._settings, self._memory_view)
        self._order(suspects.process, [suspects.waiting.popleft()])


_FOR_NETWORK, _FOR_WORKER = 1 << 30, 256 << 20
"""Memory in bytes that the main process needs with PyTorch and a network, and a worker with its libraries and an image."""


def count_workers(wanted: int | None, images: int | None) -> int:
    """How many workers to start for ``images`` images; None for a number that is not known yet.

    ``wanted``: the number that the user asks for; None for the cores that this process may use, or fewer if memory is scarce.
    """
    count = wanted
    if count is None:
        count = min(available_cores(), max(0, available_memory() - _FOR_NETWORK) // _FOR_WORKER)
    return count if images is None else min(count, images)
