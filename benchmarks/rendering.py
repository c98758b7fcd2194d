"""Seconds that painting and encoding an overlay take, against the bare decoding and encoding of the same photos, in one thread.

    python -m benchmarks.rendering FOLDER [--rounds 3]    prints JSON

A process of its own, because the threads of NumPy's matrix products are settled before it is imported. The photos of
``benchmarks.corpus`` are small ones enlarged, smoother than a camera's: decoding and encoding are cheaper for them than for real
ones, so a user's ratio should be a little better (not measured).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def rendering(photos: Path, rounds: int) -> dict[str, dict[str, float]]:
    """``part``: overlays of what the network sees of a photo; ``whole``: of the whole photo. Each: ms, bare ms, and their ratio."""
    command = [sys.executable, "-m", "benchmarks.rendering", str(photos), "--rounds", str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **_ONE_THREAD})
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def _measured(files: list[bytes], fit: str, rounds: int) -> dict[str, float]:
    import cv2
    import numpy as np

    from camcli.images.geometry import input_window
    from camcli.records import Preprocess
    from camcli.render.encode import encode_image
    from camcli.render.styles import Style, paint_overlay

    style, values = Style(), np.random.default_rng(0).random((7, 7), np.float32)
    quality = [cv2.IMWRITE_JPEG_QUALITY, style.quality]
    painting, bare = [0.0] * rounds, [0.0] * rounds
    for number in range(rounds):
        for data in files:
            started = time.perf_counter()
            photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert photo is not None
            cv2.imencode(".jpg", photo, quality)
            bare[number] += time.perf_counter() - started
            pixels = cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
            view = input_window((pixels.shape[1], pixels.shape[0]), Preprocess(), fit)
            started = time.perf_counter()
            encode_image(paint_overlay(pixels, values, view.box, view.pixels, style), "jpg", style.quality)
            painting[number] += time.perf_counter() - started
    per_photo = 1000 / len(files)
    return {
        "ms": median(painting) * per_photo,
        "bare ms": median(bare) * per_photo,
        "ratio": median(one / other for one, other in zip(painting, bare, strict=True)),
    }


def main() -> None:
    """Measure and print JSON."""
    import cv2

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    files = [path.read_bytes() for path in sorted(arguments.photos.iterdir())]
    json.dump({name: _measured(files, fit, arguments.rounds) for name, fit in (("part", "crop"), ("whole", "squash"))}, sys.stdout)


if __name__ == "__main__":
    main()
