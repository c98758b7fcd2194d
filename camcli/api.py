"""camcli for Python: ``load`` a model by name and ``explain`` files, pictures or tensors, or ``run`` over a folder of images.

>>> import camcli
>>> model = camcli.load("resnet50", layers="layer4")
>>> for found in camcli.explain(model, ["cat.jpg", "dog.jpg"], topk=2): print(found.best.class_name, found.heatmaps[0].values)
"""

from __future__ import annotations

import dataclasses
import keyword
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor, nn

from camcli.config.field import from_json, option_fields, option_name
from camcli.config.run import LOOKS, RunConfig
from camcli.errors import ConfigError, ImageError, InputError, ModelError, OutputError, did_you_mean
from camcli.images.decode import decode_image
from camcli.images.geometry import prepare_pixels
from camcli.images.in_memory import is_picture, picture_pixels
from camcli.network.inputs import input_tensor
from camcli.output.writers import write_file
from camcli.pipeline.engine import explain_inputs
from camcli.pipeline.inputs import find_inputs
from camcli.pipeline.invocation import Invocation
from camcli.pipeline.job import Job, prepare_job, prepare_module
from camcli.pipeline.runner import RunListener, RunSummary, SilentRunListener, run_images
from camcli.records import Box, Failure, Findings, Heatmap, Prediction, Preprocess, Source
from camcli.render.caption import caption_of
from camcli.render.encode import encode_image
from camcli.render.styles import Notes, paint_overlay, resize_to_fit, style_of

Picture = str | os.PathLike[str] | PillowImage.Image | np.ndarray
"""What is explained: the path of a file, a picture of Pillow, or an array (H, W, 3), (H, W, 4) or (H, W) of uint8."""

_SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}
_NOTEBOOK_SIDE = 800
"""Pixels a side that a picture in a notebook has at most."""
_MOST_IN_REPR = 3
"""Heatmaps that a repr names."""


class Look(TypedDict, total=False):
    """How a picture looks, by the options of the command line that ``camcli render`` takes too."""

    style: str
    legend: bool
    caption: bool
    colormap: str
    alpha: float
    threshold: float
    outline: bool
    quality: int
    max_side: int | None


@dataclass(frozen=True)
class Explained:
    """What was found in one image.

    ``best``: the best class. ``heatmaps``: raw maps (h, w), with the class, layer and method of each. For files and pictures also
    ``image``, the upright pixels (H, W, 3) uint8 RGB; ``box``, the part of them that a map covers (left, top, width, height
    in pixels, not rounded); ``pixels``, the whole pixels in it. None for tensors. A notebook shows the first heatmap's overlay.
    """

    best: Prediction
    heatmaps: tuple[Heatmap, ...]
    image: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    pixels: Box | None = None

    def overlay(self, index: int = 0, **look: Unpack[Look]) -> np.ndarray:
        """The image with heatmap ``index`` painted over what the network saw, (H, W, 3) uint8 RGB.

        ``look``: style, legend, caption, colormap, alpha, threshold, outline, max_side, as the options of ``camcli run`` and with
        their defaults. Raises ConfigError for a value outside its limits, and ValueError where there is nothing to paint: for
        tensors, which have no picture, and for a map whose status is not ``ok``.
        """
        config = _checked_look(dict(look))
        if self.image is None or self.box is None or self.pixels is None:
            raise ValueError("there is no picture to paint on: explain files or pictures instead of tensors")
        heatmap = self.heatmaps[index]
        if heatmap.status != "ok":
            raise ValueError(f"heatmap {index} is {heatmap.status}: there is nothing to paint")
        canvas = resize_to_fit(self.image, config.max_side)
        style, notes = style_of(config.as_dict()), Notes(caption=caption_of(heatmap))
        return paint_overlay(canvas.image, heatmap.values, canvas.part(self.box), canvas.pixels(self.pixels), style, notes)

    def save(self, path: str | os.PathLike[str], index: int = 0, **look: Unpack[Look]) -> None:
        """Write the overlay of heatmap ``index`` to ``path``, as JPEG, PNG or WebP by its suffix; the file is complete or absent.

        ``look``: as for ``overlay``, and quality. Raises as ``overlay`` does, ConfigError for another suffix, and OutputError where
        the file cannot be written.
        """
        place = os.path.abspath(os.fspath(path))
        suffix = os.path.splitext(place)[1]
        if suffix.lower() not in _SUFFIXES:
            raise ConfigError(f"cannot tell the format of {os.fspath(path)!r}: end its name in {', '.join(_SUFFIXES)}.")
        if not os.path.isdir(os.path.dirname(place)):
            raise OutputError(f"there is no folder {os.path.dirname(place)!r} to write {os.path.basename(place)!r} to.")
        quality = _checked_look(dict(look)).quality
        data = encode_image(self.overlay(index, **look), _SUFFIXES[suffix.lower()], quality)
        write_file(place, data)

    def __repr__(self) -> str:
        size = "" if self.image is None else f", image {self.image.shape[1]} x {self.image.shape[0]}"
        shown = [repr(heatmap) for heatmap in self.heatmaps[:_MOST_IN_REPR]]
        more = len(self.heatmaps) - len(shown)
        heatmaps = ", ".join([*shown, f"{more} more"] if more else shown)
        return f"<Explained: {self.best.class_name!r} {self.best.probability:.3f}{size}, heatmaps [{heatmaps}]>"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the first heatmap's overlay; None where there is nothing to paint."""
        if self.image is None or not self.heatmaps or self.heatmaps[0].status != "ok":
            return None
        return encode_image(self.overlay(max_side=_NOTEBOOK_SIDE), "png", RunConfig.quality)


def _checked_look(look: dict[str, Any]) -> RunConfig:
    """The options of a run with ``look``. Raises ConfigError for a value outside its limits, and TypeError for an unknown name."""
    names = {name.replace("-", "_") for name in LOOKS} - {"image_format"}
    for name in look.keys() - names:
        raise TypeError(f"there is no option {name!r} for the look of an overlay, but {', '.join(sorted(names))}")
    return replace(RunConfig(), **look).check()


def load(
    model: str | nn.Module = RunConfig.model,
    *,
    weights: str = "DEFAULT",
    labels: str | None = None,
    layers: str | Sequence[str] = (),
    device: str = "auto",
    fit: str = "crop",
    preprocess: Preprocess | None = None,
) -> Job:
    """A model ready to be explained, by name as ``--model`` takes it, or a classifier of your own.

    ``preprocess`` and ``labels`` are for your own. Without ``preprocess`` the attribute of that name counts, or what timm says of
    its models; otherwise resize 256, crop 224, ImageNet's mean and deviation. Your module stays as it is: mode, flags and hooks are
    restored after every call. Raises the UsageError of whatever does not exist, and ModelError for what is no model.
    """
    if not isinstance(model, (str, nn.Module)):
        raise ModelError(f"camcli.load takes a model's name or a torch.nn.Module, not {_a(model)}.")
    config = RunConfig(
        model=model if isinstance(model, str) else type(model).__name__,
        weights=weights,
        labels=labels,
        layer=_listed(layers),
        device=device,
        resize_mode=fit,
    )
    if isinstance(model, str):
        return prepare_job(config.check())
    return prepare_module(model, config.check(), preprocess)


def explain(
    model: Job,
    images: Tensor | Picture | Iterable[Picture],
    *,
    topk: int | None = None,
    classes: int | str | Sequence[int | str] = (),
    methods: str | Sequence[str] = ("gradcam",),
    batch_size: int = 16,
    smooth: int = 0,
    augment: bool = False,
    counterfactual: bool = False,
    fuse: str | None = None,
) -> list[Explained]:
    """Heatmaps for ``images``: paths of image files, pictures of Pillow, arrays (H, W, 3) uint8 RGB, one of them or many.

    Or a tensor (B, 3, H, W), normalised as the model wants it. For each image its ``topk`` best classes and then ``classes``, by
    index or name; for each class every layer and method. Without ``topk`` the best class, or ``classes`` alone where there are any.
    Raises the UsageError of a name that does not exist, InputError for what is no image, and ImageError, with the path, for one
    that cannot be decoded.
    """
    job = _job(model).with_targets(
        topk=topk,
        class_=tuple(map(str, _listed(classes))),
        method=_listed(methods),
        batch_size=batch_size,
        smooth=smooth,
        augment=augment,
        counterfactual=counterfactual,
        fuse=fuse,
    )
    if isinstance(images, Tensor):
        parts = torch.split(_checked_batch(images).to(job.device), batch_size) if len(images) else ()
        return [Explained(found.best, found.heatmaps) for part in parts for found in explain_inputs(part, job)]
    results: list[Explained] = []
    pictures = _pictures(images)
    for start in range(0, len(pictures), batch_size):
        results += _explain_pictures(pictures[start : start + batch_size], job, start)
    return results


def run(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] = RunConfig.output,
    listener: RunListener | None = None,
    stop: threading.Event | None = None,
    **options: Any,
) -> RunSummary:
    """Explain every image in ``inputs`` and write the folder ``output``, as ``camcli run`` does: counts, and where the results are.

    Called again it does what is missing; the command line may go on with the folder, and the other way round. ``inputs``: a folder
    or an image file, or several. ``options``: those of ``camcli run`` with ``_`` for ``-``, such as ``model="resnet50"``,
    ``topk=3`` or ``class_="tabby"``; where an option is repeatable, one value or several. ``stop``: once it is set, by another
    thread say, the images in progress are finished and the summary says ``interrupted``. Ctrl-C raises KeyboardInterrupt; what was
    finished is kept. ``listener``: receives messages, failures, progress and each image; by default nobody does. Raises TypeError
    for an unknown option, and CamcliError for what stops a run. An image that cannot be explained is no error: see
    ``RunSummary.failed``.
    """
    places = [os.fspath(place) for place in _listed(inputs)]
    config = _run_config({**options, "output": output})
    invocation = Invocation("camcli.run", places)
    listener = listener or SilentRunListener()
    found = find_inputs(places, config, listener)
    held = nullcontext(stop or threading.Event())
    named = {field.name for field in option_fields(RunConfig) if _argument(field) in options}
    return run_images(config, found, listener, held, invocation=invocation, named=named)


_COMMAND_LINE_ONLY = ("csv", "format", "null", "verbose", "quiet", "log-file")
"""Options that are about stdin, stdout and stderr."""


def _argument(field: dataclasses.Field[Any]) -> str:
    """An option as an argument in Python: ``batch_size`` for ``--batch-size``, ``class_`` for ``--class``."""
    name = option_name(field).replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _run_config(options: dict[str, Any]) -> RunConfig:
    """The config of a run with ``options``. Raises TypeError for an unknown one, ConfigError for a value that it cannot have."""
    fields = {_argument(field): field for field in option_fields(RunConfig) if option_name(field) not in _COMMAND_LINE_ONLY}
    for name in options.keys() - fields:
        raise TypeError(f"camcli.run has no option {name!r}.{did_you_mean(name, fields)}")
    values = {fields[name].name: _option_value(fields[name], value) for name, value in options.items()}
    return RunConfig(**values).check()


def _option_value(field: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` as the field has it. Raises ConfigError for another type."""
    kind = str(field.type)
    if kind.startswith("tuple"):
        return from_json(field, [str(item) for item in _listed(value)])
    if value is None and "None" not in kind:
        raise ConfigError(f"{option_name(field)} cannot be None.")
    return from_json(field, os.fspath(value) if isinstance(value, os.PathLike) else value)


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _job(model: object) -> Job:
    """``model`` itself. Raises ModelError, which says how to make a model of it, where it is another thing."""
    if isinstance(model, Job):
        return model
    how = ""
    if isinstance(model, nn.Module):
        how = " Load your module first: model = camcli.load(module)."
    elif isinstance(model, str):
        how = f" Load it first: model = camcli.load({model!r})."
    raise ModelError(f"camcli.explain takes the model that camcli.load returns, not {_a(model)}.{how}")


def _listed(values: Any) -> tuple[Any, ...]:
    """A tuple of ``values``: of a single name, number or file, that alone."""
    single = isinstance(values, (str, bytes, os.PathLike)) or not isinstance(values, Iterable)
    return (values,) if single else tuple(values)


def _checked_batch(images: Tensor) -> Tensor:
    """``images`` itself, (B, 3, H, W). Raises InputError, which says what to do, for another shape or whole numbers."""
    shape = tuple(images.shape)
    if images.ndim == 3 and shape[0] == 3:
        raise InputError(f"a tensor {shape} is one image without a batch: give tensor[None], which is (1, 3, H, W).")
    if images.ndim != 4 or shape[1] != 3:
        last = " Put the channels second: tensor.permute(0, 3, 1, 2)." if images.ndim == 4 and shape[3] == 3 else ""
        raise InputError(f"a tensor {shape} is no batch of images: it must be (B, 3, H, W).{last}")
    if not images.is_floating_point():
        raise InputError(
            f"a tensor of {images.dtype} is not normalised as the model wants it. Give floats, or the pictures themselves as "
            "arrays (H, W, 3) of uint8, which camcli resizes and normalises: [image.permute(1, 2, 0).numpy() for image in tensor]."
        )
    return images


def _pictures(images: Any) -> list[Picture]:
    """Each of ``images``, where it is one alone that one. Raises InputError for what is neither path nor picture."""
    if isinstance(images, np.ndarray):
        found = list(images) if images.ndim == 4 else [images]
    else:
        found = [images] if is_picture(images) else list(_listed(images))
    for position, picture in enumerate(found):
        if isinstance(picture, Tensor):
            raise InputError("give one tensor (B, 3, H, W) instead of a list: torch.stack(images), or torch.cat(images).")
        if not is_picture(picture) and not isinstance(picture, (str, os.PathLike)):
            raise InputError(
                f"image {position} is {_a(picture)}; give a path, a picture of Pillow, or an array (H, W, 3) of uint8."
            )
    return found


def _explain_pictures(images: Sequence[Picture], job: Job, first: int) -> list[Explained]:
    """``first``: the place of the first of ``images`` among all, for what is said of it."""
    pictures = [_pixels(image, job, position) for position, image in enumerate(images, first)]
    views, inputs = zip(*(prepare_pixels(pixels, job.model.preprocess, job.config.resize_mode) for pixels in pictures), strict=True)
    found: list[Findings] = explain_inputs(input_tensor(inputs, job.model.preprocess, job.device), job)
    return [
        Explained(one.best, one.heatmaps, pixels, view.box, view.pixels)
        for one, pixels, view in zip(found, pictures, views, strict=True)
    ]


def _pixels(image: Picture, job: Job, position: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a file or a picture. Raises InputError and ImageError, which name it."""
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if os.path.isdir(path):
            raise InputError(f"{path!r} is a folder: give its files, such as sorted(pathlib.Path({path!r}).rglob('*.jpg')).")
        decoded = decode_image(Source("", path), job.config.max_pixels)
        if isinstance(decoded, Failure):
            raise ImageError(decoded.stage, f"{path}: {decoded.reason}")
        return decoded.pixels
    try:
        return picture_pixels(image, job.config.max_pixels)
    except InputError as error:
        raise InputError(f"image {position}: {error}") from error
    except ImageError as error:
        raise ImageError(error.stage, f"image {position}: {error}") from error
