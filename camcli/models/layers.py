"""The layers of a model: which there are, which are usable for a heatmap, which is the default."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from camcli.errors import LayerError, ModelError, did_you_mean, first_line
from camcli.network.hooks import capture_outputs, eval_frozen, gradients_of, logits_of
from camcli.network.probe import probe_input, random_direction
from camcli.records import Grid, Layer, LayerInfo, LoadedModel

_MOVERS = (
    nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool1d,
)  # fmt: skip
"""Modules that only pool, pass on or move values. None is ever the default: the layer before them has the same information."""

ALL = "all"
"""The value of ``--layer`` that selects every usable layer."""

_MAX_PREFIX = 5
"""Maximum number of class and register tokens before the patches."""


def list_layers(model: LoadedModel) -> list[LayerInfo]:
    """Every module that runs, in order of its last execution, with the shape of its output for one image.

    Found by one forward and one backward pass with one noise image of the model's input size. A layer is usable if its output is a
    map of more than one cell and the logits depend on the cells. The last block of a Vision Transformer is not usable, because only
    its class token reaches the head. Raises ModelError if the model does not run.
    """
    names = [name for name, _ in model.module.named_modules() if name]
    return _probe(model, names)


def resolve_layers(model: LoadedModel, wanted: Sequence[str]) -> list[Layer]:
    """The layers named in ``wanted``; every usable layer for ``all``, the default layer if ``wanted`` is empty.

    Raises LayerError, which says what to try instead.
    """
    if not wanted:
        return [_as_layer(default_layer(model, list_layers(model)))]
    if ALL in wanted:
        return [_as_layer(info) for info in list_layers(model) if not info.why_not]
    names = list(dict.fromkeys(_full_name(model, name) for name in wanted))
    by_name = {info.name: info for info in _probe(model, names)}
    layers: list[Layer] = []
    for name in names:
        info = by_name.get(name)
        if info is None:
            raise LayerError(f"layer {name!r} of {model.name} does not run in the forward pass. {_see(model)}")
        if info.grid is None or info.why_not:
            everything = list_layers(model)
            usable = [other.name for other in everything if not other.why_not]
            place = [other.name for other in everything].index(name)
            before = [other.name for other in everything[:place] if not other.why_not]
            near = before[-1] if before else usable[0] if usable else None
            advice = f" The nearest usable layer is {near!r}." if near else ""
            raise LayerError(f"layer {name!r} of {model.name} has no heatmap: {info.why_not}.{advice} {_see(model)}")
        layers.append(_as_layer(info))
    return layers


def default_layer(model: LoadedModel, layers: Sequence[LayerInfo]) -> LayerInfo:
    """The last usable layer; the outermost if several modules return the same output. Raises LayerError if there is none.

    Layers that only pool or move values are skipped, and so are the parts of an attention block: queries, keys and values are not
    the features that a heatmap should show.
    """
    modules = dict(model.module.named_modules())
    inside = tuple(f"{name}." for name, module in modules.items() if name and _is_attention(module))
    usable = [
        info for info in layers if not info.why_not and not _only_moves(modules[info.name]) and not info.name.startswith(inside)
    ]
    if not usable:
        raise LayerError(f"no layer of {model.name} has a spatial map that the logits depend on. {_see(model)}")
    return usable[-1]


def _only_moves(module: nn.Module) -> bool:
    return isinstance(module, _MOVERS) or type(module).__name__ in ("Permute", "LayerDropout", "DropPath", "StochasticDepth")


def _is_attention(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return ("attention" in name or "attn" in name) and not name.endswith("block")  # open_clip's ResidualAttentionBlock is whole


def _as_layer(info: LayerInfo) -> Layer:
    assert info.grid is not None  # callers pass only usable layers
    return Layer(info.name, info.grid)


def _see(model: LoadedModel) -> str:
    return f"See them all: camcli layers {model.name}"


def _full_name(model: LoadedModel, name: str) -> str:
    """``name`` with negative indices resolved (``features.-1``). Raises LayerError for a name the model does not have."""
    module: nn.Module = model.module
    parts: list[str] = []
    for part in name.split("."):
        children = dict(module.named_children())
        if part.startswith("-") and part[1:].isdigit() and 0 < int(part[1:]) <= len(children):
            part = list(children)[-int(part[1:])]
        if part not in children:
            names = [known for known, _ in model.module.named_modules() if known]
            raise LayerError(f"{model.name} has no layer {name!r}.{did_you_mean(name, names)} {_see(model)}")
        module = children[part]
        parts.append(part)
    return ".".join(parts)


def _probe(model: LoadedModel, names: Sequence[str]) -> list[LayerInfo]:
    """The modules ``names`` in the order of their last execution, examined with one noise image."""
    (height, width), channels = model.preprocess.crop, model.preprocess.channels
    like = next(model.module.parameters(), torch.zeros(0))
    image = probe_input(model.preprocess, like.device, like.dtype)
    prefix = getattr(model.module, "num_prefix_tokens", None)
    with eval_frozen(model.module), capture_outputs(model.module, names) as outputs, torch.enable_grad():
        try:
            logits = logits_of(model.module(image))
        except ModelError:
            raise
        except Exception as error:  # the user's own forward may raise anything
            raise ModelError(
                f"{model.name} does not run on one image of {channels} x {height} x {width}: {first_line(error)}"
            ) from error
        ran = list(outputs.items())
        floating = [(name, output) for name, output in ran if output.requires_grad]
        gradients: dict[str, Tensor] = {}
        if floating and logits.requires_grad:
            found = gradients_of((logits * random_direction(logits)).sum(), [output for _, output in floating], keep_graph=False)
            gradients = {name: gradient for (name, _), gradient in zip(floating, found, strict=True)}
    return [_described(name, output, gradients.get(name), (height, width), prefix, model.module) for name, output in ran]


def _described(
    name: str,
    output: Tensor,
    gradient: Tensor | None,
    size: tuple[int, int],
    prefix: int | None,
    root: nn.Module,
) -> LayerInfo:
    shape, type_name = tuple(output.shape), type(root.get_submodule(name)).__name__
    grid = find_grid(shape, size, prefix, channels_last=_normalises_last(root.get_submodule(name), shape))
    if grid is None:
        return LayerInfo(name, type_name, shape, None, f"its output {_sizes(shape)} is not a spatial map")
    if grid.height * grid.width == 1:
        return LayerInfo(name, type_name, shape, grid, f"its output {_sizes(shape)} has a single cell")
    if gradient is None or not _reaches_cells(gradient, grid):
        return LayerInfo(name, type_name, shape, grid, "the logits do not depend on its cells, so every map would be zero")
    return LayerInfo(name, type_name, shape, grid)


def _reaches_cells(gradient: Tensor, grid: Grid) -> bool:
    cells = gradient[:, grid.prefix :] if grid.kind == "tokens" else gradient
    return bool(torch.count_nonzero(cells) > 0)


def _normalises_last(module: nn.Module, shape: tuple[int, ...]) -> bool:
    normalized = getattr(module, "normalized_shape", None)
    return normalized is not None and len(normalized) == 1 and normalized[0] == shape[-1]


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[1:]))


def find_grid(
    shape: Sequence[int], size: tuple[int, int], prefix: int | None = None, *, channels_last: bool = False
) -> Grid | None:
    """How an output of ``shape`` is a map of an input of ``size`` (height, width) pixels; None if it is not one.

    ``shape`` includes the batch dimension, of size 1. Four dimensions: the grid is the pair of neighbouring dimensions with the
    input's aspect ratio; (C, h, w) if both pairs have it, unless ``channels_last``. Three: tokens; the
    first ``prefix`` of them are no patches, and None tries 0 to 5.
    """
    if shape[0] != 1:  # windows of an attention block, folded into the batch
        return None
    if len(shape) == 4:
        first, second, third = shape[1:]
        nchw, nhwc = _fits(second, third, size), _fits(first, second, size)
        if nhwc and (channels_last or not nchw):
            return Grid("nhwc", first, second)
        return Grid("nchw", second, third) if nchw else None
    if len(shape) == 3 and shape[2] > 1:  # a single channel: pooled channels, which look like tokens
        for extra in range(_MAX_PREFIX + 1) if prefix is None else (prefix, 0):
            cells = shape[1] - extra
            height = round(math.sqrt(cells * size[0] / size[1])) if cells > 0 else 0
            width = cells // height if height > 1 else 0
            # a guess must have exactly the input's aspect ratio: other outputs, such as transposed tokens, fit some grid by chance
            if height * width == cells > 1 and _fits(height, width, size, exactly=prefix is None):
                return Grid("tokens", height, width, extra)
    return None


def _fits(height: int, width: int, size: tuple[int, int], *, exactly: bool = False) -> bool:
    """Whether a grid can come from an input of ``size`` with equal strides: the aspect ratios agree to one cell, or ``exactly``."""
    if not (1 <= height <= size[0] and 1 <= width <= size[1]):
        return False
    if exactly:
        return height * size[1] == width * size[0] and size[0] % height == 0
    return abs(height * size[1] - width * size[0]) <= max(size)
