"""Pages that walk through a command: every command in them is run, every picture in them is there.

A walk is a page whose blocks of ``bash`` hold commands, one a line (a backslash continues it). A test runs them in the order of
the page, in one empty folder, as ``run_walk(page, camcli, changes)``. What would take long is shortened by ``changes``: command ->
option -> value, put in place of the page's own or added to it; nothing else of a line is touched.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.conftest import Result
from tests.forks import command_in_shell

_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}((?:[^#\n]*\| )?(?:\.venv/bin/)?camcli .*)$", re.MULTILINE)
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)|<img[^>]*src=\"([^\"]+)\"")
_SHELL = re.compile(r"[|<>;&$*?`]")


def indented_commands(page: Path) -> list[str]:
    """The lines of a page's indented blocks that call camcli, alone or behind a pipe, comments resolved."""
    return [re.sub(r"\s#\s.*$", "", line).strip() for line in _INDENTED.findall(page.read_text(encoding="utf-8"))]


def walk_commands(page: Path) -> list[str]:
    """The command lines of a page's ``bash`` blocks, comments and continuations resolved."""
    text = "\n".join(_BLOCK.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    lines = [re.sub(r"\s#\s.*$", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def shortened(command: str, changes: Mapping[str, Mapping[str, str]]) -> str:
    """``command`` with the options that ``changes`` has for its subcommand: ``camcli dream`` looks under ``dream``."""
    words = shlex.split(command)
    for option, value in changes.get(words[1] if words[0] == "camcli" else "", {}).items():
        while option in words:
            place = words.index(option)
            del words[place : place + 2]
        words += [option, value]
    return shlex.join(words)


def run_walk(
    page: Path, camcli: Callable[..., Result], changes: Mapping[str, Mapping[str, str]] | None = None
) -> list[tuple[str, Result]]:
    """Run the commands of ``page`` in the current folder; each must end with 0. (command as it stands there, what it left)."""
    commands = walk_commands(page)
    assert commands, f"{page.name} has no command"
    done = []
    for command in commands:
        result = run_command(command, camcli, changes)
        assert result.code == 0, f"{command}: {result.err}"
        done.append((command, result))
    return done


def run_command(command: str, camcli: Callable[..., Result], changes: Mapping[str, Mapping[str, str]] | None = None) -> Result:
    """What a command line left: run in this process where it calls camcli alone, else by bash."""
    command = command.replace(".venv/bin/camcli ", "camcli ")
    if _SHELL.search(re.sub(r"'[^']*'|\"[^\"]*\"", "", command)) or not command.startswith("camcli "):
        return _in_shell(command)
    return camcli(*shlex.split(shortened(command, changes or {}))[1:])


def _in_shell(command: str) -> Result:
    program = f'camcli() {{ {command_in_shell()} "$@"; }}; python() {{ {shlex.quote(sys.executable)} "$@"; }}; '
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {program}{command}"], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in ended.stderr
    return Result(ended.returncode, ended.stdout, ended.stderr)


def pictures_of(page: Path) -> list[Path]:
    """The files of the pictures that a page shows, each of which must be there."""
    named = [first or second for first, second in _PICTURE.findall(page.read_text(encoding="utf-8"))]
    files = [page.parent / name for name in named if "://" not in name]
    missing = [str(file) for file in files if not file.is_file()]
    assert not missing, missing
    return files
