"""What takes long before the first image is named while it is loaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from camcli.cli.console import Console
from camcli.config.run import RunConfig
from camcli.records import escape_name

_LONG = 0.3
"""Seconds after which a person wonders whether anything happens."""


@contextlib.contextmanager
def loading(console: Console, model: str = "", weights: str | None = RunConfig.weights) -> Iterator[None]:
    """Inside, PyTorch and ``model``, if there is one, are loaded: said once it has taken 0.3 s, so before PyTorch is there."""
    chosen = "" if weights in (None, RunConfig.weights) else f" with weights {escape_name(str(weights))}"
    words = f"Loading PyTorch and {escape_name(model)}{chosen}." if model else "Loading PyTorch."
    timer = threading.Timer(_LONG, console.info, (words,))
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread to be had: then it is not said
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()  # no word may come after those that follow
