"""``python -m camcli`` and the ``camcli`` command."""

from __future__ import annotations

import contextlib
import os
import sys

from camcli.cli.signals import SIGNALS, Interrupted


def main() -> None:
    """Run the command line; ends the process with one of the documented exit codes."""
    SIGNALS.install()  # before anything large is imported: a signal may come at any time
    try:
        from camcli.cli.app import main as run

        run()
    except Interrupted as interruption:
        _end(128 + interruption.number)
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else 0)


def _end(code: int) -> None:
    """Leave without taking PyTorch apart, which takes a second: all files are closed, and what was said is flushed here."""
    if "torch._inductor.async_compile" in sys.modules:  # its compiling processes are to be told
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that has left
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
