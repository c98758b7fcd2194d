"""Painting and writing the overlays of an image, and making its rows. Knows no torch."""

from __future__ import annotations

import io
import itertools

import cv2
import numpy as np

from camcli.config.run import RunConfig
from camcli.errors import ImageError
from camcli.images.decode import NOT_ENOUGH
from camcli.images.geometry import InputWindow
from camcli.layout import map_file, mask_file, overlay_file
from camcli.output.writers import cell_text, prediction_line
from camcli.pipeline.tasks import Failed, Painted, PaintSettings, PaintTask
from camcli.records import Box, Boxes, Checksum, Failure, Findings, Heatmap, Prediction, Row, checksum_of
from camcli.render.caption import caption_of
from camcli.render.encode import encode_image
from camcli.render.maps import place_map, scale_map
from camcli.render.regions import find_boxes, segment
from camcli.render.styles import Canvas, Notes, overlay_bytes, resize_to_fit, style_of
from camcli.timing import StageTimer


def wants_overlays(config: RunConfig, findings: Findings, label: str | None) -> bool:
    """Whether the run writes overlays of an image. ``label``: the name of its true class; None if it is not known.

    Probabilities are compared as they are in the table, so that the rows with an overlay are those that it shows.
    """
    if not config.overlays or not config.overlays_for:
        return config.overlays
    limit = config.overlay_limit
    return (
        ("wrong" in config.overlays_for and label is not None and label != findings.best.class_name)
        or ("failures" in config.overlays_for and any(heatmap.status != "ok" for heatmap in findings.heatmaps))
        or (limit is not None and float(cell_text(findings.best.probability)) < limit)
    )


class Painter:
    """Paints, encodes and writes the overlays of one image after the other, with the files that belong to them."""

    def __init__(self, settings: PaintSettings, timer: StageTimer) -> None:
        self._settings, self._config, self._timer = settings, settings.config, timer
        self._style = style_of(settings.config.as_dict())
        self._files = settings.root.opened()

    def close(self) -> None:
        """Close the folders that are open."""
        self._files.close()

    def paint(self, task: PaintTask, pixels: np.ndarray, view: InputWindow) -> Painted | Failed:
        """Write the files of an image, and return its rows. ``pixels``: (H, W, 3) uint8. Raises OutputError."""
        findings = task.findings.of(task.position, self._settings.names)
        try:
            with self._timer.work("render"):
                canvas = resize_to_fit(pixels, self._config.max_side) if task.has_overlays else None
            painted = [
                self._row(heatmap, stem, findings.best, task, pixels, canvas, view)
                for heatmap, stem in zip(findings.heatmaps, task.stems, strict=True)
            ]
        except ImageError as error:
            return Failed(task.number, Failure(task.source.image, error.stage, str(error), task.stamp))
        except (MemoryError, cv2.error) as error:
            if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
                raise
            return Failed(task.number, Failure(task.source.image, "memory", NOT_ENOUGH))
        rows, checksums = zip(*painted, strict=True) if painted else ((), ())
        lines = b"".join(map(prediction_line, rows))
        return Painted(task.number, rows, lines, tuple(itertools.chain.from_iterable(checksums)))

    def _write_files(
        self, heatmap: Heatmap, stem: str, pixels: np.ndarray, canvas: Canvas | None, view: InputWindow
    ) -> tuple[tuple[Box, ...], tuple[Checksum, ...]]:
        """Write overlay, raw map and mask, as far as the config asks for them. Returns boxes and checksums."""
        config = self._config
        files: dict[str, bytes] = {}  # in the order of ``output.files.files_of``
        mask = b""
        boxes: list[Box] = []
        with self._timer.work("render"):
            if config.boxes or config.masks:
                placed = place_map(scale_map(heatmap.values), view.box, view.pixels, (view.pixels.w, view.pixels.h))
                if config.boxes:
                    boxes = find_boxes(placed, view.pixels, config.box_threshold)[: 1 if config.boxes == "largest" else None]
                if config.masks:
                    region = segment(pixels, placed, view.pixels, config.mask_method, config.mask_threshold)
                    mask = encode_image(region, "png", config.quality)
            if canvas is not None:
                notes = Notes(tuple(boxes), caption_of(heatmap))
                overlay = overlay_bytes(canvas, heatmap.values, view.box, view.pixels, self._style, notes)
                files[overlay_file(stem, config.image_format)] = overlay
        if config.save_maps and config.maps_format == "npy":
            buffer = io.BytesIO()
            np.save(buffer, heatmap.values.astype(np.float32))
            files[map_file(stem)] = buffer.getvalue()
        if config.masks:
            files[mask_file(stem)] = mask
        with self._timer.work("write"):
            for name, data in files.items():
                self._files.write(name, data)
        return tuple(boxes), tuple(map(checksum_of, files.values()))

    def _row(
        self,
        heatmap: Heatmap,
        stem: str,
        best: Prediction,
        task: PaintTask,
        pixels: np.ndarray,
        canvas: Canvas | None,
        view: InputWindow,
    ) -> tuple[Row, tuple[Checksum, ...]]:
        """Paint and write one map. Returns its row and the checksums of its files."""
        overlay, boxes, checksums = "", tuple[Box, ...](), tuple[Checksum, ...]()
        if stem:
            overlay = overlay_file(stem, self._config.image_format) if canvas is not None else ""
            boxes, checksums = self._write_files(heatmap, stem, pixels, canvas, view)
        height, width = pixels.shape[:2]
        seen = view.pixels
        label = None
        if self._settings.labelled:
            label = "" if task.label is None else self._settings.names.classes[task.label]
        row = Row(
            image=task.source.image,
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
            correct=None if task.label is None else label == best.class_name,
            boxes=Boxes(boxes, width, height) if self._config.boxes else None,
            metrics=heatmap.metrics,
        )
        return row, checksums
