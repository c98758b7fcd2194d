"""``camcli cluster``: by what a network recognises a class, and which of these ways look like shortcuts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, print_table, stdout_for_data
from camcli.cli.listener import console_listener
from camcli.cli.loading import loading
from camcli.cli.options import config_parameters, options_of, take_parameters
from camcli.cli.signals import SIGNALS
from camcli.cluster.config import ClusterConfig
from camcli.records import count_words, escape_name

_COLUMNS = ("group", "class", "images", "share", "silhouette", "accuracy", "confidence", "flags")
_RUN_OPTIONS = ("device", "batch-size", "threads")
"""Options shared with ``camcli run``, for --test."""

_MOST_ROWS = 20


def cluster_command() -> Callable[..., None]:
    """The command's function, with an option for each field of ClusterConfig."""

    def cluster(folders: list[str], **values: Any) -> None:
        """Group the images of each class by the evidence that the network uses, the groups that look like shortcuts first.

        [dim]The runs need --save-contributions and --save-maps. The page clusters.html shows the groups; --test GROUP checks a
        suspicion by covering the evidence.[/dim]
        """
        options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        shared = {name: options.pop(name) for name in options_of(_RUN_OPTIONS)}
        raise typer.Exit(_execute(folders, ClusterConfig(**options).check(), shared))

    about = typer.Argument(metavar="RUNS", help="Output folders of camcli run.", show_default=False)
    parameters = [
        inspect.Parameter("folders", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[list[str], about]),
        *config_parameters(config=ClusterConfig),
        *config_parameters(_RUN_OPTIONS),
    ]
    return take_parameters(cluster, parameters)


def _execute(folders: Sequence[str], config: ClusterConfig, shared: dict[str, Any]) -> int:
    """Make a study, or show the one in the folder, and test a group of it. Returns the exit code. Raises CamcliError."""
    from camcli.cluster.features import require_sklearn
    from camcli.cluster.write import contents_digest, folder_of, quiet_runs, study_folder, study_settings

    console = Console(quiet=config.quiet)
    require_sklearn()
    place = folder_of(folders, config)
    with stdout_for_data(quiet=config.quiet), quiet_runs(folders):
        settings, contents = study_settings(config, folders), contents_digest(folders)
        with study_folder(place, settings, overwrite=config.overwrite) as record:
            if record is not None and record.get("contents") == contents:
                if config.test is None:
                    console.info(f"Nothing to do: {escape_name(place)} already holds these groups.")
            else:
                if record is not None:
                    console.info("The runs have changed since the groups were made; making them again.")
                record = _study(folders, config, place, {"settings": settings, "contents": contents, "paths": folders}, console)
            if record is None:
                console.error("interrupted; nothing was written. Run the same command again to start over.")
                return 128 + (SIGNALS.number or 2)
            if config.test is None:
                _show(record, place, console)
                return 1 if record["left_out"]["damaged"] else 0
            return _test(folders, config, shared, place, record, console)


def _study(
    folders: Sequence[str], config: ClusterConfig, place: str, head: dict[str, Any], console: Console
) -> dict[str, Any] | None:
    from camcli.cluster.read import collect
    from camcli.cluster.study import study_runs
    from camcli.cluster.write import write_study

    with console_listener(console, unit="class") as listener:
        found = collect(folders, config)
        with SIGNALS.deferred(console.interrupt_message("Stopping after the class in progress")) as stop:
            study = study_runs(found, config, listener, stop)
            return None if study is None else write_study(place, study, found, config, head)


def _show(record: dict[str, Any], place: str, console: Console) -> None:
    groups = [(each["class"], group) for each in record["classes"] for group in each["groups"]]
    groups.sort(key=lambda pair: pair[1]["group"])
    if not console.quiet:
        rows = [
            (
                str(group["group"]) + ("!" if group["suspected"] else ""), name, str(group["images"]),
                *(_cell(group[key]) for key in ("share", "silhouette", "accuracy", "confidence")), ", ".join(group["flags"]),
            )
            for name, group in groups[:_MOST_ROWS]
        ]  # fmt: skip
        print_table(_COLUMNS, rows, right=("images", "share", "silhouette", "accuracy", "confidence"))
    suspected = sum(group["suspected"] for _, group in groups)
    classes = len(record["classes"])
    words = f"{count_words(len(groups), 'group')} in {classes:,} {'class' if classes == 1 else 'classes'}"
    if suspected:
        console.info(f"{words}; {suspected} may be a shortcut (marked !). Check the first: camcli cluster ... --test 1")
    else:
        console.info(f"{words}; none looks like a shortcut.")
    console.info(f"Page in {escape_name(os.path.join(place, 'clusters.html'))}.")


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _test(
    folders: Sequence[str], config: ClusterConfig, shared: dict[str, Any], place: str, record: dict[str, Any], console: Console
) -> int:
    """Test a group, write the result and show it. Returns the exit code."""
    with loading(console):
        from camcli.cluster.proof import prepare_test, run_test
        from camcli.cluster.write import read_tests, write_tests
        from camcli.images.limits import pillow_unlimited
        from camcli.output.root import Root

    assert config.test is not None
    with pillow_unlimited(), console_listener(console, unit="image") as listener:
        test = prepare_test(folders, config, record, place, shared, listener)
        with SIGNALS.deferred(console.interrupt_message("Stopping after the batch in progress")) as stop:
            result = run_test(test, config, listener, stop)
    if result is None:
        console.error("interrupted; nothing was written. Run the same command again to start over.")
        return 128 + (SIGNALS.number or 2)
    root = Root(place)
    write_tests(place, {**read_tests(root), str(config.test): result})
    if not console.quiet:
        keys = ("what", "images", "before", "after", "fall", "from", "to")
        print_table(keys, [[_text(row[key]) for key in keys] for row in result["rows"]], right=keys[1:])
    console.info(result["verdict"])
    return 1 if result["failed"] else 0


def _text(value: Any) -> str:
    return "" if value is None else f"{value + 0.0:.3f}" if isinstance(value, float) else str(value)


command("cluster", "Finished runs")(cluster_command())
