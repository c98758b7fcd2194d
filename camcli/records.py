"""Records that are shared by all packages: frozen dataclasses without behaviour beyond their fields."""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


_JOINER = "\u200d"
"""The zero-width joiner, which connects the parts of an emoji."""


def escape_name(name: str) -> str:
    r"""A file name as text for one line of any terminal or table. ``unescape_name`` is the inverse.

    Control and format characters and bytes that are not UTF-8 become ``\xNN`` (one per byte), and a backslash becomes two. All
    other characters, including accents and emoji, are kept. Every text is accepted.
    """
    return escape_text(name.replace("\\", "\\\\"))


def escape_text(text: str, keep: str = "") -> str:
    r"""``text`` with control and format characters and invalid characters escaped as ``\xNN``, one per byte in UTF-8.

    Half of a surrogate pair has three such bytes. ``keep``: characters that are not escaped. Every text is accepted.
    """
    if text.isprintable():
        return text
    out: list[str] = []
    for char in text:
        if char.isprintable() or char == _JOINER or char in keep or unicodedata.category(char) == "Zs":
            out.append(char)
        else:
            out.extend(f"\\x{byte:02x}" for byte in _bytes_of(char))
    return "".join(out)


def _bytes_of(char: str) -> bytes:
    """The byte from which ``os.fsdecode`` made ``char``, or the bytes of ``char`` in UTF-8."""
    try:
        return char.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return char.encode("utf-8", "surrogatepass")


def unescape_name(text: str) -> str:
    """The name that ``escape_name`` turned into ``text``, as ``os.fsdecode`` returns it."""
    if "\\" not in text:
        return text
    parts = re.split(rb"(\\\\|\\x[0-9a-f]{2})", text.encode("utf-8"))
    raw = b"".join(
        part if not part.startswith(b"\\") else b"\\" if part == b"\\\\" else bytes.fromhex(part[2:].decode()) for part in parts
    )
    return raw.decode("utf-8", "surrogateescape")


def count_words(number: int, noun: str) -> str:
    """``1 image``, ``1,234 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_GETTERS: dict[type[Any], Callable[[Any], tuple[Any, ...]]] = {}


def _getter(kind: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    names = [field.name for field in fields(kind)]
    _GETTERS[kind] = attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)
    return _GETTERS[kind]


class QuicklyPickled:
    """A dataclass with slots that is pickled by its fields. The way of ``dataclasses`` takes five times as long."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        kind = type(self)
        return kind, (_GETTERS.get(kind) or _getter(kind))(self)


@dataclass(frozen=True, slots=True)
class Stamp(QuicklyPickled):
    """Identifies the contents of a source: size in bytes, modification time in nanoseconds, and SHA-256 if it is known.

    ``version``: what else tells whether a source that is not a file has changed: its place in an archive, the ETag of an object.
    """

    size: int
    mtime_ns: int
    sha256: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded image. ``pixels``: (H, W, 3) uint8 RGB, EXIF orientation applied."""

    pixels: np.ndarray
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Failure(QuicklyPickled):
    """Why one image was not explained. ``stage``: read, decode, memory, render, write, or crashed. ``reason``: for people."""

    image: str
    stage: str
    reason: str
    stamp: Stamp | None = None


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of a model: resize, centre crop, scale to [0, 1], normalize.

    ``resize``: ``short`` resizes the shorter side to ``resize_to[0]`` and keeps the aspect ratio; ``cover`` and ``contain`` keep it
    too and make the image just cover or just fit into ``resize_to`` (height, width); ``squash`` resizes to exactly that size.
    ``crop``: (height, width) of the network's input in pixels. ``interpolation``: ``nearest``, ``bilinear``, ``bicubic`` or
    ``lanczos``, always with antialiasing. ``mean`` and ``std``: per RGB channel, on the [0, 1] scale; a single value means that
    the network takes grey images. ``crop_rounding``: where the crop begins if it cannot be exactly in the middle, ``even`` as in
    torchvision and timm or ``down`` as in transformers.
    """

    resize: str = "short"
    resize_to: tuple[int, int] = (256, 256)
    crop: tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_rounding: str = "even"

    @property
    def channels(self) -> int:
        """The number of channels of the network's input: 3 for RGB, 1 for grey."""
        return len(self.mean)


INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_RESIZES = ("short", "cover", "contain", "squash")
LARGEST_SIDE = 4096
"""Maximum input size in pixels; a larger one comes from a forged description and would fill the memory."""


def preprocess_record(preprocess: Preprocess) -> dict[str, Any]:
    """``preprocess`` as JSON values, as earlier versions recorded it where it is what they could do."""
    record = asdict(preprocess)
    if preprocess.crop_rounding == Preprocess.crop_rounding:
        del record["crop_rounding"]
    return record


def preprocess_of(found: Any) -> Preprocess:
    """The preprocessing in a document. Raises ValueError if it is incomplete or not possible."""
    try:
        given = {"crop_rounding": Preprocess.crop_rounding, **found}  # earlier versions knew only the default
        values: dict[str, Any] = {field.name: given[field.name] for field in fields(Preprocess)}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        preprocess = Preprocess(**values)
        sides = (*preprocess.resize_to, *preprocess.crop)
        right = [
            preprocess.resize in _RESIZES,
            preprocess.interpolation in INTERPOLATIONS,
            preprocess.crop_rounding in ("even", "down"),
            len(preprocess.resize_to) == len(preprocess.crop) == 2,
            len(preprocess.mean) == len(preprocess.std) and len(preprocess.mean) in (1, 3),
            all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides),
            all(type(value) in (int, float) and math.isfinite(value) for value in (*preprocess.mean, *preprocess.std)),
            all(value > 0 for value in preprocess.std),
        ]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"the preprocessing is incomplete: {error}") from error
    if not all(right):
        raise ValueError("the preprocessing is not possible")
    return preprocess


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded classifier, in evaluation mode and without gradients for its parameters.

    ``classes``: the name of each class index. ``weights``: the name of the loaded weights. ``notes``: messages for the user.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]
    weights: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """How to convert a layer's output into a spatial map (C, height, width).

    ``kind``: ``nchw``, ``nhwc``, or ``tokens`` (B, prefix + height * width, C); the first ``prefix`` tokens are dropped.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer for heatmaps: the dotted name of the module, and the grid of its output."""

    name: str
    grid: Grid


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A row of ``camcli layers``. ``shape``: of the output for one image. ``why_not``: empty for a usable layer."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    grid: Grid | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Box(QuicklyPickled):
    """A rectangle of whole pixels: left, top, width, height."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of one image. ``rank``: 1 is the class with the highest logit. ``probability``: softmax, in [0, 1]."""

    rank: int
    class_index: int
    class_name: str
    logit: float
    probability: float


MetricValue = float | tuple[float, ...] | None
"""What a metric says about a map: a number, or a curve; None if the map could not be measured."""


@dataclass(frozen=True, slots=True)
class Heatmap:
    """A heatmap. ``values``: (h, w) float32, raw. ``status``: ``ok``, ``empty`` or ``nonfinite``. ``peak``: the raw maximum.

    ``metrics``: a value for each column that ``--metrics`` adds.
    """

    prediction: Prediction
    layer: str
    method: str
    values: np.ndarray
    status: str
    peak: float
    metrics: tuple[MetricValue, ...] = ()

    def __repr__(self) -> str:
        height, width = self.values.shape
        found = f"{self.prediction.class_name!r}, {self.method} at {self.layer}, {height} x {width}, peak {self.peak:.3g}"
        return f"<Heatmap {found}{'' if self.status == 'ok' else f', {self.status}'}>"


@dataclass(frozen=True, slots=True)
class Findings:
    """The results for one image: its best class, and the requested heatmaps."""

    best: Prediction
    heatmaps: tuple[Heatmap, ...]


@dataclass(frozen=True, slots=True)
class Boxes(QuicklyPickled):
    """Boxes found in a map, the largest first, in pixels of an image of ``width`` x ``height``."""

    found: tuple[Box, ...]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Row(QuicklyPickled):
    """A row of ``predictions.csv``, in the order of its columns. The last four depend on options.

    ``label`` and ``correct``: with ``--class-from``; empty and None if the true class of the image is unknown. ``boxes``: with
    ``--boxes``, otherwise None. ``metrics``: a value for each column of ``--metrics``.
    """

    image: str
    rank: int
    class_index: int
    class_name: str
    logit: float
    probability: float
    predicted_class: str
    predicted_probability: float
    layer: str
    method: str
    status: str
    peak: float
    box_x: int
    box_y: int
    box_w: int
    box_h: int
    overlay: str
    label: str | None = None
    correct: bool | None = None
    boxes: Boxes | None = None
    metrics: tuple[MetricValue, ...] = ()


class Checksum(NamedTuple):
    """Size in bytes and CRC-32 of a file, to check that it has not changed since it was written."""

    size: int
    crc32: int


def checksum_of(data: bytes) -> Checksum:
    """The checksum of a file with the contents ``data``."""
    return Checksum(len(data), zlib.crc32(data))


@dataclass(frozen=True, slots=True)
class Success:
    """An image that was explained, written and recorded. ``rows``: one per class, layer and method.

    ``checksums``: of the files that the rows name, in order. ``lines``: the rows as they are in the table. ``packed``: what is
    appended to each binary table of the run.
    """

    image: str
    stamp: Stamp
    rows: tuple[Row, ...]
    checksums: tuple[Checksum, ...] = ()
    lines: bytes = b""
    packed: tuple[bytes, ...] = ()


Outcome = Success | Failure


@dataclass
class Counts:
    """Counts of a run so far. It is the only mutable record; the caller of the pipeline owns it."""

    explained: int = 0
    failed: int = 0
    empty_maps: int = 0
    nonfinite_maps: int = 0
    labelled: int = 0
    correct: int = 0
    top_classes: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if isinstance(outcome, Failure):
            self.failed += 1
            return
        self.explained += 1
        self.empty_maps += sum(row.status == "empty" for row in outcome.rows)
        self.nonfinite_maps += sum(row.status == "nonfinite" for row in outcome.rows)
        if outcome.rows:
            name = outcome.rows[0].predicted_class
            self.top_classes[name] = self.top_classes.get(name, 0) + 1
            self.labelled += outcome.rows[0].correct is not None
            self.correct += bool(outcome.rows[0].correct)

    def as_dict(self) -> dict[str, Any]:
        """The counts for ``run.json``."""
        counts = {
            "explained": self.explained,
            "failed": self.failed,
            "empty_maps": self.empty_maps,
            "nonfinite_maps": self.nonfinite_maps,
            "empty_or_nonfinite_maps": self.empty_maps + self.nonfinite_maps,
        }
        return {**counts, "labelled": self.labelled, "correct": self.correct} if self.labelled else counts
