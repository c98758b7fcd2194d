"""camcli for Python: ``load`` a model by name, ``explain`` files, pictures or tensors, and ``run`` over a folder of images.

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
from camcli.pipeline.runner import run_images
from camcli.pipeline.summary import RunListener, RunSummary, SilentRunListener
from camcli.records import Box, Failure, Findings, Heatmap, Prediction, Preprocess
from camcli.render.caption import caption_of
from camcli.render.encode import encode_image
from camcli.render.styles import Notes, paint_overlay, resize_to_fit, style_of
from camcli.source import Source

Picture = str | os.PathLike[str] | PillowImage.Image | np.ndarray
"""An image to explain: the path of a file, a Pillow image, or a uint8 array (H, W, 3), (H, W, 4) or (H, W)."""

_SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}
_NOTEBOOK_SIDE = 800
"""Maximum side in pixels of a picture in a notebook."""
_MOST_IN_REPR = 3
"""Maximum number of heatmaps that a repr lists."""


class Look(TypedDict, total=False):
    """Options for the look of an overlay. They have the names of the options of ``camcli render``."""

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
    """The prediction and the heatmaps of one image. A notebook shows the overlay of the first heatmap.

    ``best``: the class with the highest logit. ``heatmaps``: raw maps (h, w), each with its class, layer and method.
    For files and pictures, None for tensors: ``image``, the upright pixels (H, W, 3) uint8 RGB; ``box``, the part of the image that
    a map covers (left, top, width, height in pixels, not rounded); ``pixels``, the whole pixels inside ``box``.
    """

    best: Prediction
    heatmaps: tuple[Heatmap, ...]
    image: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    pixels: Box | None = None

    def overlay(self, index: int = 0, **look: Unpack[Look]) -> np.ndarray:
        """The image with heatmap ``index`` painted over the part that the network saw, (H, W, 3) uint8 RGB.

        ``look``: style, legend, caption, colormap, alpha, threshold, outline and max_side, which mean the same as the options of
        ``camcli run`` and have the same defaults. Raises ConfigError for a value outside its limits, and ValueError when nothing
        can be painted: a tensor has no picture, and a map whose status is not ``ok`` has no overlay.
        """
        config = _checked_look(dict(look))
        if self.image is None or self.box is None or self.pixels is None:
            raise ValueError("a tensor has no picture to paint on: explain files or pictures instead")
        heatmap = self.heatmaps[index]
        if heatmap.status != "ok":
            raise ValueError(f"heatmap {index} is {heatmap.status}, so there is nothing to paint")
        canvas = resize_to_fit(self.image, config.max_side)
        style, notes = style_of(config.as_dict()), Notes(caption=caption_of(heatmap))
        return paint_overlay(canvas.image, heatmap.values, canvas.part(self.box), canvas.pixels(self.pixels), style, notes)

    def save(self, path: str | os.PathLike[str], index: int = 0, **look: Unpack[Look]) -> None:
        """Write the overlay of heatmap ``index`` to ``path``. The file is complete or absent.

        The suffix of ``path`` selects JPEG, PNG or WebP. ``look``: as for ``overlay``, and quality. Raises what ``overlay`` raises,
        ConfigError for another suffix, and OutputError when the file cannot be written.
        """
        place = os.path.abspath(os.fspath(path))
        suffix = os.path.splitext(place)[1]
        if suffix.lower() not in _SUFFIXES:
            raise ConfigError(f"{os.fspath(path)!r} has no known image suffix: end the name in {', '.join(_SUFFIXES)}.")
        if not os.path.isdir(os.path.dirname(place)):
            raise OutputError(f"there is no folder {os.path.dirname(place)!r} for {os.path.basename(place)!r}; create it first.")
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
        """The overlay of the first heatmap as PNG, which a notebook shows; None when nothing can be painted."""
        if self.image is None or not self.heatmaps or self.heatmaps[0].status != "ok":
            return None
        return encode_image(self.overlay(max_side=_NOTEBOOK_SIDE), "png", RunConfig.quality)


def _checked_look(look: dict[str, Any]) -> RunConfig:
    """The default config with ``look``. Raises ConfigError for a value outside its limits, and TypeError for an unknown name."""
    names = {name.replace("-", "_") for name in LOOKS} - {"image_format"}
    for name in look.keys() - names:
        raise TypeError(f"an overlay has no option {name!r}; its options are {', '.join(sorted(names))}")
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
    """A model for ``explain``. ``model``: a name as ``--model`` takes it, or your own classifier, a ``torch.nn.Module``.

    ``preprocess`` and ``labels`` describe your own classifier. Without ``preprocess`` its attribute ``preprocess`` is used, or
    timm's configuration of the model, otherwise resize to 256, crop to 224, ImageNet's mean and standard deviation. Your module
    is left unchanged: mode, flags and hooks are restored after every call. Raises a UsageError, such as ModelError or LayerError,
    for something that does not exist, and ModelError when ``model`` is neither a name nor a module.
    """
    if not isinstance(model, (str, nn.Module)):
        raise ModelError(f"camcli.load takes the name of a model or a torch.nn.Module, not {_a(model)}.")
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
    """The prediction and heatmaps of each image, in order.

    ``images``: one or several paths of image files, Pillow images or uint8 RGB arrays (H, W, 3), or one tensor (B, 3, H, W),
    normalised for the model. Each image is explained for its ``topk`` best classes and then for ``classes``, given by index or
    name; each class for every layer and method. Without ``topk`` it is explained for ``classes``, and without both for its best
    class. Raises a UsageError for a name that does not exist, InputError for something that is not an image, and ImageError, with
    the path, for an image that cannot be decoded.
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
        checked = _checked_batch(images, job.model.preprocess.channels)
        parts = torch.split(checked.to(job.device), batch_size) if len(images) else ()
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
    """Explain every image in ``inputs`` and write the folder ``output``, as ``camcli run`` does. Returns counts and paths.

    Called again with the same arguments, it resumes: it explains only the images that are missing. ``camcli run`` can resume the
    folder too, and ``run`` can resume a folder of ``camcli run``.

    ``inputs``: a folder, an image file, an archive or an address such as ``s3://bucket/photos``, or several.
    ``options``: the options of ``camcli run`` with ``_`` for ``-``, such as
    ``model="resnet50"``, ``topk=3`` or ``class_="tabby"``; a repeatable option takes one value or several. ``stop``: after
    another thread sets it, the images in progress are finished and the state of the summary is ``interrupted``. Ctrl-C raises
    KeyboardInterrupt; finished images are kept. ``listener``: receives messages, failures, progress and each image; None ignores
    them.

    Raises TypeError for an unknown option, and CamcliError when the run cannot start or go on. An image that cannot be explained
    raises nothing: see ``RunSummary.failed``.
    """
    places = [os.fspath(place) for place in _listed(inputs)]
    config = _run_config({**options, "output": output})
    invocation = Invocation("camcli.run", places)
    listener = listener or SilentRunListener()
    found = find_inputs(places, config, listener)
    held = nullcontext(stop or threading.Event())
    named = {field.name for field in option_fields(RunConfig) if _argument(field) in options}
    if config.engine == "ray":
        from camcli.distributed.run import run_on_cluster

        return run_on_cluster(config, found, listener, held, invocation=invocation, named=named)
    return run_images(config, found, listener, held, invocation=invocation, named=named)


_COMMAND_LINE_ONLY = ("csv", "format", "null", "verbose", "quiet", "log-file")
"""Options that concern stdin, stdout and stderr."""


def _argument(field: dataclasses.Field[Any]) -> str:
    """The name of an option as a Python argument: ``batch_size`` for ``--batch-size``, ``class_`` for ``--class``."""
    name = option_name(field).replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _run_config(options: dict[str, Any]) -> RunConfig:
    """The config of a run with ``options``. Raises TypeError for an unknown option, ConfigError for an invalid value."""
    fields = {_argument(field): field for field in option_fields(RunConfig) if option_name(field) not in _COMMAND_LINE_ONLY}
    for name in options.keys() - fields:
        raise TypeError(f"camcli.run has no option {name!r}.{did_you_mean(name, fields)}")
    values = {fields[name].name: _option_value(fields[name], value) for name, value in options.items()}
    return RunConfig(**values).check()


def _option_value(field: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` converted to the type of ``field``. Raises ConfigError when it has another type."""
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
    """``model``, unchanged. Raises ModelError, which says how to load it, when ``camcli.load`` has not returned it."""
    if isinstance(model, Job):
        return model
    advice = ""
    if isinstance(model, nn.Module):
        advice = " Load your module first: model = camcli.load(module)."
    elif isinstance(model, str):
        advice = f" Load it first: model = camcli.load({model!r})."
    raise ModelError(f"camcli.explain takes a model that camcli.load has returned, not {_a(model)}.{advice}")


def _listed(values: Any) -> tuple[Any, ...]:
    """``values`` as a tuple. A single name, number or path becomes a tuple of one."""
    single = isinstance(values, (str, bytes, os.PathLike)) or not isinstance(values, Iterable)
    return (values,) if single else tuple(values)


def _checked_batch(images: Tensor, channels: int) -> Tensor:
    """``images``, unchanged. Raises InputError, which says what to do, when they are not (B, channels, H, W) floats."""
    shape = tuple(images.shape)
    if images.ndim == 3 and shape[0] == channels:
        raise InputError(f"a tensor of shape {shape} is a single image: pass tensor[None], which has shape (1, {channels}, H, W).")
    if images.ndim != 4 or shape[1] != channels:
        advice = " Put the channels second: tensor.permute(0, 3, 1, 2)." if images.ndim == 4 and shape[3] == channels else ""
        raise InputError(f"a tensor of shape {shape} is not a batch of images (B, {channels}, H, W).{advice}")
    if not images.is_floating_point():
        raise InputError(
            f"a tensor of {images.dtype} is not normalised for the model. Pass normalised floats, or uint8 arrays (H, W, 3), "
            "which camcli resizes and normalises: [image.permute(1, 2, 0).numpy() for image in tensor]."
        )
    return images


def _pictures(images: Any) -> list[Picture]:
    """``images`` as a list, also when it is a single one. Raises InputError for something that is neither a path nor a picture."""
    if isinstance(images, np.ndarray):
        found = list(images) if images.ndim == 4 else [images]
    else:
        found = [images] if is_picture(images) else list(_listed(images))
    for position, picture in enumerate(found):
        if isinstance(picture, Tensor):
            raise InputError("pass one tensor (B, 3, H, W) instead of a list of tensors: torch.stack(images) or torch.cat(images).")
        if not is_picture(picture) and not isinstance(picture, (str, os.PathLike)):
            raise InputError(f"image {position} is {_a(picture)}; pass a path, a Pillow image, or a uint8 array (H, W, 3).")
    return found


def _explain_pictures(images: Sequence[Picture], job: Job, first: int) -> list[Explained]:
    """The results of one batch. ``first``: the position of its first image among all images, for error messages."""
    pictures = [_pixels(image, job, position) for position, image in enumerate(images, first)]
    views, inputs = zip(*(prepare_pixels(pixels, job.model.preprocess, job.config.resize_mode) for pixels in pictures), strict=True)
    found: list[Findings] = explain_inputs(input_tensor(inputs, job.model.preprocess, job.device), job)
    return [
        Explained(one.best, one.heatmaps, pixels, view.box, view.pixels)
        for one, pixels, view in zip(found, pictures, views, strict=True)
    ]


def _pixels(image: Picture, job: Job, position: int) -> np.ndarray:
    """The pixels of a file or a picture, (H, W, 3) uint8 RGB. Raises InputError and ImageError, which name the image."""
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if os.path.isdir(path):
            raise InputError(f"{path!r} is a folder: pass its files, such as sorted(pathlib.Path({path!r}).rglob('*.jpg')).")
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
