"""Laws 1, 4 and 25 for every command that writes: whatever fails, what was there stays usable, and the same command mends."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from camcli.cli import app
from camcli.cli.command import all_commands
from camcli.errors import OutputError
from camcli.layout import MAPS_PARQUET, OUTPUT_NAMES
from camcli.output.exchange import current_place, exchange_files, finish_exchange
from camcli.output.root import Root
from tests.commands import LISTING, READING, RICH, command, commands_on, copied, rich_folder
from tests.failing import FAILS_WITH, Failing
from tests.folders import contents_of
from tests.forks import Forks
from tests.pictures import encoded, photo
from tests.test_fit import FIT, paint
from tests.test_untrusted import HOSTILE, bystanders, names_in, replaced, snapshot  # noqa: F401 - bystanders is a fixture


@dataclass(frozen=True)
class Case:
    """A command over a folder. ``base``: the folder before it; ``arguments``: of the command over a copy of ``base``.

    ``usable``: what is wrong with a folder in which the command has failed or died, in words; empty for nothing.
    """

    base: Path
    arguments: Callable[[Path], tuple[Any, ...]]
    usable: Callable[[Path], str]
    code: int = 0


def results_of(folder: Path) -> dict[str, bytes]:
    """What commands write into ``folder``, but for what says where it lies or when it was."""
    found = contents_of(folder, ("rows.js", "run.json", "lock", "report.html", "page.html"))
    return {name: data for name, data in found.items() if not name.endswith(".camcli")}


def leftovers(out: Path) -> list[str]:
    """Temporary files, wherever they are."""
    found = [path for path in out.rglob("*") if path.is_file() and "scratch" in path.parts]
    left = [out / ".camcli" / name for name in ("draft", "exchange", "redrawing", "unconfirmed.jsonl", "in-flight")]
    return [str(path.relative_to(out)) for path in [*found, *(path for path in left if path.exists())]]


def is_run(imgs: Path) -> Callable[[Path], str]:
    """Whether the run over ``imgs`` goes on: its own command ends as before."""

    def check(out: Path) -> str:
        with copied(out, out.parent / "went-on") as copy:
            code, said = command("run", imgs, "-o", copy, *RICH)
            ends_well = code == 0 or "Nothing to do" in said or "explained in" in said
            return "" if ends_well and "Traceback" not in said else f"the run does not go on: {code} {said}"

    return check


def is_page(out: Path) -> str:
    """Whether there is a whole page, the old or the new."""
    return "" if (out / "page.html").read_bytes().rstrip().endswith(b"</html>") else "the page is torn"


def is_model(old: Path, new: Path) -> Callable[[Path], str]:
    """Whether description and weights are those of one model, the old or the new."""
    names = ("model.json", "model.safetensors", "labels.txt", "metrics.json")
    models = [[(model / name).read_bytes() for name in names] for model in (old, new)]

    def check(out: Path) -> str:
        found = [Path(out / current_place(Root(str(out)), name)).read_bytes() for name in names]
        return "" if found in models else "the model is neither the old nor the new one"

    return check


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    """Every command that writes into a folder that is there already."""
    place = tmp_path_factory.mktemp("cases")
    out, imgs = rich_folder(place), place / "imgs"
    parts = place / "parts"
    for part in ("0/2", "1/2"):
        command("run", imgs, "-o", parts, *RICH, "--shard", part, "--quiet")
    command("merge", parts)
    (imgs / "new.jpg").write_bytes(encoded(photo(7), "JPEG"))
    for part in ("0/2", "1/2"):
        command("run", imgs, "-o", parts, *RICH, "--shard", part, "--quiet")
    (imgs / "new.jpg").unlink()
    for k in range(4):
        paint(place / "data" / "red" / f"{k}.png", (200, 20, 20), k)
        paint(place / "data" / "blue" / f"{k}.png", (20, 20, 200), 100 + k)
    old, new = place / "old" / "model", place / "new" / "model"
    for model, seed in ((old, 0), (new, 1)):
        model.parent.mkdir()
        code, said = command("fit", place / "data", "-o", model, *FIT, "--seed", seed, "--quiet")
        assert code == 0, said
    shutil.rmtree(old / ".camcli" / "scratch", ignore_errors=True)
    dreams = place / "dreams"
    dream = ("dream", "tests.networks:brightness", "--size", 32, "--steps", 3, "-c", "bright", "--quiet")
    assert command(*dream, "-o", dreams)[0] == 0
    compared = place / "compared"
    compared.mkdir()
    for name in ("a", "b"):
        shutil.copytree(out, compared / name)
    assert command("diff", compared / "a", compared / "b", "--report", compared / "page.html", "--threshold", 0.5)[0] == 0
    checked = place / "checked"
    sanity = ("sanity", imgs / "a.jpg", "--model", "tests.networks:with_classes", "--layer", 1, "--method", "gradcam", "--quiet")
    code, said = command(*sanity, "-o", checked)
    assert code == 0, said
    (place / "boxes.csv").write_text("image,class,x,y,w,h\na.jpg,bright,5,5,30,30\nb.png,bright,5,5,30,30\n", encoding="utf-8")
    return {
        "evaluate": Case(out, lambda copy: ("evaluate", copy, "--boxes", place / "boxes.csv"), is_run(imgs)),
        "cluster": Case(
            out, lambda copy: ("cluster", copy, "--min-images", 2, "--layout", "pca", "--seed", 5, "--overwrite"), is_run(imgs)
        ),
        "render": Case(out, lambda copy: ("render", copy, "--style", "contour", "--image-format", "png"), is_run(imgs)),
        "report": Case(out, lambda copy: ("report", copy), is_run(imgs)),
        "merge": Case(parts, lambda copy: ("merge", copy), lambda copy: "", code=1),
        "fit": Case(old, lambda copy: ("fit", place / "data", "-o", copy, *FIT, "--seed", 1, "--overwrite"), is_model(old, new)),
        "diff": Case(compared, lambda copy: ("diff", copy / "a", copy / "b", "--report", copy / "page.html"), is_page),
        "sanity": Case(checked, lambda copy: (*sanity, "-o", copy, "--seed", 5, "--overwrite"), lambda copy: ""),
        "dream": Case(dreams, lambda copy: (*dream, "-o", copy, "--seed", 5, "--overwrite"), lambda copy: ""),
    }


def expected_of(case: Case, place: Path) -> dict[str, bytes]:
    with copied(case.base, place) as copy:
        code, said = command(*case.arguments(copy))
        assert code == case.code, said
        return results_of(copy)


def faults_of(case: Case, place: Path) -> Iterator[tuple[int, int, bool]]:
    """(error, number of the operation, for good) of every fault that the command can meet."""
    with copied(case.base, place) as copy, Failing(str(copy), frozenset().union(*FAILS_WITH.values())) as failing:
        command(*case.arguments(copy))
    met = [operation.split()[0] for operation in failing.seen]
    for code, operations in FAILS_WITH.items():
        count = sum(operation in operations for operation in met)
        yield from ((code, number, good) for number in range(1, count + 1) for good in (False, True))


def after_fault(case: Case, place: Path, fault: tuple[int, int, bool], expected: dict[str, bytes]) -> list[str]:
    """What is violated when one file operation of a command fails."""
    error, number, for_good = fault
    with copied(case.base, place) as copy:
        failing = Failing(str(copy), FAILS_WITH[error], number, error, for_good)
        with failing:
            code, said = command(*case.arguments(copy))
        found = ["traceback: " + said] if "Traceback" in said or "defect" in said else []
        if code not in (0, 1, 2, 3):
            found.append(f"exit code {code}")
        if code == case.code and code == 0 and results_of(copy) != expected:
            found.append("exit code 0, and not all is there")
        wrong = case.usable(copy)
        found += [f"not usable: {wrong}"] if wrong else []
        code, again = command(*case.arguments(copy))
        if code != case.code or results_of(copy) != expected:
            found.append(f"the same command again ended with {code}: {again[-400:]}; differs in {differing(copy, expected)}")
        found += [f"left behind: {name}" for name in leftovers(copy)]
        operation = failing.seen[number - 1] if 0 < number <= len(failing.seen) else "none"
    return [f"{errno.errorcode[error]} at {number} ({operation}) {'for good' if for_good else 'once'}: {words}" for words in found]


def differing(copy: Path, expected: dict[str, bytes]) -> list[str]:
    found = results_of(copy)
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))[:5]


COMMANDS = ("evaluate", "cluster", "render", "report", "merge", "diff", "fit", "dream", "sanity")
SLOW = ("fit", "sanity")
FEWER = (*SLOW, "evaluate")
"""A second and more each: the tests that are run every time take a smaller sample of what can happen to them."""


def test_every_command_takes_part_in_the_laws():
    """A command of ``camcli.cli.commands`` that is new stands in a table here: it lists, it reads, or it has a case.

    ``run`` is the command of ``test_faults`` and ``test_untrusted``; who takes a folder of a run also stands in ``commands_on``.
    """
    found = {command.name: get_command(app.app).commands[command.name] for command in all_commands()}
    assert {*found} == {*LISTING, *READING, *COMMANDS, "run"}
    assert not LISTING & READING
    for name in LISTING:
        assert not [parameter.metavar for parameter in found[name].params if parameter.metavar == "DIR"], f"{name} takes a folder"
    of_runs = {name for name, one in found.items() if any(takes_a_run(parameter) for parameter in one.params)}
    assert of_runs == {words[0] for words in commands_on(Path("out"), Path("imgs")).values()} - {"run"} | {"merge"}


def takes_a_run(parameter) -> bool:
    """Whether an argument names the folder of a run that is there."""
    return parameter.param_type_name == "argument" and parameter.metavar in ("DIR", "RUNS", "A", "B")


def test_the_rich_folder_has_every_kind_of_file(tmp_path):
    """What a run can leave for users; a new kind needs its option in ``RICH`` or in the command beside it."""
    assert {*OUTPUT_NAMES} - {MAPS_PARQUET} <= {*os.listdir(rich_folder(tmp_path))}


@pytest.mark.parametrize("name", COMMANDS)
def test_law_4_a_failing_file_operation_of_any_command_loses_nothing(cases, tmp_path, name):
    """A sample; test_soak has them all."""
    case = cases[name]
    expected = expected_of(case, tmp_path)
    faults = list(faults_of(case, tmp_path))
    violations = []
    for fault in random.Random(name).sample(faults, 2 if name in FEWER else 10):
        violations += after_fault(case, tmp_path, fault, expected)
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize("name", COMMANDS)
def test_law_23_no_command_that_writes_leaves_its_folder(cases, tmp_path, bystanders, name):  # noqa: F811
    """The same for the folders of models, checks, pictures and parts."""
    case, before = cases[name], snapshot(bystanders)
    places = [(place, kind) for place in names_in(case.base) for kind in HOSTILE]
    for place, kind in random.Random(name).sample(places, 4 if name in FEWER else 24):
        assert_harmless_to(case, tmp_path, bystanders, before, place, kind)


def assert_harmless_to(case, tmp_path, theirs, before, place, kind) -> None:
    with copied(case.base, tmp_path) as copy:
        replaced(copy / place, kind, theirs)
        code, said = command(*case.arguments(copy))
        told = f"{case.arguments(copy)[0]} with a {kind} at {place}: exit code {code}\n{said}"
        assert "Traceback" not in said, told
        assert code in (0, 1, 2, 3), told
        assert snapshot(theirs) == before, told


def after_kills(forks: Forks, case: Case, place: Path, draw: random.Random, expected: dict[str, bytes]) -> tuple[int, list[str]]:
    """Kill a command again and again until it has ended once by itself: how often, and what is violated."""
    with copied(case.base, place) as copy:
        kills, found = 0, []
        while True:
            run = forks.start(list(case.arguments(copy)), place / "log")
            time.sleep(draw.uniform(0.0, 0.35) if kills < 6 else 60)
            run.send_signal(signal.SIGKILL)
            if run.wait(60) != -signal.SIGKILL:
                break
            kills += 1
            wrong = case.usable(copy)
            found += [f"kill {kills}: not usable: {wrong}"] if wrong else []
        if run.wait(0) != case.code or results_of(copy) != expected:
            found.append(f"ended with {run.wait(0)} after {kills} kills: differs in {differing(copy, expected)}")
        return kills, found + [f"left behind: {name}" for name in leftovers(copy)]


NAMES = ("a.txt", "b.bin", ".camcli/c.jsonl")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_files_that_are_exchanged_are_all_old_or_all_new(tmp_path, code):
    """Whatever operation of the exchange fails, once or for good."""
    old, new = ({name: f"{word} {name}".encode() for name in NAMES} for word in ("old", "new"))
    (tmp_path / ".camcli" / "scratch").mkdir(parents=True)
    root, number = Root(str(tmp_path)), 0
    while True:
        number += 1
        exchange_files(root, old)
        failing = Failing(str(tmp_path), FAILS_WITH[code], number, code, number % 2 == 0)
        try:
            with failing:
                exchange_files(root, new)
        except OutputError:
            pass
        found = {name: root.read(current_place(root, name)) for name in NAMES}
        assert found in (old, new), f"operation {number}: {failing.seen[-1]}"
        finish_exchange(root, NAMES)
        assert {name: root.read(name) for name in NAMES} == found
        exchange_files(root, new)
        assert {name: root.read(name) for name in NAMES} == new
        assert sorted(os.listdir(tmp_path / ".camcli")) == ["c.jsonl", "scratch"]
        if number > len(failing.seen):
            assert number > 15
            return
