"""How many images fit into memory at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from camcli.machine import available_memory
from camcli.network import run_hooked
from camcli.records import LoadedModel
from camcli.tap import gradients_of

_MOST = {"cpu": 16, "mps": 32, "cuda": 128}
"""Beyond these a larger batch is not faster."""

_SHARE = 0.5
"""Of the free memory that a batch may take: decoded images and overlays need some too."""


def fitting_batch_size(model: LoadedModel, names: Sequence[str], device: torch.device) -> int:
    """The largest power of two of images, at least 1, that should fit into half of the free memory of ``device``.

    Measured on one noise image: the peak of a forward and a backward pass on a GPU; elsewhere six times the largest output of any
    module, which is above the peak of every network in torchvision.
    """
    image = torch.randn((1, 3, *model.preprocess.crop), generator=torch.Generator().manual_seed(0)).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _explain_once(model.module, image, names)
        needed = torch.cuda.max_memory_allocated(device) - before
        free = torch.cuda.mem_get_info(device)[0]
    else:
        needed = 6 * _largest_output(model.module, image)
        free = available_memory()
    fitting = int(_SHARE * free) // max(1, needed)
    return max(1, min(_MOST.get(device.type, 16), 1 << max(0, fitting.bit_length() - 1)))


def _explain_once(module: nn.Module, image: Tensor, names: Sequence[str]) -> None:
    tapped = run_hooked(module, image, names)
    gradients_of(tapped.logits.max(), tapped.outputs, keep_graph=False)


def _largest_output(module: nn.Module, image: Tensor) -> int:
    sizes = [image.nbytes]
    handles = [
        child.register_forward_hook(lambda _m, _i, output: sizes.append(output.nbytes if isinstance(output, Tensor) else 0))
        for child in module.modules()
    ]
    try:
        with torch.no_grad():
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)
