"""The faster ways to run a network, put together and proved before use."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from camcli.network import Network, Tapped, run_hooked
from camcli.network.fold import fold_batch_norms
from camcli.network.precision import resolve_precision, set_precision, tensor_cores
from camcli.network.split import Split, split_network
from camcli.records import LoadedModel
from camcli.tap import frozen

COMPILE_PAYS = 4_000
"""Images from which compiling, 10 to 40 seconds, is paid back: it saves 4 to 10 milliseconds an image on two cores."""

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
"""How far compiling may move logits or a chosen layer, as a fraction of the largest value: proof that it is the same network."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is wanted: ``--precision``, ``--compile``, and the batch size for which to compile."""

    precision: str = "fp32"
    compile: bool = False
    batch_size: int = 16


def prepare_network(
    model: LoadedModel, names: Sequence[str], device: torch.device, wanted: Preparation, warn: Callable[[str], None]
) -> Network:
    """``model`` made ready to explain the layers ``names`` on ``device``: the same results, to floating-point noise, sooner.

    The model's module changes its memory layout and type, nothing else. ``warn`` is told in one sentence what could not be
    done. Raises ConfigError for a precision that the network does not run in.
    """
    module, size = model.module, model.preprocess.crop
    memory_format = torch.contiguous_format if device.type == "mps" else torch.channels_last
    generator = torch.Generator().manual_seed(0)
    example = torch.randn((1, 3, *size), generator=generator).to(device).contiguous(memory_format=memory_format)
    precision = resolve_precision(wanted.precision, device)
    with frozen(module):
        module.to(memory_format=memory_format)
        folded, count = fold_batch_norms(module, example, names)
        if count < 0:
            warn(f"{model.name} changes when its BatchNorms are folded into its convolutions; it runs as it is.")
        dtype = set_precision([module] if folded is module else [module, folded], precision, example)
    words = [precision] if precision != "fp32" else []
    network = Network(module, partial(run_hooked, folded), dtype, memory_format, None, precision == "tf32", ", ".join(words))
    if not wanted.compile:
        return network
    with tensor_cores(network.tf32, device):
        compiled = _compiled(network, folded, example.to(dtype), names, wanted.batch_size)
    if isinstance(compiled, str):
        warn(f"{model.name} could not be compiled ({compiled}); it runs without.")
        return network
    return compiled


def worth_compiling(wanted: str, images: int) -> bool:
    """Whether to compile for ``images`` that are left. ``wanted``: on, off, or auto, which also asks for a C++ compiler."""
    if wanted == "auto":
        return images >= COMPILE_PAYS and _has_compiler()
    return wanted == "on"


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name)


def _compiled(network: Network, folded: nn.Module, example: Tensor, names: Sequence[str], batch: int) -> Network | str:
    """``network`` with its trunk compiled for batches of ``batch``, or why that does not work."""
    logging.getLogger("torch").setLevel(logging.ERROR)  # of the compiler's advice to developers
    _keep_compiled_code()
    inputs = example.repeat(batch, 1, 1, 1).contiguous(memory_format=network.memory_format)
    try:
        split = split_network(folded, inputs, names)
        trunk = torch.compile(split.trunk, fullgraph=True, dynamic=False, options={"freezing": True})
        faster = Split(split.shape, trunk, split.head, split.leaves, split.inner)
        found, expected = faster.run(inputs), network.run(example, names)
    except Exception as error:  # the exporter and the compiler raise whatever a network meets there
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if not _same(expected, found, _TOLERANCE[network.dtype]):
        return "the compiled network gives other results"

    def run(inputs: Tensor, wanted: Sequence[str]) -> Tapped:
        if inputs.shape == faster.shape and list(wanted) == list(names):
            return faster.run(inputs)
        return network.run(inputs, wanted)

    words = ", ".join(part for part in (network.words, "compiled") if part)
    return replace(network, run=run, batch=batch, words=words)


def _keep_compiled_code() -> None:
    """Let what is compiled survive this process and the next start of the machine, unless the user has said where it belongs."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(caches, "camcli", "compiled")
        with contextlib.suppress(OSError):  # no home, or a full one: PyTorch's own temporary folder will do
            os.makedirs(folder, exist_ok=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder


def _same(expected: Tapped, found: Tapped, tolerance: float) -> bool:
    """Whether the first image of ``found`` is that of ``expected``."""
    for first, second in zip([expected.logits, *expected.outputs], [found.logits, *found.outputs], strict=True):
        one, other = first.detach().float(), second[:1].detach().float()
        if one.shape != other.shape or not bool((one - other).abs().max() <= tolerance * one.abs().max()):
            return False
    return True
