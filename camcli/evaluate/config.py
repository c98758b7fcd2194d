"""EvaluateConfig: the options of ``camcli evaluate`` that it does not share with ``camcli run``."""

from __future__ import annotations

from dataclasses import dataclass

from camcli.config.field import check_values, option
from camcli.errors import ConfigError

_PANEL, _GRID = "Evaluation", "Grid pointing game"


@dataclass(frozen=True)
class EvaluateConfig:
    """The options of an evaluation."""

    output: str | None = option(
        None,
        "Folder for evaluation.csv, evaluation.json and the pictures. Default: the first DIR; with --grid: grid.",
        _PANEL,
        short="-o",
        metavar="DIR",
    )
    boxes: str | None = option(
        None,
        "Boxes of objects, to measure localization: a COCO file (.json), a CSV file with the columns image, class, x, y, w, h, or "
        "a folder of Pascal VOC files (.xml). The runs need --save-maps.",
        _PANEL,
        metavar="FILE|DIR",
    )
    masks: str | None = option(
        None,
        "Folder of masks of objects: NAME.png for the image NAME.jpg, or CLASS/NAME.png. Not black is object.",
        _PANEL,
        metavar="DIR",
    )
    tolerance: float = option(
        15.0, "Pixels that the peak of a map may be away from an object to count as a hit.", _PANEL, metavar="PX", at_least=0.0
    )
    grid: int | None = option(
        None,
        "Grid pointing game: put N x N images of different classes into one picture, and see where their maps lie. DIR is then a "
        "folder of images, and --model explains them.",
        _GRID,
        metavar="N",
        at_least=2,
        at_most=4,
    )
    pictures: int = option(50, "Maximum number of pictures of --grid.", _GRID, metavar="N", at_least=1)
    confidence: float = option(
        0.5,
        "Least probability of the predicted class of an image in a picture of --grid.",
        _GRID,
        metavar="P",
        at_least=0.0,
        at_most=1.0,
    )
    quiet: bool = option(False, "Print errors only.", _PANEL, short="-q")

    def check(self) -> EvaluateConfig:
        """The config, unchanged. Raises ConfigError for a value outside its limits, or options that exclude each other."""
        check_values(self)
        if self.grid is not None and (self.boxes or self.masks):
            raise ConfigError("--grid needs no annotation: leave out --boxes and --masks.")
        return self
