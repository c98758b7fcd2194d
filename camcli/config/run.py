"""RunConfig: the one table of all options of a run, with name, default, unit, limits and help.

The command line, TOML files, ``run.json`` and ``camcli.run`` in Python read it, and tests compare the documents with it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from camcli.addresses import is_address, masked
from camcli.config.field import as_json, binding_values, check_values, option, option_name
from camcli.config.inputs import InputChanges, parse_size, parse_values, size_text, values_text
from camcli.errors import ConfigError
from camcli.records import INTERPOLATIONS

COLORMAPS = (
    "turbo", "jet", "viridis", "inferno", "magma", "plasma", "cividis", "hot", "bone", "parula", "rainbow", "ocean",
)  # fmt: skip
"""OpenCV colour maps that ``--colormap`` takes."""

HEADS = ("softmax", "sigmoid")
"""Functions that turn logits into probabilities."""

PRECISIONS = ("fp32", "bf16", "fp16", "tf32", "auto")
"""Floating-point types that the network may compute in; see ``camcli.network.precision``."""

COMPILE = ("off", "on", "auto")
"""When to compile the network; see ``camcli.network.prepare``."""

ROW_FORMATS = ("csv", "jsonl", "parquet")
"""Row formats: the first two on stdout, the last in the output folder."""

STYLES = ("overlay", "heatmap", "side-by-side", "contour", "spotlight")
"""Overlay styles; see ``camcli.render.styles``."""

LOOKS = ("style", "legend", "caption", "colormap", "alpha", "threshold", "outline", "quality", "image-format", "max-side")
"""Options that affect only the look of the overlays. ``camcli render`` can change them."""

IMAGE_FORMATS = ("jpg", "png", "webp")
"""File formats of overlays."""

_BELOW = re.compile(r"below:(\d+\.?\d*|\.\d+)")

MAP_FORMATS = ("npy", "parquet")
"""How raw maps are stored: a file for each map, or packed into a few."""

BOXES = ("largest", "all")
"""Which connected regions of a map get a box; see ``camcli.render.regions``."""

MASK_METHODS = ("threshold", "otsu", "grabcut")
"""How a map becomes a mask; see ``camcli.render.regions``."""

MOST_THREADS = 1024
"""Maximum of ``--threads`` and ``--workers``. No machine has more cores, and each thread or process takes memory."""

MOST_IMAGES = 65536
"""Maximum of ``--batch-size``."""

WITHOUT_FILE = ("folder", "member")
"""Values of ``--class-from`` that are no file."""

ENGINES = ("local", "ray")
"""Where a run is done: on this machine, or on a Ray cluster; see ``camcli.distributed``."""

CLUSTER_OPTIONS = ("address", "gpus-per-worker", "cpus-per-worker", "images-per-shard")
"""Options that have an effect with ``--engine ray`` only."""

METRICS = (
    "drop", "increase", "gain", "deletion", "insertion", "road", "coherency", "complexity", "adcc", "entropy", "sparsity",
    "infidelity", "sensitivity",
)  # fmt: skip
"""Metrics of a map that ``--metrics`` takes, in the order of their columns; see ``camcli.metrics``."""

CURVES = {"deletion": "deletion_curve", "insertion": "insertion_curve"}
"""Metrics that are areas under a curve, each with the column of the curve."""

METRIC_COLUMNS = tuple(column for name in METRICS for column in (name, CURVES.get(name)) if column)
"""All columns that ``--metrics`` can add."""

METRIC_SCORES = ("probability", "logit")
"""Scores whose change the metrics measure."""

BASELINES = ("zero", "mean", "blur")
"""What the metrics put in the place of removed pixels; see ``camcli.metrics.curves``."""

RESIZE_MODES = ("crop", "squash", "pad")
"""How an image becomes the network's input; see ``camcli.images.geometry``."""


def metric_columns(metrics: Collection[str]) -> tuple[str, ...]:
    """The columns that the metrics of a run add to its table, in their order."""
    return tuple(column for name in METRICS if name in metrics for column in (name, CURVES.get(name)) if column)


@dataclass(frozen=True)
class RunConfig:
    """The options of one run. A field's option is its name with hyphens (``batch_size`` is ``--batch-size``).

    Repeatable options are tuples. ``check`` raises ConfigError for values outside their limits.
    """

    model: str = option(
        "efficientnet_lite0",
        "Model to explain: a torchvision classifier, timm/NAME, a folder written by camcli fit, package.module:factory, or the "
        "bundled efficientnet_lite0.",
        "Model",
        short="-m",
        metavar="NAME",
    )
    weights: str = option(
        "DEFAULT",
        "Weights of the model: DEFAULT, a name such as IMAGENET1K_V1, none (random, from a fixed seed), or a .pt, .pth or "
        ".safetensors file.",
        "Model",
        short="-w",
        metavar="NAME|FILE",
    )
    labels: str | None = option(
        None,
        "File with the class names: .txt (one name a line), .json, or .csv (index,name). Default: the names of the model.",
        "Model",
        metavar="FILE",
    )
    mean: str | None = option(
        None,
        "Mean of each colour for normalization, from 0 (black) to 1 (white): one or three values, such as 0.485,0.456,0.406 or "
        "124/255,116/255,104/255. Default: the model's own, as for the next four options.",
        "Model",
        metavar="V[,V,V]",
    )
    std: str | None = option(
        None,
        "Standard deviation of each colour for normalization, on the same scale: one or three values, such as 0.5 or 1/255.",
        "Model",
        metavar="V[,V,V]",
    )
    resize: str | None = option(
        None,
        "Resize the shorter side of each image to N pixels, or the image to exactly HxW, before the crop. Default: the model's "
        "own, in proportion to --crop.",
        "Model",
        metavar="N|HxW",
    )
    crop: str | None = option(
        None, "Size of the network's input in pixels: N, or HxW, cut from the middle of the image.", "Model", metavar="N|HxW"
    )
    interpolation: str | None = option(None, "Filter for resizing, always with antialiasing.", "Model", choices=INTERPOLATIONS)
    device: str = option(
        "auto",
        "Device that runs the network. auto: CUDA if available, else MPS, else the CPU.",
        "Model",
        short="-d",
        metavar="auto|cpu|cuda|cuda:N|mps",
        affects_results=False,
    )
    layer: tuple[str, ...] = option(
        (),
        "Layer to explain, by its dotted name as camcli layers lists it; repeatable. all: every usable layer. "
        "Default: the last layer with a spatial map.",
        "Heatmap",
        short="-l",
        metavar="NAME",
    )
    method: tuple[str, ...] = option(
        ("gradcam",), "Method that computes the map, as camcli methods lists it; repeatable.", "Heatmap", metavar="NAME"
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
        "Explain this class, given by index or name (case does not matter); repeatable.",
        "Heatmap",
        short="-c",
        metavar="CLASS",
    )
    class_from: str | None = option(
        None,
        "Explain the true class (ground truth). folder: the name of the image's folder. member: KEY.cls or KEY.json beside "
        "KEY.jpg in an archive. FILE: a CSV file with the columns image and label. Adds the columns label and correct.",
        "Heatmap",
        metavar="folder|member|FILE",
    )
    head: str = option(
        "softmax",
        "Function that turns logits into probabilities: softmax, or sigmoid for several labels an image or a single logit.",
        "Heatmap",
        choices=HEADS,
    )
    fuse: str | None = option(
        None,
        "Combine the maps of all layers into one map, by maximum, mean or product.",
        "Heatmap",
        metavar="max|mean|product",
        choices=("max", "mean", "product"),
    )
    samples: int | None = option(
        None,
        "Masks of rise, or steps of integrated-gradients. Default: 1000 masks, 50 steps.",
        "Heatmap",
        metavar="N",
        at_least=1,
        at_most=1_000_000,
    )
    window: int | None = option(
        None,
        "Side of the square that occlusion hides, in pixels of the network's input. Default: a seventh of the shorter side.",
        "Heatmap",
        metavar="N",
        at_least=1,
    )
    stride: int | None = option(
        None,
        "Pixels by which the square of occlusion moves. Default: half of its side.",
        "Heatmap",
        metavar="N",
        at_least=1,
    )
    smooth: int = option(
        0, "Average the maps of N noisy copies of the image (SmoothGrad); 0 turns it off.", "Heatmap", metavar="N", at_least=0
    )
    noise: float = option(
        0.15,
        "Standard deviation of the noise of --smooth, as a fraction of the image's range of values.",
        "Heatmap",
        metavar="S",
        at_least=0.0,
    )
    augment: bool = option(False, "Average the maps of mirrored and scaled copies of the image: six forward passes.", "Heatmap")
    counterfactual: bool = option(False, "Show the evidence against the class: gradients are negated.", "Heatmap")
    metrics: tuple[str, ...] = option(
        (),
        "Measure each map, a column for each metric, as camcli methods --metrics lists them; repeatable, or separated by commas. "
        "The controls uniform, random and center are methods.",
        "Metrics",
        metavar="NAME",
        choices=METRICS,
    )
    steps: int = option(
        20, "Steps in which deletion and insertion change the image.", "Metrics", metavar="N", at_least=2, at_most=1000
    )
    baseline: str | None = option(
        None,
        "What deletion puts in the place of pixels, and what insertion begins with. zero: the mean colour of the training "
        "images; mean: the mean colour of the image; blur: the image blurred. Default: zero for deletion, blur for insertion.",
        "Metrics",
        choices=BASELINES,
    )
    metric_score: str = option(
        "probability", "Score of the class whose change the metrics measure.", "Metrics", choices=METRIC_SCORES
    )
    resize_mode: str = option(
        "crop",
        "How an image becomes the network's input. crop: as in training, without the edges; squash or pad: the whole image.",
        "Heatmap",
        name="fit",
        choices=RESIZE_MODES,
    )
    output: str = option(
        "heatmaps",
        "Folder for overlays and tables; its parent folder must exist. With --engine ray also an address, such as s3://bucket/run.",
        "Output",
        short="-o",
        metavar="DIR",
        affects_results=False,
    )
    csv: str | None = option(
        None,
        "-: also write the rows to stdout, each as soon as its image is finished, and nothing else.",
        "Output",
        metavar="-",
        choices=("-",),
        affects_results=False,
    )
    format: str | None = option(
        None,
        "Row format on stdout: csv, or jsonl for one JSON object a line; also turns on --csv -. parquet: also write the rows "
        "into the output folder, as predictions.parquet. Default: csv.",
        "Output",
        choices=ROW_FORMATS,
        affects_results=False,
    )
    overwrite: bool = option(
        False, "Remove the earlier run from the output folder and start again.", "Output", affects_results=False
    )
    save_maps: bool = option(False, "Also write the raw maps, (h, w) float32, as maps/.../NAME.npy; see --maps-format.", "Output")
    maps_format: str = option(
        "npy",
        "With --save-maps: npy for a file a map, or parquet for maps.parquet, a folder of a few files with all maps.",
        "Output",
        choices=MAP_FORMATS,
    )
    save_contributions: bool = option(
        False,
        "Also keep what every channel of the layer contributes to the class's logit, for camcli cluster; 2.6 KB a row.",
        "Output",
    )
    overlays: bool = option(True, "Write overlays. --no-overlays: only tables, and maps and masks if asked for.", "Output")
    overlays_for: tuple[str, ...] = option(
        (),
        "Write overlays of these images only; repeatable. wrong: the predicted class is not the true label of --class-from. "
        "below:P: the predicted class has a probability below P. failures: a map is empty or not finite; the others are painted.",
        "Output",
        metavar="failures|wrong|below:P",
    )
    report: bool = option(
        False,
        "At the end, also write report.html, a web page that shows the run; see camcli report.",
        "Output",
        affects_results=False,
    )
    null: bool = option(
        False,
        "With - as input: the paths end in NUL instead of a newline, as find -print0 writes them.",
        "Input",
        short="-0",
        affects_results=False,
    )
    archives: bool = option(
        False, "Also search the archives (tar, zip) that are inside the folders.", "Input", affects_results=False
    )
    limit: int | None = option(None, "Explain only the first N images.", "Input", metavar="N", at_least=1, affects_results=False)
    shard: str | None = option(
        None,
        "Explain only shard I of N, counted from 0, in a folder of its own inside --output; camcli merge combines the shards.",
        "Input",
        metavar="I/N",
    )
    retry_failed: bool = option(False, "Retry the images that failed in earlier runs.", "Input", affects_results=False)
    hash: bool = option(
        False,
        "Detect changed images by the SHA-256 of their bytes instead of size and modification time.",
        "Input",
        affects_results=False,
    )
    alpha: float = option(0.5, "Opacity of the heatmap, 0 to 1.", "Overlay", metavar="A", at_least=0.0, at_most=1.0)
    colormap: str = option(
        "turbo",
        f"Colour map, from zero to the peak: {', '.join(COLORMAPS)}.",
        "Overlay",
        metavar="NAME",
        choices=COLORMAPS,
    )
    threshold: float = option(
        0.0,
        "Fraction of the map's peak below which nothing is painted, 0 to 1.",
        "Overlay",
        short="-t",
        metavar="T",
        at_least=0.0,
        at_most=1.0,
    )
    outline: bool = option(True, "Draw the edge of the part that the network saw, if that is not the whole image.", "Overlay")
    style: str = option(
        "overlay",
        "overlay: the map over the photo; heatmap: the map alone; side-by-side: photo and overlay; contour: lines at 25, 50 and "
        "75 % of the peak; spotlight: the photo, darkened where the map is low.",
        "Overlay",
        choices=STYLES,
    )
    legend: bool = option(
        False, "Add a legend below the picture: how values from 0 to the peak look, and the peak's raw value.", "Overlay"
    )
    caption: bool = option(False, "Write class, probability, method and layer below the picture.", "Overlay")
    image_format: str = option("jpg", "File format of the overlays.", "Overlay", choices=IMAGE_FORMATS)
    max_side: int | None = option(
        None,
        "Shrink overlays to at most N pixels a side. Default: as large as the photo.",
        "Overlay",
        metavar="N",
        at_least=16,
    )
    quality: int = option(90, "JPEG and WebP quality, 1 to 100.", "Overlay", metavar="Q", at_least=1, at_most=100)
    boxes: str | None = option(
        None,
        "Draw a box around the largest connected region of the map, or around all regions, and add the columns bbox_x to image_h.",
        "Regions",
        metavar="largest|all",
        choices=BOXES,
    )
    boxes_json: bool = option(False, "With --boxes: also write boxes.json, in COCO format.", "Regions", affects_results=False)
    masks: bool = option(
        False, "Also write the mask of each overlay's map, as large as the photo, as masks/.../NAME.png.", "Regions"
    )
    mask_method: str = option(
        "threshold",
        "How a map becomes a mask. threshold: the values at or above --region-threshold; otsu: a threshold found for each map; "
        "grabcut: starts from the map and follows the colours and edges of the photo.",
        "Regions",
        choices=MASK_METHODS,
    )
    region_threshold: float | None = option(
        None,
        "Fraction of the map's peak at or above which boxes and masks begin, 0 to 1. Default: 0.15 for boxes, as published; 0.35 "
        "for masks, as measured.",
        "Regions",
        metavar="T",
        at_least=0.0,
        at_most=1.0,
    )
    batch_size: int | None = option(
        16,
        "Images in one forward pass; halved when memory runs out. auto: as many as fit into memory, up to 16 on a CPU, 32 on MPS, "
        "128 on CUDA.",
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
        "Floating-point type of the network; maps are always computed in fp32. auto: bf16 or fp16 if the device "
        "is fast at it, else fp32.",
        "Speed",
        choices=PRECISIONS,
    )
    compile: str = option(
        "off",
        "Compile the network first, which takes 10 to 40 seconds and makes it faster. auto: for 10,000 images or more.",
        "Speed",
        choices=COMPILE,
        affects_results=False,
    )
    threads: int | None = option(
        None,
        "CPU threads that run the network. Default: the number of cores that this process may use.",
        "Speed",
        metavar="N",
        at_least=1,
        at_most=MOST_THREADS,
        affects_results=False,
    )
    workers: int | None = option(
        None,
        "Processes that read, decode, paint and write the images; 0: everything in the main process. Default: the number of cores "
        "that this process may use, fewer if memory is scarce.",
        "Speed",
        metavar="N",
        at_least=0,
        at_most=MOST_THREADS,
        affects_results=False,
    )
    engine: str = option(
        "local",
        "local: this machine. ray: divide the images into shards, explain these on a running Ray cluster, and merge them.",
        "Cluster",
        choices=ENGINES,
        affects_results=False,
    )
    address: str = option(
        "auto",
        "Address of the Ray cluster, which this machine must belong to. auto: the cluster that runs on this machine.",
        "Cluster",
        metavar="auto|HOST:PORT",
        affects_results=False,
    )
    gpus_per_worker: float | None = option(
        None,
        "GPUs of one Ray worker; a fraction lets workers share a GPU, 0 is for clusters without GPUs. Default: 1, or 0 with "
        "--device cpu.",
        "Cluster",
        metavar="N",
        at_least=0.0,
        at_most=1.0,
        affects_results=False,
    )
    cpus_per_worker: int | None = option(
        None,
        "CPU cores of one Ray worker. Default: the cores of a node divided among its GPUs; without GPUs 4, or all cores of a "
        "smaller node.",
        "Cluster",
        metavar="N",
        at_least=1,
        at_most=MOST_THREADS,
        affects_results=False,
    )
    images_per_shard: int = option(
        1024,
        "Average number of images in a shard. An output folder keeps the number of shards that it began with.",
        "Cluster",
        metavar="N",
        at_least=1,
        affects_results=False,
    )
    max_pixels: int = option(
        178_000_000, "Refuse images with more pixels (width x height) than this.", "Speed", metavar="N", at_least=1
    )
    verbose: bool = option(
        False, "At the end, print how many seconds each stage took.", "Output", short="-v", affects_results=False
    )
    quiet: bool = option(False, "Print errors only.", "Output", short="-q", affects_results=False)
    log_file: str | None = option(
        None,
        "Append all messages and every failure, with the time, to this file.",
        "Output",
        metavar="FILE",
        affects_results=False,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):  # a value given twice counts once
                object.__setattr__(self, field.name, tuple(dict.fromkeys(value)))
        names = [name.strip() for text in self.metrics for name in text.split(",")]
        order = {name: place for place, name in enumerate(METRICS)}
        object.__setattr__(self, "metrics", tuple(sorted(dict.fromkeys(names), key=lambda name: order.get(name, len(order)))))

    @property
    def metric_columns(self) -> tuple[str, ...]:
        """The columns of ``metrics``, in their order in the table."""
        return metric_columns(self.metrics)

    @property
    def top_count(self) -> int:
        """How many of the best classes to explain."""
        if self.topk is not None:
            return self.topk
        return 0 if self.class_ or self.class_from else 1

    @property
    def box_threshold(self) -> float:
        """The fraction of a map's peak at which boxes begin. The default is from Selvaraju et al. 2017, section 4.1."""
        return 0.15 if self.region_threshold is None else self.region_threshold

    @property
    def mask_threshold(self) -> float:
        """The fraction of a map's peak at which masks begin. The default was measured with benchmarks/regions.py."""
        return 0.35 if self.region_threshold is None else self.region_threshold

    @property
    def input_changes(self) -> InputChanges:
        """The changes of the model's preprocessing. Raises ConfigError for a value that is not understood."""
        crop = parse_size("crop", self.crop)
        return InputChanges(
            parse_values("mean", self.mean),
            parse_values("std", self.std, positive=True),
            parse_size("resize", self.resize),
            None if crop is None else (crop[0], crop[-1]),
            self.interpolation,
        )

    @property
    def overlay_limit(self) -> float | None:
        """P of ``--overlays-for below:P``, the largest if there are several; None without one. Raises ConfigError."""
        limits: list[float] = []
        for word in self.overlays_for:
            if word in ("failures", "wrong"):
                continue
            found = _BELOW.fullmatch(word)
            if found is None or not 0 <= float(found[1]) <= 1:
                raise ConfigError(f"--overlays-for {word!r} is not failures, wrong or below:P with P from 0 to 1, as in below:0.5.")
            limits.append(float(found[1]))
        return max(limits, default=None)

    @property
    def streams_rows(self) -> bool:
        """Whether rows are written to stdout."""
        return self.csv is not None or self.format not in (None, "parquet")

    @property
    def stream_format(self) -> str:
        """The format of the rows on stdout."""
        return "jsonl" if self.format == "jsonl" else "csv"

    @property
    def part(self) -> tuple[int, int] | None:
        """``shard`` as (index, count); None without one. Raises ConfigError for anything but I/N with I < N."""
        if self.shard is None:
            return None
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
        if found is None:
            raise ConfigError(f"--shard {self.shard!r} must have the form I/N, such as 0/8.")
        index, count = int(found[1]), int(found[2])
        if index >= count:
            last = f"the last of {count} is {count - 1}/{count}" if count else "there must be at least one"
            raise ConfigError(f"--shard {self.shard}: shards are counted from 0, so {last}.")
        return index, count

    def settings(self) -> dict[str, Any]:
        """The options that affect results, as JSON values: equal settings give equal results."""
        values = binding_values(self) | {"shard": self.part and "/".join(map(str, self.part))}
        limit = self.overlay_limit
        chosen = {*self.overlays_for} & {"failures", "wrong"} | ({f"below:{limit:g}"} if limit is not None else set())
        values["overlays-for"] = sorted(chosen)  # the same choice in other words is the same
        changes = self.input_changes
        values |= {"mean": values_text(changes.mean), "std": values_text(changes.std)}
        values |= {"resize": size_text(changes.resize), "crop": size_text(changes.crop)}
        del values["region-threshold"]  # two thresholds in effect: their values count, not how they were given
        return values | {"box-threshold": self.box_threshold, "mask-threshold": self.mask_threshold}

    def as_dict(self) -> dict[str, Any]:
        """All options: name -> JSON value."""
        return {option_name(field): as_json(field, getattr(self, field.name)) for field in dataclasses.fields(self)}

    def check(self) -> RunConfig:
        """The config, unchanged. Raises ConfigError when a value is outside its limits or options contradict each other."""
        check_values(self)
        _ = self.part
        _ = self.overlay_limit
        _ = self.input_changes
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ConfigError(f"--stride {self.stride} is larger than --window {self.window}: occlusion would leave out pixels.")
        if "wrong" in self.overlays_for and self.class_from is None:
            raise ConfigError("--overlays-for wrong needs the true labels: add --class-from folder or --class-from FILE.")
        if self.metric_score == "logit" and "gain" in self.metrics:
            raise ConfigError("--metrics gain is a share of what the probability can still gain: use --metric-score probability.")
        if self.boxes_json and self.boxes is None:
            raise ConfigError("--boxes-json needs boxes: add --boxes largest or --boxes all.")
        if is_address(self.output) and self.engine != "ray":
            raise ConfigError(
                f"--output {masked(self.output)!r} is an address, which only --engine ray writes to: name a folder of this machine "
                "and copy it to the store afterwards."
            )
        if not self.method:
            raise ConfigError("--method is empty: name a method, such as gradcam.")
        if self.top_count == 0 and not self.class_ and not self.class_from:
            raise ConfigError("--topk 0 leaves no class to explain: name one with --class, or use --topk 1.")
        if self.engine == "ray":
            self._check_for_cluster()
        return self

    def _check_for_cluster(self) -> None:
        """Raise ConfigError for an option that makes no sense on a cluster."""
        if self.shard is not None:
            raise ConfigError("--shard and --engine ray exclude each other: Ray explains all shards.")
        if self.report and is_address(self.output):
            raise ConfigError("--report needs the overlays on this machine: copy the run from the store, then use camcli report.")
        if self.streams_rows:
            raise ConfigError("--engine ray cannot write rows to stdout: leave out --csv and --format, and read predictions.csv.")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"--device {self.device} does not go with --engine ray, which assigns the GPUs: use cuda or cpu.")
        if self.device == "cpu" and self.gpus_per_worker:
            raise ConfigError("--device cpu and --gpus-per-worker exclude each other.")
        if self.device == "cuda" and self.gpus_per_worker == 0:
            raise ConfigError("--device cuda needs --gpus-per-worker of more than 0.")
        if self.precision == "auto":
            raise ConfigError("--precision auto may differ between machines: with --engine ray name one, such as bf16.")
