"""DreamConfig: every option of ``camcli dream`` but the model's, once: name, default, unit, limits, help."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from camcli.config.field import binding_values, check_values, option
from camcli.errors import ConfigError

PRIOR_NAMES = ("fourier", "none")
"""What a picture is made of; see ``camcli.dream.parametrization``."""

WITH_PRIOR: dict[str, float] = {"jitter": 0.1, "rotate": 20.0, "zoom": 0.5, "tv": 0.05, "blur": 1.0}
"""What holds where nothing else is said; without a prior all are 0. Of those tried on four classes of the bundled model these gave
the largest and cleanest objects: smaller moves give more and smaller ones, a weaker pull grain, a stronger one pale pictures."""

_WHAT, _PICTURE, _ASCENT, _OUTPUT = "What to maximise", "Picture", "Ascent", "Output"


@dataclass(frozen=True)
class DreamConfig:
    """The options of one command, as in ``RunConfig``. ``check`` raises ConfigError for values outside their limits.

    Those of WITH_PRIOR are None until ``check`` has filled them in.
    """

    class_: tuple[str, ...] = option((), "Class, by index or name; repeatable.", _WHAT, short="-c", metavar="CLASS")
    layer: tuple[str, ...] = option(
        (),
        "Layer of --channel and --unit, as camcli layers lists it; repeatable. Default: the last layer with a spatial map.",
        _WHAT,
        short="-l",
        metavar="NAME",
    )
    channel: tuple[str, ...] = option(
        (), "Channel of the layer, counted from 0: its mean over the map; repeatable.", _WHAT, metavar="C"
    )
    unit: tuple[str, ...] = option(
        (), "One cell of a channel: row Y, column X of the map, from 0; repeatable.", _WHAT, metavar="C,Y,X"
    )
    prior: str = option(
        "fourier",
        "fourier: waves as strong as photographs have them, in decorrelated colours, moved about at random. "
        "none: plain pixels, not moved, for comparison.",
        _PICTURE,
        choices=PRIOR_NAMES,
    )
    size: int | None = option(
        None,
        "Side of the picture, pixels. Default: the input that the model was made for.",
        _PICTURE,
        metavar="N",
        at_least=32,
        at_most=4096,
    )
    seed: int = option(0, "Of all that is random: the same seed gives the same picture.", _PICTURE, metavar="N", at_least=0)
    steps: int = option(256, "Steps of the ascent (Adam).", _ASCENT, metavar="N", at_least=1, at_most=100_000)
    rate: float = option(
        0.05, "Length of the first steps; it falls to 0 as a half cosine.", _ASCENT, metavar="R", at_least=1e-6, at_most=10
    )
    jitter: float | None = option(
        None, "Shift at most F of the shorter side each way. Default: 0.1; 0 with --prior none.", _ASCENT, metavar="F", at_least=0,
        at_most=0.5,
    )  # fmt: skip
    rotate: float | None = option(
        None, "Turn at most D degrees each way. Default: 20; 0 with --prior none.", _ASCENT, metavar="D", at_least=0, at_most=180
    )
    zoom: float | None = option(
        None,
        "Between 1 / (1 + F) and 1 + F times as large. Default: 0.5; 0 with --prior none.",
        _ASCENT,
        metavar="F",
        at_least=0,
        at_most=3,
    )
    tv: float | None = option(
        None, "Pull of the total variation, fraction of the activation's. Default: 0.05; 0 without a prior.", _ASCENT, metavar="W",
        at_least=0,
    )  # fmt: skip
    blur: float | None = option(
        None, "Show the network the picture under a Gaussian of S pixels, falling to 0. Default: 1; 0 with --prior none.", _ASCENT,
        metavar="S", at_least=0, at_most=100,
    )  # fmt: skip
    threads: int = option(
        1, "Threads that compute the network: more help large ones only.", _ASCENT, metavar="N", at_least=1, at_most=1024,
        affects_results=False,
    )  # fmt: skip
    frames: int | None = option(
        None, "Also write the way there as an animation (WebP), up to N pictures.", _OUTPUT, metavar="N", at_least=2, at_most=1000,
        affects_results=False,
    )  # fmt: skip
    output: str = option(
        "dreams", "Folder for the pictures and their table; its parent must exist.", _OUTPUT, short="-o", metavar="DIR",
        affects_results=False,
    )  # fmt: skip
    overwrite: bool = option(
        False, "Replace pictures made with other settings; only what camcli wrote is replaced.", _OUTPUT, affects_results=False
    )
    quiet: bool = option(False, "Say nothing but errors.", _OUTPUT, short="-q", affects_results=False)

    def check(self) -> DreamConfig:
        """Itself, complete: limits kept, what follows from the prior filled in. Raises ConfigError."""
        check_values(self)
        if not (self.class_ or self.channel or self.unit):
            raise ConfigError("nothing to maximise: name a class with --class, or a channel with --layer and --channel or --unit.")
        if self.layer and not (self.channel or self.unit):
            raise ConfigError("--layer needs a --channel or a --unit; a class is maximised by its logit, whatever the layer.")
        filled: dict[str, Any] = {
            name: value * (self.prior != "none") for name, value in WITH_PRIOR.items() if getattr(self, name) is None
        }
        return dataclasses.replace(self, **filled)

    def settings(self) -> dict[str, Any]:
        """The options that decide how a picture looks, whatever it shows, as JSON values."""
        targets = ("class", "layer", "channel", "unit")
        return {name: value for name, value in binding_values(self).items() if name not in targets}
