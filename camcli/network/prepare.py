"""Make a network faster; each step is checked against the original network before it is used."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from camcli.errors import first_line
from camcli.network import Network, Tapped, run_hooked
from camcli.network.equivalence import outputs_match, probe_inputs
from camcli.network.fold import fold_batch_norms
from camcli.network.hooks import eval_frozen
from camcli.network.partition import partition_network
from camcli.network.precision import resolve_precision, set_precision, tensor_cores
from camcli.network.probe import probe_input
from camcli.network.threads import torch_threads
from camcli.records import LoadedModel

COMPILE_PAYS = 10_000
"""Number of images from which compiling pays: it takes 10 to 40 seconds and saves about 2 milliseconds an image on two cores."""

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
"""Largest change that compiling may make to logits or a chosen layer, as for ``outputs_match``: a fraction of the largest value."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """The options ``--precision`` and ``--compile``, and the batch size and ``--threads`` for which to compile."""

    precision: str = "fp32"
    compile: bool = False
    batch_size: int = 16
    threads: int | None = None


def prepare_network(
    model: LoadedModel, names: Sequence[str], device: torch.device, wanted: Preparation, warn: Callable[[str], None]
) -> Network:
    """``model`` made ready to explain the layers ``names`` on ``device``: faster, with the same results up to floating-point noise.

    Only the memory layout and the type of the model's module change. ``warn`` gets a sentence for each step that was not possible.
    Raises ConfigError for a precision in which the network does not run.
    """
    module = model.module
    example = probe_input(model.preprocess, device)
    precision = resolve_precision(wanted.precision, device)
    with eval_frozen(module), tensor_cores(precision == "tf32", device):
        memory_format = _fastest_format(module, example, names)
        example = example.contiguous(memory_format=memory_format)
        folded, count = fold_batch_norms(module, example, names)
        if count < 0:
            warn(f"BatchNorms of {model.name} could not be folded into its convolutions without a change; it runs as it is.")
        dtype = set_precision([module] if folded is module else [module, folded], precision, example)
        words = precision if precision != "fp32" else ""
        network = Network(module, partial(run_hooked, folded), dtype, memory_format, None, precision == "tf32", words)
        if not wanted.compile:
            return network
        compiled = _compiled(network, folded, example.to(dtype), names, wanted)
    if isinstance(compiled, str):
        warn(f"{model.name} could not be compiled ({compiled}); it runs without.")
        return network
    return compiled


def _fastest_format(module: nn.Module, example: Tensor, names: Sequence[str]) -> torch.memory_format:
    """The memory format to which ``module`` is converted: channels-last unless the network does not run in it."""
    if example.device.type == "mps":
        return torch.contiguous_format
    try:
        module.to(memory_format=torch.channels_last)  # PyTorch refuses buffers of five dimensions, which a truncated Swin has
        run_hooked(module, example.contiguous(memory_format=torch.channels_last), names)
    except RuntimeError:
        module.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


def worth_compiling(wanted: str, images: int) -> bool:
    """Whether to compile for the remaining ``images``. ``wanted``: on, off, or auto, which also requires a C++ compiler."""
    if wanted == "auto":
        return images >= COMPILE_PAYS and _has_compiler()
    return wanted == "on"


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name)


def _compiled(network: Network, folded: nn.Module, example: Tensor, names: Sequence[str], wanted: Preparation) -> Network | str:
    """``network`` with its trunk compiled for batches of the size wanted, or why that does not work."""
    inputs = probe_inputs(example, wanted.batch_size)
    try:
        with _compiling(wanted.threads):
            partition = partition_network(folded, torch.zeros_like(inputs), names)
            trunk = torch.compile(partition.trunk, fullgraph=True, dynamic=False, options={"freezing": True})
            faster = replace(partition, trunk=trunk)
            same = outputs_match(network.run, lambda images, _: faster.run(images), inputs, names, _TOLERANCE[network.dtype])
    except Exception as error:  # the exporter and the compiler can raise anything
        return first_line(error)[:200]
    if not same:
        return "the compiled network gives other results"

    def run(inputs: Tensor, names_wanted: Sequence[str]) -> Tapped:
        if inputs.shape == faster.shape and list(names_wanted) == list(names):
            return faster.run(inputs.contiguous(memory_format=network.memory_format))  # other strides would be compiled again
        return network.run(inputs, names_wanted)

    words = ", ".join(part for part in (network.description, "compiled") if part)
    return replace(network, run=run, batch=wanted.batch_size, description=words)


@contextmanager
def _compiling(threads: int | None) -> Iterator[None]:
    """Inside, PyTorch computes with ``threads`` as it will later, since compiled code is specific to their number; it logs only
    errors, and caches what it compiles.
    """
    log = logging.getLogger("torch")
    level = log.level
    _keep_compiled_code()
    try:
        log.setLevel(logging.ERROR)
        with torch_threads(threads):
            yield
    finally:
        log.setLevel(level)


def _keep_compiled_code() -> None:
    """Cache compiled code in the user's cache folder, where it survives a restart, unless the user has chosen a folder."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(caches, "camcli", "compiled")
        with contextlib.suppress(OSError):  # no home, or a full one: PyTorch's own temporary folder will do
            os.makedirs(folder, exist_ok=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
