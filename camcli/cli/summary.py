"""What ``camcli run`` says before, during and after: the model, failures, totals, where the time went."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from camcli.cli.talk import Talk
from camcli.records import REPORT_PAGE, Counts, Failure, shown

if TYPE_CHECKING:
    from camcli.job import Job
    from camcli.report.write import Report
    from camcli.stages import Stages

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


def summarize(counts: Counts, totals: tuple[int, int], seconds: float, place: str, talk: Talk) -> None:
    """Say what this run did.

    ``totals``: images of the folder explained and failed, by this run and earlier ones. ``place``: the output folder.
    """
    done = counts.explained + counts.failed
    rate = f", {done / seconds:.1f} a second with loading" if seconds > 0 and done else ""
    talk.say(f"{count_words(counts.explained, 'image')} explained in {seconds:.1f} s{rate}.")
    common = sorted(counts.top_classes.items(), key=lambda item: (-item[1], item[0]))[:5]
    if common:
        talk.say("Most frequent: " + ", ".join(f"{shown(name)} ({number})" for name, number in common) + ".")
    if counts.labelled:
        share = f"{counts.correct / counts.labelled:.1%}"
        talk.say(f"{counts.correct:,} of {counts.labelled:,} right ({share}); see the column correct.")
    if counts.empty_maps:
        talk.say(f"{count_words(counts.empty_maps, 'map')} empty or not finite and not painted; see the column status.")
    if totals[1]:
        talk.complain(failed_words(totals[1], place))
    overlays, table = (os.path.join(place, name) for name in ("overlays", "predictions.csv"))
    talk.say(f"Overlays in {shown(overlays)}, table in {shown(table)}.")


def tell_stages(stages: Stages, seconds: float, talk: Talk) -> None:
    """Say where the time went, and what kept the run waiting."""
    talk.say(f"Seconds, summed over the threads of each stage ({seconds:.1f} in all):")
    for stage, taken in stages.seconds().items():
        talk.say(f"  {stage:18}{taken:9.1f}")
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
        talk.warn(f"{count_words(report.pictureless, 'overlay')} missing or damaged; the command that made them mends that.")
    if report.damaged:
        talk.warn(f"the rows of {count_words(report.damaged, 'image')} are damaged and left out; see camcli verify.")


def failed_words(failed: int, output: str) -> str:
    """How many images failed, and where it says why."""
    return f"{count_words(failed, 'image')} could not be explained; see {shown(os.path.join(output, 'failures.csv'))}."


def count_words(number: int, noun: str) -> str:
    """``1 image``, ``1,234 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
