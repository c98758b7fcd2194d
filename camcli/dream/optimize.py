"""The ascent: from noise to a picture at which a target responds strongly, and what the network says of it."""

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
from camcli.dream.parametrization import PRIORS, Size, first_parameters
from camcli.dream.targets import Response, Target, respond
from camcli.dream.transforms import Transforms, blurred, draw_transforms, moved, total_variation
from camcli.errors import ImageError
from camcli.network import Network
from camcli.records import Preprocess

TRIALS = 32
"""Random moves under which a finished picture is shown to the network."""

_CHUNK = 8
_STARTS = (None, 0.1, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0)
"""Contrasts of the noises that are tried until one makes the target respond; None stands for the usual one."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """What an ascent takes besides its target: the network, how it wants its input, and the picture's size (height, width)."""

    network: Network
    preprocess: Preprocess
    size: Size
    device: torch.device

    def inputs(self, pictures: Tensor) -> Tensor:
        """``pictures`` (N, 3, H, W) in [0, 1], normalised as the network wants them."""
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (self.preprocess.mean, self.preprocess.std)
        )
        return (pictures - mean) / std

    def respond(self, pictures: Tensor, target: Target) -> Response:
        """What the network says of ``target`` to ``pictures`` (N, 3, H, W) in [0, 1]."""
        return respond(self.network, self.inputs(pictures), target)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the network says. ``start``, ``end``: activation at the first noise and at the picture. ``probability``: of the class.

    ``moved`` ones: medians over TRIALS random moves, ``least``: the least of them. Probabilities are None of channels.
    """

    start: float
    end: float
    moved: float
    probability: float | None
    probability_moved: float | None
    probability_least: float | None


@dataclass(frozen=True, slots=True)
class Dream:
    """A finished picture, (H, W, 3) uint8 RGB, what the network says of it, and the ``frames`` on the way there."""

    picture: np.ndarray
    metrics: Metrics
    frames: tuple[np.ndarray, ...]


def moves_of(size: Size, jitter: float, rotate: float, zoom: float) -> Transforms:
    """How far a picture of ``size`` is moved at most. ``jitter``: a fraction of its shorter side."""
    return Transforms(round(jitter * min(size)), rotate, zoom)


def standard_moves(size: Size) -> Transforms:
    """How far a finished picture is moved at most for its figures, whatever it was made with."""
    return moves_of(size, WITH_PRIOR["jitter"], WITH_PRIOR["rotate"], WITH_PRIOR["zoom"])


def generator_of(seed: int, target: Target, purpose: str) -> torch.Generator:
    """Random numbers that belong to a target: the same whichever others are asked for."""
    digest = hashlib.sha256(f"{seed}/{target.stem}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def optimize(
    model_view: ModelView,
    target: Target,
    config: DreamConfig,
    stop: threading.Event,
    tell: Callable[[float], None] = lambda _: None,
) -> Dream | None:
    """The picture of ``target`` after ``config.steps`` steps of Adam (Kingma and Ba 2015); None where ``stop`` was set on the way.

    ``config`` is a checked one. ``tell`` hears the activation at each step. Raises ImageError (stage ``ascend``) for a target
    that does not respond to any start, or with what is not finite.
    """
    generator = generator_of(config.seed, target, "ascent")
    parameters = _start(model_view, target, config, generator)
    at = _frame_steps(config)
    first = to_bytes(_picture(model_view, config, parameters))
    frames = [first] if 0 in at else []
    for step, values in enumerate(_steps(model_view, target, config, parameters, generator, tell), start=1):
        if stop.is_set():
            return None
        if step in at:
            frames.append(to_bytes(_picture(model_view, config, values)))
    picture = to_bytes(_picture(model_view, config, parameters))
    metrics = measure(model_view, target, first, picture, generator_of(config.seed, target, "trials"), stop)
    if metrics is None:
        return None
    if not math.isfinite(metrics.end):
        raise ImageError("ascend", f"the activation is {metrics.end}; a smaller --rate may help.")
    if metrics.end == metrics.start:
        raise ImageError("ascend", f"its activation stayed {metrics.end:g}; another --seed or more --steps may move it.")
    return Dream(picture, metrics, tuple(frames))


def _steps(
    model_view: ModelView,
    target: Target,
    config: DreamConfig,
    parameters: Tensor,
    generator: torch.Generator,
    tell: Callable[[float], None],
) -> Iterator[Tensor]:
    """The parameters, any shape, after each step; they are changed in place.

    The pull of the activation on the picture counts by its direction, and the total variation's as a fraction of it: how large the
    activations of a network are changes nothing.
    """
    moves = moves_of(model_view.size, config.jitter or 0.0, config.rotate or 0.0, config.zoom or 0.0)
    optimizer = torch.optim.Adam([parameters], lr=config.rate)
    for step in range(config.steps):
        left = 1 - step / config.steps
        optimizer.param_groups[0]["lr"] = config.rate * (1 + math.cos(math.pi * (1 - left))) / 2
        with torch.enable_grad():
            picture = PRIORS[config.prior].picture(parameters.requires_grad_(), model_view.size)
            view = moved(picture, draw_transforms(moves, 1, generator)) if moves.any else picture
            activation = model_view.respond(blurred(view, (config.blur or 0.0) * left), target).activation.sum()
            pull = _direction(activation, picture)
            if config.tv:
                pull = pull - config.tv * _direction(total_variation(picture), picture)
            (parameters.grad,) = torch.autograd.grad(picture, parameters, -pull)
        optimizer.step()
        tell(float(activation.detach()))
        yield parameters


def _direction(value: Tensor, picture: Tensor) -> Tensor:
    """The gradient of a scalar for ``picture`` (1, 3, H, W), of length 1; zeros where it is zero."""
    (gradient,) = torch.autograd.grad(value, picture)
    length = gradient.norm()
    return gradient / length if length > 0 else gradient


def _start(model_view: ModelView, target: Target, config: DreamConfig, generator: torch.Generator) -> Tensor:
    """Noise at which the target has a gradient: a rectifier that is shut says nothing about the way.

    A class's logit has one at the usual, nearly grey noise. For a channel or a unit, noises of more and more contrast are tried.
    Raises ImageError where none has one.
    """
    for contrast in _STARTS:
        options = {} if contrast is None else {"contrast": contrast}
        parameters = first_parameters(config.prior, model_view.size, generator, **options).to(model_view.device)
        if target.class_index is not None:
            return parameters
        with torch.enable_grad():
            parameters.requires_grad_()
            activation = model_view.respond(PRIORS[config.prior].picture(parameters, model_view.size), target).activation.sum()
            (slope,) = torch.autograd.grad(activation, parameters)
        if bool(slope.count_nonzero() > 0):
            return parameters
    raise ImageError("ascend", f"it is silent at each of {len(_STARTS)} random pictures; another --seed may wake it.")


def _picture(model_view: ModelView, config: DreamConfig, parameters: Tensor) -> Tensor:
    with torch.no_grad():
        return PRIORS[config.prior].picture(parameters, model_view.size)


def _frame_steps(config: DreamConfig) -> frozenset[int]:
    """The steps, 0 to the last, of which frames are kept: denser at the beginning, where the picture changes most."""
    if config.frames is None:
        return frozenset()
    return frozenset(round(config.steps * (frame / (config.frames - 1)) ** 2) for frame in range(config.frames))


def to_bytes(picture: Tensor) -> np.ndarray:
    """``picture`` (1, 3, H, W) in [0, 1] as a file holds it: (H, W, 3) uint8, rounded."""
    return np.ascontiguousarray((picture[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def measure(
    model_view: ModelView,
    target: Target,
    first: np.ndarray,
    picture: np.ndarray,
    generator: torch.Generator,
    stop: threading.Event,
) -> Metrics | None:
    """What the network says of two pictures (H, W, 3) uint8, and of the second one moved about at random, as any of them is.

    None where ``stop`` was set on the way.
    """
    moves = draw_transforms(standard_moves(model_view.size), TRIALS, generator)

    def tensor(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(model_view.device).float() / 255

    with torch.no_grad():
        plain = [model_view.respond(tensor(pixels), target) for pixels in (first, picture)]
        trials = []
        for some in torch.split(moves, _CHUNK):
            if stop.is_set():
                return None
            trials.append(model_view.respond(moved(tensor(picture), some), target))
    activations = torch.cat([trial.activation.detach() for trial in trials])
    chances = [trial.probability for trial in trials if trial.probability is not None]
    start, end = (float(response.activation.detach()) for response in plain)
    if plain[1].probability is None:
        return Metrics(start, end, float(activations.median()), None, None, None)
    chance = torch.cat(chances)
    return Metrics(
        start, end, float(activations.median()), float(plain[1].probability), float(chance.median()), float(chance.min())
    )
