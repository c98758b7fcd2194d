"""The preprocessing that an image processor of Hugging Face transformers does, as camcli's own.

Every family of models has its own processor class, and the same setting means different things in them. Therefore the processor is
tried out: plain images show its normalization. Of the ways in which its settings can be understood, the one is taken whose result
equals the processor's own for two test images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from camcli.errors import ModelError, first_line
from camcli.images.geometry import prepare_pixels
from camcli.records import LARGEST_SIDE, Preprocess, escape_name

_TESTS = ((333, 250), (190, 260))
"""Width and height of the test images."""

_MOST_LEVELS = 2.5
"""Largest difference to the processor's result in levels of 255, for test images of noise: both round, after other arithmetic. For
photos it is one level. Another filter, size or place of the crop makes a difference of ten levels and more."""

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that camcli has."""


@dataclass(frozen=True)
class Found:
    """``preprocess``: as the processor does it. ``blue_first``: its colours are blue, green, red. ``notes``: for the user."""

    preprocess: Preprocess
    blue_first: bool = False
    notes: tuple[str, ...] = ()


def preprocess_of_processor(name: str, processor: Any, config: Any) -> Found:
    """The preprocessing of the model ``name``. ``processor``: None for a model without one. ``config``: of the model.

    Raises ModelError for a processor whose results camcli cannot reproduce to one level of 255.
    """
    channels = getattr(config, "num_channels", 3)
    if channels not in (1, 3):
        from camcli.models.channels import WAY_OUT

        raise ModelError(f"{escape_name(name)} takes images of {channels} channels. {WAY_OUT}")
    if processor is None:
        return _without_processor(name, config, channels)
    try:
        mean, std, blue_first = _normalization(processor, channels)
        pictures = [_test_image(width, height) for width, height in _TESTS]
        expected = [_levels(_result(processor, pixels, channels), mean, std, blue_first) for pixels in pictures]
    except ModelError:
        raise
    except Exception as error:  # a stranger's settings may lead to anything
        raise ModelError(f"the image processor of {escape_name(name)} fails: {escape_name(first_line(error))}. {_OWN}") from error
    size = expected[0].shape[:2]
    if any(result.shape[:2] != size for result in expected) or max(size) > LARGEST_SIDE:
        raise ModelError(
            f"the image processor of {escape_name(name)} makes inputs of different sizes from different images, which do not fit "
            f"into one batch. {_OWN}"
        )
    guesses = list(_guesses(processor, (size[0], size[1]), mean, std))
    differences = [_difference(guess, pictures, expected) for guess in guesses]
    mean_difference, most = min(differences)
    if most > _MOST_LEVELS:
        raise ModelError(
            f"camcli does not reproduce the image processor of {escape_name(name)}, {type(processor).__name__}: the nearest way "
            f"differs by {most:.0f} of 255 levels. {_OWN}"
        )
    return Found(guesses[differences.index((mean_difference, most))], blue_first)


def _difference(guess: Preprocess, pictures: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> tuple[float, float]:
    """The mean and the largest difference of ``guess`` to the ``expected`` results, in levels."""
    parts = [
        np.abs(prepare_pixels(pixels, guess, "crop")[1].astype(float) - result)
        for pixels, result in zip(pictures, expected, strict=True)
    ]
    return float(np.mean([part.mean() for part in parts])), float(max(part.max() for part in parts))


_OWN = (
    "Load the model in a factory, --model package.module:factory, and give it an attribute preprocess; see Your own code in "
    "docs/models.md."
)


def _without_processor(name: str, config: Any, channels: int) -> Found:
    side = getattr(config, "image_size", None)
    side = side if type(side) is int and 0 < side <= LARGEST_SIDE else 224
    preprocess = Preprocess("squash", (side, side), (side, side), mean=(0.5,) * channels, std=(0.5,) * channels)
    return Found(
        preprocess,
        notes=(
            f"{name} has no image processor (preprocessor_config.json): images are resized to {side} x {side} and normalized with "
            "mean and std 0.5. If it was trained otherwise, use --resize, --crop, --mean and --std.",
        ),
    )


def _result(processor: Any, pixels: np.ndarray, channels: int) -> np.ndarray:
    """What the processor makes of an image (H, W, 3) uint8: (h, w, C), or ModelError."""
    picture = PillowImage.fromarray(pixels)
    if channels == 1:
        picture = picture.convert("L")
    found = np.asarray(processor(images=picture, return_tensors="np")["pixel_values"])
    if found.ndim != 4 or found.shape[:2] != (1, channels):
        raise ModelError(f"an image processor returns {found.shape}, which is no batch of images of {channels} channels. {_OWN}")
    image: np.ndarray = found[0].transpose(1, 2, 0).astype(float)
    return image


def _normalization(processor: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean and std, on the [0, 1] scale, and whether blue comes first: from images of one colour."""

    def centre(colour: tuple[int, int, int]) -> np.ndarray:
        found = _result(processor, np.full((256, 256, 3), colour, np.uint8), channels)
        middle: np.ndarray = found[found.shape[0] // 2, found.shape[1] // 2]
        return middle

    black, white = centre((0, 0, 0)), centre((255, 255, 255))
    blue_first = False
    if channels == 3:
        red = (centre((255, 0, 0)) - black) / (white - black)
        blue_first = bool(red[2] > 0.5)
        if blue_first:
            black, white = black[::-1], white[::-1]
    std = 1 / (white - black)
    return _rounded(-black * std), _rounded(std), blue_first


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """The processor computes in float32: seven digits count."""
    return tuple(float(f"{value:.7g}") + 0.0 for value in values)  # not -0.0


def _levels(result: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...], blue_first: bool) -> np.ndarray:
    """A result before normalization, in levels of 255 and in the order red, green, blue."""
    if blue_first:
        result = result[..., ::-1]
    levels: np.ndarray = (result * np.array(std) + np.array(mean)) * 255
    return levels


def _test_image(width: int, height: int) -> np.ndarray:
    """A seeded image of (height, width) that shows every shift and every other filter: coarse noise, fine noise and a slope.

    Its values stay away from 0 and 255: filters that overshoot are cut off there, by some after each direction and by others once.
    """
    random = np.random.default_rng(0)
    coarse = random.integers(-40, 41, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    fine = random.integers(-15, 16, (height, width, 3))
    slope = np.linspace(-20, 20, width)[None, :, None]
    image: np.ndarray = (128 + coarse + fine + slope).astype(np.uint8)
    return image


def _guesses(processor: Any, crop: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> Iterator[Preprocess]:
    """Ways in which the settings of a processor can be understood, for a result of the size ``crop`` (height, width)."""
    resample = getattr(processor, "resample", 2)
    number = getattr(resample, "value", resample)
    first = _FILTERS.get(number if isinstance(number, int) else 2, "bilinear")
    size = getattr(processor, "size", None) or {}
    entries = {key: _entry(size, key) for key in ("shortest_edge", "height", "width")}
    share = getattr(processor, "crop_pct", None)
    sides: list[int] = []
    if entries["shortest_edge"]:
        side = entries["shortest_edge"]
        # LeViT resizes to 256/224 of the side; ConvNeXt and PoolFormer crop to it from the side divided by crop_pct
        sides = [side, int(256 / 224 * side)]
        if isinstance(share, float) and 0 < share <= 1:
            sides += [int(side / share)]
    for interpolation in dict.fromkeys([first, *_FILTERS.values()]):
        rest: tuple[Any, ...] = (crop, interpolation, mean, std, "down")
        yield Preprocess("squash", crop, *rest)
        if entries["height"] and entries["width"]:
            squashed = entries["height"], entries["width"]
            if max(squashed) <= LARGEST_SIDE:
                yield Preprocess("squash", squashed, *rest)
            sides += [int(min(squashed) / share)] if isinstance(share, float) and 0 < share <= 1 else []
        for side in dict.fromkeys(sides):
            if 0 < side <= LARGEST_SIDE:
                yield Preprocess("short", (side, side), *rest)
                yield Preprocess("cover", (side, side), *rest)


def _entry(size: Any, key: str) -> int | None:
    value = size.get(key) if hasattr(size, "get") else getattr(size, key, None)
    return value if type(value) is int and value > 0 else None
