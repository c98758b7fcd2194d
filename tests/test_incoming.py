"""Paths on stdin are worked on as they come, and the folder is that of a list which was complete from the start."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli.errors import InputError
from camcli.pipeline import incoming
from camcli.pipeline.incoming import PathStream
from tests.folders import TINY, contents_of, failures_of, rows_of
from tests.forks import Forked, completed, forked
from tests.pictures import encoded, photo

SOON = 10.0
"""Seconds within which a row comes on a busy machine. The benchmark measures how soon it is."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with twenty photographs."""
    (tmp_path / "imgs").mkdir()
    for k in range(20):
        (tmp_path / "imgs" / f"{k:02d}.jpg").write_bytes(encoded(photo(k, (90, 70)), "JPEG"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Producer:
    """A run that reads the paths which ``give`` writes. ``rows`` waits for rows on its stdout."""

    def __init__(self, place, *options):
        end, self._start = os.pipe()
        arguments = ("run", "-", "-o", place / "out", *TINY, "--csv", "-", *options)
        self.run: Forked = forked(*arguments, stdin=end, cwd=place)
        os.close(end)
        self._data = b""

    def give(self, *names):
        os.write(self._start, "".join(f"imgs/{name}.jpg\n" for name in names).encode())

    def rows(self, count, timeout):
        """The names in ``count`` rows in all. Fails if they do not come within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (lines := self._data.decode().splitlines()[1:]) is None or len(lines) < count:
            left = deadline - time.monotonic()
            assert left > 0, f"{len(lines)} rows of {count} after {timeout} seconds"
            if select.select([self.run.stdout.fileno()], [], [], left)[0]:
                self._data += os.read(self.run.stdout.fileno(), 1 << 16)
        return [line.split(",")[0] for line in lines]

    def end(self):
        os.close(self._start)
        _, said = self.run.communicate(timeout=60)
        return self.run.returncode, said


@pytest.mark.parametrize("workers", [0, 2])
def test_the_row_of_a_path_comes_while_the_producer_goes_on(place, workers):
    producer = Producer(place, "--workers", workers)
    producer.give("00")
    assert producer.rows(1, 60) == ["imgs/00.jpg"]
    for number in (1, 2, 3):
        producer.give(f"{number:02d}")
        assert producer.rows(number + 1, SOON)[-1] == f"imgs/{number:02d}.jpg"
    giving = threading.Thread(target=lambda: [(producer.give(f"{k:02d}"), time.sleep(0.15)) for k in range(4, 16)])
    giving.start()
    producer.rows(5, SOON)
    assert giving.is_alive(), "the batch was filled first, although paths came slowly"
    giving.join()
    assert producer.end()[0] == 0
    assert [row["image"] for row in rows_of(place / "out")] == [f"imgs/{k:02d}.jpg" for k in range(16)]


def test_the_folder_is_that_of_a_complete_list(place):
    """Duplicates, a file that is none, a missing one: whenever they come."""
    (place / "imgs" / "text.jpg").write_text("text")
    names = ["03", "text", "01", "03", "gone", "02", "01", "00"]
    producer = Producer(place)
    for name in names:
        producer.give(name)
        time.sleep(0.1 if name != "03" else 0.5)
    code, said = producer.end()
    assert code == 1
    assert "4 images explained" in said
    listed = place / "list"
    listed.write_text("".join(f"imgs/{name}.jpg\n" for name in names))
    with open(listed) as file:
        assert completed("run", "-", "-o", place / "whole", *TINY, stdin=file.fileno(), cwd=place).returncode == 1
    assert contents_of(place / "out") == contents_of(place / "whole")
    assert [row["image"] for row in failures_of(place / "out")] == ["imgs/text.jpg", "imgs/gone.jpg"]


def test_what_was_explained_before_is_not_done_again_and_what_changed_is(place):
    first = Producer(place)
    first.give("00", "01", "02")
    first.rows(3, 60)
    assert first.end()[0] == 0
    unchanged = (place / "out" / "overlays" / "imgs" / "00.jpg.1-bright.jpg").stat().st_ino
    (place / "imgs" / "01.jpg").write_bytes(encoded(photo(77, (90, 70)), "JPEG"))
    second = Producer(place)
    second.give("05")
    assert "imgs/05.jpg" in second.rows(1, 60)
    for name in ("00", "01", "06"):
        second.give(name)
        time.sleep(0.4)
    code, said = second.end()
    assert (code, "3 images explained" in said) == (0, True), said
    assert (place / "out" / "overlays" / "imgs" / "00.jpg.1-bright.jpg").stat().st_ino == unchanged
    assert sorted(row["image"] for row in rows_of(place / "out")) == [f"imgs/{k}.jpg" for k in ("00", "01", "02", "05", "06")]
    verified = completed("verify", place / "out")
    assert verified.returncode == 0, verified.stdout


def test_a_path_outside_of_the_folder_of_the_first_ones_is_a_failure_and_stops_nothing(place, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.jpg"
    elsewhere.write_bytes(encoded(photo(), "JPEG"))
    producer = Producer(place)
    producer.give("00")
    producer.rows(1, 60)
    os.write(producer._start, f"{elsewhere}\n".encode())
    producer.give("01")
    producer.rows(2, SOON)
    code, said = producer.end()
    assert code == 1
    assert "outside of" in said
    assert [(row["image"], row["stage"]) for row in failures_of(place / "out")] == [(str(elsewhere)[1:], "read")]
    assert not (place / "out" / "overlays" / str(elsewhere)[1:]).exists()


def test_limit_and_shard_choose_as_from_a_complete_list(place):
    for options in (("--limit", 7), ("--shard", "1/3"), ("--shard", "0/2", "--limit", 11)):
        producer = Producer(place, *options, "--overwrite")
        for start in range(0, 20, 5):
            with contextlib.suppress(BrokenPipeError):  # the run has ended with as many as it wants
                producer.give(*(f"{k:02d}" for k in range(start, start + 5)))
            time.sleep(0.4)
        assert producer.end()[0] == 0
        listed = place / "list"
        listed.write_text("".join(f"imgs/{k:02d}.jpg\n" for k in range(20)))
        with open(listed) as file:
            done = completed("run", "-", "-o", place / "whole", *TINY, *options, "--overwrite", stdin=file.fileno(), cwd=place)
        assert done.returncode == 0
        assert contents_of(place / "out") == contents_of(place / "whole"), options


def test_ctrl_c_ends_a_run_that_waits_for_paths(place):
    producer = Producer(place, "--workers", 1)
    producer.give("00", "01")
    producer.rows(2, 60)
    producer.run.send_signal(signal.SIGINT)
    assert producer.run.wait(SOON) == 130
    assert len(rows_of(place / "out")) == 2
    again = Producer(place)
    again.give("00", "01", "02")
    again.rows(3, 60)
    code, said = again.end()
    assert (code, "1 image explained" in said) == (0, True), said


def test_true_classes_need_the_whole_list_first(place):
    (place / "bright").mkdir()
    for k in range(3):
        (place / "imgs" / f"{k:02d}.jpg").rename(place / "bright" / f"{k:02d}.jpg")
    end, start = os.pipe()
    os.write(start, b"bright/00.jpg\n")
    run = forked("run", "-", "-o", place / "out", *TINY, "--class-from", "folder", stdin=end, cwd=place)
    os.close(end)
    time.sleep(1.5)
    os.write(start, b"bright/01.jpg\n")
    os.close(start)
    run.communicate(timeout=60)
    assert run.returncode == 0
    assert [(row["image"], row["label"]) for row in rows_of(place / "out")] == [
        ("bright/00.jpg", "bright"),
        ("bright/01.jpg", "bright"),
    ]


@given(
    names=st.lists(st.binary(min_size=1, max_size=30).filter(lambda name: not {0, 10, 13} & set(name)), max_size=20),
    null=st.booleans(),
    cuts=st.lists(st.integers(0, 700), max_size=10),
    last=st.booleans(),
)
def test_paths_arrive_as_they_were_written_in_whatever_pieces(names, null, cuts, last):
    separator = b"\0" if null else b"\n"
    data = separator.join(names) + (separator if last else b"")
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    end, start = os.pipe()
    stream, found = PathStream(end, null=null), []
    for begin, stop in itertools.pairwise(places):
        os.write(start, data[begin:stop])
        found += stream.read()
    os.close(start)
    found += stream.all()
    os.close(end)
    assert [os.fsencode(name) for name in found] == names
    assert stream.ended


def test_lines_of_windows_and_nul_bytes():
    end, start = os.pipe()
    os.write(start, b"a.jpg\r\nb\rc.jpg\r\n\r\n")
    assert PathStream(end, null=False).read() == ["a.jpg", "b\rc.jpg"]
    os.write(start, b"a.jpg\0b.jpg\0\n")
    with pytest.raises(InputError, match="--null"):
        PathStream(end, null=False).read()
    os.close(start)
    os.close(end)


def test_the_first_paths_are_those_that_come_together(monkeypatch):
    """Up to a silence, or for a while; never an empty list while more may come."""
    monkeypatch.setattr(incoming, "_LONGEST", 0.6)
    end, start = os.pipe()
    stream = PathStream(end, null=False)

    def give():
        time.sleep(0.3)
        for k in range(12):
            os.write(start, f"{k}.jpg\n".encode())
            time.sleep(0.1)

    giving = threading.Thread(target=give)
    giving.start()
    first = stream.first()
    assert first[:2] == ["0.jpg", "1.jpg"]
    assert len(first) < 12
    giving.join()
    os.close(start)
    assert first + stream.all() == [f"{k}.jpg" for k in range(12)]
    os.close(end)
