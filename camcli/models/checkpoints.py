"""Weights from a user's file: read without running its code, and loaded into an architecture with a head of any size."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camcli.errors import ModelError, WeightsError, first_line
from camcli.models.channels import WAY_OUT, channels_in, set_channels
from camcli.models.request import why_exported
from camcli.records import escape_name

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.")
_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.")
"""Auxiliary heads of GoogLeNet and Inception, which the prediction does not use."""


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """name -> tensor of any shape, from a ``.pt``, ``.pth`` or ``.safetensors`` file; the tensors may be inside a ``state_dict``
    entry.

    Pickles are read with ``weights_only=True``, so no code of the file runs. Raises WeightsError for a file that would have to run
    code, is damaged, or has no tensors.
    """
    exported = why_exported(path)
    if exported is not None:
        raise WeightsError(f"{escape_name(path)} is {exported}")
    loaded = _read_safetensors(path) if path.lower().endswith(".safetensors") else _read_pickle(path)
    tensors = _tensors(loaded)
    if not tensors:
        raise WeightsError(f"{escape_name(path)} has no named tensors: save model.state_dict() into it.")
    _refuse_odd(tensors, path)
    return tensors


def _read_safetensors(path: str) -> Any:
    from safetensors.torch import load, load_file

    try:
        if not path.isprintable():  # PyTorch cannot map a file whose name is not UTF-8
            with open(path, "rb") as file:
                return load(file.read())
        return load_file(path)
    except Exception as error:  # safetensors raises its own, undocumented class
        raise WeightsError(f"{escape_name(path)} is not a safetensors file: {_what_it_is(path)}.") from error


def _read_pickle(path: str) -> Any:
    _refuse_damaged_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles and TorchScript; the errors below say what is wrong
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):  # PyTorch's word for a function or class
            raise WeightsError(
                f"{escape_name(path)} contains more than tensors: loading it would run code from the file, which camcli never "
                "does. Save only the weights: torch.save(model.state_dict(), FILE), or as safetensors."
            ) from error
        raise WeightsError(f"{escape_name(path)} is not a PyTorch checkpoint: {_what_it_is(path)}.") from error


def fill_module(
    build: Callable[..., nn.Module], tensors: Mapping[str, Tensor], path: str, name: str
) -> tuple[nn.Module, int | None]:
    """The architecture with ``tensors`` (name -> tensor, any shape) as weights, and the number of classes if it is not its default.

    ``build(num_classes=N)`` makes the architecture. Prefixes that wrappers add (``module.``, ``model.``) are removed. N is the
    first dimension that all tensors of the head share. If the first convolution of the checkpoint takes one channel, so does the
    module's. Raises WeightsError for tensors that are missing or do not fit, and for another number of channels.
    """
    skeleton = build_meta(build)
    expected = {key: tensor.shape for key, tensor in skeleton.state_dict().items()}
    tensors = _without_prefixes(dict(tensors), expected)
    other = channels_in(tensors, skeleton)
    if other is not None:
        convolution, channels = other
        if channels not in (1, 3):
            raise WeightsError(
                f"{escape_name(path)} is for images of {channels} channels: {escape_name(convolution)}.weight is "
                f"{_shape(tensors[f'{convolution}.weight'].shape)}. {WAY_OUT}"
            )
        build = _with_channels(build, convolution, channels)
        expected[f"{convolution}.weight"] = tensors[f"{convolution}.weight"].shape
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(_TRAINING_ONLY) or key in expected}
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    extra = [key for key in tensors if key not in expected]
    if missing or extra:
        raise WeightsError(
            f"{escape_name(path)} does not fit {name}: it lacks {_listed(missing)} and has {_listed(extra)} that the "
            "model does not have."
        )
    misfits = {key for key in expected if key in tensors and tensors[key].shape != expected[key]}
    count = _head_size(misfits, tensors, expected)
    if misfits and count is None:
        key = sorted(misfits)[0]
        raise WeightsError(
            f"{escape_name(path)} does not fit {name}: {escape_name(key)} is {_shape(tensors[key].shape)} there and "
            f"{_shape(expected[key])} "
            "in the model."
        )
    _refuse_nan({key: tensors[key] for key in expected if key in tensors}, path)
    module = build() if count is None else build(num_classes=count)
    try:
        module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(
            f"{escape_name(path)} does not fit {name} with {count} classes: {first_line(error, with_type=False)}"
        ) from error
    return module, count


def _with_channels(build: Callable[..., nn.Module], convolution: str, channels: int) -> Callable[..., nn.Module]:
    """``build``, followed by a change of the number of input channels."""
    return lambda **options: set_channels(build(**options), convolution, channels)


def _what_it_is(path: str) -> str:
    """A guess at the kind of file from its first bytes, for the error message."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself with git lfs pull"
    if start.lstrip()[:1] == b"<":
        return "a web page or other markup, perhaps a failed download"
    if start.startswith(b"PK"):
        return _DAMAGED_ARCHIVE
    if start and all(byte >= 9 and byte < 127 for byte in start):
        return "it looks like text"
    return "it is damaged or another kind of file; fetch or save it again" if start else "it is empty"


_DAMAGED_ARCHIVE = "it is damaged, perhaps by an incomplete download, or another kind of archive; fetch or save it again"


def _members(path: str) -> list[zipfile.ZipInfo]:
    """The members of a zip archive; empty if its directory cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception:  # a damaged directory can raise anything
        return []


_MOST_TIMES = 16
"""Limit of the tensors' total size, as a multiple of the file's. PyTorch does not compress, so more is damage or an attack."""


def _refuse_damaged_archive(path: str) -> None:
    """Raise WeightsError for an archive that claims far more than its size, or has a wrong checksum; PyTorch checks neither."""
    members = _members(path)
    intact = sum(member.file_size for member in members) <= _MOST_TIMES * os.path.getsize(path) + (64 << 20)
    try:
        if members and intact:
            with zipfile.ZipFile(path) as archive:
                for member in members:
                    if member.CRC:  # 0 if it was written without checksums
                        _read_through(archive, member)
    except Exception:  # a damaged archive can raise anything
        intact = False
    if not intact:
        raise WeightsError(f"{escape_name(path)} is not a PyTorch checkpoint: {_DAMAGED_ARCHIVE}.")


def _read_through(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read a member of an archive and discard it. Raises BadZipFile if its checksum is wrong."""
    with archive.open(member) as file:
        while file.read(1 << 20):
            pass


def _refuse_odd(tensors: Mapping[str, Tensor], path: str) -> None:
    """Raise WeightsError for tensors that are not plain arrays of numbers, or that claim more than the file can contain."""
    claimed = 0
    for name, tensor in tensors.items():
        odd = next((words for words, matches in _ODDITIES if matches(tensor)), None)
        if odd is not None:
            raise WeightsError(
                f"{escape_name(path)}: the tensor {escape_name(name)!r} is {odd}, which weights of a network cannot "
                "be. Save a plain model.state_dict()."
            )
        claimed += tensor.numel() * tensor.element_size()
    if claimed > _MOST_TIMES * os.path.getsize(path) + (64 << 20):
        raise WeightsError(
            f"{escape_name(path)} is damaged: its tensors claim {claimed / 1e9:,.1f} GB, more than the file can contain; "
            "fetch or save it again."
        )


_ODDITIES: tuple[tuple[str, Callable[[Tensor], bool]], ...] = (
    ("on the meta device, where it has no values", lambda tensor: tensor.is_meta),
    ("sparse", lambda tensor: tensor.layout is not torch.strided),
    ("quantized", lambda tensor: tensor.is_quantized),
    ("complex", lambda tensor: tensor.is_complex()),
)


def build_meta(build: Callable[..., nn.Module]) -> nn.Module:
    """A module of the architecture, for its names and shapes; on the meta device, which takes no memory, if that is possible."""
    try:
        with torch.device("meta"):
            return build()
    except (ModelError, RuntimeError, NotImplementedError, TypeError, ValueError):
        return build()


def _tensors(loaded: Any, seen: frozenset[int] = frozenset()) -> dict[str, Tensor]:
    """Name -> tensor from the innermost wrapper with tensors. ``seen``: ids of the wrappers around it; a file may wrap itself."""
    if not isinstance(loaded, Mapping) or id(loaded) in seen or len(seen) > _MOST_WRAPPERS:
        return {}
    for wrapper in _WRAPPERS:
        inner = _tensors(loaded.get(wrapper), seen | {id(loaded)})
        if inner:
            return inner
    return {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, Tensor)}


_MOST_WRAPPERS = 4
"""Maximum depth of wrappers: Lightning's and timm's files have one or two."""


def _refuse_nan(tensors: Mapping[str, Tensor], path: str) -> None:
    """Raise WeightsError if one of the ``tensors`` contains NaN: no image would get a heatmap."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise WeightsError(
                f"{escape_name(path)}: the tensor {escape_name(name)!r} contains values that are not numbers (NaN): "
                "the file is damaged, or the training diverged. Take an earlier checkpoint."
            )


def _without_prefixes(tensors: dict[str, Tensor], expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Remove prefixes as long as that makes more names known."""

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
    """The number of classes if the tensors differ in the first dimension alone, all by the same size; else None."""
    if not misfits or any(tensors[key].shape[1:] != expected[key][1:] for key in misfits):
        return None
    sizes = {tensors[key].shape[0] for key in misfits}
    own = {expected[key][0] for key in misfits}
    return sizes.pop() if len(sizes) == 1 and len(own) == 1 and min(sizes) > 0 else None


def _listed(keys: list[str]) -> str:
    if not keys:
        return "nothing"
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return ", ".join(map(escape_name, keys[:2])) + more


def _shape(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
