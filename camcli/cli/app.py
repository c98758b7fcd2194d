"""The Typer application, and the only place where errors become exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from camcli import __version__
from camcli.cli.command import all_commands
from camcli.cli.console import Console, abandon_stdout, secure_standard_streams
from camcli.cli.help import HelpedCommand, HelpedGroup
from camcli.cli.signals import SIGNALS, Interrupted
from camcli.errors import CamcliError, RunError, first_line
from camcli.records import escape_name

app = typer.Typer(
    name="camcli",
    cls=HelpedGroup,
    help="Where does the classifier look? Class activation heatmaps for whole folders of images.",
    epilog="Start with: camcli run sample_images. Exit codes: 0 done, 1 some images failed in this run, 2 wrong usage, "
    "3 the run could not continue, 130 interrupted, 141 stdout was closed early, 143 terminated.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # tables of Rich cut names at 80 columns
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"camcli {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


for _command in all_commands():
    app.command(_command.name, cls=HelpedCommand, rich_help_panel=_command.section)(_command.function)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with SystemExit. ``arguments``: None for those of ``sys.argv``."""
    secure_standard_streams()
    Console.close_log()
    SIGNALS.install()
    try:
        _leave(app(arguments, prog_name="camcli", standalone_mode=False) or 0)
    except CamcliError as error:
        _end(error)
    except Interrupted as interruption:
        _end_interrupted(interruption.number)
    except OSError as error:
        abandon_stdout()
        if error.errno == errno.EPIPE:  # stdout was closed early, as ``head`` does
            _leave(0)
        place = f"{escape_name(os.fsdecode(error.filename))}: " if error.filename is not None else "cannot write the output: "
        _end(RunError(f"{place}{error.strerror or error}."))
    except MemoryError:
        _end(RunError("out of memory. Try a smaller --batch-size or fewer --workers."))
    except Exception as error:
        if hasattr(error, "format_message"):  # errors of Typer and Click have no public base class
            _end_wrong_usage(error)
        if SIGNALS.raised and SIGNALS.number is not None:
            _end_interrupted(SIGNALS.number)
        known = explain_import_error(error)
        if known is None:
            _show_traceback()
            known = RunError("this is a bug in camcli; please report it with the lines above.")
        _end(known)
    finally:
        SIGNALS.ignore()


def explain_import_error(error: BaseException) -> CamcliError | None:
    """An error with advice for a broken installation, or too little memory or threads; None for any other error."""
    text = str(error)
    if "can't allocate memory" in text:  # PyTorch's message on a CPU
        return RunError("out of memory. Try a smaller --batch-size, fewer --workers, or a smaller model.")
    if "can't start new thread" in text:
        return RunError("the system allows this process no more threads (ulimit -u, pids.max). Try --workers 1 --threads 1.")
    if "out of memory" in text:
        return RunError(f"{first_line(error, with_type=False)} Try --device cpu or a smaller model.")
    if "failed to map segment" in text:
        reason = first_line(error, with_type=False)
        return RunError(f"the memory limit of this process is too low to load its libraries (ulimit -v): {reason}.")
    if "libGL" in text or "libgthread" in text:
        return RunError(
            f"OpenCV cannot be loaded ({text}). Install the system library (Debian, Ubuntu: apt-get install libgl1 "
            "libglib2.0-0), or the build without it: pip install --force-reinstall --no-deps opencv-python-headless"
        )
    if "torchvision::nms" in text:
        return RunError(
            "the versions of torch and torchvision do not match (operator torchvision::nms does not exist). "
            "Install both from the same source: pip install --force-reinstall torch torchvision"
        )
    return None


def _show_traceback() -> None:
    """Print the traceback of a bug to stderr and to the log."""
    lines = traceback.format_exc().splitlines()
    print("\n".join(lines), file=sys.stderr)
    for line in lines:
        Console().log(line)


def _end_wrong_usage(error: Any) -> None:
    """Print Typer's error message for the command line below one line of usage, and end."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if context is not None and message:
        print(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.", file=sys.stderr)
    if message:
        Console().error(f"error: {message}")
    _leave(error.exit_code)


def _end(error: CamcliError) -> None:
    Console().error(f"error: {error}")
    _leave(error.exit_code)


def _end_interrupted(number: int) -> None:
    Console().error("interrupted." if number == 2 else "terminated.")
    _leave(128 + number)


def _leave(code: int) -> None:
    sys.stderr.flush()
    sys.exit(code)
