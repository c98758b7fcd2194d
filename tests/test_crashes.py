"""A file that kills a worker costs that one image: it is found in the same run, and nobody else is blamed."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.deadly import PAINTED_SIZE, deadly_file, python_path
from tests.folders import TINY, contents_of, failures_of, rows_of
from tests.forks import completed
from tests.pictures import encoded, photo

TABLES = ("run.json", "journal.jsonl", "lock", "failures.csv")
ALONE = "a process that works on this image alone dies: "


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """Workers that are started from now on meet a decoder that dies of some files."""
    monkeypatch.setenv("PYTHONPATH", python_path(tmp_path))


@pytest.fixture
def many(imgs):
    for k in range(20):
        (imgs / f"more-{k:02d}.jpg").write_bytes(encoded(photo(k), "JPEG"))
    return imgs


def hasty(seconds: float) -> str:
    """A prelude after which a worker that needs longer for an image is taken for hanging."""
    return f"import camcli.pipeline.pool as pool; pool.LONGEST_TASK = {seconds}"


def run(*arguments, workers: object = 2, batch: object = 2, prelude: str = "", **environment: str):
    command = ("run", *arguments, *TINY, "--batch-size", batch, "--workers", workers)
    ended = completed(*command, prelude=prelude, env={**os.environ, **environment})
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def blamed(out) -> list[tuple[str, str]]:
    return [(row["image"], row["stage"]) for row in failures_of(out)]


def explained(out) -> list[str]:
    return [row["image"] for row in rows_of(out)]


@pytest.mark.parametrize(
    ("how", "cause"),
    [("segfault", "SIGSEGV (signal 11)"), ("exits", "it ended with exit code 1"), ("endless", "it did not end within 1 seconds")],
)
def test_a_file_that_kills_its_worker_has_failed_in_the_same_run(deadly, many, tmp_path, how, cause):
    """All other images are explained as if it had not been there. It is tried again when the user asks, or when it has changed."""
    out, whole, prelude = tmp_path / "out", tmp_path / "whole", hasty(1.0) if how == "endless" else ""
    assert run(many, "-o", whole, "--save-maps", workers=0).returncode == 0
    killer = many / "more-07-x.jpg"
    killer.write_bytes(deadly_file(how))
    ended = run(many, "-o", out, "--save-maps", prelude=prelude)
    assert ended.returncode == 1, ended.stderr
    assert failures_of(out) == [{"image": "more-07-x.jpg", "stage": "crashed", "error": ALONE + cause}]
    assert cause in ended.stderr
    assert contents_of(out, TABLES) == contents_of(whole, TABLES)
    assert "Nothing to do: 26 images" in run(many, "-o", out, "--save-maps").stderr
    if how != "segfault":
        return
    retried = run(many, "-o", out, "--save-maps", "--retry-failed", prelude=prelude)
    assert "1 to do" in retried.stderr
    assert blamed(out) == [("more-07-x.jpg", "crashed")]
    assert contents_of(out, TABLES) == contents_of(whole, TABLES)
    killer.write_bytes(deadly_file())
    assert run(many, "-o", out, "--save-maps").returncode == 0
    assert failures_of(out) == []
    assert len(rows_of(out)) == 27


@pytest.mark.parametrize(
    ("workers", "batch"), [(3, 4), *(pytest.param(*pair, marks=pytest.mark.soak) for pair in ((1, 2), (2, 1), (2, 32)))]
)
def test_each_of_several_culprits_is_found_and_nobody_else(deadly, tmp_path, workers, batch):
    """Among good and broken files, side by side and far apart, the first and the last."""
    images, out, whole = tmp_path / "imgs", tmp_path / "out", tmp_path / "whole"
    images.mkdir()
    hows = {0: "segfault", 5: "exits", 6: "segfault", 13: "segfault", 19: "exits"}
    for k in range(20):
        if k not in hows:
            (images / f"{k:02d}.jpg").write_bytes(deadly_file(seed=k) if k % 7 != 4 else b"text")
    assert run(images, "-o", whole, workers=0, batch=batch).returncode == 1
    for k, how in hows.items():
        (images / f"{k:02d}.jpg").write_bytes(deadly_file(how, seed=k))
    assert run(images, "-o", out, workers=workers, batch=batch).returncode == 1
    assert blamed(out) == [(f"{k:02d}.jpg", "crashed" if k in hows else "decode") for k in range(20) if k in hows or k % 7 == 4]
    assert contents_of(out, TABLES) == contents_of(whole, TABLES)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_culprit_may_be_the_only_image(deadly, tmp_path, workers):
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "x.jpg").write_bytes(deadly_file("segfault"))
    assert run(tmp_path / "imgs", "-o", tmp_path / "out", workers=workers).returncode == 1
    assert blamed(tmp_path / "out") == [("x.jpg", "crashed")]
    assert rows_of(tmp_path / "out") == []


def test_an_image_whose_worker_the_system_kills_is_tried_by_every_run(deadly, many, tmp_path):
    """SIGKILL is what the system sends when memory runs out; no file sends it."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run(many, "-o", whole, workers=0).returncode == 0
    (many / "more-07-x.jpg").write_bytes(deadly_file("greedy"))
    for _ in range(2):
        assert "Nothing to do" not in run(many, "-o", out, GREEDY="1").stderr
        assert blamed(out) == [("more-07-x.jpg", "memory")]
        assert contents_of(out, TABLES) == contents_of(whole, TABLES)
    assert run(many, "-o", out).returncode == 0
    assert failures_of(out) == []
    assert len(rows_of(out)) == 27


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("deaths", "is_blamed"), [pytest.param(1, False, marks=pytest.mark.soak), (2, False), (3, True)])
def test_an_image_is_blamed_only_after_two_deaths_of_a_process_of_its_own(deadly, many, tmp_path, deaths, is_blamed, workers):
    """The first death is that of a worker which has several images in hand, and is nobody's fault."""
    lives = tmp_path / "lives"
    lives.mkdir()
    (many / "more-07-x.jpg").write_bytes(deadly_file("unlucky"))
    assert run(many, "-o", tmp_path / "whole", workers=0).returncode == 0
    for k in range(deaths):
        (lives / str(k)).touch()
    ended = run(many, "-o", tmp_path / "out", workers=workers, LIVES=str(lives))
    assert list(lives.iterdir()) == [], "fewer deaths than that"
    assert ended.returncode == int(is_blamed), ended.stderr
    assert blamed(tmp_path / "out") == [("more-07-x.jpg", "crashed")] * is_blamed
    if not is_blamed:
        assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_kills_only_when_it_is_painted(deadly, many, tmp_path, workers):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run(many, "-o", whole, "--save-maps", workers=0).returncode == 0
    killer = many / "more-07-x.jpg"
    killer.write_bytes(encoded(photo(0, PAINTED_SIZE), "JPEG"))
    assert run(many, "-o", out, "--save-maps", workers=workers).returncode == 1
    assert failures_of(out) == [{"image": "more-07-x.jpg", "stage": "crashed", "error": f"{ALONE}SIGSEGV (signal 11)"}]
    assert contents_of(out, TABLES) == contents_of(whole, TABLES)
    assert "Nothing to do: 26 images" in run(many, "-o", out, "--save-maps").stderr
    killer.write_bytes(deadly_file())
    assert run(many, "-o", out, "--save-maps").returncode == 0
    assert len(rows_of(out)) == 27


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")
def test_a_decoder_that_takes_memory_without_end_fails_alone(deadly, many, tmp_path):
    """The limit on the worker's memory ends it; without one the system would run out of memory."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run(many, "-o", whole, workers=0).returncode == 0
    (many / "more-07-x.jpg").write_bytes(deadly_file("hoards"))
    small = "import camcli.pipeline.memory as m; m._ENOUGH = 256 << 20"  # the limit follows from the budget
    ended = run(many, "-o", out, prelude=small)
    assert ended.returncode == 1, ended.stderr
    assert blamed(out) == [("more-07-x.jpg", "memory")]
    assert contents_of(out, TABLES) == contents_of(whole, TABLES)
    assert "1 to do" in run(many, "-o", out, prelude=small).stderr, "what failed for lack of memory is tried again"


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_workers_that_cannot_start_end_the_run_with_one_clear_error(imgs, tmp_path, workers):
    ended = run(imgs, "-o", tmp_path / "out", workers=workers, prelude=f"import sys; sys.executable = {shutil.which('false')!r}")
    assert ended.returncode == 3
    assert [line for line in ended.stderr.splitlines() if "end before they are ready, with exit code 1" in line]
    assert "--workers 0" in ended.stderr
    assert run(imgs, "-o", tmp_path / "out", workers=0).returncode == 0, "nobody was blamed"


REFUSED = """
import errno, subprocess
real, left = subprocess.Popen, [{allowed}]
def refuse(*arguments, **options):
    if not left[0]:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    left[0] -= 1
    return real(*arguments, **options)
subprocess.Popen = refuse
"""


@pytest.mark.parametrize("allowed", [0, 1])
def test_where_the_system_allows_no_more_processes_the_run_does_with_what_there_is(imgs, tmp_path, allowed):
    assert run(imgs, "-o", tmp_path / "whole", workers=0).returncode == 0
    ended = run(imgs, "-o", tmp_path / "out", prelude=REFUSED.format(allowed=allowed))
    assert ended.returncode == 0, ended.stderr
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


def test_a_folder_that_an_older_version_left_in_the_middle_goes_on(deadly, many, tmp_path):
    """Older versions wrote the names of the images in progress, and how often each had ended a run."""
    out = tmp_path / "out"
    assert run(many, "-o", tmp_path / "whole", workers=0).returncode == 0
    assert run(many, "-o", out, "--limit", 9, workers=0).returncode == 0
    former = [out / ".camcli" / "in-flight", out / ".camcli" / "in-flight-deaths"]
    for path in former:
        path.write_bytes(b"\x0b\0\0\0more-07.jpg")
    assert run(many, "-o", out).returncode == 0
    assert not any(path.exists() for path in former)
    assert contents_of(out) == contents_of(tmp_path / "whole")
