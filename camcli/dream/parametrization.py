"""What the ascent moves, and the picture it stands for: Fourier coefficients of decorrelated colours, or plain pixels.

Gradient ascent on pixels finds noise that the network mistakes for the class. Moving the coefficients of waves, each as strong as
natural photographs have it, in colours that do not depend on one another, is the same ascent in another geometry: every
coefficient then moves as easily as every other (Olah, Mordvintsev and Schubert 2017, "Feature Visualization", Preconditioning).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from camcli.registry import Registry

COLOUR_COVARIANCE = (
    (0.050226, 0.040530, 0.032622),
    (0.040530, 0.044404, 0.040784),
    (0.032622, 0.040784, 0.042939),
)
"""Covariance of red, green and blue, on the [0, 1] scale, within a photograph: the mean over the four colour photographs of
everyday things in ``sample_images`` (astronaut, cat, coffee, rocket). As correlations 0.86, 0.70 and 0.93; what Lucid publishes
for ImageNet (its ``color_correlation_svd_sqrt``, Olah et al. 2017) amounts to 0.91, 0.79 and 0.91."""

_SLOPE = 0.25
"""Of the logistic function at its middle: what a step of its argument is worth in brightness."""

_START_CONTRAST = 0.01
"""Of the first picture, as a fraction of a photograph's: nearly grey, so that little of the noise is left at the end."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Prior:
    """One way to describe a picture. ``start``: (size (height, width), contrast, generator) -> what the ascent moves, of any shape.
    ``picture``: (that, size) -> (1, 3, H, W) in [0, 1].
    """

    start: Callable[[Size, float, torch.Generator], Tensor]
    picture: Callable[[Tensor, Size], Tensor]


PRIORS: Registry[Prior] = Registry("prior")


def frequencies(size: Size) -> Tensor:
    """Length of the frequency of each coefficient of a real picture's transform, in cycles per pixel. (H, W // 2 + 1) float32."""
    height, width = size
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])


def spectrum_scale(size: Size) -> Tensor:
    """How strong each coefficient is in photographs, so that white ones give pixels of variance 1. (H, W // 2 + 1) float32.

    Amplitudes of natural images fall as 1/f (Field 1987); the constant wave is as strong as the longest one. Both hold for the
    orthonormal transform (``norm="ortho"``), of which the columns 1 to (W - 1) // 2 stand for two waves each.
    """
    height, width = size
    scale = 1 / frequencies(size).clamp_min(1 / max(height, width))
    twice = torch.full_like(scale, 2.0)
    twice[:, 0] = 1.0
    if width % 2 == 0:
        twice[:, -1] = 1.0
    power: Tensor = (scale**2 * twice).sum() / (height * width)
    return scale / power.sqrt()


def colour_root() -> Tensor:
    """The (3, 3) matrix R with R R^T = COLOUR_COVARIANCE: it gives independent components a photograph's colours.

    float32, for pictures (B, 3, H, W). Its columns are the principal axes, each as long as the standard deviation along it.
    """
    values, axes = torch.linalg.eigh(torch.tensor(COLOUR_COVARIANCE, dtype=torch.float64))
    root: Tensor = axes * values.sqrt()
    return root.float()


def correlated(components: Tensor) -> Tensor:
    """Independent components (B, 3, H, W) of variance 1 as colours with the covariance of photographs, around 0. (B, 3, H, W)."""
    return torch.einsum("rc,bchw->brhw", colour_root().to(components), components)


def fourier_pixels(coefficients: Tensor, size: Size) -> Tensor:
    """The components that ``coefficients`` (3, H, W // 2 + 1, 2), real and imaginary parts, stand for. (1, 3, H, W) float32."""
    waves = torch.view_as_complex(coefficients) * spectrum_scale(size).to(coefficients.device)
    pixels: Tensor = torch.fft.irfft2(waves, s=size, norm="ortho")
    return pixels[None]


def _fourier_start(size: Size, contrast: float, generator: torch.Generator) -> Tensor:
    height, width = size
    white = torch.randn((3, height, width // 2 + 1, 2), generator=generator)
    return white * (contrast / 2**0.5)  # two parts, together of variance 1


def _fourier_picture(coefficients: Tensor, size: Size) -> Tensor:
    return torch.sigmoid(correlated(fourier_pixels(coefficients, size)) / _SLOPE)


def _pixel_start(size: Size, contrast: float, generator: torch.Generator) -> Tensor:
    return torch.randn((1, 3, *size), generator=generator) * contrast


def _pixel_picture(pixels: Tensor, size: Size) -> Tensor:
    return torch.sigmoid(pixels)


PRIORS.register("fourier")(Prior(_fourier_start, _fourier_picture))
PRIORS.register("none")(Prior(_pixel_start, _pixel_picture))


def first_parameters(prior: str, size: Size, generator: torch.Generator, contrast: float = _START_CONTRAST) -> Tensor:
    """What the ascent begins with: noise of ``contrast``, a fraction of a photograph's, around grey. Any shape, on the CPU.

    Raises ConfigError for a prior that does not exist.
    """
    return PRIORS[prior].start(size, contrast, generator)
