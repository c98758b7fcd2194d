"""The stages of a run: read and prepare in threads, explain in batches, render and write in threads, record rows in order.

There is no state except the sources, the job and the output folder. Threads return futures in the order of the sources, so the
number of threads never changes the results. The batch size, the number of workers and the bytes of decoded images limit the
images in progress.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from camcli.cam import METHODS
from camcli.images.threads import single_threaded_opencv
from camcli.network.threads import torch_threads
from camcli.output.writing import RunWriter
from camcli.pipeline.engine import Engine, Part
from camcli.pipeline.job import Job
from camcli.pipeline.painting import OverlayWriter
from camcli.pipeline.reading import InputSettings, PreparedImage, batches, read_ahead
from camcli.pipeline.stopping import Stopped, Watch
from camcli.records import Failure, Outcome, Source
from camcli.resources import available_cores
from camcli.timing import StageTimer

_Batch = tuple[list[PreparedImage | Failure], list[Part]]
"""Images and failures in order, and the results of the network for the images."""


def explain_images(
    sources: Sequence[Source],
    job: Job,
    writer: RunWriter,
    stop: threading.Event | None = None,
    timer: StageTimer | None = None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Explain ``sources`` and yield an outcome for each, in order, after its files and rows are written.

    An image that cannot be explained yields a Failure. After ``stop`` is set, no further batch begins; the batch in the network
    is dropped if it takes longer than a second. ``timer`` receives the time of each stage. ``on_pass`` is called with the number
    of each forward pass of a batch. Raises RunError if the run cannot go on.
    """
    timer, stop = timer or StageTimer(), stop or threading.Event()
    watch = Watch(stop, on_pass)
    workers = job.config.workers or available_cores()
    engine, in_flight = Engine(job, watch.before_pass), deque[_Batch]()
    depth = 1 if job.device.type == "cuda" else 0  # batches in progress on the device while the host works
    with _threads(workers, job.config.threads) as (readers, writers), ExitStack() as stack:
        painter = OverlayWriter(writers, job, writer, timer, job.batch_size + workers)
        prepared = read_ahead(readers, sources, job.inputs, timer, job.batch_size + workers, writer.mark_in_flight)
        stack.callback(prepared.close)
        for batch in batches(prepared, _images_at_once(job), stop):
            watch.begin_batch()
            try:
                if batch:
                    in_flight.append((batch, _begin(batch, engine, job, timer)))
            except Stopped:
                break
            must_wait = not batch  # the next image waits for the memory of those in progress
            del batch  # release its memory
            while len(in_flight) > (0 if must_wait else depth):
                yield from _paint(*in_flight.popleft(), engine, painter, timer)
            if must_wait:
                yield from painter.finished(wait_for_all=True)
            if stop.is_set():
                break
        while in_flight:
            yield from _paint(*in_flight.popleft(), engine, painter, timer)
        yield from painter.finished(wait_for_all=True)


def _images_at_once(job: Job) -> int:
    """The number of images in a batch: 1 for methods with many passes an image, so that each image is recorded when it is done."""
    return 1 if any(METHODS[name].one_by_one for name in job.config.method) else job.batch_size


def prepared_batches(
    sources: Sequence[Source], settings: InputSettings, batch_size: int, stop: threading.Event | None = None
) -> Iterator[list[PreparedImage | Failure]]:
    """Read and prepare ``sources`` in threads and yield them in order, in batches of ``batch_size``; failures keep their place.

    The items have no decoded pixels. The network may use all cores between two batches. After ``stop`` is set, no batch follows.
    """
    with _threads(settings.threads, None) as (readers, _), ExitStack() as stack:
        prepared = read_ahead(readers, sources, settings, StageTimer(), batch_size + settings.threads)
        stack.callback(prepared.close)
        for batch in batches(prepared, batch_size, stop):
            ready = [item if isinstance(item, Failure) else item.without_pixels() for item in batch]
            del batch  # release its memory
            if ready:
                yield ready
            if stop is not None and stop.is_set():
                return


@contextmanager
def _threads(workers: int, threads: int | None) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Context manager: a pool of threads that read and one of threads that write, ``workers`` each.

    The network gets ``threads`` threads, None for all cores. The numbers of threads of torch and OpenCV are restored at the end.
    """
    readers, writers = ThreadPoolExecutor(workers, "read"), ThreadPoolExecutor(workers, "write")
    with torch_threads(threads), single_threaded_opencv():
        try:
            yield readers, writers
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)


def _begin(batch: list[PreparedImage | Failure], engine: Engine, job: Job, timer: StageTimer) -> list[Part]:
    images = [item for item in batch if isinstance(item, PreparedImage)]
    if not images:
        return []
    labels = None if job.labels is None else [job.labels.get(image.source.image) for image in images]
    with timer.work("network"):
        return engine.explain([image.input for image in images], labels)


def _paint(
    batch: list[PreparedImage | Failure], parts: list[Part], engine: Engine, painter: OverlayWriter, timer: StageTimer
) -> Iterator[Outcome]:
    with timer.work("network"):
        findings = iter(engine.collect(parts))
    for item in batch:
        painter.add(item, None if isinstance(item, Failure) else next(findings))
    yield from painter.finished(wait_for_all=False)
