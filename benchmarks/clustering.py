"""Time and peak memory of ``camcli cluster`` on runs that no network has made: python -m benchmarks.clustering IMAGES CLASSES"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Make a run of random rows, group it in a process of its own, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int)
    parser.add_argument("classes", type=int)
    parser.add_argument("--channels", type=int, default=1280)
    parser.add_argument("--option", nargs=argparse.REMAINDER, default=[], help="further options of camcli cluster")
    given = parser.parse_args()
    from tests.synthetic import synthetic_run

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        synthetic_run(out, given.images, given.classes, given.channels)
        began = time.monotonic()
        command = [sys.executable, "-m", "camcli", "cluster", str(out), "--min-images", "10", *given.option]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        size = (out / "clusters" / "clusters.js").stat().st_size if status == 0 else 0
        print(f"{given.images:,} images, {given.classes:,} classes: {time.monotonic() - began:.1f} s, "
              f"{usage.ru_maxrss / 1024:.0f} MB, data of the page {size / 1e6:.2f} MB, status {status}")  # fmt: skip


if __name__ == "__main__":
    main()
