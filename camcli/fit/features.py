"""Images -> pooled features of the frozen backbone. They are computed once and kept in the model's folder."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from camcli.documents import parse_json
from camcli.errors import ConfigError, OutOfMemoryError, RunError
from camcli.fit.extractor import FeatureExtractor
from camcli.layout import FEATURES
from camcli.output.openat import NOT_INSIDE
from camcli.output.root import Root
from camcli.pipeline.engine import out_of_memory
from camcli.pipeline.stages import InputImage
from camcli.records import Failure, escape_name
from camcli.source import Source

_CHUNK_NAME, _KEY_NAME = re.compile(r"\d{6,9}\.safetensors"), re.compile(r"[0-9a-f]{16}")
_MOST_BYTES = 1 << 30
_CHUNK = 512
"""Number of images per file of features; at most this many are lost when the process is killed."""


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """The pooled features (C,) float32 of one image, and the SHA-256 of its file."""

    sha256: str
    features: np.ndarray


_Key = tuple[str, int, int]
"""Name of an image, size in bytes, modification time in nanoseconds."""


class FeatureCache:
    """Features stored in files below ``root``, for the backbone and preprocessing that ``key`` identifies."""

    def __init__(self, root: Root, key: str) -> None:
        self._root, self._key = root, key
        self._known: dict[_Key, ImageFeatures] = {}
        self._waiting: dict[_Key, ImageFeatures] = {}
        self._chunks = 0

    def load(self) -> None:
        """Read the stored features; damaged files are ignored. Raises RunError if a file cannot be read."""
        from safetensors.numpy import load

        folder = f"{FEATURES}/{self._key}"
        names = [name for name in self._root.names(folder) if _CHUNK_NAME.fullmatch(name)]
        for name in names:
            data = self._stored(f"{folder}/{name}")
            try:
                images = parse_json(_metadata(data)["images"])
                features = load(data)["features"]
                own = {
                    (image, size, time): (digest, each) for (image, size, time, digest), each in zip(images, features, strict=True)
                }
                if not np.isfinite(features).all():
                    continue
            except Exception:  # safetensors raises an undocumented class; features that cannot be read are computed again
                continue
            self._known |= {key: ImageFeatures(*found) for key, found in own.items()}
        self._chunks = 1 + max((int(name.partition(".")[0]) for name in names), default=-1)

    def _stored(self, name: str) -> bytes:
        """The contents of a file of features; empty if it is not a regular file."""
        try:
            return self._root.read(name, _MOST_BYTES)
        except OSError as error:
            if error.errno in (*NOT_INSIDE, errno.EINVAL, errno.EFBIG):
                return b""
            place = escape_name(self._root.at(name))
            raise RunError(f"cannot read {place!r}: {error.strerror}. Run the command again, or remove that file.") from error

    def get(self, source: Source) -> ImageFeatures | None:
        """The features of the image, if they were computed from the file as it is now; otherwise None."""
        stamp = source.stamp()
        return None if stamp is None else self._known.get((source.image, stamp.size, stamp.mtime_ns))

    def add(self, prepared: InputImage, features: np.ndarray) -> None:
        """Store the features (C,) of an image. Raises OutputError."""
        stamp = prepared.stamp
        key = prepared.source.image, stamp.size, stamp.mtime_ns
        self._known[key] = self._waiting[key] = ImageFeatures(stamp.sha256, features)
        if len(self._waiting) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write the features that are not on disk yet. Raises OutputError."""
        from safetensors.numpy import save

        if not self._waiting:
            return
        images = json.dumps([[*key, item.sha256] for key, item in self._waiting.items()])
        data = save({"features": np.stack([item.features for item in self._waiting.values()])}, {"images": images})
        self._root.write(f"{FEATURES}/{self._key}/{self._chunks:06}.safetensors", data)
        self._chunks += 1
        self._waiting.clear()

    def forget_others(self) -> None:
        """Remove stored features of other backbones, settings and data."""
        for key in self._root.names(FEATURES):
            if key != self._key and _KEY_NAME.fullmatch(key):
                for name in self._root.names(f"{FEATURES}/{key}"):
                    if _CHUNK_NAME.fullmatch(name):
                        self._root.remove(f"{FEATURES}/{key}/{name}")
                self._root.remove_folder(f"{FEATURES}/{key}", above=False)


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: eight bytes with the length of the header, then the header as JSON."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = parse_json(data[8 : 8 + length])["__metadata__"]
    return found


def cache_key(features: torch.fx.GraphModule, described: Mapping[str, object]) -> str:
    """16 hexadecimal digits that identify a backbone up to its layer, its weights, and the ``described`` settings.

    The code of the graph is part of it, because an activation function has no weights. Buffers that are not saved are part of it
    too.
    """
    digest = hashlib.sha256(json.dumps([described, features.code, repr(features)], sort_keys=True).encode())
    for name, tensor in (*features.named_parameters(), *features.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def compute_features(
    sources: Sequence[Source], extractor: FeatureExtractor, cache: FeatureCache, stop: threading.Event
) -> Iterator[Source | Failure]:
    """Compute the features of ``sources`` and store them in ``cache``. Yields each source when it is done, or its Failure.

    The extractor's network returns the features as its logits. After ``stop`` is set no further batch begins. Raises OutputError,
    OutOfMemoryError, and ConfigError for features that are not finite.
    """
    for batch in extractor.batches(sources, stop):
        images = [item for item in batch if isinstance(item, InputImage)]
        found = iter(_features(images, extractor)) if images else iter(())
        for item in batch:
            if isinstance(item, Failure):
                yield item
                continue
            features = next(found)
            if not np.isfinite(features).all():
                raise ConfigError(
                    f"{extractor.name} gives features that are not finite for {item.source.image!r}: choose another backbone."
                )
            cache.add(item, features)
            yield item.source
    cache.flush()


def _features(images: Sequence[InputImage], extractor: FeatureExtractor) -> np.ndarray:
    try:
        inputs = extractor.network.cast_inputs(extractor.tensor([image.input for image in images]))
        with torch.no_grad():
            return extractor.network.run(inputs, []).logits.float().cpu().numpy()
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{extractor.device} is out of memory with {len(images)} images and {extractor.name}: try a smaller --batch-size."
        ) from error
