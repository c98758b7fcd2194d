"""What a run of the benchmark is to show, and the tables that say whether it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import variants as t
from benchmarks.processes import first_overlay_ratio
from benchmarks.rounds import Measured, ratio
from camcli.models.sources import bundled


@dataclass(frozen=True)
class Goal:
    """The rate of ``name`` is at least ``limits[model]`` times that of ``base``; a model without a limit is only told of."""

    words: str
    name: str
    base: str
    limits: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """A line of the last table. ``at_least``: whether more is better. None where there is no limit, or nothing was measured."""

    words: str
    limit: float | None
    measured: float | None
    at_least: bool = True

    @property
    def holds(self) -> bool | None:
        """Whether the limit is kept."""
        if self.limit is None or self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def line(self) -> str:
        """A row of a Markdown table."""
        sign = ">=" if self.at_least else "<="
        limit = "" if self.limit is None else f"{sign} {self.limit:g}"
        measured = "not measured" if self.measured is None else f"{self.measured:.2f}"
        return f"| {self.words} | {limit} | {measured} | { {True: 'yes', False: 'no', None: ''}[self.holds] } |"


def _limits(resnet50: float, small: float) -> dict[str, float]:
    return {"resnet50": resnet50, bundled.NAME: small}


GOALS = (
    Goal("default (fp32, no compile), top-1, against the forward pass", t.DEFAULT, t.PLAIN, _limits(1.45, 1.3)),
    Goal("--compile on, against the forward pass", t.COMPILED, t.PLAIN, _limits(1.8, 2.2)),
    Goal("--compile on --precision bf16, against the forward pass", t.COMPILED_BF16, t.PLAIN, _limits(3.5, 3.5)),
    Goal("top-5, five overlays each, against top-1", t.TOP_5, t.DEFAULT, _limits(0.85, 0.6)),
    Goal("three layers, three overlays each, against one", t.THREE_LAYERS, t.DEFAULT, {}),
    Goal("default, against grad-cam's full pipeline", t.DEFAULT, "grad-cam", _limits(4, 4)),
    Goal("default, against torchcam's full pipeline", t.DEFAULT, "torchcam", _limits(1.4, 1.4)),
    Goal("default, against captum's full pipeline", t.DEFAULT, "captum", {}),
)


def rates_table(title: str, measured: Mapping[str, Measured]) -> str:
    """Markdown: images a second of each variant, the median with its range, and the ratio to the plain forward pass."""
    rates = {name: found.rates for name, found in measured.items()}
    lines = [
        f"| {title} | images a second | least - most | x forward pass | overlays an image | network |",
        "| --- | --: | --: | --: | --: | --- |",
    ]
    for name, found in measured.items():
        span = f"{min(found.rates):.1f} - {max(found.rates):.1f}"
        numbers = f"{median(found.rates):.1f} | {span} | {ratio(rates, name, t.PLAIN):.2f} | {found.overlays:.3g}"
        lines.append(f"| {name} | {numbers} | {found.note} |")
    return "\n".join(lines)


def verdicts(report: Mapping[str, Any]) -> list[Verdict]:
    """All that was to be shown, for what ``report`` holds of it."""
    lines = [
        Verdict(f"{model}: {goal.words}", goal.limits.get(model), measured)
        for model, found in report["models"].items()
        for goal in GOALS
        if (measured := ratio(found["images_per_second"], goal.name, goal.base)) is not None or model in goal.limits
    ]
    for name, runs in report.get("free_network", {}).items():
        row, small = runs["workers 2"], name == "500x375 JPEG"
        words = f"a network that costs nothing, {name}, two workers"
        main = row["main_ms"] - row["network_ms"]
        lines += [
            Verdict(f"{words}: CPU time against the bare chain", 1.3 if small else None, row["cpu_ratio"], at_least=False),
            Verdict(f"{words}: main process without the network, ms an image", 0.4 if small else None, main, at_least=False),
            Verdict(f"{words}: images a second against the bare chain on one core", 1.5 if small else None, row["ratio"]),
        ]
    if "row_after_seconds" in report:
        slowest = max(report["row_after_seconds"])
        lines.append(Verdict("the slowest row after its path was written to stdin, seconds", 1.0, slowest, at_least=False))
    if "first_overlay_seconds" in report:
        taken = first_overlay_ratio(report["first_overlay_seconds"])
        lines.append(Verdict("time to the first overlay, against the bare imports", 1.3, taken, at_least=False))
    for name, peaks in report.get("peak_memory_mib", {}).items():
        fewest, most = min(peaks), max(peaks)
        words = f"peak memory at {most:,} {name} images, against {fewest:,}"
        lines.append(Verdict(words, 1.05, peaks[most] / peaks[fewest], at_least=False))
    for name, found in report.get("rendering", {}).items():
        words = f"painting and encoding 12-megapixel photos ({name} painted), against bare decoding and encoding"
        lines.append(Verdict(words, 1.3, found["ratio"], at_least=False))
    return lines


def verdict_table(lines: Sequence[Verdict]) -> str:
    """Markdown: limit, measured, yes or no."""
    return "\n".join(["| | limit | measured | kept |", "| --- | --- | --- | --- |", *(line.line() for line in lines)])
