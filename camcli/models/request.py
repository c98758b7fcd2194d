"""What the user asks of a model source, and what a source says about a model."""

from __future__ import annotations

import contextlib
import os
import zipfile
from dataclasses import dataclass

from camcli.config.inputs import NO_CHANGES, InputChanges

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")

EXPORTED_SUFFIXES = (".onnx", ".torchscript", ".ts", ".engine", ".tflite", ".mlpackage", ".pb")
"""Endings of files with an exported network: a program, not modules with layers."""

_WAY_OUT = (
    "Take the PyTorch model from which it was made: save its state_dict() and name its architecture, --model ARCH --weights FILE, "
    "or load it in a factory, --model package.module:factory."
)
NOT_HOOKED = f"TorchScript, a compiled program whose layers cannot be read while it runs, so that there is no heatmap. {_WAY_OUT}"
NOT_TORCH = (
    f"an exported network, which has no layers that PyTorch could read and no gradients, so that there is no heatmap. {_WAY_OUT}"
)
"""Why such a file cannot be explained, and what to do."""


def why_exported(path: str) -> str | None:
    """Why the file at ``path`` cannot be explained, if it is an exported network; else None. By its name, or as an archive."""
    if path.lower().endswith(EXPORTED_SUFFIXES):
        return NOT_HOOKED if path.lower().endswith((".torchscript", ".ts")) else NOT_TORCH
    if path.lower().endswith(CHECKPOINT_SUFFIXES) and os.path.isfile(path):
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:  # a damaged directory can raise anything
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                return NOT_HOOKED
    return None


@dataclass(frozen=True)
class ModelRequest:
    """What the user asked for: ``--model``, ``--weights``, ``--labels``. ``show_progress``: of downloads, on stderr.

    ``changes``: of the model's preprocessing.
    """

    name: str
    weights: str = "DEFAULT"
    labels: str | None = None
    show_progress: bool = False
    changes: InputChanges = NO_CHANGES

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
