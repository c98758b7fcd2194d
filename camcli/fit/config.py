"""FitConfig: the options of ``camcli fit`` with name, default, unit, limits and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from camcli.config.field import REQUIRED, binding_values, check_values, option
from camcli.config.run import MOST_IMAGES, RESIZE_MODES, RunConfig
from camcli.errors import ConfigError

_BACKBONE, _TRAINING, _INPUT, _OUTPUT, _SPEED = "Backbone", "Training", "Images", "Output", "Speed"


@dataclass(frozen=True)
class FitConfig:
    """The options of one training. ``check`` raises ConfigError for values outside their limits.

    ``data``: a folder with one folder per class, or with folders train and val that have one folder per class each.
    ``learning_rate``: None for the default of pretrained or random weights.
    """

    data: str
    output: str = option(REQUIRED, "Folder for the model.", _OUTPUT, short="-o", metavar="MODEL_DIR", affects_results=False)
    backbone: str = option(
        RunConfig.model,
        "Backbone whose features are used; a name as for camcli run --model.",
        _BACKBONE,
        short="-m",
        aliases=("model",),
        metavar="NAME",
    )
    weights: str = option(
        "DEFAULT", "Weights of the backbone; none means random weights.", _BACKBONE, short="-w", metavar="NAME|FILE|none"
    )
    layer: str | None = option(
        None,
        "Layer whose output is pooled; layers behind it are removed. Default: the last layer with a spatial map.",
        _BACKBONE,
        short="-l",
        metavar="NAME",
    )
    resize_mode: str = option(
        "crop",
        "How an image is resized to the network's input, as for camcli run --fit; stored with the model.",
        _INPUT,
        name="fit",
        choices=RESIZE_MODES,
    )
    max_pixels: int = option(
        RunConfig.max_pixels, "Leave out images with more than N pixels (width x height).", _INPUT, metavar="N", at_least=1
    )
    val: float = option(
        0.2,
        "Share of each class for validation, between 0 and 1; not used if DATA has folders train and val.",
        _TRAINING,
        metavar="SHARE",
    )
    seed: int = option(0, "Random seed of the stratified split and of fine-tuning.", _TRAINING, metavar="N", at_least=0)
    unfreeze: int = option(
        0,
        "After training the linear probe, also fine-tune the last N blocks of the backbone on augmented images.",
        _TRAINING,
        metavar="N",
        at_least=0,
    )
    epochs: int = option(
        10, "Maximum number of fine-tuning epochs; early stopping may end sooner.", _TRAINING, metavar="N", at_least=1
    )
    learning_rate: float | None = option(
        None, "Learning rate of fine-tuning. Default: 1e-4, or 1e-3 for random weights.", _TRAINING, metavar="R", at_least=0.0
    )
    device: str = option(
        RunConfig.device,
        "Device; auto chooses CUDA, then MPS, then the CPU.",
        _SPEED,
        short="-d",
        metavar="auto|cpu|cuda|cuda:N|mps",
        affects_results=False,
    )
    batch_size: int | None = option(
        None,
        "Images per forward pass; auto chooses a number that fits into memory.",
        _SPEED,
        short="-b",
        metavar="N|auto",
        at_least=1,
        at_most=MOST_IMAGES,
        none_word="auto",
        affects_results=False,
    )
    overwrite: bool = option(False, "Replace a model that was trained with other settings.", _OUTPUT, affects_results=False)
    quiet: bool = option(False, "Print errors only.", _OUTPUT, short="-q", affects_results=False)

    def check(self) -> FitConfig:
        """Itself, if every value is within its limits. Raises ConfigError."""
        check_values(self)
        if not 0 < self.val < 1:
            raise ConfigError(f"--val {self.val:g} must be more than 0 and less than 1.")
        return self

    def settings(self) -> dict[str, Any]:
        """The options that affect the model, as JSON values; a folder with other settings holds another model."""
        return binding_values(self)
