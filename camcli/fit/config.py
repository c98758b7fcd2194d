"""What ``camcli fit`` is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from camcli.config.run import RunConfig

FITS = ("crop", "squash", "pad")

_NOT_BINDING = ("data", "output", "device", "batch_size", "overwrite")
"""Fields on which the model does not depend, beyond floating-point noise; ``data`` is bound by its images."""


@dataclass(frozen=True)
class FitConfig:
    """The options of ``camcli fit``, by their names. ``learning_rate``: None for the one that goes with the weights."""

    data: str
    output: str
    backbone: str = RunConfig.model
    weights: str = "DEFAULT"
    layer: str | None = None
    fit: str = "crop"
    val: float = 0.2
    seed: int = 0
    unfreeze: int = 0
    epochs: int = 10
    learning_rate: float | None = None
    max_pixels: int = RunConfig.max_pixels
    device: str = RunConfig.device
    batch_size: int | None = None
    overwrite: bool = False

    def settings(self) -> dict[str, Any]:
        """What binds a model's folder, as JSON values: another of them there makes another model."""
        return {key.replace("_", "-"): value for key, value in asdict(self).items() if key not in _NOT_BINDING}
