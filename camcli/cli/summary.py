"""What ``camcli run`` says before, during and after: the model, failures, totals, where the time went."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from camcli.cli.console import Console
from camcli.records import REPORT_PAGE, Counts, Failure, escape_name

if TYPE_CHECKING:
    from camcli.pipeline.job import Job
    from camcli.report.write import Report
    from camcli.timing import StageTimer

_SHOWN_FAILURES = 5


def announce(job: Job, console: Console) -> None:
    """Say what is about to run, and what the user should know of it."""
    layers = ", ".join(layer.name for layer in job.layers)
    how = f", {job.network.description}" if job.network.description else ""
    console.info(f"{job.model.name} ({job.model.weights}), layer {layers}, on {job.device}{how}")
    for note in job.model.notes:
        console.warn(note)


def tell_failure(failure: Failure, counts: Counts, console: Console) -> None:
    """Say the first few failures, and write every one into the log."""
    line = f"camcli: {escape_name(failure.image)}: {escape_name(failure.reason)}"
    if counts.failed <= _SHOWN_FAILURES:
        console.info(line)
        return
    console.log(line)
    if counts.failed == _SHOWN_FAILURES + 1:
        console.info("camcli: further failures go to failures.csv only.")


def summarize(counts: Counts, failed: tuple[int, int], seconds: float, place: str, console: Console) -> None:
    """Say what this run did.

    ``failed``: how many images, to be told as failures, and how many that were told by earlier runs. ``place``: the output folder.
    """
    rate = f", {counts.explained / seconds:.1f} a second with loading" if seconds > 0 and counts.explained else ""
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
    new, told = failed
    if new:
        console.error(failed_words(new, place))
    if told:
        console.info(failed_before_words(told, place))
    overlays, table = (os.path.join(place, name) for name in ("overlays", "predictions.csv"))
    console.info(f"Overlays in {escape_name(overlays)}, table in {escape_name(table)}.")


_STAGE_WORDS = {
    "find": "finding images",
    "load": "loading",
    "record": "writing tables",
    "finish": "finishing",
    "wait for images": "waiting for images",
    "wait for overlays": "waiting for overlays",
}


def tell_stages(stages: StageTimer, seconds: float, console: Console) -> None:
    """Say where the time went, and what kept the run waiting."""
    console.info(f"Where the {seconds:.1f} seconds went:")
    for stage, taken in stages.in_turn(seconds).items():
        console.info(f"  {_STAGE_WORDS.get(stage, stage):22}{taken:9.1f}")
    console.info("Meanwhile, summed over the threads of each stage:")
    for stage, taken in stages.meanwhile().items():
        console.info(f"  {stage:22}{taken:9.1f}")
    hint = stages.hint(seconds)
    if hint:
        console.info(hint)


def tell_report(report: Report, place: str, console: Console) -> None:
    """Say where the report is, what went into it, and what is not as it should be."""
    if report.page is None:
        console.error("interrupted before the report was written; camcli report goes on from here.")
        return
    page = escape_name(os.path.join(place, REPORT_PAGE))
    console.info(f"Report of {count_words(report.images, 'image')} in {page}; {count_words(report.thumbnails, 'new thumbnail')}.")
    if report.pictureless:
        overlays = count_words(report.pictureless, "overlay")
        console.warn(f"{overlays} missing or damaged, or too large for a thumbnail; camcli verify says which are damaged.")
    if report.damaged:
        console.warn(f"the rows of {count_words(report.damaged, 'image')} are damaged and left out; see camcli verify.")


def failed_words(failed: int, output: str) -> str:
    """How many images failed, and where it says why."""
    return f"{count_words(failed, 'image')} could not be explained; see {escape_name(os.path.join(output, 'failures.csv'))}."


def failed_before_words(failed: int, output: str) -> str:
    """How many images failed in earlier runs, which have told it."""
    where = escape_name(os.path.join(output, "failures.csv"))
    return f"{count_words(failed, 'image')} failed before; see {where}. To try again: --retry-failed."


def count_words(number: int, noun: str) -> str:
    """``1 image``, ``1,234 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
