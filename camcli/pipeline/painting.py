"""Painting and writing overlays in threads, and recording rows in the order of the images."""

from __future__ import annotations

import io
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np

from camcli.errors import ImageError
from camcli.images.decode import NOT_ENOUGH
from camcli.layout import map_file, mask_file, overlay_file
from camcli.output.names import file_stem
from camcli.output.writing import RunWriter
from camcli.pipeline.admission import Ticket
from camcli.pipeline.job import Job
from camcli.pipeline.reading import MOST_BYTES, PreparedImage, held_bytes
from camcli.records import Box, Boxes, Checksum, Failure, Findings, Heatmap, Outcome, Prediction, Row, Success
from camcli.render.caption import caption_of
from camcli.render.encode import encode_image
from camcli.render.maps import place_map, scale_map
from camcli.render.regions import find_boxes, segment
from camcli.render.styles import Canvas, Notes, overlay_bytes, resize_to_fit, style_of
from camcli.timing import StageTimer


class OverlayWriter:
    """Paints, encodes and writes overlays in the threads of ``pool``, and records the images in their order.

    When ``finished`` ends, at most ``most`` images, with at most MOST_BYTES, are in progress.
    """

    def __init__(self, pool: ThreadPoolExecutor, job: Job, writer: RunWriter, timer: StageTimer, most: int) -> None:
        self._pool, self._job, self._writer, self._timer, self._most = pool, job, writer, timer, most
        self._in_progress: deque[tuple[Future[Outcome], int, Ticket | None]] = deque()
        self._held = 0
        self._style = style_of(job.config.as_dict())
        self._show_layer = len({layer for layer, _ in job.results()}) > 1
        self._show_method = len(job.config.method) > 1

    def add(self, item: PreparedImage | Failure, findings: Findings | None) -> None:
        """Begin to paint the ``findings`` of an image. A failure has no findings and is only recorded."""
        future: Future[Outcome] = Future()
        if isinstance(item, Failure) or findings is None:
            assert isinstance(item, Failure)
            future.set_result(item)
        else:
            future = self._pool.submit(self._paint, item, findings)
        self._in_progress.append((future, held_bytes(item), item.ticket if isinstance(item, PreparedImage) else None))
        self._held += held_bytes(item)

    def finished(self, *, wait_for_all: bool) -> Iterator[Outcome]:
        """Record outcomes in order and yield them: those that are ready and those beyond the limits, or all."""
        while self._in_progress:
            future, size, ticket = self._in_progress[0]
            too_many = len(self._in_progress) > self._most or self._held > MOST_BYTES
            if not (wait_for_all or too_many or future.done()):
                return
            with self._timer.wait("overlays"):
                outcome = future.result()
            self._in_progress.popleft()
            self._held -= size
            with self._timer.work("record"):
                self._writer.record(outcome)
            if ticket is not None:
                ticket.release()
            yield outcome

    def _paint(self, prepared: PreparedImage, findings: Findings) -> Outcome:
        source, stamp = prepared.source, prepared.image.stamp
        try:
            with self._writer.mark_in_flight(source.image):
                canvas = resize_to_fit(prepared.image.pixels, self._job.config.max_side)
                painted = [self._row(heatmap, findings.best, prepared, canvas) for heatmap in findings.heatmaps]
        except ImageError as error:
            return Failure(source.image, error.stage, str(error), stamp)
        except (MemoryError, cv2.error) as error:
            if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
                raise
            return Failure(source.image, "memory", NOT_ENOUGH)
        rows, checksums = zip(*painted, strict=True) if painted else ((), ())
        return Success(source.image, stamp, rows, tuple(itertools.chain.from_iterable(checksums)))

    def _write_files(
        self, heatmap: Heatmap, prepared: PreparedImage, canvas: Canvas, stem: str
    ) -> tuple[tuple[Box, ...], tuple[Checksum, ...]]:
        """Write the overlay, and the raw map and mask if the config asks for them. Returns boxes and checksums."""
        config, view, image = self._job.config, prepared.view, prepared.image.pixels
        files: dict[str, bytes] = {}  # in the order of ``output.files.files_of``
        mask = b""
        boxes: list[Box] = []
        with self._timer.work("render"):
            if config.boxes or config.masks:
                placed = place_map(scale_map(heatmap.values), view.box, view.pixels, (view.pixels.w, view.pixels.h))
                if config.boxes:
                    boxes = find_boxes(placed, view.pixels, config.box_threshold)[: 1 if config.boxes == "largest" else None]
                if config.masks:
                    region = segment(image, placed, view.pixels, config.mask_method, config.mask_threshold)
                    mask = encode_image(region, "png", config.quality)
            notes = Notes(tuple(boxes), caption_of(heatmap))
            overlay = overlay_bytes(canvas, heatmap.values, view.box, view.pixels, self._style, notes)
            files[overlay_file(stem, config.image_format)] = overlay
        if config.save_maps:
            buffer = io.BytesIO()
            np.save(buffer, heatmap.values.astype(np.float32))
            files[map_file(overlay_file(stem, config.image_format))] = buffer.getvalue()
        if config.masks:
            files[mask_file(overlay_file(stem, config.image_format))] = mask
        with self._timer.work("write"):
            checksums = self._writer.write_files(prepared.source.image, files)
        return tuple(boxes), checksums

    def _row(self, heatmap: Heatmap, best: Prediction, prepared: PreparedImage, canvas: Canvas) -> tuple[Row, tuple[Checksum, ...]]:
        """Paint and write one map. Returns its row and the checksums of its files."""
        job = self._job
        names = [heatmap.layer] * self._show_layer + [heatmap.method] * self._show_method
        stem = file_stem(prepared.source.image, heatmap.prediction, tuple(names), folding=self._writer.folds_case)
        overlay, boxes, checksums = "", tuple[Box, ...](), tuple[Checksum, ...]()
        if heatmap.status == "ok":
            overlay = overlay_file(stem, job.config.image_format)
            boxes, checksums = self._write_files(heatmap, prepared, canvas, stem)
        height, width = prepared.image.pixels.shape[:2]
        seen = prepared.view.pixels
        true = None if job.labels is None else job.labels.get(prepared.source.image)
        label = None if job.labels is None else "" if true is None else job.model.classes[true]
        row = Row(
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
            correct=None if true is None else label == best.class_name,
            boxes=Boxes(boxes, width, height) if job.config.boxes else None,
        )
        return row, checksums
