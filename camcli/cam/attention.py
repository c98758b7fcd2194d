"""Attribution methods for Vision Transformers, computed from the attention matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from camcli.cam import Scene, scene_method
from camcli.errors import LayerError
from camcli.network.hooks import (
    eval_frozen,
    first_tensor,
    forward_hooks,
    forward_pre_hooks,
    full_precision,
    logits_of,
    with_first,
)  # fmt: skip
from camcli.records import Grid, Layer


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
            "methods rollout and legrad are for Vision Transformers whose attention spans all tokens (ViT, DeiT, BEiT, EVA), "
            "at a layer of tokens."
        )


def require_blocks(module: nn.Module, layer: Layer, image: Tensor) -> None:
    """Raise LayerError unless ``legrad`` applies to ``image`` (1, 3, H, W): ``require_attention``, and a head of tokens alone.

    With every token of the last block replaced by one and the same, the logits must not depend on the image any more.
    """
    require_attention(module, layer, image)
    blocks = _attention_blocks(module, image, layer.grid)
    with eval_frozen(module), torch.no_grad():
        with _recorded_blocks(module, blocks) as outputs:
            module(image)
        mean = _mean_tokens(outputs[-1:])
        first, second = (_head_logits(module, blocks, outputs, mean, picture) for picture in (image, -2 * image))
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        raise LayerError("method legrad needs a network whose head takes only the tokens of the last block.")


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


@scene_method(
    "legrad",
    source="Bousselham et al. 2024, eq. 6-8",
    passes="1, and part of 1 backward a block and target",
    advice="Vision Transformers: to which patches the attention of all blocks should move for a higher logit",
    layer_independent=True,
    check=require_blocks,
)
def legrad(scene: Scene) -> Tensor:
    """Positive gradients for the attention matrices of every block, averaged over heads, queries and blocks.

    What is differentiated for a block is its own logit: that of the mean of the block's tokens, sent through the network's last
    normalization and head. Attention itself is not multiplied in. Scene of (B, C, H, W) -> (B, T, h, w).
    """
    module, grid, batch = scene.module, scene.layer.grid, len(scene.inputs)
    count = grid.prefix + grid.height * grid.width
    blocks = _attention_blocks(module, scene.inputs[:1], grid)
    with torch.enable_grad():
        inputs = scene.inputs.detach().requires_grad_()  # so that autograd records, although no parameter needs a gradient
        with recorded_attention() as found, _recorded_blocks(module, blocks) as outputs:
            module(inputs)
        matrices = [matrix for matrix in found if matrix.shape[-2:] == (count, count)]
        repeated = scene.inputs.repeat(len(blocks), 1, 1, 1)
        logits = _head_logits(module, blocks, outputs, _mean_tokens(outputs), repeated).view(len(blocks), batch, -1)
    total = scene.logits.new_zeros((*scene.targets.shape, count))
    for position in range(scene.targets.shape[1]):
        for number, matrix in enumerate(matrices):
            score = logits[number].gather(1, scene.targets[:, position, None]).sum()
            (gradient,) = torch.autograd.grad(score, matrix, retain_graph=True)
            total[:, position] += full_precision(gradient).relu().mean(dim=(1, 2))
    return (total / len(matrices))[..., grid.prefix :].reshape(*scene.targets.shape, grid.height, grid.width)


def _attention_blocks(module: nn.Module, image: Tensor, grid: Grid) -> list[str]:
    """The names of the network's blocks, in the order in which they run.

    A block is the outermost module that returns tokens and contains exactly one attention over all tokens; one that is in a list or
    sequence of modules comes first. Raises LayerError unless every such attention has its block.
    """
    count = grid.prefix + grid.height * grid.width
    names = {child: name for name, child in module.named_modules() if name}
    containers = {child for parent in module.modules() if isinstance(parent, _CONTAINERS) for child in parent.children()}
    spans: dict[nn.Module, tuple[int, int]] = {}
    begun: dict[nn.Module, int] = {}

    with eval_frozen(module), torch.no_grad(), recorded_attention() as matrices:

        def seen() -> int:
            return sum(matrix.shape[-2:] == (count, count) for matrix in matrices)

        def enter(child: nn.Module, _inputs: Any) -> None:
            begun[child] = seen()

        def leave(child: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None and tensor.ndim == 3 and tensor.shape[1] == count:
                spans[child] = begun[child], seen()

        with forward_pre_hooks((child, enter) for child in names), forward_hooks((child, leave) for child in names):
            module(image)
        total = seen()
    blocks: list[str] = []
    for number in range(total):
        around = [child for child, span in spans.items() if span == (number, number + 1)]
        # hooks of an outer module run later: the last is the outermost
        best = [child for child in around if child in containers] or around
        if not best:
            raise LayerError("method legrad does not find the blocks of this network.")
        blocks.append(names[best[-1]])
    return blocks


_CONTAINERS = (nn.ModuleList, nn.Sequential)


@contextmanager
def _recorded_blocks(module: nn.Module, blocks: Sequence[str]) -> Iterator[list[Any]]:
    """Inside, what each of the ``blocks`` returns is appended to a list."""
    found: list[Any] = []
    with forward_hooks((module.get_submodule(name), lambda _module, _inputs, output: found.append(output)) for name in blocks):
        yield found


def _mean_tokens(outputs: Sequence[Any]) -> Tensor:
    """The mean token of each output of a block, one below the other: (blocks * B, C)."""
    tensors = [first_tensor(output) for output in outputs]
    return torch.cat([tensor.mean(dim=1) for tensor in tensors if tensor is not None])


def _head_logits(module: nn.Module, blocks: Sequence[str], outputs: Sequence[Any], means: Tensor, inputs: Tensor) -> Tensor:
    """The logits (M, K) of ``means`` (M, C) as every token of the last block. ``inputs`` (M, C, H, W) only keep the rest running.

    The blocks are left out of the pass: what goes in comes out, in the form of their ``outputs``, and of the last one ``means``.
    """

    def passing(output: Any, replacement: Tensor | None) -> Callable[..., Any]:
        def forward(*given: Any, **named: Any) -> Any:
            tokens: Tensor = given[0] if given else next(value for value in named.values() if isinstance(value, Tensor))
            if replacement is not None:
                tokens = replacement[:, None].expand_as(tokens).to(tokens.dtype)
            return tokens if isinstance(output, Tensor) else with_first(output, tokens)

        return forward

    with ExitStack() as stack:
        for name, output in zip(blocks, outputs, strict=True):
            replacement = means if name == blocks[-1] else None
            stack.enter_context(_other_forward(module.get_submodule(name), passing(output, replacement)))
        return full_precision(logits_of(module(inputs)))


@contextmanager
def _other_forward(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, ``forward`` takes the place of the forward method of ``block``."""
    own = vars(block).get("forward")
    try:
        vars(block)["forward"] = forward
        yield
    finally:
        if own is None:
            del vars(block)["forward"]
        else:
            vars(block)["forward"] = own
