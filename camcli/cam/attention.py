"""Attribution methods for Vision Transformers, computed from the attention matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from camcli.cam import Scene, scene_method
from camcli.errors import LayerError
from camcli.network.hooks import eval_frozen, full_precision
from camcli.records import Layer


@contextmanager
def recorded_attention() -> Iterator[list[Tensor]]:
    """Inside, every scaled dot-product attention appends its matrix (B, heads, N, N) to a list; its rows sum to one.

    torchvision's and timm's transformers call one function of PyTorch for it. It is replaced by the same computation in Python;
    PyTorch's fast path for whole attention blocks, which would bypass it, is off.
    """
    matrices: list[Tensor] = []
    original = functional.scaled_dot_product_attention
    fast_path = torch.backends.mha.get_fastpath_enabled()

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, **_: Any,
    ) -> Tensor:  # fmt: skip
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = scores.softmax(dim=-1)
        matrices.append(weights)
        return weights @ value

    try:
        functional.scaled_dot_product_attention = attend  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(False)
        yield matrices
    finally:
        functional.scaled_dot_product_attention = original
        torch.backends.mha.set_fastpath_enabled(fast_path)


def require_attention(module: nn.Module, layer: Layer, image: Tensor) -> None:
    """Raise LayerError unless ``image`` (1, 3, H, W) passes through attention over the tokens of ``layer``'s grid."""
    with eval_frozen(module), torch.no_grad(), recorded_attention() as matrices:
        module(image)
    tokens = layer.grid.prefix + layer.grid.height * layer.grid.width
    if layer.grid.kind != "tokens" or not any(matrix.shape[-2:] == (tokens, tokens) for matrix in matrices):
        raise LayerError(
            "method rollout is for Vision Transformers whose attention spans all tokens (ViT, DeiT, BEiT, EVA), "
            "at a layer of tokens."
        )


@scene_method(
    "rollout",
    source="Abnar and Zuidema 2020",
    passes="1",
    advice="Vision Transformers: how information flows to the output; does not depend on the class",
    layer_independent=True,
    check=require_attention,
)
def attention_rollout(scene: Scene) -> Tensor:
    """The product over blocks of half the mean attention and half the identity, from the output back to the patches.

    The row of the class token where there is one, else the mean over all tokens. Scene of (B, 3, H, W) -> (B, T, h, w).
    """
    grid = scene.layer.grid
    tokens = grid.prefix + grid.height * grid.width
    with torch.no_grad(), recorded_attention() as matrices:
        scene.module(scene.inputs)
    identity = torch.eye(tokens, device=scene.inputs.device, dtype=scene.activations.dtype)
    flow = identity.expand(len(scene.inputs), -1, -1)
    for matrix in matrices:
        if matrix.shape[-2:] == (tokens, tokens):
            flow = (0.5 * full_precision(matrix).mean(dim=1) + 0.5 * identity) @ flow
    row = flow[:, 0] if grid.prefix else flow.mean(dim=1)
    maps = row[:, grid.prefix :].reshape(-1, 1, grid.height, grid.width)
    return maps.expand(-1, scene.targets.shape[1], -1, -1)
