"""The messages of ``camcli run`` at its end: totals, failures, the time of each stage, the report."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from camcli.cli.console import Console
from camcli.layout import FAILURES, REPORT_PAGE
from camcli.records import count_words, escape_name

if TYPE_CHECKING:
    from camcli.pipeline.summary import RunSummary
    from camcli.report.write import Report
    from camcli.timing import StageTimer


def summarize(summary: RunSummary, console: Console) -> None:
    """Print the summary of a run."""
    counts, seconds = summary.counts, summary.seconds
    rate = f", {counts.explained / seconds:.1f} a second including loading" if seconds > 0 and counts.explained else ""
    console.info(f"{count_words(counts.explained, 'image')} explained in {seconds:.1f} s{rate}.")
    common = sorted(counts.top_classes.items(), key=lambda item: (-item[1], item[0]))[:5]
    if common:
        console.info("Most frequent: " + ", ".join(f"{escape_name(name)} ({number})" for name, number in common) + ".")
    if counts.labelled:
        share = f"{counts.correct / counts.labelled:.1%}"
        console.info(f"{counts.correct:,} of {counts.labelled:,} right ({share}); see the column correct.")
    if counts.empty_maps:
        why = "no positive evidence for that class, or the same everywhere"
        console.info(f"{count_words(counts.empty_maps, 'map')} empty and not painted: {why}; see the column status.")
    if counts.nonfinite_maps:
        why = "the network overflowed on that image"
        console.info(f"{count_words(counts.nonfinite_maps, 'map')} not finite and not painted: {why}; see the column status.")
    if summary.new_failures:
        console.error(failed_words(summary.new_failures, summary.folder))
    if reported := summary.failed - summary.new_failures:
        console.info(failed_before_words(reported, summary.folder))
    overlays = f"Overlays in {escape_name(summary.overlays)}, table" if summary.has_overlays else "Table"
    console.info(f"{overlays} in {escape_name(summary.predictions)}.")


_STAGE_WORDS = {
    "find": "finding images",
    "load": "loading",
    "record": "writing tables",
    "finish": "finishing",
    "wait for images": "waiting for images",
    "wait for overlays": "waiting for overlays",
}


def tell_stages(timer: StageTimer, seconds: float, console: Console) -> None:
    """Print how long each stage took, and what kept the run waiting."""
    console.info(f"Where the {seconds:.1f} seconds went:")
    for stage, taken in timer.in_turn(seconds).items():
        console.info(f"  {_STAGE_WORDS.get(stage, stage):22}{taken:9.1f}")
    console.info("Meanwhile, summed over the worker processes:")
    for stage, taken in timer.meanwhile().items():
        console.info(f"  {stage:22}{taken:9.1f}")
    hint = timer.hint(seconds)
    if hint:
        console.info(hint)


def tell_report(report: Report, place: str, console: Console) -> None:
    """Print where the report is, what it contains, and which overlays or rows are damaged."""
    if report.page is None:
        console.error("interrupted before the report was written; to write it, run camcli report.")
        return
    page = escape_name(os.path.join(place, REPORT_PAGE))
    console.info(f"Report of {count_words(report.images, 'image')} in {page}; {count_words(report.thumbnails, 'new thumbnail')}.")
    if report.pictureless:
        overlays = count_words(report.pictureless, "overlay")
        console.warn(f"{overlays} missing, damaged or too large for a thumbnail; to find the damaged ones, run camcli verify.")
    if report.damaged:
        console.warn(
            f"the rows of {count_words(report.damaged, 'image')} are damaged and left out; check the folder with camcli verify."
        )


def failed_words(failed: int, output: str) -> str:
    """A sentence: how many images failed, and which file says why."""
    return f"{count_words(failed, 'image')} could not be explained; see {escape_name(os.path.join(output, 'failures.csv'))}."


def failed_before_words(failed: int, output: str) -> str:
    """A sentence: how many images failed in earlier runs, which have reported them."""
    where = escape_name(os.path.join(output, FAILURES))
    return f"{count_words(failed, 'image')} failed before; see {where}. To retry them: --retry-failed."
