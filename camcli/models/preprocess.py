"""How images are prepared for a network, as torchvision and timm describe it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from camcli.records import Preprocess

if TYPE_CHECKING:
    from torch import nn


def preprocess_of_preset(preset: Any) -> Preprocess:
    """The same steps as torchvision's ImageClassification preset."""
    resize, crop = preset.resize_size, preset.crop_size
    return Preprocess(
        resize="short" if len(resize) == 1 else "squash",
        resize_to=(resize[0], resize[-1]),
        crop=(crop[0], crop[-1]),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def preprocess_of_timm(module: nn.Module) -> Preprocess:
    """The same steps as timm's evaluation transform for the module's data configuration."""
    import timm

    config = timm.data.resolve_model_data_config(module)
    height, width = config["input_size"][1:]
    pct = config["crop_pct"] or 0.875
    # timm floors each side of the input divided by the crop fraction (timm.data.transforms_factory)
    resize_to = (int(height / pct), int(width / pct))
    resize = {"squash": "squash", "border": "contain"}.get(config["crop_mode"], "cover")
    if resize == "cover" and resize_to[0] == resize_to[1]:
        resize = "short"
    interpolation = {"random": "bicubic"}.get(config["interpolation"], config["interpolation"])
    return Preprocess(resize, resize_to, (height, width), interpolation, tuple(config["mean"]), tuple(config["std"]))
