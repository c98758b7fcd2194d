"""Draw docs/terminal.svg: what a terminal shows while ``camcli run`` works, and when it is done.

    python docs/make_terminal_picture.py

The command runs in a pseudo terminal, in a temporary folder, over twelve copies of the sample photographs and one damaged file.
The progress bar overwrites its own line; the picture shows it half-way, and below that the final screen.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS, COPIES = 100, 40, 12
COMMAND = ("run", "photos")

FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="A terminal: camcli run photos">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""
"""Rich's frame without the fonts that it would fetch from the network."""


def terminal_output(folder: Path) -> str:
    """Everything that the command writes to a terminal of COLUMNS x ROWS, run in ``folder``."""
    controller, terminal = pty.openpty()
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    command = [sys.executable, "-P", "-m", "camcli", *COMMAND]
    running = subprocess.Popen(command, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    received = io.BytesIO()
    try:
        while data := os.read(controller, 65536):
            received.write(data)
    except OSError:  # how Linux says that the other end was closed
        pass
    finally:
        os.close(controller)
    if running.wait() != 1:  # 1: some images failed, here the damaged file
        sys.exit(f"the command ended with {running.returncode}:\n{received.getvalue().decode()}")
    return received.getvalue().decode()


def written_lines(output: str) -> Iterator[tuple[list[str], str]]:
    """The finished lines above, and the line at the cursor, each time that line was overwritten or ended."""
    above: list[str] = []
    line = ""
    for part in re.split(r"(\r\n|\r|\n)", output):
        if part in ("\r\n", "\n"):
            yield above, line
            above = [*above, line]
            line = ""
        elif part == "\r":
            yield above, line
        elif part:
            line = part.removeprefix("\x1b[K")


def shown_lines(output: str) -> list[str]:
    """The lines of the picture: the final screen, with the progress bar at half of its way in front of the finished one."""
    half, final = "", []
    for above, line in written_lines(output):
        done = re.search(r"(\d+)%\|", line)
        if done and 45 <= int(done[1]) <= 65 and not half:
            half = line.rstrip()
        final = [*above, line]
    finished = next(place for place, line in enumerate(final) if "100%|" in line)
    if not half:
        sys.exit("the progress bar was never seen half-way; run the command again")
    return [*final[:finished], half, *(line.rstrip() for line in final[finished:])]


def main() -> None:
    """Run the command and write the picture beside this file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(COPIES):
            shutil.copytree(ROOT / "sample_images", folder / "photos" / f"day-{number + 1:02}")
        whole = (ROOT / "sample_images" / "space" / "rocket.jpg").read_bytes()
        (folder / "photos" / "day-01" / "damaged.jpg").write_bytes(whole[: len(whole) // 2])
        output = terminal_output(folder)
    lines = [f"$ camcli {' '.join(COMMAND)}", *shown_lines(output)]
    while not lines[-1]:
        lines.pop()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("\n").join(map(Text.from_ansi, lines)))
    picture = console.export_svg(title="camcli run", code_format=FRAME, unique_id="terminal")
    (ROOT / "docs" / "terminal.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
