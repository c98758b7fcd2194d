"""The stages wired together: read and prepare in threads, explain in batches, render and write in threads, rows in order.

A run is a function of a list of sources, a job and an output folder; there is no other state. Threads hand results over as
futures in the order of the sources, so the number of threads never changes what is written. How many images are in flight
at once depends on the batch size and the number of workers only.
"""

from __future__ import annotations

import io
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from camcli.cam.explain import explain_batch, top_classes
from camcli.errors import CamcliError, ImageError, OutOfMemoryError, RunError
from camcli.images.decode import decode_image
from camcli.images.geometry import View, prepare_input, view_of
from camcli.job import Job
from camcli.output.folder import OutputFolder
from camcli.output.names import file_stem
from camcli.records import Explained, Failure, Findings, Heatmap, Image, Outcome, Prediction, Row, Source, stamp_of
from camcli.render import Style, encode_jpeg, paint_overlay

_MOST_FAILURES = 64
"""Failures that wait for the images of their batch."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Prepared:
    """An image on its way: decoded, and as the network's input (h, w, 3) uint8."""

    source: Source
    image: Image
    view: View
    input: np.ndarray


def explain_images(
    sources: Sequence[Source], job: Job, folder: OutputFolder, stop: threading.Event | None = None
) -> Iterator[Outcome]:
    """Explain ``sources`` and yield one outcome each, in their order, once its files and rows are written.

    After ``stop`` is set what is in flight is finished and nothing more begun. An image that cannot be explained yields a
    Failure. Raises a RunError when the run cannot go on.
    """
    workers = job.config.workers or available_cores()
    readers = ThreadPoolExecutor(workers, "read")
    writers = ThreadPoolExecutor(workers, "write")
    writing: deque[Future[Outcome]] = deque()
    ahead = job.config.batch_size + workers

    def recorded(keep: int) -> Iterator[Outcome]:
        while writing and (len(writing) > keep or writing[0].done()):
            outcome = writing.popleft().result()
            folder.record(outcome)
            yield outcome

    try:
        prepared = _in_order(readers, lambda source: _prepare(source, job), sources, ahead)
        room = _Room(job.config.batch_size)
        for batch in _batches(prepared, job.config.batch_size, stop):
            images = [item for item in batch if isinstance(item, _Prepared)]
            findings = iter(_explain(images, job, room))
            for item in batch:
                if isinstance(item, Failure):
                    writing.append(_finished(item))
                else:
                    writing.append(writers.submit(_render, item, next(findings), job, folder))
            yield from recorded(keep=ahead)
            if stop is not None and stop.is_set():
                break
        yield from recorded(keep=0)
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_order(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """``map`` over threads, at most ``ahead`` results in flight."""
    flying: deque[Future[R]] = deque()
    remaining = iter(items)
    for item in itertools.islice(remaining, ahead):
        flying.append(pool.submit(work, item))
    while flying:
        result = flying.popleft().result()
        for item in itertools.islice(remaining, 1):
            flying.append(pool.submit(work, item))
        yield result


def _batches(items: Iterable[_Prepared | Failure], size: int, stop: threading.Event | None) -> Iterator[list[_Prepared | Failure]]:
    """Runs of items that hold ``size`` prepared images each, the last one fewer; failures keep their place among them.

    Many failures in a row end a run too, so that they are recorded and do not pile up; so does ``stop``.
    """
    batch: list[_Prepared | Failure] = []
    images = 0
    for item in items:
        batch.append(item)
        images += isinstance(item, _Prepared)
        if images == size or len(batch) >= _MOST_FAILURES + size or (stop is not None and stop.is_set()):
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _finished(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _prepare(source: Source, job: Job) -> _Prepared | Failure:
    if job.labels is not None and source.image not in job.labels:
        return Failure(source.image, "label", f"no label in {job.config.class_from}", stamp_of(source.path))
    image = decode_image(source, job.config.max_pixels)
    if isinstance(image, Failure):
        return image
    height, width = image.pixels.shape[:2]
    view = view_of((width, height), job.model.preprocess, job.config.fit)
    return _Prepared(source, image, view, prepare_input(image.pixels, view, job.model.preprocess))


@dataclass
class _Room:
    """How many images fit into memory at once, as far as is known."""

    images: int


def _explain(images: Sequence[_Prepared], job: Job, room: _Room) -> list[Findings]:
    """What was found in each image. What does not fit into memory at once is halved, and the size that fits remembered.

    Raises OutOfMemoryError at one image, RunError where the model fails otherwise.
    """
    findings: list[Findings] = []
    while len(findings) < len(images):
        part = images[len(findings) : len(findings) + room.images]
        try:
            findings += _explain_at_once(part, job)
        except CamcliError:
            raise
        except Exception as error:  # the user's own forward may raise anything
            if not _out_of_memory(error):
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise RunError(f"{job.model.name} fails on a batch of {len(part)}: {reason}. Try --batch-size 1.") from error
            if len(part) == 1:
                raise OutOfMemoryError(f"{job.device} has not enough memory for one image with {job.model.name}.") from error
            room.images = len(part) // 2
        if job.device.type == "cuda" and room.images < job.config.batch_size:
            torch.cuda.empty_cache()
    return findings


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "allocate memory" in text


def _explain_at_once(images: Sequence[_Prepared], job: Job) -> list[Findings]:
    inputs = normalised(np.stack([image.input for image in images]), job)
    labels = None if job.labels is None else [job.labels[image.source.image] for image in images]
    return explain_inputs(inputs, job, labels)


def explain_inputs(inputs: torch.Tensor, job: Job, labels: Sequence[int] | None = None) -> list[Findings]:
    """What is found in each of ``inputs`` (B, 3, H, W), normalised, on the job's device. ``labels``: true classes to explain."""
    config = job.config

    def choose(logits: torch.Tensor) -> torch.Tensor:
        parts = [top_classes(logits, config.top_count), torch.tensor(job.classes).expand(len(logits), -1)]
        if labels is not None:
            parts.append(torch.tensor(labels)[:, None])
        return torch.cat([part.to(logits.device, torch.int64) for part in parts], dim=1)

    found = explain_batch(job.model.module, inputs, job.layers, config.method, choose, job.options)
    maps = {key: values.cpu().numpy() for key, values in found.maps.items()}
    order = top_classes(found.logits, found.logits.shape[1]).cpu()
    logits, targets = found.logits.cpu(), found.targets.tolist()
    probabilities = logits.double().softmax(dim=1) if config.head == "softmax" else logits.double().sigmoid()

    def predicted(i: int, index: int) -> Prediction:
        return Prediction(
            rank=int((order[i] == index).nonzero()[0]) + 1,
            class_index=index,
            class_name=job.model.classes[index],
            logit=float(logits[i, index]),
            probability=float(probabilities[i, index]),
        )

    findings: list[Findings] = []
    results = job.results()
    for i in range(len(inputs)):
        explained = [(position, predicted(i, index)) for position, index in _first_occurrences(targets[i])]
        heatmaps = [
            judged(prediction, layer, method, maps[layer, method][i, position])
            for position, prediction in explained
            for layer, method in results
        ]
        findings.append(Findings(predicted(i, int(order[i, 0])), tuple(heatmaps)))
    return findings


def _first_occurrences(targets: list[int]) -> list[tuple[int, int]]:
    """(position, class) of each class once: a class asked for by name may be among the best as well."""
    seen: dict[int, int] = {}
    for position, index in enumerate(targets):
        seen.setdefault(index, position)
    return [(position, index) for index, position in seen.items()]


def judged(prediction: Prediction, layer: str, method: str, values: np.ndarray) -> Heatmap:
    """The heatmap of ``values`` (h, w) with its status: ``nonfinite`` for NaN or infinity, ``empty``, else ``ok``.

    Empty is a map that points nowhere: it has no positive value, or the same in every cell to one part in ten thousand.
    """
    peak = float(values.max())
    if not np.isfinite(values).all() or not np.isfinite(prediction.logit):
        status = "nonfinite"
    elif peak <= 0 or peak - float(values.min()) <= 1e-4 * peak:
        status = "empty"
    else:
        status = "ok"
    return Heatmap(prediction, layer, method, values, status, peak)


def normalised(batch: np.ndarray, job: Job) -> torch.Tensor:
    """(B, h, w, 3) uint8 -> (B, 3, h, w) float32 on the job's device, scaled to [0, 1], then (x - mean) / std."""
    pixels = torch.from_numpy(batch).to(job.device).permute(0, 3, 1, 2)
    mean = torch.tensor(job.model.preprocess.mean, device=job.device).view(1, 3, 1, 1)
    std = torch.tensor(job.model.preprocess.std, device=job.device).view(1, 3, 1, 1)
    return (pixels.contiguous().float() / 255 - mean) / std


def _render(prepared: _Prepared, findings: Findings, job: Job, folder: OutputFolder) -> Outcome:
    """Paint, encode and write every overlay of one image."""
    source = prepared.source
    try:
        rows = tuple(_render_one(heatmap, findings.best, prepared, job, folder) for heatmap in findings.heatmaps)
    except ImageError as error:
        return Failure(source.image, error.stage, str(error), prepared.image.stamp)
    return Explained(source.image, prepared.image.stamp, rows)


def _render_one(heatmap: Heatmap, best: Prediction, prepared: _Prepared, job: Job, folder: OutputFolder) -> Row:
    config, view = job.config, prepared.view
    results = job.results()
    several = (
        (heatmap.layer, len({layer for layer, _ in results}) > 1),
        (heatmap.method, len(config.method) > 1),
    )
    stem = file_stem(prepared.source.image, heatmap.prediction, tuple(name for name, shown in several if shown))
    overlay = ""
    if heatmap.status == "ok":
        style = Style(config.colormap, config.alpha, config.threshold, config.outline, config.quality)
        painted = paint_overlay(prepared.image.pixels, heatmap.values, view.box, view.pixels, style)
        overlay = f"overlays/{stem}.jpg"
        folder.write(overlay, encode_jpeg(painted, config.quality))
        if config.save_maps:
            buffer = io.BytesIO()
            np.save(buffer, heatmap.values.astype(np.float32))
            folder.write(f"maps/{stem}.npy", buffer.getvalue())
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
