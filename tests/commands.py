"""Commands in this process, many of them: what they said, how they ended, and that they did end."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from camcli.cli import app
from camcli.cli.signals import SIGNALS
from tests.folders import TINY
from tests.pictures import encoded, photo

PATIENCE = 30
"""Seconds for one command over a handful of images."""

LISTING = frozenset({"models", "layers", "classes", "methods"})
"""Commands that print a table, and neither read nor write a folder."""

READING = frozenset({"verify"})
"""Commands that read an output folder and write nothing."""

RICH = (*TINY[:4], "--topk", 1, "--save-maps", "--save-contributions", "--masks", "--boxes", "all", "--format", "parquet",
        "--metrics", "drop,deletion", "--steps", 2)  # fmt: skip
"""A run that leaves every kind of file."""


class Hangs(BaseException):
    """A command did not end."""


def _alarm(*_: object) -> None:
    raise Hangs


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Inside, a command installs no signal handler, and none has arrived. Afterwards handlers and ``SIGNALS`` are as they were."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    untouched = {"install": lambda: None, "ignore": lambda: None, "number": None, "raised": False, "_deferring": False}
    with mock.patch.multiple(SIGNALS, **untouched):
        try:
            yield
        finally:
            SIGNALS.stop.clear()
            for number, handler in handlers.items():
                signal.signal(number, handler)


def command(*arguments: object, patience: int = PATIENCE) -> tuple[int, str]:
    """Exit code of a command and all that it said; Hangs where it does not end within ``patience`` seconds."""
    said, before = io.StringIO(), signal.signal(signal.SIGALRM, _alarm)
    with own_signals(), contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(mock.patch.object(app, "abandon_stdout"))
        stack.enter_context(contextlib.redirect_stderr(said))
        stack.callback(signal.signal, signal.SIGALRM, before)
        stack.callback(signal.alarm, 0)
        signal.alarm(patience)
        try:
            app.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
    raise AssertionError("a command always ends the process")


def rich_folder(place: Path) -> Path:
    """``place/out``: a finished run over ``place/imgs`` with maps, masks, boxes, a failure and a report."""
    imgs = place / "imgs"
    (imgs / "sub").mkdir(parents=True)
    for seed, name in enumerate(["a.jpg", "sub/b.png"]):
        (imgs / name).write_bytes(encoded(photo(seed), "PNG" if name.endswith("png") else "JPEG"))
        os.utime(imgs / name, ns=(10**18, 10**18))
    (imgs / "broken.jpg").write_text("text")
    os.utime(imgs / "broken.jpg", ns=(10**18, 10**18))
    code, said = command("run", imgs, "-o", place / "out", *RICH, "--boxes-json", "--report", "--quiet")
    assert code == 1, said
    for name in ("evaluate", "cluster"):
        code, said = command(*commands_on(place / "out", imgs)[name], "--quiet")
        assert code == 0, said
    return place / "out"


def commands_on(out: Path, imgs: Path) -> dict[str, tuple[Any, ...]]:
    """Every command that reads or writes the output folder ``out``."""
    return {
        "verify": ("verify", out, "--inputs"),
        "report": ("report", out),
        "render": ("render", out, "--style", "heatmap", "--image-format", "png"),
        "evaluate": ("evaluate", out, "--masks", imgs),
        "cluster": ("cluster", out, "--min-images", 2, "--layout", "pca"),
        "diff": ("diff", out, out, "--report", out.parent / "changes.html"),
        "run": ("run", imgs, "-o", out, *RICH, "--boxes-json", "--report"),
        "overwrite": ("run", imgs, "-o", out, *RICH, "--boxes-json", "--report", "--overwrite"),
    }


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything below ``folder``: files with bytes and time, links with their targets, folders."""
    return {str(path.relative_to(folder)): _state(path) for path in sorted(folder.rglob("*"))}


def _state(path: Path) -> Any:
    if path.is_symlink():
        return "link", os.readlink(path)
    return (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else path.stat().st_mode


@contextlib.contextmanager
def copied(folder: Path, place: Path) -> Iterator[Path]:
    """A copy of ``folder`` in ``place``, which is removed afterwards; times are kept."""
    shutil.copytree(folder, place / folder.name, symlinks=True)
    try:
        yield place / folder.name
    finally:
        shutil.rmtree(place / folder.name)
