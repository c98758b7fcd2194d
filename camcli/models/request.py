"""What the user asks of a model source, and what a source tells about a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from camcli.records import LoadedModel


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


@dataclass(frozen=True)
class ModelInfo:
    """A row of ``camcli models``. Unknown values are None. ``accuracy``: published ImageNet top-1, in percent."""

    name: str
    source: str
    parameters: int | None
    input_size: tuple[int, int] | None
    accuracy: float | None
    cached: bool


class ModelSource(Protocol):
    """One of the places that models come from."""

    def owns(self, name: str) -> bool:
        """Whether ``name`` is spelled as this source's names are."""

    def load(self, request: ModelRequest) -> LoadedModel:
        """The model. Raises ModelError or WeightsError."""

    def list(self) -> Iterator[ModelInfo]:
        """All models of this source, by name."""

    def labels(self, request: ModelRequest) -> tuple[str, ...]:
        """The class names alone, without the weights."""
