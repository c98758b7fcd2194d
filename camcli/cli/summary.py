"""What ``camcli run`` says before, during and after: the model, failures, totals, where the time went."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from camcli.cli.console import Talk
from camcli.records import REPORT_PAGE, Counts, Failure, shown

if TYPE_CHECKING:
    from camcli.pipeline.job import Job
    from camcli.report.write import Report
    from camcli.timing import Stages

_SHOWN_FAILURES = 5


def announce(job: Job, talk: Talk) -> None:
    """Say what is about to run, and what the user should know of it."""
    layers = ", ".join(layer.name for layer in job.layers)
    how = f", {job.network.words}" if job.network.words else ""
    talk.say(f"{job.model.name} ({job.model.weights}), layer {layers}, on {job.device}{how}")
    for note in job.model.notes:
        talk.warn(note)


def tell_failure(failure: Failure, counts: Counts, talk: Talk) -> None:
    """Say the first few failures, and write every one into the log."""
    line = f"camcli: {shown(failure.image)}: {shown(failure.reason)}"
    if counts.failed <= _SHOWN_FAILURES:
        talk.say_beside_bar(line)
        return
    talk.note_down(line)
    if counts.failed == _SHOWN_FAILURES + 1:
        talk.say_beside_bar("camcli: further failures go to failures.csv only.")


def summarize(counts: Counts, failed: tuple[int, int], seconds: float, place: str, talk: Talk) -> None:
    """Say what this run did.

    ``failed``: how many images, to be told as failures, and how many that were told by earlier runs. ``place``: the output folder.
    """
    rate = f", {counts.explained / seconds:.1f} a second with loading" if seconds > 0 and counts.explained else ""
    talk.say(f"{count_words(counts.explained, 'image')} explained in {seconds:.1f} s{rate}.")
    common = sorted(counts.top_classes.items(), key=lambda item: (-item[1], item[0]))[:5]
    if common:
        talk.say("Most frequent: " + ", ".join(f"{shown(name)} ({number})" for name, number in common) + ".")
    if counts.labelled:
        share = f"{counts.correct / counts.labelled:.1%}"
        talk.say(f"{counts.correct:,} of {counts.labelled:,} right ({share}); see the column correct.")
    if counts.empty_maps:
        why = "no positive evidence for that class, or the same everywhere"
        talk.say(f"{count_words(counts.empty_maps, 'map')} empty and not painted: {why}; see the column status.")
    if counts.nonfinite_maps:
        why = "the network overflowed on that image"
        talk.say(f"{count_words(counts.nonfinite_maps, 'map')} not finite and not painted: {why}; see the column status.")
    new, told = failed
    if new:
        talk.complain(failed_words(new, place))
    if told:
        talk.say(failed_before_words(told, place))
    overlays, table = (os.path.join(place, name) for name in ("overlays", "predictions.csv"))
    talk.say(f"Overlays in {shown(overlays)}, table in {shown(table)}.")


_STAGE_WORDS = {
    "find": "finding images",
    "load": "loading",
    "record": "writing tables",
    "finish": "finishing",
    "wait for images": "waiting for images",
    "wait for overlays": "waiting for overlays",
}


def tell_stages(stages: Stages, seconds: float, talk: Talk) -> None:
    """Say where the time went, and what kept the run waiting."""
    talk.say(f"Where the {seconds:.1f} seconds went:")
    for stage, taken in stages.in_turn(seconds).items():
        talk.say(f"  {_STAGE_WORDS.get(stage, stage):22}{taken:9.1f}")
    talk.say("Meanwhile, summed over the threads of each stage:")
    for stage, taken in stages.meanwhile().items():
        talk.say(f"  {stage:22}{taken:9.1f}")
    hint = stages.hint(seconds)
    if hint:
        talk.say(hint)


def tell_report(report: Report, place: str, talk: Talk) -> None:
    """Say where the report is, what went into it, and what is not as it should be."""
    if report.page is None:
        talk.complain("interrupted before the report was written; camcli report goes on from here.")
        return
    page = shown(os.path.join(place, REPORT_PAGE))
    talk.say(f"Report of {count_words(report.images, 'image')} in {page}; {count_words(report.thumbnails, 'new thumbnail')}.")
    if report.pictureless:
        overlays = count_words(report.pictureless, "overlay")
        talk.warn(f"{overlays} missing or damaged, or too large for a thumbnail; camcli verify says which are damaged.")
    if report.damaged:
        talk.warn(f"the rows of {count_words(report.damaged, 'image')} are damaged and left out; see camcli verify.")


def failed_words(failed: int, output: str) -> str:
    """How many images failed, and where it says why."""
    return f"{count_words(failed, 'image')} could not be explained; see {shown(os.path.join(output, 'failures.csv'))}."


def failed_before_words(failed: int, output: str) -> str:
    """How many images failed in earlier runs, which have told it."""
    where = shown(os.path.join(output, "failures.csv"))
    return f"{count_words(failed, 'image')} failed before; see {where}. To try again: --retry-failed."


def count_words(number: int, noun: str) -> str:
    """``1 image``, ``1,234 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
