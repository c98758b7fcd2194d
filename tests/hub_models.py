"""Small seeded classifiers of twelve families of transformers, as ``save_pretrained`` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIDE = 64
"""Side of the input in pixels."""

CLASSES = ("cat", "dog", "a cup, filled with coffee", "tripod", "missile")

_VIT = {"image_size": SIDE, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 64}  # fmt: skip
_STAGES = {"depths": [1, 1, 2, 1]}
_SQUARE = {"size": {"height": SIDE, "width": SIDE}}

FAMILIES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "vit": ("ViTConfig", _VIT, "ViTImageProcessor", _SQUARE),
    "deit": (
        "DeiTConfig", _VIT, "DeiTImageProcessor",
        {"size": {"height": 73, "width": 73}, "crop_size": {"height": SIDE, "width": SIDE}},
    ),
    "beit": ("BeitConfig", {**_VIT, "use_mean_pooling": True}, "BeitImageProcessor", {**_SQUARE, "do_center_crop": False}),
    "swin": (
        "SwinConfig",
        {"image_size": SIDE, "patch_size": 4, "embed_dim": 16, "depths": [1, 1, 2], "num_heads": [2, 2, 4], "window_size": 4},
        "ViTImageProcessor", {**_SQUARE, "resample": 3, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    ),
    "swinv2": (
        "Swinv2Config",
        {"image_size": SIDE, "patch_size": 4, "embed_dim": 16, "depths": [1, 1, 2], "num_heads": [2, 2, 4], "window_size": 4},
        "ViTImageProcessor", {**_SQUARE, "resample": 3},
    ),
    "convnext": (
        "ConvNextConfig", {"hidden_sizes": [8, 16, 24, 32], **_STAGES}, "ConvNextImageProcessor",
        {"size": {"shortest_edge": SIDE}, "crop_pct": 0.875},
    ),
    "resnet": (
        "ResNetConfig", {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "layer_type": "bottleneck"},
        "ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_pct": 0.9, "resample": 3},
    ),
    "mobilenet_v2": (
        "MobileNetV2Config", {"image_size": SIDE, "depth_multiplier": 0.35}, "MobileNetV2ImageProcessor",
        {"size": {"shortest_edge": 73}, "crop_size": {"height": SIDE, "width": SIDE}},
    ),
    "levit": (
        "LevitConfig",
        {"image_size": 128, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
         "key_dim": [8, 8, 8], "down_ops": [["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 3, 4, 2, 2]]},
        "LevitImageProcessor", {"size": {"shortest_edge": 128}, "crop_size": {"height": 128, "width": 128}},
    ),
    "pvt": (
        "PvtConfig",
        {"image_size": 128, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4]},
        "PvtImageProcessor", {"size": {"height": 128, "width": 128}, "resample": 2},
    ),
    "dinov2": (
        "Dinov2Config", {**_VIT, "mlp_ratio": 2}, "BitImageProcessor",
        {"size": {"shortest_edge": 80}, "crop_size": {"height": SIDE, "width": SIDE}},
    ),
    "mobilevit": (
        "MobileViTConfig",
        {"image_size": SIDE, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 64]},
        "MobileViTImageProcessor", {"size": {"shortest_edge": 72}, "crop_size": {"height": SIDE, "width": SIDE}},
    ),
}  # fmt: skip
"""Family -> class and values of the configuration, class and values of the image processor."""


def save(family: str, folder: Path, **changes: Any) -> Path:
    """Write a network with seeded weights and its processor into ``folder``, which is returned."""
    import transformers

    config_class, values, processor_class, settings = FAMILIES[family]
    labels = dict(enumerate(CLASSES))
    config = getattr(transformers, config_class)(
        **{**values, **changes}, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    config.num_labels = len(CLASSES)  # PVT has 1,000 whatever the names are
    config.id2label, config.label2id = labels, {label: index for index, label in labels.items()}
    if family in ("levit", "deit"):  # they have two kinds
        config.architectures = [{"levit": "LevitForImageClassification", "deit": "DeiTForImageClassification"}[family]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.AutoModelForImageClassification.from_config(config).eval()
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if "position" not in name else 0.3)
        network.save_pretrained(folder)
    getattr(transformers, processor_class)(**settings).save_pretrained(folder)
    return folder
