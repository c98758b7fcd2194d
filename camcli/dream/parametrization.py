"""Image parametrizations: the parameters that are optimized, and the picture made from them.

Gradient ascent on pixels finds noise that the network classifies as the class. Optimizing Fourier coefficients in decorrelated
colours, each scaled to its usual amplitude in photographs, is the same problem with a preconditioner: all coefficients change at
the same rate (Olah, Mordvintsev and Schubert 2017, "Feature Visualization", section Preconditioning).
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
"""Covariance of red, green and blue within a photograph, on the [0, 1] scale: the mean over four colour photographs of
``sample_images`` (astronaut, cat, coffee, rocket). The correlations are 0.86, 0.70 and 0.93; those that Lucid publishes for
ImageNet (``color_correlation_svd_sqrt``, Olah et al. 2017) are 0.91, 0.79 and 0.91."""

_SLOPE = 0.25
"""Slope of the logistic function at 0: the change of brightness per unit of its argument."""

_START_CONTRAST = 0.01
"""Contrast of the starting noise relative to a photograph: nearly grey, so that the finished picture shows little of it."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Prior:
    """An image parametrization. ``start``: (size (height, width), contrast, generator) -> parameters, any shape.
    ``picture``: (parameters, size) -> (1, 3, H, W) in [0, 1].
    """

    start: Callable[[Size, float, torch.Generator], Tensor]
    picture: Callable[[Tensor, Size], Tensor]


PRIORS: Registry[Prior] = Registry("prior")


def frequencies(size: Size) -> Tensor:
    """Frequency of each coefficient of a picture's real Fourier transform, in cycles per pixel. (H, W // 2 + 1) float32."""
    height, width = size
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])


def spectrum_scale(size: Size) -> Tensor:
    """Amplitude of each coefficient in photographs, scaled so that white coefficients give pixels of variance 1.

    (H, W // 2 + 1) float32. Amplitudes of natural images fall as 1/f (Field 1987); the constant coefficient gets the amplitude of
    the lowest frequency. The transform is orthonormal (``norm="ortho"``); its columns 1 to (W - 1) // 2 each represent two waves.
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
    """A (3, 3) float32 matrix R with R R^T = COLOUR_COVARIANCE. It turns independent components into correlated colours.

    It is applied to the channels of pictures (B, 3, H, W). Its columns are the principal axes of the covariance; the length of each
    is the standard deviation along it.
    """
    values, axes = torch.linalg.eigh(torch.tensor(COLOUR_COVARIANCE, dtype=torch.float64))
    root: Tensor = axes * values.sqrt()
    return root.float()


def correlated(components: Tensor) -> Tensor:
    """Colours (B, 3, H, W) around 0 with the covariance of photographs, from independent components (B, 3, H, W) of variance 1."""
    return torch.einsum("rc,bchw->brhw", colour_root().to(components), components)


def fourier_pixels(coefficients: Tensor, size: Size) -> Tensor:
    """Components (1, 3, H, W) float32 from Fourier coefficients (3, H, W // 2 + 1, 2), real and imaginary parts."""
    waves = torch.view_as_complex(coefficients) * spectrum_scale(size).to(coefficients.device)
    pixels: Tensor = torch.fft.irfft2(waves, s=size, norm="ortho")
    return pixels[None]


def _fourier_start(size: Size, contrast: float, generator: torch.Generator) -> Tensor:
    height, width = size
    white = torch.randn((3, height, width // 2 + 1, 2), generator=generator)
    return white * (contrast / 2**0.5)  # real and imaginary part together have variance 1


def _fourier_picture(coefficients: Tensor, size: Size) -> Tensor:
    return torch.sigmoid(correlated(fourier_pixels(coefficients, size)) / _SLOPE)


def _pixel_start(size: Size, contrast: float, generator: torch.Generator) -> Tensor:
    return torch.randn((1, 3, *size), generator=generator) * contrast


def _pixel_picture(pixels: Tensor, size: Size) -> Tensor:
    return torch.sigmoid(pixels)


PRIORS.register("fourier")(Prior(_fourier_start, _fourier_picture))
PRIORS.register("none")(Prior(_pixel_start, _pixel_picture))


def initial_parameters(prior: str, size: Size, generator: torch.Generator, contrast: float = _START_CONTRAST) -> Tensor:
    """Starting parameters on the CPU, any shape: noise around grey. ``contrast``: as a fraction of a photograph's.

    Raises ConfigError for an unknown prior.
    """
    return PRIORS[prior].start(size, contrast, generator)
