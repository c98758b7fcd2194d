"""Images -> pooled features of the frozen backbone, computed once: they are kept in the model's folder."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from camcli.documents import parse_json
from camcli.errors import ConfigError, OutOfMemoryError
from camcli.fit.folder import FEATURES
from camcli.output.root import Root
from camcli.pipeline.engine import normalised, out_of_memory
from camcli.pipeline.job import Job
from camcli.pipeline.reading import PreparedImage
from camcli.pipeline.stages import prepared_batches
from camcli.records import Failure, Source, stamp_of

_CHUNK_NAME, _KEY_NAME = re.compile(r"\d{6,9}\.safetensors"), re.compile(r"[0-9a-f]{16}")
_MOST_BYTES = 1 << 30
_CHUNK = 512
"""Images whose features are written into one file: what is lost when the process dies."""


@dataclass(frozen=True, slots=True)
class Featured:
    """One image: the SHA-256 of its file, and its pooled features (C,) float32."""

    sha256: str
    features: np.ndarray


_Key = tuple[str, int, int]
"""An image's name, its size in bytes, its modification time in nanoseconds."""


class FeatureCache:
    """Features in files of ``root``, for one backbone and preprocessing, which ``key`` tells from any other."""

    def __init__(self, root: Root, key: str) -> None:
        self._root, self._key = root, key
        self._known: dict[_Key, Featured] = {}
        self._waiting: dict[_Key, Featured] = {}
        self._chunks = 0

    def load(self) -> None:
        """Read what is there; a file that is damaged counts for nothing."""
        from safetensors.numpy import load

        folder = f"{FEATURES}/{self._key}"
        names = [name for name in self._root.names(folder) if _CHUNK_NAME.fullmatch(name)]
        for name in names:
            try:
                data = self._root.read(f"{folder}/{name}", _MOST_BYTES)
                images = parse_json(_metadata(data)["images"])
                features = load(data)["features"]
                own = {
                    (image, size, time): (digest, each) for (image, size, time, digest), each in zip(images, features, strict=True)
                }
                if not np.isfinite(features).all():
                    continue
            except Exception:  # safetensors raises its own, undocumented class; what cannot be read is computed again
                continue
            self._known |= {key: Featured(*found) for key, found in own.items()}
        self._chunks = 1 + max((int(name.partition(".")[0]) for name in names), default=-1)

    def get(self, source: Source) -> Featured | None:
        """The features of the image as its file is now; None where they are to be computed."""
        stamp = stamp_of(source.path)
        return None if stamp is None else self._known.get((source.image, stamp.size, stamp.mtime_ns))

    def add(self, prepared: PreparedImage, features: np.ndarray) -> None:
        """Keep the features (C,) of an image. Raises OutputError."""
        stamp = prepared.image.stamp
        key = prepared.source.image, stamp.size, stamp.mtime_ns
        self._known[key] = self._waiting[key] = Featured(stamp.sha256, features)
        if len(self._waiting) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet. Raises OutputError."""
        from safetensors.numpy import save

        if not self._waiting:
            return
        images = json.dumps([[*key, item.sha256] for key, item in self._waiting.items()])
        data = save({"features": np.stack([item.features for item in self._waiting.values()])}, {"images": images})
        self._root.write(f"{FEATURES}/{self._key}/{self._chunks:06}.safetensors", data)
        self._chunks += 1
        self._waiting.clear()

    def forget_others(self) -> None:
        """Remove the features of other backbones, settings and data."""
        for key in self._root.names(FEATURES):
            if key != self._key and _KEY_NAME.fullmatch(key):
                for name in self._root.names(f"{FEATURES}/{key}"):
                    if _CHUNK_NAME.fullmatch(name):
                        self._root.remove(f"{FEATURES}/{key}/{name}")
                self._root.remove_folder(f"{FEATURES}/{key}", above=False)


def _metadata(data: bytes) -> dict[str, str]:
    """What a safetensors file says of itself: its header is JSON behind eight bytes that say how long it is."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = parse_json(data[8 : 8 + length])["__metadata__"]
    return found


def cache_key(features: torch.fx.GraphModule, described: Mapping[str, object]) -> str:
    """What tells a cut backbone, its weights and ``described`` settings from any other: 16 hexadecimal digits.

    What the recorded graph computes counts as well as the weights: another activation has none. Buffers count that are not saved.
    """
    digest = hashlib.sha256(json.dumps([described, features.code, repr(features)], sort_keys=True).encode())
    for name, tensor in (*features.named_parameters(), *features.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def compute_features(sources: Sequence[Source], job: Job, cache: FeatureCache, stop: threading.Event) -> Iterator[Source | Failure]:
    """Put the features of ``sources`` into ``cache``, and yield each source once that is done, or its Failure.

    The logits of the job's network are the features. After ``stop`` is set no further batch is begun. Raises OutputError,
    OutOfMemoryError, and ConfigError for a backbone whose features are not finite.
    """
    for batch in prepared_batches(sources, job, stop):
        images = [item for item in batch if isinstance(item, PreparedImage)]
        found = iter(_features(images, job)) if images else iter(())
        for item in batch:
            if isinstance(item, Failure):
                yield item
                continue
            features = next(found)
            if not np.isfinite(features).all():
                raise ConfigError(
                    f"{job.model.name} gives features that are not finite for {item.source.image!r}: take another backbone."
                )
            cache.add(item, features)
            yield item.source
    cache.flush()


def _features(images: Sequence[PreparedImage], job: Job) -> np.ndarray:
    try:
        inputs = job.network.cast_inputs(normalised([image.input for image in images], job))
        with torch.no_grad():
            return job.network.run(inputs, []).logits.float().cpu().numpy()
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{job.device} has not enough memory for {len(images)} images with {job.model.name}: try a smaller --batch-size."
        ) from error
