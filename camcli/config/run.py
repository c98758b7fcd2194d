"""RunConfig: every option of a run, once: name, default, unit, limits, help. The command line, TOML files, ``run.json``
and the README's table all read it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from camcli.config.field import as_json, binding_values, check_values, option, option_name
from camcli.errors import ConfigError

COLORMAPS = (
    "turbo", "jet", "viridis", "inferno", "magma", "plasma", "cividis", "hot", "bone", "parula", "rainbow", "ocean",
)  # fmt: skip
"""Colour tables of OpenCV that ``--colormap`` takes."""

HEADS = ("softmax", "sigmoid")
"""What turns logits into probabilities."""

PRECISIONS = ("fp32", "bf16", "fp16", "tf32", "auto")
"""Floating-point types that the network may compute in; see ``camcli.network.precision``."""

COMPILE = ("off", "on", "auto")
"""When to compile the network; see ``camcli.network.prepare``."""

ROW_FORMATS = ("csv", "jsonl")
"""How rows are written to stdout."""

STYLES = ("overlay", "heatmap", "side-by-side", "contour", "spotlight")
"""How a map is shown; see ``camcli.render.styles``."""

LOOKS = ("style", "legend", "caption", "colormap", "alpha", "threshold", "outline", "quality", "image-format", "max-side")
"""Options that only the overlays depend on: what ``camcli render`` can change."""

IMAGE_FORMATS = ("jpg", "png", "webp")
"""Files that overlays may be."""

BOXES = ("largest", "all")
"""Which of the connected parts of a map get a box; see ``camcli.render.regions``."""

MASK_METHODS = ("threshold", "otsu", "grabcut")
"""How a map becomes a mask; see ``camcli.render.regions``."""

MOST_THREADS = 1024
"""Of ``--threads`` and ``--workers``: more are beyond any machine, and each takes memory."""

MOST_IMAGES = 65536
"""Of a batch."""

RESIZE_MODES = ("crop", "squash", "pad")
"""How an image becomes the network's input; see ``camcli.images.geometry``."""


@dataclass(frozen=True)
class RunConfig:
    """The options of one run. A field's option is its name with hyphens (``batch_size`` is ``--batch-size``).

    Lists are tuples. Raises ConfigError from ``check`` for values outside their limits.
    """

    model: str = option(
        "efficientnet_lite0",
        "A torchvision classifier, timm/NAME, package.module:factory, or the bundled efficientnet_lite0.",
        "Model",
        short="-m",
        metavar="NAME",
    )
    weights: str = option(
        "DEFAULT",
        "DEFAULT, a name such as IMAGENET1K_V1, none (random, seeded), or a .pt, .pth or .safetensors file.",
        "Model",
        short="-w",
        metavar="NAME|FILE",
    )
    labels: str | None = option(
        None, "File with the class names: .txt (a line each), .json, or .csv (index,name).", "Model", metavar="FILE"
    )
    device: str = option(
        "auto",
        "auto takes CUDA, then MPS, then the CPU.",
        "Model",
        short="-d",
        metavar="auto|cpu|cuda|cuda:N|mps",
        affects_results=False,
    )
    layer: tuple[str, ...] = option(
        (),
        "Dotted name of the layer to explain, as camcli layers lists it; repeatable; all for every usable one. "
        "Default: the last layer with a spatial map.",
        "Heatmap",
        short="-l",
        metavar="NAME",
    )
    method: tuple[str, ...] = option(
        ("gradcam",), "How to compute the map, as camcli methods lists it; repeatable.", "Heatmap", metavar="NAME"
    )
    topk: int | None = option(
        None,
        "Explain the K classes with the highest logits. Default: 1, or 0 with --class or --class-from.",
        "Heatmap",
        short="-k",
        metavar="K",
        at_least=0,
    )
    class_: tuple[str, ...] = option(
        (),
        "Explain this class, by index or name (case does not matter); repeatable.",
        "Heatmap",
        short="-c",
        metavar="CLASS",
    )
    class_from: str | None = option(
        None,
        "Explain the true class: folder (the name of the image's folder) or a CSV file (image,label). "
        "Adds the columns label and correct.",
        "Heatmap",
        metavar="folder|FILE",
    )
    head: str = option(
        "softmax",
        "What turns logits into probabilities: softmax, or sigmoid for several labels at once or a single logit.",
        "Heatmap",
        choices=HEADS,
    )
    fuse: str | None = option(None, "One map out of those of all layers.", "Heatmap", metavar="max|mean", choices=("max", "mean"))
    smooth: int = option(0, "Average the maps of N noisy copies of the image (SmoothGrad).", "Heatmap", metavar="N", at_least=0)
    noise: float = option(
        0.15, "Noise of --smooth, as a fraction of the image's range of values.", "Heatmap", metavar="S", at_least=0.0
    )
    augment: bool = option(False, "Average the maps of mirrored and scaled copies: six passes.", "Heatmap")
    counterfactual: bool = option(False, "Show what speaks against the class: gradients negated.", "Heatmap")
    resize_mode: str = option(
        "crop",
        "crop: as trained, the edges are not seen; squash, pad: the network sees the whole image.",
        "Heatmap",
        name="fit",
        choices=RESIZE_MODES,
    )
    output: str = option(
        "heatmaps",
        "Folder for overlays and tables; its parent must exist.",
        "Output",
        short="-o",
        metavar="DIR",
        affects_results=False,
    )
    csv: str | None = option(
        None,
        "- writes the rows to stdout too, each as its image is finished, and nothing else goes there.",
        "Output",
        metavar="-",
        choices=("-",),
        affects_results=False,
    )
    format: str | None = option(
        None,
        "Of the rows on stdout: csv, or jsonl for a JSON object a line. Given alone it writes them there too. Default: csv.",
        "Output",
        choices=ROW_FORMATS,
        affects_results=False,
    )
    overwrite: bool = option(False, "Start anew in a folder that holds an earlier run.", "Output", affects_results=False)
    save_maps: bool = option(False, "Also write each painted map raw, (h, w) float32, as maps/.../NAME.npy.", "Output")
    report: bool = option(
        False, "At the end also write report.html, a page that shows the run; see camcli report.", "Output", affects_results=False
    )
    null: bool = option(
        False, "With - as input: paths end in NUL, as find -print0 writes them.", "Input", short="-0", affects_results=False
    )
    limit: int | None = option(None, "Stop after the first N images.", "Input", metavar="N", at_least=1, affects_results=False)
    shard: str | None = option(
        None,
        "Explain only part I of N, counted from 0, in a folder of its own inside --output; camcli merge joins the parts.",
        "Input",
        metavar="I/N",
    )
    retry_failed: bool = option(False, "Try the images again that failed before.", "Input", affects_results=False)
    hash: bool = option(
        False,
        "Tell changed images by the SHA-256 of their bytes, not by size and modification time.",
        "Input",
        affects_results=False,
    )
    alpha: float = option(0.5, "Opacity of the heatmap, 0 to 1.", "Overlay", metavar="A", at_least=0.0, at_most=1.0)
    colormap: str = option(
        "turbo",
        f"Colours from zero to the peak: {', '.join(COLORMAPS)}.",
        "Overlay",
        metavar="NAME",
        choices=COLORMAPS,
    )
    threshold: float = option(
        0.0,
        "Paint nothing below this fraction of the map's peak, 0 to 1.",
        "Overlay",
        short="-t",
        metavar="T",
        at_least=0.0,
        at_most=1.0,
    )
    outline: bool = option(True, "Draw the edge of what the network saw, where that is not the whole image.", "Overlay")
    style: str = option(
        "overlay",
        "overlay: the map over the photo; heatmap: the map alone; side-by-side: photo and overlay; contour: lines at 25, 50 and "
        "75 % of the peak; spotlight: the photo, darkened where the network did not look.",
        "Overlay",
        choices=STYLES,
    )
    legend: bool = option(
        False, "Add a bar below the picture: what it looks like from 0 to the peak, with the peak's raw value.", "Overlay"
    )
    caption: bool = option(False, "Write class, probability, method and layer below the picture.", "Overlay")
    image_format: str = option("jpg", "Of the overlays.", "Overlay", choices=IMAGE_FORMATS)
    max_side: int | None = option(
        None,
        "Make overlays smaller where a side has more pixels. Default: as large as the photo.",
        "Overlay",
        metavar="N",
        at_least=16,
    )
    quality: int = option(90, "Quality of JPEG and WebP, 1 to 100.", "Overlay", metavar="Q", at_least=1, at_most=100)
    boxes: str | None = option(
        None,
        "Draw a box around the largest connected part of the map, or around all, and add the columns bbox_x to image_h.",
        "Regions",
        metavar="largest|all",
        choices=BOXES,
    )
    boxes_json: bool = option(False, "With --boxes: also write boxes.json, in COCO's format.", "Regions", affects_results=False)
    masks: bool = option(False, "Also write a mask of each painted map, as large as the photo, as masks/.../NAME.png.", "Regions")
    mask_method: str = option(
        "threshold",
        "threshold: what is not below --region-threshold; otsu: a threshold found for each map; grabcut: the photo's colours and "
        "edges decide, beginning at the map.",
        "Regions",
        choices=MASK_METHODS,
    )
    region_threshold: float | None = option(
        None,
        "Fraction of the map's peak at which boxes and masks begin, 0 to 1. Default: 0.15 for boxes, as published; 0.35 for masks, "
        "as measured.",
        "Regions",
        metavar="T",
        at_least=0.0,
        at_most=1.0,
    )
    batch_size: int | None = option(
        16,
        "Images in one forward pass; auto: what fits into memory, up to 16 on a CPU, 32 on MPS, 128 on CUDA. "
        "Halved where memory runs out.",
        "Speed",
        short="-b",
        metavar="N|auto",
        at_least=1,
        at_most=MOST_IMAGES,
        none_word="auto",
        affects_results=False,
    )
    precision: str = option(
        "fp32",
        "Type the network computes in; maps are always made in fp32. auto: what the device is good at.",
        "Speed",
        choices=PRECISIONS,
    )
    compile: str = option(
        "off",
        "Compile the network first: 10 to 40 seconds once, then faster. auto: from 10,000 images on.",
        "Speed",
        choices=COMPILE,
        affects_results=False,
    )
    threads: int | None = option(
        None,
        "Threads that compute the network on the CPU. Default: the number of cores this process may use.",
        "Speed",
        metavar="N",
        at_least=1,
        at_most=MOST_THREADS,
        affects_results=False,
    )
    workers: int | None = option(
        None,
        "Threads that decode, and threads that render and write. Default: the number of cores this process may use.",
        "Speed",
        metavar="N",
        at_least=1,
        at_most=MOST_THREADS,
        affects_results=False,
    )
    max_pixels: int = option(178_000_000, "Refuse larger images, in pixels (width x height).", "Speed", metavar="N", at_least=1)
    verbose: bool = option(
        False, "Say at the end where the time went, stage by stage.", "Output", short="-v", affects_results=False
    )
    quiet: bool = option(False, "Say nothing but errors.", "Output", short="-q", affects_results=False)
    log_file: str | None = option(
        None,
        "Append all that is said, and every failure, to this file, with the time.",
        "Output",
        metavar="FILE",
        affects_results=False,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):  # what is asked for twice is done once
                object.__setattr__(self, field.name, tuple(dict.fromkeys(value)))

    @property
    def top_count(self) -> int:
        """How many of the best classes to explain."""
        if self.topk is not None:
            return self.topk
        return 0 if self.class_ or self.class_from else 1

    @property
    def box_threshold(self) -> float:
        """The fraction of a map's peak at which boxes begin: by default that of Selvaraju et al. 2017, section 4.1."""
        return 0.15 if self.region_threshold is None else self.region_threshold

    @property
    def mask_threshold(self) -> float:
        """The fraction of a map's peak at which masks begin: by default what benchmarks/regions.py found."""
        return 0.35 if self.region_threshold is None else self.region_threshold

    @property
    def streams_rows(self) -> bool:
        """Whether rows go to stdout."""
        return self.csv is not None or self.format is not None

    @property
    def part(self) -> tuple[int, int] | None:
        """``shard`` as (index, count). Raises ConfigError."""
        if self.shard is None:
            return None
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
        if found is None:
            raise ConfigError(f"--shard {self.shard!r} is not of the form I/N, such as 0/8.")
        index, count = int(found[1]), int(found[2])
        if index >= count:
            last = f"the last of {count} is {count - 1}/{count}" if count else "there must be at least one"
            raise ConfigError(f"--shard {self.shard}: parts are counted from 0, so {last}.")
        return index, count

    def settings(self) -> dict[str, Any]:
        """The options that decide what a run writes, as JSON values: equal settings, equal results."""
        values = binding_values(self) | {"shard": self.part and "/".join(map(str, self.part))}
        del values["region-threshold"]  # two thresholds, which bind by what they are, not by how they were asked for
        return values | {"box-threshold": self.box_threshold, "mask-threshold": self.mask_threshold}

    def as_dict(self) -> dict[str, Any]:
        """All options by name, as JSON values."""
        return {option_name(field): as_json(field, getattr(self, field.name)) for field in dataclasses.fields(self)}

    def check(self) -> RunConfig:
        """Itself, when every value is within its limits. Raises ConfigError."""
        check_values(self)
        _ = self.part
        if self.boxes_json and self.boxes is None:
            raise ConfigError("--boxes-json needs boxes: add --boxes largest or --boxes all.")
        if not self.method:
            raise ConfigError("--method is empty: name one, such as gradcam.")
        if self.top_count == 0 and not self.class_ and not self.class_from:
            raise ConfigError("--topk 0 leaves nothing to explain: name a class with --class, or ask for --topk 1.")
        return self
