"""What the main process and its workers tell each other. Knows no torch.

A worker reads an image, keeps its pixels, and later paints and writes the overlays of the same image. Pixels never leave a worker:
the network's inputs travel through slots in shared memory, maps through the messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from camcli.config.run import RunConfig
from camcli.images.geometry import InputWindow
from camcli.output.root import Root
from camcli.pipeline.findings import BatchFindings, Names
from camcli.records import Checksum, Failure, Preprocess, QuicklyPickled, Row, Stamp
from camcli.source import Source


@dataclass(frozen=True)
class InputSettings:
    """The settings for turning files into inputs of a network.

    ``preprocess`` and ``resize_mode``: how an image becomes an input. ``max_pixels``: larger images are refused. ``hashed``:
    whether the SHA-256 of each file is computed.
    """

    preprocess: Preprocess
    resize_mode: str
    max_pixels: int
    hashed: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of an input, which is uint8: height, width, channels."""
        return (*self.preprocess.crop, self.preprocess.channels)

    @property
    def input_bytes(self) -> int:
        """The size of an input in bytes."""
        height, width, channels = self.input_shape
        return height * width * channels


@dataclass(frozen=True)
class PaintSettings:
    """The settings for overlays and rows. ``root``: the output folder. ``labelled``: whether rows have a true label."""

    config: RunConfig
    names: Names
    root: Root
    labelled: bool


@dataclass(frozen=True)
class Settings:
    """Everything that a worker knows of a run.

    ``painting``: None if images are only read; then no pixels are kept. ``allowance``: how many bytes the images of this worker may
    take without asking. ``slots``: the number of inputs in the shared memory.
    """

    inputs: InputSettings
    painting: PaintSettings | None
    allowance: int
    slots: int


@dataclass(frozen=True, slots=True)
class ReadTask(QuicklyPickled):
    """Read image ``number`` and put the network's input into ``slot``."""

    number: int
    source: Source
    slot: int


@dataclass(frozen=True, slots=True)
class PaintTask(QuicklyPickled):
    """Write the files of image ``number``.

    ``stamp``: of the file that was explained. ``stems``: for each map the path of its files without folder and extension, empty
    for a map that has none. ``has_overlays``: whether overlays are among these files. ``label``: the index of the true class; None
    if it is not known. ``findings``: the results of a batch, and ``position``: which of them are of this image.
    """

    number: int
    source: Source
    stamp: Stamp
    stems: tuple[str, ...]
    has_overlays: bool
    label: int | None
    findings: BatchFindings
    position: int


Task = ReadTask | PaintTask


@dataclass(frozen=True, slots=True)
class PreparedImage(QuicklyPickled):
    """An image whose input for the network is ready, in ``slot``."""

    number: int
    source: Source
    stamp: Stamp
    view: InputWindow
    slot: int


@dataclass(frozen=True, slots=True)
class Painted(QuicklyPickled):
    """The rows of an image whose files are written. ``lines``: the rows as they are in the table."""

    number: int
    rows: tuple[Row, ...]
    lines: bytes
    checksums: tuple[Checksum, ...]


@dataclass(frozen=True, slots=True)
class Failed(QuicklyPickled):
    """An image that could not be read or painted."""

    number: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Asking(QuicklyPickled):
    """A worker needs ``size`` bytes for image ``number``, more than it may take without asking. ``words``: for a failure."""

    number: int
    size: int
    words: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A worker cannot go on. ``output``: whether the output folder cannot be written; otherwise a program has an error."""

    message: str
    output: bool


Result = PreparedImage | Painted | Failed
