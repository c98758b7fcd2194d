"""A message while PyTorch and a model are loaded, which takes seconds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from camcli.cli.console import Console
from camcli.config.run import RunConfig
from camcli.records import escape_name

_LONG = 0.3
"""Seconds after which the message is printed."""


@contextlib.contextmanager
def loading(console: Console, model: str = "", weights: str | None = RunConfig.weights) -> Iterator[None]:
    """Context in which PyTorch and ``model``, if not empty, are loaded. After 0.3 seconds a message says so."""
    chosen = "" if weights in (None, RunConfig.weights) else f" with weights {escape_name(str(weights))}"
    words = f"Loading PyTorch and {escape_name(model)}{chosen}." if model else "Loading PyTorch."
    timer = threading.Timer(_LONG, console.info, (words,))
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # without a thread there is no message
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()  # the message must not appear after later ones
