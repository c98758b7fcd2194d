"""How many threads PyTorch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from camcli.resources import available_cores


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Inside, PyTorch computes with ``count`` threads, with one for each available core where it is None; afterwards as before."""
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(count or available_cores())
        yield
    finally:
        torch.set_num_threads(kept)
