"""Which files take the process down: each suspect is decoded and painted in a process of its own.

``find_crashing`` starts this module as a program, which reads paths from its input and writes a byte for each that it came back
from. Where it dies of a signal or does not come back, the next path was the culprit, and another process goes on behind it. One
that is killed (SIGKILL) blames nobody: so the system ends what takes too much memory, and no file can do it by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from camcli.records import Failure, Source, stamp_of

PATIENCE = 120
"""Seconds for a suspect to come back: the largest images that are decoded at all take about ten."""

_READY, _BACK = b"+", b"."
"""What the process writes before the first path and after each."""


def find_crashing(sources: Sequence[Source], max_pixels: int) -> Iterator[Failure]:
    """A Failure with stage ``crashed`` for each of ``sources`` that kills a process of its own, or that it does not return from."""
    rest = list(sources)
    while rest:
        survived, death = _tried([os.path.abspath(source.path) for source in rest], max_pixels)
        if not death or survived >= len(rest):
            return
        culprit = rest[survived]
        if death != _KILLED:
            yield Failure(culprit.image, "crashed", f"it took the process down: {death}", stamp_of(culprit.path))
        rest = rest[survived + 1 :]


def _tried(paths: Sequence[str], max_pixels: int) -> tuple[int, str]:
    """How many of ``paths`` a process of its own came back from, and how it ended; empty for an end that is no file's doing."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "camcli.pipeline.probe", str(max_pixels), str(PATIENCE)],
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
    return f"no end after {PATIENCE} seconds" if -code == signal.SIGALRM else _signal_name(-code)


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


_KILLED = _signal_name(9)


def _first_to_be_killed() -> None:
    """Let the system end this process, and not the one that waits for it, when memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # only Linux has it
        file.write("1000")


def _without_core_dumps() -> None:
    try:
        import resource
    except ImportError:  # not on every system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Decode and paint each path on standard input, as a run would, without the network."""
    import numpy as np

    from camcli.images.decode import decode_image
    from camcli.images.geometry import prepare_pixels
    from camcli.images.limits import pillow_unlimited
    from camcli.records import Image, Preprocess
    from camcli.render.styles import Style, overlay_bytes, resize_to_fit
    from camcli.resources import available_memory

    _without_core_dumps()
    _first_to_be_killed()
    heatmap = np.eye(7, dtype=np.float32)
    os.write(1, _READY)
    with pillow_unlimited():
        for name in sys.stdin.buffer.read().split(b"\0"):
            signal.alarm(int(sys.argv[2]))  # which ends the process, also from within C code
            image = decode_image(Source("", os.fsdecode(name)), int(sys.argv[1]))
            if isinstance(image, Image) and 9 * image.pixels.nbytes // 3 < available_memory():
                view, _ = prepare_pixels(image.pixels, Preprocess(), "crop")
                overlay_bytes(resize_to_fit(image.pixels, None), heatmap, view.box, view.pixels, Style())
            os.write(1, _BACK)


if __name__ == "__main__":
    main()
