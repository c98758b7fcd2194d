"""DreamConfig: the options of ``camcli dream`` with name, default, unit, limits and help, except those that select the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from camcli.config.field import binding_values, check_values, option
from camcli.errors import ConfigError

PRIOR_NAMES = ("fourier", "none")
"""Image parametrizations; see ``camcli.dream.parametrization``."""

WITH_PRIOR: dict[str, float] = {"jitter": 0.1, "rotate": 20.0, "zoom": 0.5, "tv": 0.05, "blur": 1.0}
"""Defaults with ``--prior fourier``; with ``--prior none`` they are all 0. On four classes of the bundled model these values gave
the largest and clearest objects. Smaller transformations give more and smaller objects, less total variation loss gives grainy
pictures, and more gives pale pictures."""

_WHAT, _PICTURE, _OPTIMIZE, _OUTPUT = "What to maximize", "Picture", "Optimization", "Output"


@dataclass(frozen=True)
class DreamConfig:
    """The options of one command, declared as in ``RunConfig``. ``check`` raises ConfigError for values outside their limits.

    Options in WITH_PRIOR are None until ``check`` has set their defaults.
    """

    class_: tuple[str, ...] = option((), "Class to maximize, by index or name; repeatable.", _WHAT, short="-c", metavar="CLASS")
    layer: tuple[str, ...] = option(
        (),
        "Layer of --channel and --unit, by its name in camcli layers; repeatable. Default: the last layer with a spatial map.",
        _WHAT,
        short="-l",
        metavar="NAME",
    )
    channel: tuple[str, ...] = option(
        (), "Channel to maximize, counted from 0: its mean over the map; repeatable.", _WHAT, metavar="C"
    )
    unit: tuple[str, ...] = option(
        (), "Unit to maximize: channel C at row Y, column X of the map, counted from 0; repeatable.", _WHAT, metavar="C,Y,X"
    )
    prior: str = option(
        "fourier",
        "fourier: optimize Fourier coefficients in decorrelated colours, under random transformations. "
        "none: optimize the pixels, without transformations, for comparison.",
        _PICTURE,
        choices=PRIOR_NAMES,
    )
    size: int | None = option(
        None,
        "Width and height of the picture in pixels. Default: the input size of the model.",
        _PICTURE,
        metavar="N",
        at_least=32,
        at_most=4096,
    )
    seed: int = option(0, "Random seed; the same seed gives the same picture.", _PICTURE, metavar="N", at_least=0)
    steps: int = option(256, "Number of optimization steps (Adam).", _OPTIMIZE, metavar="N", at_least=1, at_most=100_000)
    rate: float = option(
        0.05,
        "Learning rate of the first step; it falls to 0 along a half cosine.",
        _OPTIMIZE,
        metavar="R",
        at_least=1e-6,
        at_most=10,
    )
    jitter: float | None = option(
        None,
        "Shift at random by up to this fraction of the shorter side. Default: 0.1; 0 with --prior none.",
        _OPTIMIZE,
        metavar="F",
        at_least=0,
        at_most=0.5,
    )
    rotate: float | None = option(
        None,
        "Rotate at random by up to D degrees in each direction. Default: 20; 0 with --prior none.",
        _OPTIMIZE,
        metavar="D",
        at_least=0,
        at_most=180,
    )
    zoom: float | None = option(
        None,
        "Scale by a random factor from 1 / (1 + F) to 1 + F. Default: 0.5; 0 with --prior none.",
        _OPTIMIZE,
        metavar="F",
        at_least=0,
        at_most=3,
    )
    tv: float | None = option(
        None,
        "Weight of the total variation loss relative to the activation. Default: 0.05; 0 with --prior none.",
        _OPTIMIZE,
        metavar="W",
        at_least=0,
    )
    blur: float | None = option(
        None,
        "Blur the network's input with a Gaussian of S pixels that shrinks to 0. Default: 1; 0 with --prior none.",
        _OPTIMIZE,
        metavar="S",
        at_least=0,
        at_most=100,
    )
    threads: int = option(
        1,
        "Threads that compute the network; more than one helps large networks only.",
        _OPTIMIZE,
        metavar="N",
        at_least=1,
        at_most=1024,
        affects_results=False,
    )
    frames: int | None = option(
        None,
        "Also write an animation of the optimization (WebP) with up to N frames.",
        _OUTPUT,
        metavar="N",
        at_least=2,
        at_most=1000,
        affects_results=False,
    )
    output: str = option(
        "dreams",
        "Folder for the pictures and their table; its parent folder must exist.",
        _OUTPUT,
        short="-o",
        metavar="DIR",
        affects_results=False,
    )
    overwrite: bool = option(False, "Replace pictures that camcli made with other settings.", _OUTPUT, affects_results=False)
    quiet: bool = option(False, "Print errors only.", _OUTPUT, short="-q", affects_results=False)

    def check(self) -> DreamConfig:
        """A copy with the defaults of its prior filled in, if every value is within its limits. Raises ConfigError."""
        check_values(self)
        if not (self.class_ or self.channel or self.unit):
            raise ConfigError("nothing to maximize: name a class with --class, or a channel with --layer and --channel or --unit.")
        if self.layer and not (self.channel or self.unit):
            raise ConfigError("--layer needs --channel or --unit; a class is maximized by its logit, which has no layer.")
        filled: dict[str, Any] = {
            name: value * (self.prior != "none") for name, value in WITH_PRIOR.items() if getattr(self, name) is None
        }
        return dataclasses.replace(self, **filled)

    def settings(self) -> dict[str, Any]:
        """The options that affect every picture, without the targets, as JSON values."""
        targets = ("class", "layer", "channel", "unit")
        return {name: value for name, value in binding_values(self).items() if name not in targets}
