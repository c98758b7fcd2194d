"""Pictures whose every pixel is known, as files of every format."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image as PillowImage


def scene():
    """(48, 64, 3): four flat quarters, distinct under every flip and rotation."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32], pixels[24:, 32:] = (
        (220, 30, 30),
        (30, 200, 30),
        (30, 30, 220),
        (230, 230, 40),
    )
    return pixels


def encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, PillowImage.Image) else PillowImage.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def as_stored(pixels, orientation):
    """How a camera stores ``pixels`` so that a viewer must apply EXIF ``orientation`` to see them: written by hand from the
    standard's table (0th row and 0th column), not with a library."""
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    return np.ascontiguousarray(turned[orientation](pixels))


def write_photos(folder, names, first=0):
    """Write a photo to each path of ``names`` below ``folder``, each another one; the ending of a name decides the format."""
    for seed, name in enumerate(map(os.fsencode, names), first):
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(encoded(photo(seed), "PNG" if name.endswith(b".png") else "JPEG"))


def noise(seed=0, size=(60, 50)):
    """(H, W, 3) random pixels. ``size``: (width, height)."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def photo(seed=0, size=(60, 50)):
    return PillowImage.fromarray(noise(seed, size))
