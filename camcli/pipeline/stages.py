"""The stages of a run: workers read and prepare images, the network explains batches, workers paint and write, rows are recorded.

There is no state except the sources, the job, the pool of workers and the output folder. Batches and rows have the order of the
sources, so the number of workers never changes the results. The batch size, the number of workers and the memory of the decoded
images limit the images in progress.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from camcli.cam import METHODS
from camcli.layout import overlay_file
from camcli.network.threads import torch_threads
from camcli.output.contributions import packable
from camcli.output.files import files_of
from camcli.output.names import file_stem
from camcli.output.packed import pack_arrays
from camcli.output.writing import RunWriter
from camcli.pipeline.batches import Batch, Batches, ListedSources, Sources
from camcli.pipeline.engine import Engine, Part
from camcli.pipeline.findings import BatchFindings
from camcli.pipeline.job import Job
from camcli.pipeline.painting import wants_overlays
from camcli.pipeline.pool import Pool, count_workers
from camcli.pipeline.stopping import Stopped, Watch
from camcli.pipeline.tasks import Failed, InputSettings, Painted, PaintSettings, PaintTask, PreparedImage, Settings
from camcli.records import Failure, Findings, Outcome, Stamp, Success
from camcli.source import Source
from camcli.timing import StageTimer

_LONGEST_WAIT = 0.5
"""Seconds between two looks at the signal to stop."""


def explain_images(
    sources: Sequence[Source] | Sources,
    job: Job,
    writer: RunWriter,
    pool: Pool,
    stop: threading.Event | None = None,
    timer: StageTimer | None = None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Explain ``sources`` and yield an outcome for each, in order, after its files and rows are written.

    An image that cannot be explained yields a Failure. After ``stop`` is set, no further batch begins; the batch in the network
    is dropped if it takes longer than a second. ``timer`` receives the time of each stage. ``on_pass`` is called with the number
    of each forward pass of a batch. Raises RunError if the run cannot go on.
    """
    with torch_threads(job.config.threads):
        given = ListedSources(sources) if isinstance(sources, Sequence) else sources
        yield from _Run(given, job, writer, pool, stop or threading.Event(), timer or StageTimer(), on_pass).outcomes()


class _Run:
    """The images in progress. ``_stamps``: of the images that are being painted, by number; ``_packed``: what goes into
    the binary tables, raw maps and contributions. It need not travel to a worker and back.
    """

    def __init__(
        self,
        sources: Sources,
        job: Job,
        writer: RunWriter,
        pool: Pool,
        stop: threading.Event,
        timer: StageTimer,
        on_pass: Callable[[int], None],
    ) -> None:
        self._job, self._writer, self._pool, self._stop, self._timer = job, writer, pool, stop, timer
        self._watch = Watch(stop, on_pass)
        self._engine = Engine(job, self._watch.before_pass)
        self._in_network: deque[tuple[Batch, list[Part]]] = deque()
        self._depth = 1 if job.device.type == "cuda" else 0  # batches in progress on the device while the host works
        ahead = job.batch_size + pool.count
        painting = PaintSettings(job.config, job.names, writer.root, labelled=job.labels is not None)
        pool.begin(Settings(job.inputs, painting, 0, slots=job.batch_size + ahead), timer)
        self._batches = Batches(pool, sources, _images_at_once(job), window=job.batch_size + 2 * ahead)
        self._stamps: dict[int, Stamp] = {}
        self._packed: dict[int, tuple[bytes, ...]] = {}
        self._done: dict[int, Outcome] = {}
        self._begun = self._recorded = 0  # how many images, from the first on
        self._show_layer = len({layer for layer, _ in job.names.results}) > 1
        self._show_method = len(job.config.method) > 1

    def outcomes(self) -> Iterator[Outcome]:
        """Explain all images. Yields their outcomes in order."""
        cut = False
        while True:
            if self._stop.is_set():
                self._pool.cancel_reading()
                batch = None
            else:
                self._batches.order(self._recorded)
                batch = self._batches.next(cut=cut)
            cut = False
            if batch is not None:
                if not self._begin(batch):
                    continue
                if len(self._in_network) > self._depth:
                    self._paint(*self._in_network.popleft())
            elif self._in_network:
                self._paint(*self._in_network.popleft())
            elif self._is_over():
                break
            elif self._pool.is_stuck and not self._batches.has_begun:
                self._pool.make_room()
            elif self._pool.is_stuck or (self._pool.is_idle and self._batches.awaited is None):
                cut = True
                continue
            self._receive(wait=batch is None)
            yield from self._record()

    def _is_over(self) -> bool:
        """Whether all images that have begun are recorded, and no other will begin."""
        return self._recorded == self._begun and (self._stop.is_set() or self._batches.has_ended)

    def _begin(self, batch: Batch) -> bool:
        """Begin to explain a batch. Returns False if it is dropped because the run is stopped."""
        self._watch.begin_batch()
        images = [item for item in batch if isinstance(item, PreparedImage)]
        labels = None if self._job.labels is None else [self._job.labels.get(image.source.image) for image in images]
        inputs = [self._pool.inputs[image.slot] for image in images]
        try:
            with self._timer.work("network"):
                parts = self._engine.explain(inputs, labels, [image.source.image for image in images]) if images else []
        except Stopped:
            return False
        self._batches.free(images)
        self._begun += len(batch)
        self._in_network.append((batch, parts))
        return True

    def _paint(self, batch: Batch, parts: list[Part]) -> None:
        """Have the results of a batch painted, when the network has them."""
        with self._timer.work("network"):
            findings = self._engine.collect(parts)
        sent = replace(findings, contributions=()) if findings is not None else None  # one object: it is pickled once
        tasks: list[PaintTask] = []
        expected: list[tuple[str, list[str]]] = []
        position = 0
        for item in batch:
            if isinstance(item, Failed):
                self._done[item.number] = item.failure
                continue
            assert findings is not None
            assert sent is not None
            tasks.append(self._paint_task(item, findings, sent, position))
            expected.append((item.source.image, self._files(tasks[-1])))
            position += 1
        with self._timer.work("record"):
            self._writer.expect(expected)
        self._pool.paint(tasks)

    def _paint_task(self, image: PreparedImage, findings: BatchFindings, sent: BatchFindings, position: int) -> PaintTask:
        name = image.source.image
        self._stamps[image.number] = image.stamp
        label = None if self._job.labels is None else self._job.labels.get(name)
        own = findings.of(position, self._job.names)
        self._packed[image.number] = self._arrays(own, findings, position)
        painted = wants_overlays(self._job.config, own, None if label is None else self._job.names.classes[label])
        return PaintTask(image.number, image.source, image.stamp, self._stems(name, own), painted, label, sent, position)

    def _arrays(self, own: Findings, findings: BatchFindings, position: int) -> tuple[bytes, ...]:
        """What is appended to each binary table of the run for the image at ``position`` of a batch, in their order."""
        config, tables = self._job.config, []
        if config.save_maps and config.maps_format == "parquet":
            tables.append(pack_arrays(_maps(own)))
        if config.save_contributions:
            tables.append(pack_arrays(packable(findings.contributions_of(position))))
        return tuple(tables)

    def _stems(self, image: str, findings: Findings) -> tuple[str, ...]:
        """The names of the files of each map of an image; empty for a map that is not ``ok``."""
        return tuple(
            file_stem(
                image,
                heatmap.prediction,
                tuple([heatmap.layer] * self._show_layer + [heatmap.method] * self._show_method),
                folding=self._writer.folds_case,
            )
            if heatmap.status == "ok"
            else ""
            for heatmap in findings.heatmaps
        )

    def _files(self, task: PaintTask) -> list[str]:
        config = self._job.config
        settings = {"save-maps": config.save_maps, "maps-format": config.maps_format, "masks": config.masks}
        overlays = [overlay_file(stem, config.image_format) if task.has_overlays else "" for stem in task.stems]
        return [
            file for stem, overlay in zip(task.stems, overlays, strict=True) if stem for file in files_of(stem, overlay, settings)
        ]

    def _receive(self, *, wait: bool) -> None:
        """Handle the results of the workers; with ``wait``, wait for one."""
        timeout = 0.0
        if wait and self._recorded not in self._done:
            timeout = max(0.0, min(_LONGEST_WAIT, self._batches.patience()))
        what = "overlays" if self._recorded < self._begun else "images"
        with self._timer.wait(what):
            results = self._pool.wait(timeout, self._batches.awaited)
        for result in results:
            if isinstance(result, Painted):
                image = self._batches.sources_of[result.number].image
                stamp = self._stamps.pop(result.number)
                self._done[result.number] = Success(
                    image, stamp, result.rows, result.checksums, result.lines, self._packed.pop(result.number, ())
                )
            elif isinstance(result, Failed) and result.number in self._stamps:
                del self._stamps[result.number]
                self._packed.pop(result.number, None)
                self._done[result.number] = result.failure
            else:
                self._batches.add(result)

    def _record(self) -> Iterator[Outcome]:
        """Record the outcomes that are next in order, and yield them."""
        outcomes: list[Outcome] = []
        while self._recorded in self._done:
            outcomes.append(self._done.pop(self._recorded))
            del self._batches.sources_of[self._recorded]
            self._recorded += 1
        if outcomes:
            with self._timer.work("record"):
                self._writer.record(outcomes)
            yield from outcomes


def _maps(findings: Findings) -> Iterator[tuple[int, np.ndarray]]:
    """The raw maps of an image that are ``ok``, each with the number of its row."""
    for number, heatmap in enumerate(findings.heatmaps):
        if heatmap.status == "ok":
            yield number, heatmap.values.astype(np.float32, copy=False)


def _images_at_once(job: Job) -> int:
    """The number of images in a batch: 1 for methods with many passes an image, so that each image is recorded when it is done."""
    return 1 if any(METHODS[name].one_by_one for name in job.config.method) else job.batch_size


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image as ``input`` (h, w, 3) uint8 of a network. ``stamp``: of its file."""

    source: Source
    stamp: Stamp
    input: np.ndarray


def prepared_batches(
    sources: Sequence[Source], settings: InputSettings, batch_size: int, stop: threading.Event | None = None
) -> Iterator[list[InputImage | Failure]]:
    """Read and prepare ``sources`` in workers and yield them in order, in batches of ``batch_size``; failures keep their place.

    After ``stop`` is set, no batch follows.
    """
    with Pool(count_workers(None, len(sources))) as pool:
        ahead = batch_size + pool.count
        pool.begin(Settings(settings, None, 0, slots=batch_size + ahead), StageTimer())
        batches, recorded = Batches(pool, ListedSources(sources), batch_size, window=batch_size + ahead), 0
        while not (batches.has_ended or (stop is not None and stop.is_set())):
            batches.order(recorded)
            batch = batches.next(cut=pool.is_idle or (pool.is_stuck and batches.has_begun))
            if batch is None:
                if pool.is_stuck:
                    pool.make_room()
                for result in pool.wait(_LONGEST_WAIT):
                    assert not isinstance(result, Painted)
                    batches.add(result)
                continue
            recorded += len(batch)
            images = [item for item in batch if isinstance(item, PreparedImage)]
            ready = [
                item.failure if isinstance(item, Failed) else InputImage(item.source, item.stamp, pool.inputs[item.slot].copy())
                for item in batch
            ]
            batches.free(images)
            yield ready
