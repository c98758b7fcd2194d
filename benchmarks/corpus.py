"""Photographs to measure with, made from the sample images: different crops of them, as JPEG files of one size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SAMPLES = Path(__file__).parent.parent / "sample_images"


def make_corpus(folder: Path, count: int, width: int = 500, height: int = 375, kind: str = "jpg") -> Path:
    """``count`` files of ``width`` x ``height`` pixels in ``folder``, each another crop of a sample image; seeded.

    ``kind``: jpg, jpeg or png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = sorted(path for path in SAMPLES.rglob("*") if path.suffix in (".jpg", ".png"))
    photos = [cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR) for path in paths]
    for number in range(count):
        target = folder / f"{number:06d}.{kind}"
        if target.exists():
            continue
        photo = photos[number % len(photos)]
        assert photo is not None
        tall, wide = photo.shape[:2]
        share = rng.uniform(0.6, 1.0)
        h = int(min(tall, wide * height / width) * share)
        w = int(h * width / height)
        top, left = int(rng.integers(0, tall - h + 1)), int(rng.integers(0, wide - w + 1))
        crop = cv2.resize(photo[top : top + h, left : left + w], (width, height), interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(f".{kind}", crop, [] if kind == "png" else [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert done
        target.write_bytes(data.tobytes())
    return folder
