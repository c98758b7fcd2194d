"""Explaining batches of network inputs on any device: asynchronous on a GPU, with smaller batches when memory runs out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from camcli.cam import METHODS
from camcli.cam.explain import Explanation, Options, explain_batch, top_classes
from camcli.errors import CamcliError, OutOfMemoryError, RunError, first_line
from camcli.metrics.batch import MetricSettings
from camcli.metrics.measure import measure
from camcli.network.inputs import input_tensor
from camcli.network.precision import tensor_cores
from camcli.pipeline.findings import HEADS, STATUSES, BatchFindings, all_statuses, batch_findings, is_first, joined
from camcli.pipeline.job import Job
from camcli.records import Findings


@dataclass(frozen=True, slots=True)
class _Finding:
    """The results of a batch. ``order``: classes from best to worst. ``copy_done``: set when they are on the host."""

    explanation: Explanation
    order: torch.Tensor
    copy_done: torch.cuda.Event | None


_UNKNOWN = -1
"""The true class of an image without a label."""

Part = tuple[int, _Finding]
"""The number of images in a part of a batch, and their results."""


class Engine:
    """Runs the network of a job on one batch after another.

    ``explain`` begins a batch, ``collect`` returns its findings; on a GPU both work at the same time. When memory runs out, the
    batch size is halved, down to single images, for this and later batches. ``before_pass`` is called before each forward pass,
    and may raise Stopped.
    """

    def __init__(self, job: Job, before_pass: Callable[[], None] = lambda: None) -> None:
        self._job, self._before_pass = job, before_pass
        self._max_batch = job.batch_size

    def explain(
        self, inputs: Sequence[np.ndarray], labels: Sequence[int | None] | None = None, names: Sequence[str] | None = None
    ) -> list[Part]:
        """Begin to explain ``inputs``, each (h, w, 3) uint8, at most the job's batch size. Returns parts for ``collect``.

        ``labels``: the true class of each image, or None. ``names``: the images' names, from which methods that draw lots have
        their seeds. Raises OutOfMemoryError if a single image does not fit, RunError if the
        model fails otherwise, and what ``before_pass`` raises.
        """
        parts: list[Part] = []
        begun = 0
        while begun < len(inputs):
            part = slice(begun, begun + self._max_batch)
            count = len(inputs[part])
            try:
                seeds = None if names is None else tuple(map(seed_of, names[part]))
                parts.append((count, self._begin(inputs[part], None if labels is None else labels[part], seeds)))
                begun += count
            except CamcliError:
                raise
            except Exception as error:  # the user's own forward may raise anything
                self._shrink(count, error)
        return parts

    def _begin(self, inputs: Sequence[np.ndarray], labels: Sequence[int | None] | None, seeds: tuple[int, ...] | None) -> _Finding:
        wanted = self._job.network.batch
        missing = wanted - len(inputs) if wanted is not None and wanted // 2 < len(inputs) < wanted else 0
        filled = [*inputs, *[inputs[-1]] * missing]  # pad: a compiled network has a fixed batch size
        known = None if labels is None else [*labels, *[labels[-1]] * missing]
        given = None if seeds is None else (*seeds, *seeds[-1:] * missing)
        chunk = min(self._job.options.chunk, self._max_batch)
        options = replace(self._job.options, chunk=chunk, seeds=given, before_pass=self._before_pass)
        tensor = input_tensor(filled, self._job.model.preprocess, self._job.device)
        found = explain_tensor(tensor, self._job, known, options)
        if self._job.config.metrics:
            found = _measured(found, tensor, len(inputs), self._job, options)
        return _copy_to_host_async(found)

    def _shrink(self, count: int, error: Exception) -> None:
        job = self._job
        if not out_of_memory(error):
            raise self._failed(count, error) from error
        if count == 1:
            raise OutOfMemoryError(
                f"{job.device} is out of memory with a single image and {job.model.name}. Try a smaller model."
            ) from error
        self._max_batch = count // 2
        if job.device.type == "cuda":
            torch.cuda.empty_cache()

    def _failed(self, count: int, error: Exception) -> RunError:
        return RunError(f"{self._job.model.name} fails on a batch of {count}: {first_line(error)}. Try --batch-size 1.")

    def collect(self, parts: Sequence[Part]) -> BatchFindings | None:
        """The findings of the images of ``parts``, in order; None without images. Waits until they are ready."""
        found: list[BatchFindings] = []
        for count, finding in parts:
            if finding.copy_done is not None:
                try:
                    finding.copy_done.synchronize()
                except Exception as error:  # an error of the device, reported late
                    raise self._failed(count, error) from error
            found.append(_findings(finding.explanation, finding.order, self._job).take(slice(count)))
        return joined(found) if found else None


def seed_of(name: str) -> int:
    """The seed of an image: the CRC-32 of its name."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))


def _measured(found: Explanation, inputs: torch.Tensor, count: int, job: Job, options: Options) -> Explanation:
    """``found`` with the metrics of the maps that are ``ok``, of the first ``count`` of ``inputs`` (B, 3, H, W)."""
    config, results = job.config, job.names.results
    targets = found.targets.cpu().numpy()
    logits = np.take_along_axis(found.logits.cpu().numpy(), targets, axis=1)
    statuses, _ = all_statuses([found.maps[result].cpu().numpy() for result in results], logits, _constant(job))
    wanted = (statuses == STATUSES.index("ok")) & is_first(targets)[:, :, None]
    wanted[count:] = False
    settings = MetricSettings(config.metrics, config.head, config.metric_score, config.steps, config.baseline)
    with tensor_cores(job.network.tf32, job.device):
        metrics = measure(job.network, inputs, job.layers, results, found, wanted, settings, options)
    return replace(found, metrics=metrics)


def _constant(job: Job) -> set[int]:
    """The numbers of the maps of a class that are constant on purpose."""
    return {number for number, (_, method) in enumerate(job.names.results) if METHODS[method].constant}


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that the device or the host is out of memory. PyTorch has several such errors."""
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "allocate memory" in text


def explain_inputs(inputs: torch.Tensor, job: Job) -> list[Findings]:
    """The findings for each of ``inputs`` (B, 3, H, W), normalised and on the job's device."""
    found = explain_tensor(inputs, job)
    return list(_findings(found, top_classes(found.logits, found.logits.shape[1]), job).each(job.names))


def explain_tensor(
    inputs: torch.Tensor, job: Job, labels: Sequence[int | None] | None = None, options: Options | None = None
) -> Explanation:
    """Logits, targets and maps of ``inputs`` (B, 3, H, W), for the classes that the job explains. Does not wait for a GPU.

    ``labels``: the true class of each image; None without a label, which needs other classes to explain. ``options``: replace the
    job's options.
    """
    numbers = None if labels is None else [_UNKNOWN if label is None else label for label in labels]
    true = None if numbers is None else _to_device(torch.tensor(numbers, dtype=torch.int64), inputs.device)[:, None]

    def choose(logits: torch.Tensor) -> torch.Tensor:
        asked = _indices(job.classes, logits.device).expand(len(logits), -1)
        wanted = torch.cat([top_classes(logits, job.config.top_count), asked], dim=1)
        if true is None:
            return wanted
        # instead of a missing label, repeat another class: repetitions are removed later
        known = torch.where(true == _UNKNOWN, wanted[:, :1], true) if wanted.shape[1] else true
        return torch.cat([wanted, known], dim=1)

    with tensor_cores(job.network.tf32, job.device):
        return explain_batch(job.network, inputs, job.layers, job.config.method, choose, options or job.options)


@lru_cache
def _indices(classes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(classes, dtype=torch.int64, device=device)


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _copy_to_host_async(found: Explanation) -> _Finding:
    """``found``, with copies to the host started on a GPU: into pinned memory, queued after the computation."""
    order = top_classes(found.logits, found.logits.shape[1])
    if found.logits.device.type != "cuda":
        return _Finding(found, order, None)

    def to_host(tensor: torch.Tensor) -> torch.Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    maps = {key: to_host(values) for key, values in found.maps.items()}
    metrics = {column: to_host(values) for column, values in found.metrics.items()}
    contributions = {name: to_host(values) for name, values in found.contributions.items()}
    on_host = Explanation(to_host(found.logits), to_host(found.targets), maps, metrics, contributions)
    copied = _Finding(on_host, to_host(order), torch.cuda.Event())  # type: ignore[no-untyped-call]
    assert copied.copy_done is not None
    copied.copy_done.record(torch.cuda.current_stream(found.logits.device))
    return copied


def _findings(found: Explanation, order: torch.Tensor, job: Job) -> BatchFindings:
    """The predictions and heatmaps of each image. ``order`` (B, K): its classes from best to worst."""
    logits, targets, ranked = (tensor.cpu().numpy() for tensor in (found.logits, found.targets, order))
    maps = [found.maps[result].cpu().numpy() for result in job.names.results]
    with np.errstate(over="ignore", invalid="ignore"):
        probabilities = HEADS[job.config.head](logits.astype(np.float64))
    by_layer = {name: values.cpu().numpy() for name, values in found.contributions.items()}
    contributions = [by_layer[name] for name in job.contribution_layers] if by_layer else []
    metrics = [found.metrics[column].cpu().numpy() for column in job.config.metric_columns if found.metrics]
    return batch_findings(
        logits, probabilities, targets, ranked, maps, constant=_constant(job), metrics=metrics, contributions=contributions
    )
