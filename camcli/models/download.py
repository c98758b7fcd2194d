"""Published weights: whether they are on this machine, and what to say when they cannot come."""

from __future__ import annotations

import os
from urllib.parse import urlparse

import torch

from camcli.errors import WeightsError


def is_cached(where: str, *, hub: bool = False) -> bool:
    """Whether the weights at ``where``, a URL or (``hub``) a Hugging Face repository, are on this machine."""
    if hub:
        from huggingface_hub import try_to_load_from_cache

        return any(isinstance(try_to_load_from_cache(where, name), str) for name in ("model.safetensors", "pytorch_model.bin"))
    return os.path.exists(os.path.join(_checkpoint_folder(), _file_name(where)))


def explain_download_failure(model: str, where: str, error: Exception, *, hub: bool = False) -> WeightsError:
    """A WeightsError that says which file belongs where, for an ``error`` of loading published weights."""
    reason = str(getattr(error, "reason", None) or error).splitlines()
    why = reason[0] if reason else type(error).__name__
    ways_out = "Or give a checkpoint with --weights FILE, or take random weights with --weights none."
    if hub:
        from huggingface_hub.constants import HF_HUB_CACHE

        return WeightsError(
            f"the weights of {model} are not on this machine and cannot be downloaded ({why}). On a machine with a network, "
            f"fetch model.safetensors of https://huggingface.co/{where}; it belongs in {HF_HUB_CACHE} (HF_HOME moves it), "
            f"where `hf download {where}` puts it. {ways_out}"
        )
    name, folder = _file_name(where), _checkpoint_folder()
    if is_cached(where):
        path = os.path.join(folder, name)
        return WeightsError(f"{path} cannot be loaded ({why}); if it is damaged, delete it and try again. {ways_out}")
    return WeightsError(
        f"the weights of {model} are not on this machine and cannot be downloaded ({why}). Fetch {where} "
        f"and put the file {name} into {folder} (TORCH_HOME moves it). {ways_out}"
    )


def _checkpoint_folder() -> str:
    return os.path.join(torch.hub.get_dir(), "checkpoints")


def _file_name(url: str) -> str:
    return os.path.basename(urlparse(url).path)
