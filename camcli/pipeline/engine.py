"""Batches of network inputs in, findings out: on any device, several batches in flight on a GPU, halved where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from camcli.cam.explain import Explanation, Options, explain_batch, top_classes
from camcli.errors import CamcliError, OutOfMemoryError, RunError, first_line
from camcli.network.inputs import input_tensor
from camcli.network.precision import tensor_cores
from camcli.pipeline.job import Job
from camcli.records import Findings, Heatmap, Prediction


@dataclass(frozen=True, slots=True)
class _Finding:
    """What the network found, on its way to the host: ``order`` are the classes from the best to the worst."""

    explanation: Explanation
    order: torch.Tensor
    landed: torch.cuda.Event | None


_UNKNOWN = -1
"""Stands for the true class of an image that has no label."""

Part = tuple[int, _Finding]
"""How many images, and what the network is finding in them."""


class Engine:
    """The network of a job, asked for one batch after another.

    ``explain`` begins a batch, ``collect`` gives its findings. On a GPU the host goes on in between. A batch that does not fit into
    memory is cut into halves, down to single images, and the size that fits is remembered. ``before_pass`` is called before each
    pass through the network, and may raise Stopped.
    """

    def __init__(self, job: Job, before_pass: Callable[[], None] = lambda: None) -> None:
        self._job, self._before_pass = job, before_pass
        self._max_batch = job.batch_size

    def explain(self, inputs: Sequence[np.ndarray], labels: Sequence[int | None] | None = None) -> list[Part]:
        """Begin to explain ``inputs``, each (h, w, 3) uint8, no more than the job's batch size. ``labels``: true classes, None
        where there is none.

        Gives parts for ``collect``: how many images, and what was found. Raises OutOfMemoryError at one image, RunError where the
        model fails otherwise, and what ``before_pass`` raises.
        """
        parts: list[Part] = []
        begun = 0
        while begun < len(inputs):
            part = slice(begun, begun + self._max_batch)
            count = len(inputs[part])
            try:
                parts.append((count, self._begin(inputs[part], None if labels is None else labels[part])))
                begun += count
            except CamcliError:
                raise
            except Exception as error:  # the user's own forward may raise anything
                self._shrink(count, error)
        return parts

    def _begin(self, inputs: Sequence[np.ndarray], labels: Sequence[int | None] | None) -> _Finding:
        wanted = self._job.network.batch
        missing = wanted - len(inputs) if wanted is not None and wanted // 2 < len(inputs) < wanted else 0
        filled = [*inputs, *[inputs[-1]] * missing]  # a network compiled for one size takes a short batch filled up
        known = None if labels is None else [*labels, *[labels[-1]] * missing]
        options = replace(self._job.options, chunk=min(self._job.options.chunk, self._max_batch), before_pass=self._before_pass)
        return _copy_to_host_async(
            explain_tensor(input_tensor(filled, self._job.model.preprocess, self._job.device), self._job, known, options)
        )

    def _shrink(self, count: int, error: Exception) -> None:
        job = self._job
        if not out_of_memory(error):
            raise self._failed(count, error) from error
        if count == 1:
            raise OutOfMemoryError(f"{job.device} has not enough memory for one image with {job.model.name}.") from error
        self._max_batch = count // 2
        if job.device.type == "cuda":
            torch.cuda.empty_cache()

    def _failed(self, count: int, error: Exception) -> RunError:
        return RunError(f"{self._job.model.name} fails on a batch of {count}: {first_line(error)}. Try --batch-size 1.")

    def collect(self, parts: Sequence[Part]) -> list[Findings]:
        """The findings of every image of ``parts``, in order; waits for them where they are not there yet."""
        findings: list[Findings] = []
        for count, finding in parts:
            if finding.landed is not None:
                try:
                    finding.landed.synchronize()
                except Exception as error:  # what failed on the device while the host went on
                    raise self._failed(count, error) from error
            findings += _findings(finding.explanation, finding.order, self._job)[:count]
        return findings


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the device or the host did not suffice; PyTorch says it in several ways."""
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "allocate memory" in text


def explain_inputs(inputs: torch.Tensor, job: Job) -> list[Findings]:
    """What is found in each of ``inputs`` (B, 3, H, W), normalised, on the job's device."""
    found = explain_tensor(inputs, job)
    return _findings(found, top_classes(found.logits, found.logits.shape[1]), job)


def explain_tensor(
    inputs: torch.Tensor, job: Job, labels: Sequence[int | None] | None = None, options: Options | None = None
) -> Explanation:
    """Logits, targets and maps of ``inputs`` (B, 3, H, W), for the classes that the job asks for.

    ``labels``: true classes, None where there is none and the job asks for other classes. ``options``: instead of the job's.
    Nothing here waits for a GPU.
    """
    numbers = None if labels is None else [_UNKNOWN if label is None else label for label in labels]
    true = None if numbers is None else _to_device(torch.tensor(numbers, dtype=torch.int64), inputs.device)[:, None]

    def choose(logits: torch.Tensor) -> torch.Tensor:
        asked = _indices(job.classes, logits.device).expand(len(logits), -1)
        wanted = torch.cat([top_classes(logits, job.config.top_count), asked], dim=1)
        if true is None:
            return wanted
        # an image without a label has another class twice, which counts once
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
    """``found`` with copies to the host begun: on a GPU into pinned memory, behind the work that makes them."""
    order = top_classes(found.logits, found.logits.shape[1])
    if found.logits.device.type != "cuda":
        return _Finding(found, order, None)

    def to_host(tensor: torch.Tensor) -> torch.Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    maps = {key: to_host(values) for key, values in found.maps.items()}
    copied = _Finding(Explanation(to_host(found.logits), to_host(found.targets), maps), to_host(order), torch.cuda.Event())  # type: ignore[no-untyped-call]
    assert copied.landed is not None
    copied.landed.record(torch.cuda.current_stream(found.logits.device))
    return copied


def _findings(found: Explanation, order: torch.Tensor, job: Job) -> list[Findings]:
    """The predictions and heatmaps of each image. ``order`` (B, K): its classes from the best to the worst."""
    maps = {key: values.cpu().numpy() for key, values in found.maps.items()}
    logits, targets, best_first = found.logits.cpu(), found.targets.tolist(), order.cpu().numpy()
    softmax = job.config.head == "softmax"
    probabilities = (logits.double().softmax(dim=1) if softmax else logits.double().sigmoid()).numpy()
    scores = logits.numpy()

    def predicted(i: int, index: int) -> Prediction:
        return Prediction(
            rank=int(np.flatnonzero(best_first[i] == index)[0]) + 1,
            class_index=index,
            class_name=job.model.classes[index],
            logit=float(scores[i, index]),
            probability=float(probabilities[i, index]),
        )

    findings: list[Findings] = []
    results = job.results()
    for i in range(len(targets)):
        explained = [(position, predicted(i, index)) for position, index in _first_occurrences(targets[i])]
        heatmaps = [
            with_status(prediction, layer, method, maps[layer, method][i, position])
            for position, prediction in explained
            for layer, method in results
        ]
        findings.append(Findings(predicted(i, int(best_first[i, 0])), tuple(heatmaps)))
    return findings


def _first_occurrences(targets: list[int]) -> list[tuple[int, int]]:
    """(position, class) of each class once: a class asked for by name may be among the best as well."""
    seen: dict[int, int] = {}
    for position, index in enumerate(targets):
        seen.setdefault(index, position)
    return [(position, index) for index, position in seen.items()]


def with_status(prediction: Prediction, layer: str, method: str, values: np.ndarray) -> Heatmap:
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
