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
        _use_utf8()
        from camcli.cli.app import main as run

        run()
    except Interrupted as interruption:
        _end(128 + interruption.number)
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else 0)


def _use_utf8() -> None:
    """Start the interpreter again in UTF-8 mode, in this process, where the locale says another encoding.

    File names are bytes. Python makes text of them by the locale, and the tables hold UTF-8: under another locale the same file
    would have another name, and would be done again. What is said goes on being written as the terminal reads it.
    """
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    said = f"{getattr(sys.stderr, 'encoding', None) or 'ascii'}:backslashreplace"
    environment = {"PYTHONIOENCODING": said, **os.environ, "PYTHONUTF8": "1"}  # for processes that this one starts
    with contextlib.suppress(OSError):  # then the run says what is wrong
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


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
