"""``camcli evaluate``: which method is most faithful and finds the objects, beside controls that know nothing."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, print_table, stdout_for_data
from camcli.cli.options import config_parameters, options_of, take_parameters
from camcli.config.run import RunConfig
from camcli.evaluate.config import EvaluateConfig
from camcli.records import count_words, escape_name

if TYPE_CHECKING:
    from camcli.evaluate.compare import Result
    from camcli.evaluate.values import Evaluated

_GRID_OPTIONS = ("model", "weights", "labels", "device", "layer", "method", "fit", "batch-size", "threads", "max-pixels")
"""Options shared with ``camcli run``, for ``--grid``."""

_COLUMNS = ("metric", "run", "method", "layer", "mean", "interval", "images", "difference", "to", "better", "verdict")


def evaluate_command() -> Callable[..., None]:
    """The command's function, with an option for each field of EvaluateConfig, and the options shared with ``camcli run``."""

    def evaluate(inputs: list[str], **values: Any) -> None:
        """Compare methods, layers and models by the metrics of finished runs, with 95 % intervals, beside the controls.

        [dim]Runs need --metrics, and for a verdict the controls: --method uniform --method random --method center. With --boxes or
        --masks: how well the stored maps find objects. With --grid: a pointing game that needs no annotation.[/dim]
        """
        shared = {name: values.pop(name) for name in options_of(_GRID_OPTIONS)}
        config = EvaluateConfig(**values).check()
        console = Console(quiet=config.quiet)
        if config.grid is not None:
            shared = {name: tuple(value) if isinstance(value, list) else value for name, value in shared.items()}
            raise typer.Exit(_play(inputs, config, shared, console))
        _evaluate(inputs, config, console)

    about = typer.Argument(
        metavar="RUNS", help="Output folders of camcli run; with --grid folders of images and image files.", show_default=False
    )
    parameters = [
        inspect.Parameter("inputs", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[list[str], about]),
        *config_parameters(config=EvaluateConfig),
        *config_parameters(_GRID_OPTIONS),
    ]
    return take_parameters(evaluate, parameters)


def _evaluate(paths: Sequence[str], config: EvaluateConfig, console: Console) -> None:
    from camcli.evaluate.annotated import Settings, add_localization
    from camcli.evaluate.boxes import read_boxes
    from camcli.evaluate.compare import compare, kinds_of_metrics
    from camcli.evaluate.localization import KINDS
    from camcli.evaluate.values import open_runs, read_metrics, refuse_nothing
    from camcli.evaluate.write import write_evaluation
    from camcli.images.limits import pillow_unlimited

    runs = open_runs(paths)
    kinds, left_out = {**kinds_of_metrics(), **KINDS}, list[str]()
    boxes = None if config.boxes is None else read_boxes(config.boxes)
    if boxes is not None:
        left_out += boxes.sentences()
    values = read_metrics(runs)
    if config.masks is not None and not os.path.isdir(config.masks):
        from camcli.errors import InputError

        raise InputError(f"--masks {escape_name(config.masks)}: there is no such folder.")
    if boxes is not None or config.masks is not None:
        with pillow_unlimited(), console.bar() as move:
            found = add_localization(values, runs, Settings(boxes, config.masks, config.tolerance), move)
        left_out += found.sentences()
    refuse_nothing(values, runs, left_out)
    results = compare(values, runs, kinds)
    place = config.output or paths[0]
    names = write_evaluation(place, results, values, runs, kinds, {"left_out": left_out})
    for sentence in left_out:
        console.warn(f"{sentence}.")
    _show(results, runs, place, names, console)


def _show(results: Sequence[Result], runs: Sequence[Evaluated], place: str, names: Sequence[str], console: Console) -> None:
    if not console.quiet:
        several = len(runs) > 1
        columns = [column for column in _COLUMNS if several or column != "run"]
        rows = [{**_row(result), "run": runs[result.key.run].label} for result in results]
        print_table(columns, [[row[column] for column in columns] for row in rows], right=("mean", "images", "better"))
    if not any(result.controls for result in results):
        console.warn("no run has the controls, so there is no verdict: add --method uniform --method random --method center.")
    console.info(f"Wrote {', '.join(names)} into {escape_name(place)}.")


def _row(result: Result) -> dict[str, str]:
    best = result.controls.get(result.best)
    return {
        "metric": result.metric,
        "method": result.key.method,
        "layer": result.key.layer,
        "mean": _number(result.estimate.value),
        "interval": _interval(result.estimate.low, result.estimate.high),
        "images": str(result.estimate.count),
        "difference": ""
        if best is None
        else f"{_number(best.estimate.value, '+')} {_interval(best.estimate.low, best.estimate.high, '+')}".strip(),
        "to": result.best,
        "better": "" if best is None or math.isnan(best.better) else f"{100 * best.better:.0f} %",
        "verdict": result.verdict,
    }


def _interval(low: float, high: float, sign: str = "") -> str:
    return "" if math.isnan(low) else f"{_number(low, sign)} to {_number(high, sign)}"


def _number(value: float, sign: str = "") -> str:
    return "" if math.isnan(value) else format(value, f"{sign}.3g" if abs(value) < 0.001 and value else f"{sign}.3f")


def _play(inputs: Sequence[str], config: EvaluateConfig, shared: dict[str, Any], console: Console) -> int:
    from camcli.cli.listener import console_listener
    from camcli.cli.loading import loading
    from camcli.cli.signals import SIGNALS
    from camcli.cli.stdin import paths_on_stdin
    from camcli.images.limits import pillow_unlimited
    from camcli.pipeline.inputs import find_inputs

    output = config.output or "grid"
    run = RunConfig(**shared, output=output, quiet=config.quiet).check()
    found = find_inputs(inputs, run, console, paths_on_stdin(inputs, console, null=False))
    with pillow_unlimited(), console_listener(console, unit="picture") as listener, stdout_for_data(quiet=config.quiet):
        with loading(console, run.model, run.weights):
            from camcli.evaluate.grid import play_grid, prepare_grid, write_grid

            job = prepare_grid(run, show_progress=console.on_terminal and not console.quiet)
        with SIGNALS.deferred(console.interrupt_message("Stopping after the picture in progress")) as stop:
            game = play_grid(job, found.sources, config, listener, stop)
        if game is None:
            console.error("interrupted; nothing was written. Run the same command again to start over.")
            return 128 + (SIGNALS.number or 2)
        names = write_grid(game, config, job, output)
    if not console.quiet:
        rows = [{**_row(result)} for result in game.results]
        columns = [column for column in _COLUMNS if column != "run"]
        print_table(columns, [[row[column] for column in columns] for row in rows], right=("mean", "images", "better"))
    chance = 1 / (config.grid or 1) ** 2
    console.info(
        f"{count_words(game.pictures, 'picture')}; chance is {chance:.3g}. Wrote {', '.join(names)} into {escape_name(output)}."
    )
    return 1 if game.failed else 0


command("evaluate", "Finished runs")(evaluate_command())
