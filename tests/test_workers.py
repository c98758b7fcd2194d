"""Worker processes: their number changes no byte, their deaths cost nothing, and none is left when the main process has ended."""

from __future__ import annotations

import gc
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import camcli
from camcli.config.run import RunConfig
from camcli.output.root import Root
from camcli.pipeline import channel, memory
from camcli.pipeline.channel import Channel, Unpacker, messages_from, packed
from camcli.pipeline.findings import Names, batch_findings
from camcli.pipeline.memory import Memory
from camcli.pipeline.pool import Pool
from camcli.pipeline.summary import SilentRunListener
from camcli.pipeline.tasks import (
    Asking,
    Failed,
    InputSettings,
    Painted,
    PaintSettings,
    PaintTask,
    PreparedImage,
    ReadTask,
    Settings,
)
from camcli.pipeline.worker import Tasks
from camcli.records import Preprocess
from camcli.source import Source
from camcli.timing import StageTimer
from tests.faults import differences, fill_album, fill_with_copies, noise_file, violations_of_always
from tests.folders import TINY, contents_of, failures_of, rows_of
from tests.forks import ORDINARY_USER, RIGHTS_KEPT, Forks, listens, lives, rows_written, survivors, wait_for, workers_below

MB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def everything_of(out: Path) -> dict[str, bytes]:
    """All that a run has written, the journal without its first line, which has the time of the run."""
    journal = (out / ".camcli" / "journal.jsonl").read_bytes()
    return {**contents_of(out), "journal": journal.split(b"\n", 1)[1]}


RICH = (
    *("--model", "tests.networks:with_classes", "--layer", "0", "--layer", "1", "--topk", 3, "--class-from", "folder"),
    *("--method", "gradcam", "--method", "layercam", "--boxes", "all", "--masks", "--save-maps", "--batch-size", 4),
)


@pytest.mark.parametrize("flags", [RICH, TINY], ids=["everything", "plain"])
def test_the_number_of_workers_changes_no_byte(camcli, tmp_path, flags):
    """Tables, journal, overlays, maps and masks, over an album with broken files."""
    images = tmp_path / "imgs"
    fill_album(tmp_path / "album", 24, largest=120)
    for k, path in enumerate(sorted(path for path in (tmp_path / "album").rglob("*") if path.is_file())):
        place = images / f"class_{k % 4}" / path.name  # the folder is the class
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
        os.utime(place, (1, 1))  # a young file is hashed
    found = {}
    for workers in (0, 1, 2, 5):
        ended = camcli("run", images, "-o", tmp_path / f"{workers}", *flags, "--workers", workers)
        assert ended.code == 1, ended.err
        found[workers] = everything_of(tmp_path / f"{workers}")
    kinds = {Path(name).parts[0] for name in found[0]}
    assert kinds >= ({"overlays", "maps", "masks", "predictions.csv"} if flags == RICH else {"overlays", "predictions.csv"})
    assert len(failures_of(tmp_path / "0")) >= 1
    for workers, contents in found.items():
        assert contents == found[0], f"{workers} workers"


def test_a_worker_imports_nothing_that_is_slow():
    check = (
        "import sys, camcli.pipeline.worker\n"
        "slow = {'torch', 'torchvision', 'timm', 'typer', 'rich', 'tqdm'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & slow))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@linux
def test_no_worker_outlives_a_main_process_that_is_killed(forks: Forks, tmp_path):
    """SIGKILL at any moment. The next run goes on, and the last one completes the folder."""
    fill_album(tmp_path / "imgs", 60, largest=200)
    draw, out = random.Random(3), tmp_path / "out"
    command = ["run", tmp_path / "imgs", *TINY, "--batch-size", 4, "--workers", 3, "--quiet"]
    assert forks.start([*command, "-o", tmp_path / "whole"], tmp_path / "log").wait(120) == 1
    total = rows_written(tmp_path / "whole")
    for kill in range(4):
        shutil.rmtree(out, ignore_errors=True) if rows_written(out) >= total else None
        run = forks.start([*command, "-o", out], tmp_path / "log")
        assert wait_for(lambda run=run: len(workers_below(run.pid)) == 3)
        workers, pause = workers_below(run.pid), draw.uniform(0, 1.5 if kill % 2 else 0.4)
        wait_for(lambda run=run: run.poll() is not None, pause)
        run.send_signal(signal.SIGKILL)
        run.wait(30)
        assert survivors(workers) == [], f"kill {kill}, after {pause:.2f} s"
        assert violations_of_always(out) == [] if out.exists() else True
    assert forks.start([*command, "-o", out], tmp_path / "log").wait(120) in (0, 1)
    assert differences(out, tmp_path / "whole") == []


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["workers start", "images are recorded"])
def test_a_signal_to_the_whole_group_ends_the_run_in_order(forks: Forks, tmp_path, number, moment):
    """As Ctrl-C and the closing of a terminal send it. The images in progress are finished, and the next run does the rest."""
    fill_album(tmp_path / "imgs", 150, largest=200)
    out, log = tmp_path / "out", tmp_path / "log"
    command = ["run", tmp_path / "imgs", *TINY, "--batch-size", 4, "--workers", 3]
    run = forks.start([*command, "-o", out], log)
    assert wait_for(lambda: os.getpgid(run.pid) == run.pid)
    assert wait_for(lambda: len(workers_below(run.pid)) == 3)
    workers = workers_below(run.pid)
    assert wait_for(lambda: listens(run))
    if moment == "images are recorded":
        assert wait_for(lambda: rows_written(out) >= 8)
    os.killpg(run.pid, number)
    code = run.wait(30)
    assert survivors(workers) == []
    assert "Traceback" not in log.read_text()
    if number == signal.SIGHUP:
        assert code == -signal.SIGHUP, "nobody is there any more to read the end"
    else:
        assert code == 128 + number, log.read_text()
    if moment == "images are recorded":
        assert violations_of_always(out) == []
        assert 8 <= rows_written(out) < 150
    assert forks.start([*command, "-o", out], log).wait(120) == 1
    assert forks.start([*command, "-o", tmp_path / "whole", "--workers", 0], log).wait(120) == 1
    assert differences(out, tmp_path / "whole") == []


STRIKES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)


@dataclass
class Struck:
    """A run whose workers were struck. ``strikes``: how often."""

    code: int
    strikes: int
    said: str


def struck(forks: Forks, images: Path, out: Path, strikes: int, seed: int, pause: tuple[float, float] = (0.1, 0.5)) -> Struck:
    """A run whose workers are killed, crash or are stopped again and again, each at a moment drawn at random."""
    draw, done, log = random.Random(seed), 0, out.parent / "log-struck"
    hasty = "import camcli.pipeline.pool as pool; pool.LONGEST_TASK, pool._LONGEST_START = 1.5, 5.0"
    command = ["run", images, "-o", out, *TINY, "--batch-size", 4, "--workers", 2, "--save-maps"]
    run = forks.start(command, log, prelude=hasty)
    while run.poll() is None:
        time.sleep(draw.uniform(*pause))
        workers = [pid for pid in workers_below(run.pid) if lives(pid)]
        if workers and done < strikes and rows_written(out):  # workers that never get ready are another matter
            try:
                os.kill(draw.choice(workers), draw.choice(STRIKES))
                done += 1
            except ProcessLookupError:
                continue
    return Struck(run.wait(0), done, log.read_text())


def violations_of_strikes(ended: Struck, out: Path, whole: Path) -> list[str]:
    """What is wrong after a run whose workers were struck: anything that differs from a run that nothing disturbed."""
    if ended.code:
        return [f"exit code {ended.code}: {ended.said}"]
    found = [f"blamed: {row}" for row in failures_of(out)] + violations_of_always(out)
    ours, theirs = contents_of(out), contents_of(whole)
    return found + [f"another file: {name}" for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


@linux
def test_workers_that_die_and_stop_at_random_cost_nothing(forks: Forks, tmp_path):
    images = tmp_path / "imgs"
    fill_with_copies(images, 150, contents=40)
    for k in range(0, 150, 5):
        (images / "000" / f"{k:06d}.jpg").write_bytes(noise_file(k, (900, 700)))  # these take longer
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = ["run", images, "-o", whole, *TINY, "--batch-size", 4, "--save-maps"]
    assert forks.start(command, tmp_path / "log").wait(120) == 0
    total = 0
    for seed in range(12):
        shutil.rmtree(out, ignore_errors=True)
        ended = struck(forks, images, out, 12 - total, seed)
        total += ended.strikes
        assert violations_of_strikes(ended, out, whole) == []
        if total >= 12:
            break
    assert total >= 12, "the workers were hardly struck"


SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))"

WITH_SPACE_FOR_INPUTS = """
import camcli.pipeline.pool as pool, resource
begin = pool.Pool.begin
def limited(*arguments):
    begin(*arguments)
    for pid in arguments[0].pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
pool.Pool.begin = limited
"""
"""As SMALL_FILES, but not for the shared memory: so workers meet the limit."""


@linux
@pytest.mark.parametrize("fault", [SMALL_FILES, WITH_SPACE_FOR_INPUTS, ORDINARY_USER], ids=["small files", "in workers", "rights"])
def test_an_output_folder_that_cannot_be_written_to_ends_the_run_with_the_reason(forks: Forks, tmp_path, fault):
    """Met by a worker: the message and the exit code are those of a run without workers, and the next run completes the folder."""
    images, log = tmp_path / "imgs", tmp_path / "log"
    images.mkdir()
    for k in range(24):
        (images / f"{k:03d}.jpg").write_bytes(noise_file(k, (60, 40) if k < 12 else (300, 200)))
    said = []
    for workers in (0, 2):
        out = tmp_path / f"out-{workers}"
        command = ["run", images, "-o", out, *TINY, "--batch-size", 4]
        assert forks.start([*command, "--limit", 3], log).wait(60) == 0
        before = {name: data for name, data in contents_of(out).items() if name.startswith("overlays")}
        if fault == ORDINARY_USER:
            (out / "overlays").chmod(0o555)
        try:
            code = forks.start([*command, "--workers", workers], log, prelude=fault).wait(60)
        finally:
            (out / "overlays").chmod(0o755)
        if code == RIGHTS_KEPT:
            pytest.skip("root may not give up its rights here")
        assert code == 3, log.read_text()
        assert "Traceback" not in log.read_text()
        [error] = [line for line in log.read_text().splitlines() if "error: " in line]
        said.append(re.sub(r"\d+-\d+", "NUMBER", error.replace(str(out), "OUT").split("overlays/")[0]))
        after = contents_of(out)
        assert {name: after.get(name) for name in before} == before
        assert violations_of_always(out) == []
        assert forks.start(command, log).wait(60) == 0
        assert forks.start([*command, "--overwrite", "-o", tmp_path / "whole"], log).wait(60) == 0
        assert differences(out, tmp_path / "whole") == []
    assert said[0] == said[1]


def children() -> list[int]:
    return workers_below(os.getpid())


def descriptors() -> set[str]:
    """What this process has open, but for what finding it out opens."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            continue
    return found


def python_run(images: Path, out: Path, listener: object = None, **options: object) -> object:
    return camcli.run(
        [images], output=str(out), model="tests.networks:brightness", layer=("cells",), class_=("bright",), batch_size=4,
        listener=listener, **{"workers": 2, **options},
    )  # fmt: skip


class Breaking(SilentRunListener):
    """Raises ``error`` when the third image is explained."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error, self.left = error, 3

    def explained(self, done: object) -> None:
        self.left -= 1
        if not self.left:
            raise self.error


@linux
def test_a_run_in_python_leaves_no_process_and_no_descriptor(tmp_path):
    """Nor after an exception of the listener, nor after Ctrl-C; one run after the other, and in a thread."""
    images = tmp_path / "imgs"
    fill_with_copies(images, 40, contents=10)
    python_run(images, tmp_path / "first")  # what libraries open once
    gc.collect()  # what other tests have left
    limits = "/proc/self/limits"
    before, limit = descriptors(), Path(limits).read_text()
    python_run(images, tmp_path / "second")
    python_run(images, tmp_path / "no-workers", workers=0)
    gc.collect()
    assert (descriptors(), children()) == (before, [])
    for error in (ValueError("of the listener"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            python_run(images, tmp_path / f"broken-{type(error).__name__}", Breaking(error))
        assert children() == []
    del error
    gc.collect()  # the traceback held the frames of the run
    assert descriptors() == before
    thread = threading.Thread(target=python_run, args=(images, tmp_path / "third"))
    thread.start()
    thread.join(60)
    assert (descriptors(), children()) == (before, [])
    assert Path(limits).read_text() == limit, "a limit of this process was changed for good"
    assert contents_of(tmp_path / "second") == contents_of(tmp_path / "first") == contents_of(tmp_path / "third")


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    """Workers do not import the main module, unlike those of multiprocessing."""
    fill_with_copies(tmp_path / "imgs", 10, contents=10)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import camcli
            print("once", flush=True)
            camcli.run([{str(tmp_path / "imgs")!r}], output={str(tmp_path / "out")!r}, model="tests.networks:brightness",
                       layer=("cells",), class_=("bright",), workers=2)
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "once\n"
    assert len(rows_of(tmp_path / "out")) == 10


PREPROCESS = Preprocess("squash", (32, 32), (32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def settings_of(out: Path | None, allowance: int = 1 << 30, slots: int = 4) -> Settings:
    inputs = InputSettings(PREPROCESS, "model", 178_000_000)
    if out is None:
        return Settings(inputs, None, allowance, slots)
    (out / ".camcli" / "scratch").mkdir(parents=True, exist_ok=True)
    names = Names(("bright", "dark"), (("cells", "gradcam"),))
    return Settings(inputs, PaintSettings(RunConfig(), names, Root(str(out)), labelled=False), allowance, slots)


def findings_of_one():
    logits = np.array([[1.0, -1.0]])
    maps = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    return batch_findings(logits, np.array([[0.9, 0.1]]), np.array([[0]]), np.array([[0, 1]]), [maps])


def tasks_of(settings: Settings) -> Tasks:
    return Tasks(settings, np.zeros(settings.slots * settings.inputs.input_bytes, np.uint8))


def paint_task(read: PreparedImage, stem: str = "x") -> PaintTask:
    return PaintTask(read.number, read.source, read.stamp, (stem,), True, None, findings_of_one(), 0)


def test_a_file_that_changed_before_another_worker_paints_it_fails_until_the_next_run(tmp_path):
    """The worker that had read it died; maps of one picture are never painted on another."""
    path = tmp_path / "x.jpg"
    path.write_bytes(noise_file(1, (40, 30)))
    source, settings = Source(str(tmp_path), "x.jpg"), settings_of(tmp_path / "out")
    first = tasks_of(settings)
    first.add([ReadTask(0, source, 0)])
    read = first.do_next()
    assert isinstance(read, PreparedImage)
    other = tasks_of(settings)
    other.add([paint_task(read)])
    again = other.do_next()
    first.add([paint_task(read)])
    same = first.do_next()
    assert isinstance(again, Painted)
    assert again == same, "unchanged, it is painted as by the worker that had read it"
    path.write_bytes(noise_file(2, (40, 30)))
    other.add([paint_task(read)])
    failed = other.do_next()
    assert isinstance(failed, Failed)
    assert (failed.failure.image, failed.failure.stage) == ("x.jpg", "read")
    assert failed.failure.stamp == read.stamp, "a stamp that the file no longer has makes the next run try again"
    assert "changed" in failed.failure.reason
    path.unlink()
    other.add([paint_task(read)])
    gone = other.do_next()
    assert isinstance(gone, Failed)
    assert gone.failure.stage == "read"


def test_a_worker_asks_for_what_exceeds_its_allowance_and_then_takes_it_first(tmp_path):
    for name, size in (("large.jpg", (400, 300)), ("small.jpg", (20, 20))):
        (tmp_path / name).write_bytes(noise_file(1, size))
    tasks = tasks_of(settings_of(tmp_path / "out", allowance=100_000))
    sources = [Source(str(tmp_path), name) for name in ("large.jpg", "small.jpg")]
    tasks.add([ReadTask(0, sources[0], 0), ReadTask(1, sources[1], 1)])
    asking = tasks.do_next()
    assert isinstance(asking, Asking)
    assert asking.number == 0
    assert asking.size >= 7 * 400 * 300
    tasks.admit(0, asking.size)
    large = tasks.do_next()
    assert isinstance(large, PreparedImage)
    assert large.number == 0
    tasks.forget([0])
    small = tasks.do_next()
    assert isinstance(small, PreparedImage), "without the large one it is within the allowance"
    assert small.number == 1
    assert not tasks
    tasks.add([ReadTask(2, sources[0], 2)])
    assert isinstance(tasks.do_next(), Asking)
    tasks.forget([2])
    tasks.admit(2, asking.size)
    assert not tasks, "what was forgotten is not read"


def chunks(data: bytes, draw: random.Random) -> Iterator[bytes]:
    while data:
        size = draw.choice((1, 7, 8, 9, 1000, 70_000, 3 * MB))
        yield data[:size]
        data = data[size:]


def test_messages_arrive_as_they_were_sent_in_pieces_of_any_size():
    draw = random.Random(1)
    sent = [b"", b"x", {"a": [1, None]}, draw.randbytes(10 * MB), "", draw.randbytes(100_000), np.arange(5), b"last"]
    unpacker, found = Unpacker(), []
    for piece in chunks(b"".join(map(packed, sent)), draw):
        found += unpacker.feed(piece)
    assert len(found) == len(sent)
    assert all(np.array_equal(one, other) for one, other in zip(found, sent, strict=True))


def channel_to(reader: threading.Thread | None = None) -> tuple[Channel, int, int]:
    """A channel, and the ends of the worker: one to read from and one to write to."""
    worker_reads, sending = os.pipe()
    receiving, worker_writes = os.pipe()
    return Channel(sending, receiving), worker_reads, worker_writes


def test_a_channel_never_waits_for_a_worker_that_does_not_read():
    draw = random.Random(2)
    ours, worker_reads, worker_writes = channel_to()
    sent = [draw.randbytes(size) for size in (0, 10 * MB, 3, 300_000)]
    begun = time.monotonic()
    for message in sent:
        ours.send(message)
    assert time.monotonic() - begun < 1
    assert ours.is_full
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.extend(messages_from(worker_reads)))
    reader.start()
    assert wait_for(lambda: ours.flush() or not ours.is_full)
    os.close(ours.sending)
    reader.join(30)
    assert found == sent
    replies = [draw.randbytes(size) for size in (5 * MB, 0, 1000)]
    writer = threading.Thread(target=lambda: [channel.send(worker_writes, one) for one in replies] and os.close(worker_writes))
    writer.start()
    heard: list[bytes] = []
    assert wait_for(lambda: heard.extend(ours.receive()) or ours.ended)
    writer.join(30)
    assert heard == replies
    os.close(worker_reads)
    os.close(ours.receiving)


def test_what_is_sent_to_a_dead_worker_is_dropped_and_its_last_messages_arrive():
    ours, worker_reads, worker_writes = channel_to()
    channel.send(worker_writes, "last words")
    os.write(worker_writes, packed("cut off")[:-3])
    os.close(worker_reads)
    os.close(worker_writes)
    ours.send("too late")
    assert not ours.is_full
    heard: list[str] = []
    assert wait_for(lambda: heard.extend(ours.receive()) or ours.ended, 5)
    assert heard == ["last words"]
    os.close(ours.sending)
    os.close(ours.receiving)


@pytest.fixture
def scarce(monkeypatch) -> None:
    """1,000 MB are free, whatever is taken."""
    monkeypatch.setattr(memory, "available_memory", lambda: 1000 * MB)
    monkeypatch.setattr(memory, "_PATIENCE", 1)


@pytest.mark.usefixtures("scarce")
def test_the_images_in_progress_take_no_more_than_their_share_together():
    shared = Memory(4)
    assert shared.allowance == 1000 * MB // 4 // 4, "a quarter of the free memory for all workers"
    assert shared.has_room(100 * MB, alone=False)
    shared.grant(1, 100 * MB)
    shared.grant(2, 100 * MB)
    assert not shared.has_room(100 * MB, alone=False)
    assert shared.has_room(50 * MB, alone=False)
    shared.release(1)
    shared.release(1)
    shared.release(7)
    assert shared.has_room(100 * MB, alone=False)
    shared.release(2)
    assert not shared.has_room(300 * MB, alone=False)
    assert shared.has_room(300 * MB, alone=True), "an image that is alone may take what is free"
    assert shared.has_room(936 * MB, alone=True)
    assert not shared.has_room(937 * MB, alone=True), "a margin stays free"


def test_an_image_is_refused_only_when_its_memory_stays_away(monkeypatch):
    """What an earlier image has just given back may count as free a moment later."""
    free = iter([100 * MB] * 4)
    monkeypatch.setattr(memory, "available_memory", lambda: next(free, 1000 * MB))
    assert Memory(1).has_room(500 * MB, alone=True)


def tiny_memory(budget: int) -> str:
    """A prelude with which all images together may take ``budget`` bytes; larger ones have to be alone."""
    return f"import camcli.pipeline.memory as m; m._ENOUGH = m._ENOUGH_EACH = {budget}; m._PATIENCE = 1"


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("budget", [1, 100_000, 2_000_000])
def test_a_run_with_little_memory_reads_again_what_it_dropped_and_changes_nothing(forks: Forks, tmp_path, workers, budget):
    """Large images among small ones: in the first place, behind images of the same batch, and several in a row."""
    images, log = tmp_path / "imgs", tmp_path / "log"
    images.mkdir()
    for k in range(30):
        (images / f"{k:02d}.jpg").write_bytes(noise_file(k, (900, 700) if k in (0, 5, 6, 7, 17, 29) else (40, 30)))
    command = ["run", images, *TINY, "--save-maps", "--batch-size", 4]
    assert forks.start([*command, "-o", tmp_path / "whole"], log).wait(60) == 0
    run = forks.start([*command, "-o", tmp_path / "out", "--workers", workers], log, prelude=tiny_memory(budget))
    try:
        assert run.wait(60) == 0, log.read_text()
    finally:
        run.send_signal(signal.SIGKILL)
    tables = ("predictions.csv", "failures.csv", "run.json", "journal.jsonl", "lock")
    assert differences(tmp_path / "out", tmp_path / "whole") == []
    assert failures_of(tmp_path / "out") == []
    assert contents_of(tmp_path / "out", tables).keys() == contents_of(tmp_path / "whole", tables).keys()


@pytest.fixture
def local(monkeypatch, tmp_path) -> Iterator[Pool]:
    """A pool without processes whose images all have to ask for memory."""
    monkeypatch.setattr(memory, "_ENOUGH", 1)
    monkeypatch.setattr(memory, "_ENOUGH_EACH", 1)
    monkeypatch.setattr(memory, "_PATIENCE", 1)
    with Pool(0) as found:
        found.begin(settings_of(tmp_path / "out"), StageTimer())
        yield found


def results_of(local: Pool) -> list[object]:
    """All results that come, with room made where it is needed."""
    found: list[object] = []
    while not local.is_idle:
        if local.is_stuck:
            local.make_room()
        found += local.wait(0.0)
    return found


def test_what_is_explained_is_painted_although_the_run_stops_while_it_waits_for_memory(local: Pool, tmp_path):
    """Only reading is cancelled. Without this a run that is told to stop would wait for ever."""
    (tmp_path / "x.jpg").write_bytes(noise_file(1, (40, 30)))
    source = Source(str(tmp_path), "x.jpg")
    local.read([ReadTask(0, source, 0)])
    [read] = results_of(local)
    assert isinstance(read, PreparedImage)
    local.forget([0])
    local.paint([paint_task(read)])
    local.read([ReadTask(1, source, 1), ReadTask(2, source, 2)])
    while not local.is_stuck:
        assert local.wait(0.0) == []
    local.cancel_reading()
    [painted] = results_of(local)
    assert isinstance(painted, Painted)
    assert painted.number == 0


def test_to_make_room_later_images_are_not_kept_and_are_read_again_when_they_are_painted(local: Pool, tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.jpg").write_bytes(noise_file(k, (40, 30)))
    tasks = [ReadTask(k, Source(str(tmp_path), f"{k}.jpg"), k) for k in range(3)]
    local.read(tasks[1:])
    later = results_of(local)
    local.read(tasks[:1])
    first = results_of(local)
    read = sorted([*first, *later], key=lambda result: result.number)
    assert [type(result) for result in read] == [PreparedImage] * 3
    assert local._workers[0]._tasks._reader.take(1) is None, "a later image was kept although an earlier one had no memory"
    local.paint([paint_task(result, f"{result.number}") for result in read])
    painted = results_of(local)
    assert sorted(result.number for result in painted) == [0, 1, 2]
    assert all(isinstance(result, Painted) for result in painted)
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 3
