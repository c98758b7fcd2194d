"""Findings -> overlays and rows, in threads, in order."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from camcli.errors import ImageError
from camcli.job import Job
from camcli.output.folder import OutputFolder
from camcli.output.names import file_stem
from camcli.pipeline.reading import MOST_BYTES, Prepared, held_bytes
from camcli.records import Explained, Failure, Findings, Heatmap, Outcome, Prediction, Row
from camcli.render import Style, encode_jpeg, paint_overlay
from camcli.stages import Stages


class Painter:
    """Overlays under way: painted, encoded and written by the threads of ``pool``, recorded in the order of the images.

    At most ``most`` images, or MOST_BYTES of them, are under way when ``finished`` returns.
    """

    def __init__(self, pool: ThreadPoolExecutor, job: Job, folder: OutputFolder, stages: Stages, most: int) -> None:
        self._pool, self._job, self._folder, self._stages, self._most = pool, job, folder, stages, most
        self._under_way: deque[tuple[Future[Outcome], int]] = deque()
        self._held = 0
        config, results = job.config, job.results()
        self._style = Style(config.colormap, config.alpha, config.threshold, config.outline, config.quality)
        self._show_layer = len({layer for layer, _ in results}) > 1
        self._show_method = len(config.method) > 1

    def add(self, item: Prepared | Failure, findings: Findings | None) -> None:
        """Begin to paint an image with what was found in it; a failure has nothing to paint."""
        future: Future[Outcome] = Future()
        if isinstance(item, Failure) or findings is None:
            assert isinstance(item, Failure)
            future.set_result(item)
        else:
            future = self._pool.submit(self._paint, item, findings)
        self._under_way.append((future, held_bytes(item)))
        self._held += held_bytes(item)

    def finished(self, *, wait_for_all: bool) -> Iterator[Outcome]:
        """Outcomes in order, each recorded: those that are there, those that there is no room for, or all."""
        while self._under_way:
            future, size = self._under_way[0]
            too_many = len(self._under_way) > self._most or self._held > MOST_BYTES
            if not (wait_for_all or too_many or future.done()):
                return
            with self._stages.wait("overlays"):
                outcome = future.result()
            self._under_way.popleft()
            self._held -= size
            with self._stages.work("write"):
                self._folder.record(outcome)
            yield outcome

    def _paint(self, prepared: Prepared, findings: Findings) -> Outcome:
        source, stamp = prepared.source, prepared.image.stamp
        try:
            with self._folder.in_flight(source.image):
                rows = tuple(self._row(heatmap, findings.best, prepared) for heatmap in findings.heatmaps)
        except ImageError as error:
            return Failure(source.image, error.stage, str(error), stamp)
        return Explained(source.image, stamp, rows)

    def _row(self, heatmap: Heatmap, best: Prediction, prepared: Prepared) -> Row:
        """One map painted and written, and its row."""
        job, view = self._job, prepared.view
        names = [heatmap.layer] * self._show_layer + [heatmap.method] * self._show_method
        stem = file_stem(prepared.source.image, heatmap.prediction, tuple(names))
        overlay = f"overlays/{stem}.jpg" if heatmap.status == "ok" else ""
        if overlay:
            with self._stages.work("render"):
                painted = paint_overlay(prepared.image.pixels, heatmap.values, view.box, view.pixels, self._style)
                data = encode_jpeg(painted, self._style.quality)
            with self._stages.work("write"):
                self._folder.write(overlay, data)
                if job.config.save_maps:
                    buffer = io.BytesIO()
                    np.save(buffer, heatmap.values.astype(np.float32))
                    self._folder.write(f"maps/{stem}.npy", buffer.getvalue())
        seen = view.pixels
        label = None if job.labels is None else job.model.classes[job.labels[prepared.source.image]]
        return Row(
            image=prepared.source.image,
            rank=heatmap.prediction.rank,
            class_index=heatmap.prediction.class_index,
            class_name=heatmap.prediction.class_name,
            logit=heatmap.prediction.logit,
            probability=heatmap.prediction.probability,
            predicted_class=best.class_name,
            predicted_probability=best.probability,
            layer=heatmap.layer,
            method=heatmap.method,
            status=heatmap.status,
            peak=heatmap.peak,
            box_x=seen.x,
            box_y=seen.y,
            box_w=seen.w,
            box_h=seen.h,
            overlay=overlay,
            label=label,
            correct=None if label is None else label == best.class_name,
        )
