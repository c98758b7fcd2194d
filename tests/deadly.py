"""Files that kill the process which decodes or paints them, as a fault of a C library does.

``DEADLY`` is a ``sitecustomize.py``: every Python that has its folder on PYTHONPATH runs it first, worker processes too. The main
process is spared, unless ALSO_MAIN is set. A file says with the bytes behind its image how it kills, see ``deadly_file``.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.forks import ROOT
from tests.pictures import encoded, photo

PAINTED_SIZE = (61, 41)
"""An overlay of this size, (width, height), kills the process that encodes it."""

DEADLY = f"""
import ctypes, os, signal, sys, time

def die(end):
    if b"segfault" in end:
        ctypes.string_at(0)
    if b"exits" in end:
        os._exit(1)
    if b"endless" in end:
        time.sleep(3600)
    if b"greedy" in end and "GREEDY" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if b"hoards" in end:
        held = []
        while True:
            held.append(b"x" * (64 << 20))
    if b"unlucky" in end:  # kills as long as LIVES contains files
        left = os.listdir(os.environ["LIVES"])
        if left:
            os.unlink(os.path.join(os.environ["LIVES"], left[0]))
            ctypes.string_at(0)

if "camcli.pipeline.worker" in sys.orig_argv or "ALSO_MAIN" in os.environ:
    import cv2
    decode, encode = cv2.imdecode, cv2.imencode

    def imdecode(data, flags):
        die(bytes(data[-20:]))
        return decode(data, flags)

    def imencode(kind, image, *rest):
        if image.shape[1::-1] == {PAINTED_SIZE}:
            ctypes.string_at(0)
        return encode(kind, image, *rest)

    cv2.imdecode, cv2.imencode = imdecode, imencode
"""


def python_path(folder: Path) -> str:
    """A value of PYTHONPATH with which every Python that starts meets the deadly decoder. ``folder``: a place for its file."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(DEADLY)
    return f"{folder / 'site'}{os.pathsep}{ROOT}"


def deadly_file(how: str = "", seed: int = 0) -> bytes:
    """A JPEG that kills in the way ``how``: segfault, exits, endless, greedy, hoards, unlucky; a good one if it is empty."""
    return encoded(photo(seed), "JPEG") + how.encode()
