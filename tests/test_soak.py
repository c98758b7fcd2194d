"""The long versions of test_faults: every failing file operation, hundreds of kills, a hundred thousand images."""

from __future__ import annotations

import collections
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.failing import FAILS_WITH, LOOKING, Failing
from tests.faults import differences, fill_album, fill_with_copies, leftovers
from tests.folders import TINY
from tests.forks import fresh, rows_written
from tests.test_all_commands import COMMANDS, SLOW, after_fault, after_kills, cases, expected_of, faults_of  # noqa: F401 - cases is a fixture
from tests.test_faults import (
    Kills,
    Sweep,
    combinations_that_differ,
    discovered,
    growth,
    signals_at_random,
    sweep,  # noqa: F401 - a fixture
    undisturbed,
    watched,
)
from tests.test_untrusted import (
    HOSTILE,
    assert_harmless,
    assert_mended,
    bystanders,  # noqa: F401 - a fixture
    made,  # noqa: F401 - a fixture
    names_in,
    snapshot,
)
from tests.test_workers import struck, violations_of_strikes

pytestmark = pytest.mark.soak


@pytest.fixture
def report(request, capsys):
    """Say a figure on the terminal, whatever the verdict."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}: {text}", flush=True)

    begun = time.monotonic()
    yield say
    say(f"{time.monotonic() - begun:.0f} s")


@pytest.fixture
def memory_disk(tmp_path) -> Iterator[Path]:
    """A folder in memory where there is one: a million files on a disk take minutes."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as place:
        yield Path(place)


def test_law_1_two_hundred_kills(forks, tmp_path, report):
    images = tmp_path / "imgs"
    fill_album(images, 300)
    flags = (*TINY, "--batch-size", 4, "--quiet")
    assert undisturbed(forks, images, tmp_path / "whole", *flags) == 1
    kills = Kills(forks, images, tmp_path, flags, random.Random(1))
    violations = kills.go_on_until(200, tmp_path / "whole", 1)
    report(f"{kills.kills} kills, {dict(kills.fell)}, {kills.runs} runs brought to their end")
    assert not violations, "\n".join(violations)


def test_law_2_sixty_signals(forks, tmp_path, report):
    fill_album(tmp_path / "imgs", 200)
    violations, met = signals_at_random(forks, tmp_path / "imgs", tmp_path, 60, seed=1)
    report(str(dict(met)))
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize("beginning", ["nothing", "half"])
@pytest.mark.parametrize("inside", ["out", "imgs"])
def test_law_4_every_file_operation_fails(sweep: Sweep, inside, beginning, report):  # noqa: F811
    """With every error, once and for good; looking (stat, access) is counted apart, because it fails on a broken disk only."""
    violations: list[str] = []
    struck_at: collections.Counter[str] = collections.Counter()
    for code, operations in [*FAILS_WITH.items(), (next(iter(FAILS_WITH)), LOOKING)]:
        for for_good in (False, True):
            number, struck = 1, True
            while struck:
                failing = Failing(str(sweep.place / inside), operations, number, code, for_good)
                found, struck = sweep.run(beginning, failing)
                violations += found
                if struck:
                    struck_at[failing.seen[number - 1].split()[0]] += 1
                number += 1
    report(f"{sum(struck_at.values())} faults: {dict(struck_at)}; {len(violations)} violations")
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize("name", COMMANDS)
def test_law_4_every_file_operation_of_every_command_fails(cases, tmp_path, name, report):  # noqa: F811
    """Every fault of the fast commands; of those that take seconds, every ninth."""
    case = cases[name]
    expected, faults = expected_of(case, tmp_path), list(faults_of(case, tmp_path))
    faults = faults[:: 9 if name in SLOW else 1]
    violations = [words for fault in faults for words in after_fault(case, tmp_path, fault, expected)]
    report(f"{name}: {len(faults)} faults; {len(violations)} violations")
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize("name", COMMANDS)
def test_law_1_every_command_is_killed(forks, cases, tmp_path, name, report):  # noqa: F811
    case, draw = cases[name], random.Random(name)
    expected, kills, violations = expected_of(case, tmp_path), 0, []
    while kills < 40:
        more, found = after_kills(forks, case, tmp_path, draw, expected)
        kills, violations = kills + more, violations + found
    report(f"{name}: {kills} kills; {len(violations)} violations")
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize("name", ["verify", "report", "render", "diff", "run", "overwrite"])
def test_law_23_everything_hostile_at_every_name(made, tmp_path, bystanders, name, report):  # noqa: F811
    places = [(place, kind) for place in names_in(made) for kind in HOSTILE]
    assert_harmless(made, tmp_path, bystanders, snapshot(bystanders), name, places)
    report(f"{name}: {len(places)} folders")


def test_law_24_zeros_of_every_length(made, tmp_path):  # noqa: F811
    assert_mended(made, tmp_path, 600, 1)


def test_law_20_a_million_entries(memory_disk, report):
    found = discovered(memory_disk / "many", 1_000_000)
    report(f"{found.count:,} entries found in {found.seconds:.1f} s, {found.growth:.0f} MB")
    assert (found.count, found.ordered) == (1_000_000, True)
    assert (found.first, found.last) == ("IMG_0000000.jpg", "IMG_0999999.jpg")
    assert found.growth < 300


def test_law_21_a_hundred_thousand_images(forks, memory_disk, report):
    """Memory grows by the journal's few hundred bytes an image and by nothing else; then another division of labour, and EQ."""
    images, out, other = memory_disk / "imgs", memory_disk / "out", memory_disk / "other"
    fill_with_copies(images, 100_000)
    begun = time.monotonic()
    run = fresh(["run", images, "-o", out, *TINY, "--quiet", "--batch-size", 16], memory_disk / "log")
    samples = list(watched(run, out))
    assert run.wait(60) == 0
    seconds = time.monotonic() - begun
    per_image, descriptors = growth(samples, 100_000)
    marks = [next(s for s in samples if s.table >= samples[-1].table * share) for share in (0.02, 0.1, 0.34, 0.67, 0.99)]
    words = [f"{mark.memory / 1024:.0f} MB, {mark.descriptors} descriptors, {mark.threads} threads" for mark in marks]
    report(f"at 2, 10, 34, 67 and 99 thousand images: {'; '.join(words)}; {per_image:.0f} bytes an image; {seconds:.0f} s")
    assert per_image < 1000
    assert descriptors <= 4
    assert rows_written(out) == 100_000
    assert not leftovers(out)
    assert undisturbed(forks, images, other, *TINY, "--workers", 8, "--batch-size", 1, "--quiet") == 0
    assert differences(out, other, same_bytes=False) == []


def test_law_21_every_division_of_labour(forks, tmp_path, report):
    fill_album(tmp_path / "imgs", 2000, largest=200)
    combinations = [(workers, batch) for batch in (1, 32) for workers in (1, 2, 8)]
    assert combinations_that_differ(forks, tmp_path / "imgs", tmp_path, combinations) == []


def test_a_hundred_deaths_and_stops_of_workers(forks, tmp_path, report):
    """In runs of 2,000 images, each equal to a run that nothing disturbed."""
    images, whole, out = tmp_path / "imgs", tmp_path / "whole", tmp_path / "out"
    fill_with_copies(images, 2000)
    assert undisturbed(forks, images, whole, *TINY, "--batch-size", 4, "--save-maps", "--workers", 2) == 0
    strikes, violations, seed = 0, [], 0
    while strikes < 100:
        ended = struck(forks, images, out, 100 - strikes, seed)
        violations += [f"run {seed}: {words}" for words in violations_of_strikes(ended, out, whole)]
        strikes, seed = strikes + ended.strikes, seed + 1
        shutil.rmtree(out)
    report(f"{strikes} strikes in {seed} runs")
    assert not violations, "\n".join(violations)
