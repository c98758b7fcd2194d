"""Weights from a user's file: read without running code, fitted into an architecture whatever the size of its head."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camcli.errors import ModelError, WeightsError
from camcli.records import shown

SUFFIXES = (".pt", ".pth", ".safetensors")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.")
_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.")
"""Auxiliary heads of GoogLeNet and Inception, which take no part in the prediction."""


def is_checkpoint(weights: str) -> bool:
    """Whether ``--weights`` names an existing file."""
    return os.path.isfile(weights)


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """Name -> tensor from a ``.pt``, ``.pth`` or ``.safetensors`` file, out of a ``state_dict`` wrapper where there is one.

    Pickles are read with ``weights_only=True``, so no code of the file runs. Raises WeightsError for files that need it, that
    are damaged, or that hold no tensors.
    """
    if path.lower().endswith(".safetensors"):
        from safetensors.torch import load, load_file

        try:
            if not path.isprintable():  # PyTorch cannot map a file whose name is not UTF-8
                with open(path, "rb") as file:
                    return load(file.read())
            return load_file(path)
        except Exception as error:  # safetensors raises its own, undocumented class
            raise WeightsError(f"{shown(path)} is not a safetensors file: {_what_it_is(path)}.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles and TorchScript: what does not load is said below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):  # as PyTorch says it: an unsupported global, a function or class
            raise WeightsError(
                f"{path} holds more than tensors, and loading it would run code from the file, which camcli does not do. "
                "Save the weights alone: torch.save(model.state_dict(), FILE), or as safetensors."
            ) from error
        raise WeightsError(f"{path} is not a PyTorch checkpoint: {_what_it_is(path)}.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path} is not a PyTorch checkpoint: {_what_it_is(path)}.") from error
    tensors = _tensors(loaded)
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name: save model.state_dict() into it.")
    return tensors


def fill_module(
    build: Callable[..., nn.Module], tensors: Mapping[str, Tensor], path: str, name: str
) -> tuple[nn.Module, int | None]:
    """The architecture with ``tensors`` as its weights, and the number of classes where the head is not the architecture's own.

    ``build(num_classes=N)`` makes the architecture. Prefixes that wrappers add (``module.``, ``model.``) are taken off. N is
    the size that every tensor of the head has in common. Raises WeightsError for tensors that are missing or do not fit.
    """
    expected = {key: tensor.shape for key, tensor in build_meta(build).state_dict().items()}
    tensors = _without_prefixes(dict(tensors), expected)
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(_TRAINING_ONLY) or key in expected}
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    extra = [key for key in tensors if key not in expected]
    if missing or extra:
        raise WeightsError(
            f"{path} does not fit {name}: it lacks {_listed(missing)} and has {_listed(extra)} that the model does not have."
        )
    misfits = {key for key in expected if key in tensors and tensors[key].shape != expected[key]}
    count = _head_size(misfits, tensors, expected)
    if misfits and count is None:
        key = sorted(misfits)[0]
        raise WeightsError(
            f"{path} does not fit {name}: {key} is {_shape(tensors[key].shape)} there and {_shape(expected[key])} in the model."
        )
    module = build() if count is None else build(num_classes=count)
    try:
        module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {name} with {count} classes: {_first_line(error)}") from error
    return module, count


def _what_it_is(path: str) -> str:
    """A guess from the first bytes, for the error message."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself with git lfs pull"
    if start.lstrip()[:1] == b"<":
        return "a web page or other markup, perhaps a failed download"
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        return (
            "a TorchScript archive; save model.state_dict() instead"
            if any("constants.pkl" in name for name in names)
            else ("a damaged or foreign archive")
        )
    if start and all(byte >= 9 and byte < 127 for byte in start):
        return "it looks like text"
    return "its contents are damaged or of another kind" if start else "it is empty"


def build_meta(build: Callable[..., nn.Module]) -> nn.Module:
    """A module of the architecture, for its names and shapes; on the meta device, without memory, where that is possible."""
    try:
        with torch.device("meta"):
            return build()
    except (ModelError, RuntimeError, NotImplementedError, TypeError, ValueError):
        return build()


def _tensors(loaded: Any) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping):
        return {}
    for wrapper in _WRAPPERS:
        inner = _tensors(loaded.get(wrapper))
        if inner:
            return inner
    return {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _without_prefixes(tensors: dict[str, Tensor], expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Take prefixes off as long as that makes more names known."""

    def known(candidate: Mapping[str, Tensor]) -> int:
        return sum(key in expected for key in candidate)

    while True:
        shorter = [{key.removeprefix(prefix): value for key, value in tensors.items()} for prefix in _PREFIXES]
        # two wrappers in a row: one step alone may not make a single name known
        shorter += [
            {key.removeprefix(outer).removeprefix(inner): value for key, value in tensors.items()}
            for outer in _PREFIXES
            for inner in _PREFIXES
        ]
        best = max(shorter, key=known)
        if known(best) <= known(tensors):
            return tensors
        tensors = best


def _head_size(misfits: set[str], tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> int | None:
    """The number of classes when only the first dimension of the head differs, everywhere alike; None otherwise."""
    if not misfits or any(tensors[key].shape[1:] != expected[key][1:] for key in misfits):
        return None
    sizes = {tensors[key].shape[0] for key in misfits}
    own = {expected[key][0] for key in misfits}
    return sizes.pop() if len(sizes) == 1 and len(own) == 1 else None


def _listed(keys: list[str]) -> str:
    if not keys:
        return "nothing"
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return ", ".join(keys[:2]) + more


def _shape(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a scalar"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
