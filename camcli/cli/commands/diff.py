"""``camcli diff``: compare two runs; with ``--fail-below`` a check for scripts."""

from __future__ import annotations

from typing import Annotated

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, print_table
from camcli.records import count_words, escape_name

_COLUMNS = ("image", "predicted_a", "predicted_b", "probability_a", "probability_b", "correlation", "overlap")


@command("diff", "Finished runs")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="Output folder of camcli run.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Output folder of another run over the same images.")],
    fail_below: Annotated[
        float | None,
        typer.Option(
            "--fail-below",
            metavar="R",
            min=0.0,
            max=1.0,
            help="Exit with code 1 if the share of equal predictions or the median correlation of the maps is below R, 0 to 1.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            "-t",
            metavar="T",
            min=0.0,
            max=1.0,
            help="Overlap counts the cells at or above this fraction of the peak, 0 to 1.",
        ),
    ] = 0.15,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Print the N largest changes only.", show_default=False)
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Write an HTML page that shows the pairs, the largest changes first.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Compare two runs over the same images: two checkpoints, layers or methods. The largest changes come first.

    [dim]If both runs have stored their maps (--save-maps), these are compared too: Pearson correlation and overlap.[/dim]
    """
    from camcli.runs.diff import compare_runs

    if report is not None:
        from camcli.report.diff_page import check_page

        check_page(report)
    found = compare_runs(first, second, threshold)
    console = Console(quiet=quiet)
    if not quiet:
        rows = (
            (change.image, *change.predicted, *map(_number, (*change.probability, change.correlation, change.overlap)))
            for change in found.changes[:limit]
        )
        print_table(_COLUMNS, rows, right=_COLUMNS[3:])
    flips = sum(change.flipped for change in found.changes)
    console.info(f"{count_words(len(found.changes), 'image')} in both runs, {flips:,} predicted differently.")
    if found.correlation is None:
        console.info("The maps are not compared: both runs need --save-maps.")
    else:
        console.info(f"Median correlation of the maps: {found.correlation:.4f}.")
    for number, folder in zip(found.only, (first, second), strict=True):
        if number:
            console.info(f"{count_words(number, 'image')} only in {escape_name(folder)}.")
    if report is not None:
        from camcli.report.diff_page import write_diff_page

        write_diff_page(found, (first, second), report)
        console.info(f"Report in {escape_name(report)}.")
    measured = [found.agreement, *([] if found.correlation is None else [found.correlation])]
    if fail_below is not None and min(measured) < fail_below:
        correlation = _number(found.correlation) or "unknown"
        console.error(f"below {fail_below}: agreement {found.agreement:.4f}, correlation {correlation}.")
        raise typer.Exit(1)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
