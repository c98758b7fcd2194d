"""What the user asks of a model source, and what a source says about a model."""

from __future__ import annotations

import os
from dataclasses import dataclass

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class ModelRequest:
    """What the user asked for: ``--model``, ``--weights``, ``--labels``. ``show_progress``: of downloads, on stderr."""

    name: str
    weights: str = "DEFAULT"
    labels: str | None = None
    show_progress: bool = False

    @property
    def random(self) -> bool:
        """Whether the weights are to be random."""
        return self.weights.casefold() == "none"

    @property
    def checkpoint(self) -> bool:
        """Whether ``weights`` names an existing file."""
        return os.path.isfile(self.weights)


@dataclass(frozen=True)
class ModelInfo:
    """A row of ``camcli models``. Unknown values are None. ``accuracy``: published ImageNet top-1, in percent."""

    name: str
    source: str
    parameters: int | None
    input_size: tuple[int, int] | None
    accuracy: float | None
    cached: bool
