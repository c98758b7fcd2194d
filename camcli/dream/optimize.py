"""Activation maximization: from noise to a picture that a target responds to strongly, and how strongly the network responds."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from camcli.dream.config import WITH_PRIOR, DreamConfig
from camcli.dream.parametrization import PRIORS, Size, initial_parameters
from camcli.dream.targets import Response, Target, respond
from camcli.dream.transforms import Transforms, apply_transforms, blurred, draw_transforms, total_variation
from camcli.errors import ImageError
from camcli.network import Network
from camcli.network.inputs import normalize
from camcli.records import Preprocess

TRIALS = 32
"""A finished picture is evaluated under this many random transformations."""

_CHUNK = 8
_START_CONTRASTS = (None, 0.1, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0)
"""Contrasts of the starting noise, tried in this order until the target has a gradient; None is the prior's default contrast."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """The network as the optimization sees it: how to normalize its input, and the size of the picture (height, width)."""

    network: Network
    preprocess: Preprocess
    size: Size
    device: torch.device

    def inputs(self, pictures: Tensor) -> Tensor:
        """Network inputs: ``pictures`` (N, 3, H, W) in [0, 1], normalized with the model's mean and standard deviation."""
        return normalize(pictures, self.preprocess)

    def respond(self, pictures: Tensor, target: Target) -> Response:
        """The network's response to ``pictures`` (N, 3, H, W) in [0, 1] at ``target``."""
        return respond(self.network, self.inputs(pictures), target)


@dataclass(frozen=True, slots=True)
class Metrics:
    """How strongly the network responds. ``start``: activation of the starting noise. ``end``: activation of the finished picture.

    ``probability``: of the class, for the finished picture. ``moved`` and ``probability_moved``: medians over TRIALS random
    transformations of the picture; ``probability_least``: the minimum. Probabilities are None for channels and units.
    """

    start: float
    end: float
    moved: float
    probability: float | None
    probability_moved: float | None
    probability_least: float | None


@dataclass(frozen=True, slots=True)
class Dream:
    """A finished picture (H, W, 3) uint8 RGB, its metrics, and frames of the optimization in the same format."""

    picture: np.ndarray
    metrics: Metrics
    frames: tuple[np.ndarray, ...]


def transform_limits(size: Size, jitter: float, rotate: float, zoom: float) -> Transforms:
    """The limits of random transformations for pictures of ``size``. ``jitter``: a fraction of the shorter side."""
    return Transforms(round(jitter * min(size)), rotate, zoom)


def standard_transforms(size: Size) -> Transforms:
    """The limits that are used to evaluate a finished picture, whatever options it was made with."""
    return transform_limits(size, WITH_PRIOR["jitter"], WITH_PRIOR["rotate"], WITH_PRIOR["zoom"])


def random_generator(seed: int, target: Target, purpose: str) -> torch.Generator:
    """A random generator for one target, independent of the other targets. ``purpose``: ``ascent`` or ``trials``.

    Changing the text of a purpose would change every picture.
    """
    digest = hashlib.sha256(f"{seed}/{target.stem}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def optimize(
    model_view: ModelView,
    target: Target,
    config: DreamConfig,
    stop: threading.Event,
    on_step: Callable[[float], None] = lambda _: None,
) -> Dream | None:
    """The picture after ``config.steps`` steps of Adam (Kingma and Ba 2015); None if ``stop`` was set before the end.

    ``config`` has been checked. ``on_step`` is called after each step with the activation. Raises ImageError (stage ``optimize``)
    if the target has no gradient at any start, or if the activation is not finite or does not change.
    """
    generator = random_generator(config.seed, target, "ascent")
    parameters = _start(model_view, target, config, generator)
    frame_steps = _frame_steps(config)
    first = to_bytes(_picture(model_view, config, parameters))
    frames = [first] if 0 in frame_steps else []
    for step, values in enumerate(_steps(model_view, target, config, parameters, generator, on_step), start=1):
        if stop.is_set():
            return None
        if step in frame_steps:
            frames.append(to_bytes(_picture(model_view, config, values)))
    picture = to_bytes(_picture(model_view, config, parameters))
    metrics = measure(model_view, target, first, picture, random_generator(config.seed, target, "trials"), stop)
    if metrics is None:
        return None
    if not math.isfinite(metrics.end):
        raise ImageError("optimize", f"its activation is {metrics.end}; try a smaller --rate.")
    if metrics.end == metrics.start:
        raise ImageError("optimize", f"its activation stayed at {metrics.end:g}; try another --seed or more --steps.")
    return Dream(picture, metrics, tuple(frames))


def _steps(
    model_view: ModelView,
    target: Target,
    config: DreamConfig,
    parameters: Tensor,
    generator: torch.Generator,
    on_step: Callable[[float], None],
) -> Iterator[Tensor]:
    """Yield the parameters after each step; they are changed in place.

    The gradient of the activation is normalized to length 1, and that of the total variation to length ``config.tv``. So the scale
    of the network's activations has no effect.
    """
    limits = transform_limits(model_view.size, config.jitter or 0.0, config.rotate or 0.0, config.zoom or 0.0)
    optimizer = torch.optim.Adam([parameters], lr=config.rate)
    for step in range(config.steps):
        left = 1 - step / config.steps
        optimizer.param_groups[0]["lr"] = config.rate * (1 + math.cos(math.pi * (1 - left))) / 2
        with torch.enable_grad():
            picture = PRIORS[config.prior].picture(parameters.requires_grad_(), model_view.size)
            view = apply_transforms(picture, draw_transforms(limits, 1, generator)) if limits.any else picture
            activation = model_view.respond(blurred(view, (config.blur or 0.0) * left), target).activation.sum()
            direction = _direction(activation, picture)
            if config.tv:
                direction = direction - config.tv * _direction(total_variation(picture), picture)
            (parameters.grad,) = torch.autograd.grad(picture, parameters, -direction)
        optimizer.step()
        on_step(float(activation.detach()))
        yield parameters


def _direction(value: Tensor, picture: Tensor) -> Tensor:
    """The gradient of a scalar with respect to ``picture`` (1, 3, H, W), normalized to length 1; zeros if it is zero."""
    (gradient,) = torch.autograd.grad(value, picture)
    length = gradient.norm()
    return gradient / length if length > 0 else gradient


def _start(model_view: ModelView, target: Target, config: DreamConfig, generator: torch.Generator) -> Tensor:
    """Starting noise at which the target has a gradient; behind a ReLU whose input is negative there is none.

    The logit of a class has a gradient at the default, nearly grey noise. For a channel or a unit noises of increasing contrast are
    tried. Raises ImageError if none has a gradient.
    """
    for contrast in _START_CONTRASTS:
        options = {} if contrast is None else {"contrast": contrast}
        parameters = initial_parameters(config.prior, model_view.size, generator, **options).to(model_view.device)
        if target.class_index is not None:
            return parameters
        with torch.enable_grad():
            parameters.requires_grad_()
            activation = model_view.respond(PRIORS[config.prior].picture(parameters, model_view.size), target).activation.sum()
            (slope,) = torch.autograd.grad(activation, parameters)
        if bool(slope.count_nonzero() > 0):
            return parameters
    raise ImageError("optimize", f"its activation is zero at each of {len(_START_CONTRASTS)} random starts; try another --seed.")


def _picture(model_view: ModelView, config: DreamConfig, parameters: Tensor) -> Tensor:
    with torch.no_grad():
        return PRIORS[config.prior].picture(parameters, model_view.size)


def _frame_steps(config: DreamConfig) -> frozenset[int]:
    """The steps, 0 to the last, after which a frame is kept; more of them at the beginning, where the picture changes most."""
    if config.frames is None:
        return frozenset()
    return frozenset(round(config.steps * (frame / (config.frames - 1)) ** 2) for frame in range(config.frames))


def to_bytes(picture: Tensor) -> np.ndarray:
    """``picture`` (1, 3, H, W) in [0, 1], rounded to (H, W, 3) uint8."""
    return np.ascontiguousarray((picture[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def measure(
    model_view: ModelView,
    target: Target,
    first: np.ndarray,
    picture: np.ndarray,
    generator: torch.Generator,
    stop: threading.Event,
) -> Metrics | None:
    """The metrics of a finished ``picture`` (H, W, 3) uint8 with the starting noise ``first``; None if ``stop`` was set.

    They are computed from the rounded pixels, so they hold for the file.
    """
    drawn = draw_transforms(standard_transforms(model_view.size), TRIALS, generator)

    def tensor(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(model_view.device).float() / 255

    with torch.no_grad():
        start, end = (model_view.respond(tensor(pixels), target) for pixels in (first, picture))
        trials = []
        for some in torch.split(drawn, _CHUNK):
            if stop.is_set():
                return None
            trials.append(model_view.respond(apply_transforms(tensor(picture), some), target))
    moved = float(torch.cat([trial.activation.detach() for trial in trials]).median())
    activations = float(start.activation.detach()), float(end.activation.detach())
    if end.probability is None:
        return Metrics(*activations, moved, None, None, None)
    probabilities = torch.cat([trial.probability for trial in trials if trial.probability is not None])
    return Metrics(*activations, moved, float(end.probability), float(probabilities.median()), float(probabilities.min()))
