"""Published weights: whether they are on this machine, and the error if they cannot be downloaded."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlparse, urlsplit
from urllib.request import getproxies, proxy_bypass

from camcli.errors import WeightsError, first_line

REACHED_WITHIN = 3.0
"""Timeout for a connection, in seconds; with a network, a host answers sooner."""


def is_cached(where: str, *, hub: bool = False) -> bool:
    """Whether the weights at ``where``, a URL or (``hub``) a Hugging Face repository, are on this machine."""
    if hub:
        from huggingface_hub import try_to_load_from_cache

        return any(isinstance(try_to_load_from_cache(where, name), str) for name in ("model.safetensors", "pytorch_model.bin"))
    return os.path.exists(os.path.join(_checkpoint_folder(), _file_name(where)))


def is_reachable(url: str) -> bool:
    """Whether the host of ``url``, or the proxy on the way to it, accepts a connection within REACHED_WITHIN seconds."""
    where = urlsplit(url)
    proxy = None if proxy_bypass(where.hostname or "") else getproxies().get(where.scheme)
    asked = urlsplit(proxy if not proxy or "://" in proxy else f"http://{proxy}") if proxy else where
    port = asked.port or (443 if asked.scheme == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            socket.create_connection((asked.hostname or "", port), REACHED_WITHIN).close()
            answered.set()

    asking = threading.Thread(target=connect, daemon=True)  # a name lookup cannot be given a timeout
    asking.start()
    asking.join(REACHED_WITHIN)
    return answered.is_set()


@contextlib.contextmanager
def hub_without_retries() -> Iterator[str]:
    """Inside, the Hugging Face client uses only its cache if the hub cannot be reached, and logs only errors.

    Yields a sentence that says that the hub cannot be reached, else an empty string. The client itself tries each request five
    times and waits in between: 47 seconds without a network.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    offline, verbosity = constants.HF_HUB_OFFLINE, hub_logging.get_verbosity()
    reachable = offline or is_reachable(constants.ENDPOINT)
    try:
        hub_logging.set_verbosity(logging.ERROR)
        constants.HF_HUB_OFFLINE = offline or not reachable
        yield "" if reachable else f"{urlsplit(constants.ENDPOINT).hostname} cannot be reached"
    finally:
        constants.HF_HUB_OFFLINE = offline
        hub_logging.set_verbosity(verbosity)


def explain_download_failure(model: str, where: str, error: Exception, *, hub: bool = False) -> WeightsError:
    """A WeightsError for an ``error`` while loading published weights; it says which file to put into which folder."""
    reason = getattr(error, "reason", None)  # an exception or a text
    why = first_line(reason if isinstance(reason, BaseException) else OSError(reason) if reason else error, with_type=False)
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
    import torch

    return os.path.join(torch.hub.get_dir(), "checkpoints")


def _file_name(url: str) -> str:
    return os.path.basename(urlparse(url).path)
