"""The batch size that fits into memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from camcli.errors import OutOfMemoryError
from camcli.network import run_hooked
from camcli.network.hooks import forward_hooks, gradients_of
from camcli.network.probe import probe_input
from camcli.records import LoadedModel
from camcli.resources import available_memory, release_memory

_MOST = {"cpu": 16, "mps": 32, "cuda": 128}
"""Largest batch size by type of device; larger batches are not faster."""

_PLENTY, _BESIDE = 1 << 30, 128 << 20
"""Bytes: with this much free memory nothing is checked; the need of decoding, painting and kernels in addition to activations."""

_SHARE = 0.5
"""Share of the free memory that a batch may take: decoded images and overlays need memory too."""


def fitting_batch_size(model: LoadedModel, names: Sequence[str], device: torch.device, *, through_all: bool = False) -> int:
    """The largest power of two of images, at least 1, that should fit into half of the free memory of ``device``.

    ``names``: the layers to explain. ``through_all``: gradients go through the whole network, down to the image. The need is
    measured with one noise image: on a GPU the peak of a forward and a backward pass; elsewhere the tensors that are kept for the
    backward pass, and four times the largest output of any module.
    """
    image = probe_input(model.preprocess, device).requires_grad_(through_all)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _explain_once(model.module, image, names)
        needed = torch.cuda.max_memory_allocated(device) - before
        free = torch.cuda.mem_get_info(device)[0]
    else:
        needed, free = _host_bytes(model.module, image, names), available_memory()
    fitting = int(_SHARE * free) // max(1, needed)
    return max(1, min(_MOST.get(device.type, 16), 1 << max(0, fitting.bit_length() - 1)))


def refuse_too_little(model: LoadedModel, names: Sequence[str], device: torch.device) -> None:
    """Raise OutOfMemoryError if the host has too little memory left to explain one image: the kernel would kill the process.

    Not checked on a GPU, which raises an error itself, nor if there is plenty of memory.
    """
    if device.type != "cpu" or available_memory() > _PLENTY:
        return
    release_memory()
    image = torch.zeros((1, model.preprocess.channels, *model.preprocess.crop))
    needed, free = _host_bytes(model.module, image, names) + _BESIDE, available_memory()
    if needed > free:
        raise OutOfMemoryError(
            f"{model.name} needs about {needed / 1e6:.0f} MB more to explain an image, and {free / 1e6:.0f} MB are free on the "
            "machine or within the limits of this process (control group, ulimit -v). Give it more memory, or try a smaller model."
        )


def bytes_through(model: LoadedModel, size: tuple[int, int]) -> int:
    """Bytes of host memory for one image of ``size`` (height, width) and its gradient; measured at the model's size and scaled."""
    height, width = model.preprocess.crop
    image = torch.zeros((1, model.preprocess.channels, height, width), requires_grad=True)
    return _host_bytes(model.module, image, []) * size[0] * size[1] // (height * width)


def _explain_once(module: nn.Module, image: Tensor, names: Sequence[str]) -> None:
    tapped = run_hooked(module, image, names)
    gradients_of(tapped.logits.max(), [*tapped.outputs, *([image] if image.requires_grad else [])], keep_graph=False)


def _host_bytes(module: nn.Module, image: Tensor, names: Sequence[str]) -> int:
    """Bytes for one image: the tensors that autograd keeps, and four times the largest output."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}
    outputs = [image.nbytes]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def see(_module: nn.Module, _inputs: object, output: object) -> None:
        outputs.append(output.nbytes if isinstance(output, Tensor) else 0)

    with (
        forward_hooks((child, see) for child in module.modules()),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        _explain_once(module, image, names)
    return sum(kept.values()) + 4 * max(outputs)
