"""The same for Python: load a model by name, explain tensors or files, get heatmaps and geometry back.

>>> import camcli
>>> model = camcli.load("resnet50", layers=["layer4"])
>>> for found in camcli.explain(model, ["cat.jpg", "dog.jpg"], topk=2): print(found.best.class_name, found.heatmaps[0].values)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from camcli.config import RunConfig
from camcli.errors import ImageError
from camcli.images.decode import decode_image
from camcli.images.geometry import prepare_input, view_of
from camcli.job import Job, prepare_job, prepare_module
from camcli.pipeline.engine import explain_inputs, normalised
from camcli.records import Box, Failure, Findings, Heatmap, Prediction, Preprocess, Source
from camcli.render.styles import Style, paint_overlay


@dataclass(frozen=True)
class Explained:
    """What was found in one image.

    ``best``: the best class. ``heatmaps``: raw maps (h, w), with the class, layer and method of each. For files also
    ``image``, the upright pixels (H, W, 3) uint8 RGB; ``box``, the part of them that a map covers (left, top, width, height
    in pixels, not rounded); ``pixels``, the whole pixels in it. None for tensors.
    """

    best: Prediction
    heatmaps: tuple[Heatmap, ...]
    image: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    pixels: Box | None = None

    def overlay(
        self,
        index: int = 0,
        *,
        colormap: str = "turbo",
        alpha: float = 0.5,
        threshold: float = 0.0,
        outline: bool = True,
    ) -> np.ndarray:
        """The image with heatmap ``index`` painted over what the network saw, (H, W, 3) uint8 RGB.

        Raises ValueError for results of tensors, of which there is no picture.
        """
        if self.image is None or self.box is None or self.pixels is None:
            raise ValueError("there is no picture to paint on: explain files instead of tensors")
        style = Style(colormap, alpha, threshold, outline)
        return paint_overlay(self.image, self.heatmaps[index].values, self.box, self.pixels, style)


def load(
    model: str | nn.Module = RunConfig.model,
    *,
    weights: str = "DEFAULT",
    labels: str | None = None,
    layers: Sequence[str] = (),
    device: str = "auto",
    fit: str = "crop",
    preprocess: Preprocess | None = None,
) -> Job:
    """A model ready to be explained, by name as ``--model`` takes it, or a classifier of your own.

    ``preprocess`` and ``labels`` are for your own; by default resize 256, crop 224, ImageNet's mean and deviation. Your module
    stays as it is: mode, flags and hooks are restored after every call. Raises the UsageError of whatever does not exist.
    """
    config = RunConfig(
        model=model if isinstance(model, str) else type(model).__name__,
        weights=weights,
        labels=labels,
        layer=tuple(layers),
        device=device,
        fit=fit,
    )
    if isinstance(model, str):
        return prepare_job(config.check())
    return prepare_module(model, config.check(), preprocess or Preprocess())


def explain(
    model: Job,
    images: Tensor | Sequence[str | os.PathLike[str]],
    *,
    topk: int = 1,
    classes: Sequence[int | str] = (),
    methods: Sequence[str] = ("gradcam",),
    batch_size: int = 16,
    smooth: int = 0,
    augment: bool = False,
    counterfactual: bool = False,
    fuse: str | None = None,
) -> list[Explained]:
    """Heatmaps for ``images``: a tensor (B, 3, H, W), normalised as the model wants it, or paths of image files.

    For each image its ``topk`` best classes and then ``classes``, by index or name; for each class every layer and method. Raises
    the UsageError of a name that does not exist, and ImageError, with the path, for a file that cannot be decoded.
    """
    job = model.asking(
        topk=topk,
        class_=tuple(map(str, classes)),
        method=tuple(methods),
        batch_size=batch_size,
        smooth=smooth,
        augment=augment,
        counterfactual=counterfactual,
        fuse=fuse,
    )
    if isinstance(images, Tensor):
        parts = torch.split(images.to(job.device), batch_size)
        return [Explained(found.best, found.heatmaps) for part in parts for found in explain_inputs(part, job)]
    results: list[Explained] = []
    for start in range(0, len(images), batch_size):
        results += _explain_files([os.fspath(path) for path in images[start : start + batch_size]], job)
    return results


def _explain_files(paths: Sequence[str], job: Job) -> list[Explained]:
    pictures, views, inputs = [], [], []
    for path in paths:
        image = decode_image(Source("", path), job.config.max_pixels)
        if isinstance(image, Failure):
            raise ImageError(image.stage, f"{path}: {image.reason}")
        view = view_of((image.pixels.shape[1], image.pixels.shape[0]), job.model.preprocess, job.config.fit)
        pictures.append(image.pixels)
        views.append(view)
        inputs.append(prepare_input(image.pixels, view, job.model.preprocess))
    found: list[Findings] = explain_inputs(normalised(inputs, job), job)
    return [
        Explained(one.best, one.heatmaps, picture, view.box, view.pixels)
        for one, picture, view in zip(found, pictures, views, strict=True)
    ]
