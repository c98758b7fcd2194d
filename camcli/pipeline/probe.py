"""Finding the files that crash a process, by decoding and painting each suspect in another process.

``find_crashing`` starts this module as a program. It reads paths from stdin and writes a byte after each path that it has
handled. If it dies of a signal or hangs, the next path is the culprit, and another process continues after that path. A process
that is killed (SIGKILL) accuses no file: no file can send that signal, but the system does when memory runs out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from camcli.records import Failure, Source, stamp_of

MAX_SECONDS = 120
"""Maximum seconds for a suspect. The largest images that camcli decodes take about ten seconds."""

_READY, _BACK = b"+", b"."
"""What the process writes before the first path, and after each path."""


def find_crashing(sources: Sequence[Source], max_pixels: int) -> Iterator[Failure]:
    """A Failure with stage ``crashed`` for each of ``sources`` that crashes a process or makes it hang."""
    rest = list(sources)
    while rest:
        survived, death = _tried([os.path.abspath(source.path) for source in rest], max_pixels)
        if not death or survived >= len(rest):
            return
        culprit = rest[survived]
        if death != _KILLED:
            yield Failure(culprit.image, "crashed", f"a separate process failed on this image: {death}", stamp_of(culprit.path))
        rest = rest[survived + 1 :]


def _tried(paths: Sequence[str], max_pixels: int) -> tuple[int, str]:
    """How many of ``paths`` a process handled, and how it ended in words; empty if no file made it end."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "camcli.pipeline.probe", str(max_pixels), str(MAX_SECONDS)],
        input=b"\0".join(map(os.fsencode, paths)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": found},
        check=False,
    )
    if not ended.stdout.startswith(_READY):
        return 0, ""
    return ended.stdout.count(_BACK), _end_in_words(ended.returncode)


def _end_in_words(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}" if code else ""
    return f"it did not end within {MAX_SECONDS} seconds" if -code == signal.SIGALRM else _signal_name(-code)


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


_KILLED = _signal_name(9)


def _be_killed_first() -> None:
    """Make the system kill this process, and not the one that waits for it, when memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # only Linux has it
        file.write("1000")


def _without_core_dumps() -> None:
    try:
        import resource
    except ImportError:  # not on every system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Decode and paint each path on stdin as a run does, without the network."""
    import numpy as np

    from camcli.images.decode import decode_image
    from camcli.images.geometry import prepare_pixels
    from camcli.images.limits import pillow_unlimited
    from camcli.records import Image, Preprocess
    from camcli.render.styles import Style, overlay_bytes, resize_to_fit
    from camcli.resources import available_memory

    _without_core_dumps()
    _be_killed_first()
    heatmap = np.eye(7, dtype=np.float32)
    os.write(1, _READY)
    with pillow_unlimited():
        for name in sys.stdin.buffer.read().split(b"\0"):
            signal.alarm(int(sys.argv[2]))  # ends the process even inside C code
            image = decode_image(Source("", os.fsdecode(name)), int(sys.argv[1]))
            if isinstance(image, Image) and 9 * image.pixels.nbytes // 3 < available_memory():
                view, _ = prepare_pixels(image.pixels, Preprocess(), "crop")
                overlay_bytes(resize_to_fit(image.pixels, None), heatmap, view.box, view.pixels, Style())
            os.write(1, _BACK)


if __name__ == "__main__":
    main()
