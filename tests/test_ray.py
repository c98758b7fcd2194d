"""Runs on a Ray cluster: they equal the run of one machine, whatever dies, and they end by themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.distributed import shards
from camcli.distributed.cluster import Workers, fitting_workers
from camcli.distributed.coordinator import GIVE_UP, GO, MOST_DEATHS, STOP, Coordinator
from camcli.distributed.plan import Plan, sample_of, what_is_missing
from camcli.errors import InputError, RunError
from camcli.images.discover import Search, discover_sources
from camcli.layout import CLUSTER
from camcli.output.root import Root
from camcli.pipeline.inputs import Inputs
from camcli.pipeline.invocation import Invocation
from camcli.pipeline.job import prepare_job
from camcli.pipeline.runner import Prepared, run_images
from camcli.pipeline.summary import SilentRunListener
from tests.deadly import deadly_file, python_path
from tests.folders import COMMAND, TINY, contents_of, failures_of, rows_of, state_of
from tests.pictures import encoded, photo, write_photos

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'camcli[ray]'")

PATIENCE = 540
"""Seconds for one run on a cluster: ten to twenty on two cores, three minutes on a quarter of one."""

uses_cluster = pytest.mark.timeout(4 * PATIENCE)

SLOW = ("--model", "tests.networks:slow_brightness", "--layer", "cells", "--class", "bright", "--batch-size", 1)


class TwoNodes:
    """A cluster on loopback: two nodes with one core each. ``mark``: a variable in the environment of all its processes.

    The cluster is at home in a process of its own (tests/two_nodes.py): its threads do not meet the forks of other tests.
    """

    def __init__(self, folder):
        self.mark = f"CAMCLI_TEST_CLUSTER={folder}"
        name, _, value = self.mark.partition("=")
        self.environment = {**os.environ, name: value, "PYTHONPATH": python_path(folder), "RAY_USAGE_STATS_ENABLED": "0"}
        # Ray kills a process that takes a minute to start, and starts it again: on a crowded machine for ever
        self.environment["RAY_worker_register_timeout_seconds"] = str(PATIENCE)
        self._log = folder / "log"
        with open(self._log, "wb") as log:
            self._home = subprocess.Popen(
                [sys.executable, "-m", "tests.two_nodes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0,
                env=self.environment, cwd=Path(__file__).parent.parent,
            )  # fmt: skip
        try:
            self.address = self._answer()
        except BaseException:
            self.end()
            raise

    def _answer(self):
        """The next line that the cluster's process writes."""
        ready = select.select([self._home.stdout], [], [], PATIENCE)[0]
        line = self._home.stdout.readline().decode().strip() if ready else ""
        assert line, self._log.read_text(errors="replace")
        return line

    def start(self, inputs, out, *options, **more):
        """The command over ``inputs``, in a process of its own."""
        words = (
            "run", inputs, "-o", out, "--engine", "ray", "--address", self.address, "--gpus-per-worker", 0, *options,
        )  # fmt: skip
        return subprocess.Popen(
            [*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
            cwd=Path(__file__).parent.parent, **more,
        )  # fmt: skip

    def run(self, *arguments, **more):
        """Exit code and messages of the command."""
        process = self.start(*arguments, **more)
        return ended(process)

    def workers(self):
        """The process numbers of the actors."""
        return [number for number, title in self._processes() if title.startswith(b"ray::MapWorker")]

    def _processes(self):
        """The number and the title of each process of the cluster."""
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (place / "environ").read_bytes():
                    yield int(place.name), (place / "cmdline").read_bytes()

    def lose_node(self):
        """The second node is gone at once."""
        self._home.stdin.write(b"lose\n")
        assert self._answer() == "lost"

    def end(self):
        """End all processes of the cluster, those that hang included."""
        self._home.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._home.wait(60)
        for number, _ in list(self._processes()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._home.wait(60)
        self._home.stdout.close()


def ended(process):
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate(timeout=10)[1]) from None
    return process.returncode, said


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    nodes = TwoNodes(tmp_path_factory.mktemp("cluster"))
    yield nodes
    nodes.end()


@pytest.fixture
def many(tmp_path):
    """A folder of 24 images in two folders, and names that are not UTF-8 or not ASCII."""
    imgs = tmp_path / "many"
    write_photos(imgs, [f"{'sub' if k % 3 else '.'}/{k:02}.jpg" for k in range(20)])
    write_photos(imgs, [b"\xff.png", "é ü.png", b"a\nb.png", b"\xf0\x9f\x90\x88.png"], 30)
    return imgs


def merged(folder):
    """Tables, overlays and maps of the merged run, without the shards beside it."""
    return {name: data for name, data in contents_of(folder).items() if not name.startswith("shard-")}


def local(environment, inputs, out, *options):
    """The run of one machine, in the same environment."""
    done = subprocess.run(
        [*COMMAND, *map(str, ("run", inputs, "-o", out, *options))], env=environment, capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent.parent, timeout=PATIENCE,
    )  # fmt: skip
    return done.returncode


def lines_of_journals(out):
    return sum(file.read_bytes().count(b"\n") for file in out.glob("shard-*/.camcli/journal.jsonl"))


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


@needs_ray
@uses_cluster
def test_a_run_on_a_cluster_equals_the_run_of_one_machine(cluster, many, tmp_path):
    """An actor is killed and a node is lost: the run ends by itself and equals that of one machine.

    Files that crash their decoder or are no images are failures, and nothing else is lost. Another run does nothing.
    """
    out, whole = tmp_path / "out", tmp_path / "whole"
    (many / "deadly.jpg").write_bytes(deadly_file("segfault"))
    (many / "broken.jpg").write_text("text")
    options = (*SLOW, "--save-maps", "--images-per-shard", 6)
    process = cluster.start(many, out, *options)
    wait_for(lambda: lines_of_journals(out) >= 4, process)
    os.kill(cluster.workers()[0], signal.SIGKILL)
    more = lines_of_journals(out)
    wait_for(lambda: lines_of_journals(out) >= more + 1, process)
    cluster.lose_node()
    code, said = ended(process)
    assert (code, "5 shards" in said, re.search(r"(?i)ray(?! cluster| status)", said)) == (1, True, None), said
    assert {row["image"]: row["stage"] for row in failures_of(out)} == {"deadly.jpg": "crashed", "broken.jpg": "decode"}
    assert local(cluster.environment, many, whole, *SLOW, "--save-maps") == 1
    assert merged(out) == contents_of(whole)
    assert len(list(out.glob("shard-*-of-5"))) == 5
    before = state_of(out)
    code, said = cluster.run(many, out, *options, "--images-per-shard", 2)
    assert (code, "Nothing to do: 24 images" in said) == (0, True), said
    assert state_of(out) == before


@needs_ray
@uses_cluster
@pytest.mark.soak
def test_an_interrupted_run_says_how_to_go_on_and_the_same_command_does(cluster, many, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = (*SLOW, "--images-per-shard", 4)
    process = cluster.start(many, out, *options)
    wait_for(lambda: lines_of_journals(out) >= 4, process)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert (code, "run the same command again to resume" in said) == (130, True), said
    kept = lines_of_journals(out)
    assert 4 <= kept < 24 + 6
    assert not (out / "predictions.csv").exists()
    assert not (out / CLUSTER).exists()
    assert cluster.run(many, out, *options)[0] == 0
    assert local(cluster.environment, many, whole, *SLOW) == 0
    assert merged(out) == contents_of(whole)


@needs_ray
@uses_cluster
@pytest.mark.soak
def test_a_shard_that_kills_its_actors_again_and_again_is_given_up(cluster, many, tmp_path):
    """All other shards are finished, the message names the one, and without its image the same command finishes."""
    red = many / "red.png"
    red.write_bytes(encoded(PillowImage.new("RGB", (300, 200), (255, 0, 0)), "PNG"))
    out = tmp_path / "out"
    options = ("--model", "tests.networks:kills_at_red", *TINY[2:], "--images-per-shard", 5)
    code, said = cluster.run(many, out, *options)
    wrong = f"shard-{shards.shard_of('red.png', 5)}-of-5"
    assert (code, "1 shard of 5 could not be finished" in said, wrong in said) == (3, True, True), said
    assert {part.name for part in out.glob("shard-*") if (part / "run.json").exists()} == {f"shard-{k}-of-5" for k in range(5)} - {
        wrong
    }
    red.unlink()
    assert cluster.run(many, out, *options)[0] == 0
    assert len(rows_of(out)) == 24


@needs_ray
@uses_cluster
def test_a_cluster_that_cannot_do_it_is_refused_in_seconds(cluster, many, tmp_path):
    """Without a GPU, and with inputs that the nodes do not see: the folder is as before, and nobody waits for what never comes."""
    code, said = cluster.run(many, tmp_path / "out", *TINY, "--gpus-per-worker", 1)
    assert (code, "has a GPU" in said, "--gpus-per-worker 0" in said) == (3, True, True), said
    handle = os.open(many, os.O_RDONLY)
    try:
        code, said = cluster.run(f"/proc/self/fd/{handle}", tmp_path / "out", *TINY, pass_fds=(handle,))
    finally:
        os.close(handle)
    assert (code, "does not see the image" in said) == (3, True), said
    assert not (tmp_path / "out").exists()


@needs_ray
def test_an_address_where_nobody_answers_is_refused_in_seconds(camcli, many, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        began = time.monotonic()
        refused = camcli("run", many, "-o", tmp_path / "out", *TINY, "--engine", "ray", "--address", f"127.0.0.1:{port}")
    assert (refused.code, "no Ray cluster answers" in refused.err) == (3, True), refused.err
    assert time.monotonic() - began < 60
    assert not (tmp_path / "out").exists()


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1", "ray://127.0.0.1:10001", ":6379", "host:port", "host:0"])
def test_an_address_of_another_form_is_refused(camcli, many, tmp_path, address):
    refused = camcli("run", many, "-o", tmp_path / "out", *TINY, "--engine", "ray", f"--address={address}")
    assert (refused.code, "HOST:PORT" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "0/2"), "--shard and --engine ray"),
        (("--csv", "-"), "rows to stdout"),
        (("--format", "jsonl"), "rows to stdout"),
        (("--device", "cuda:1"), "assigns the GPUs"),
        (("--device", "mps"), "assigns the GPUs"),
        (("--device", "cpu", "--gpus-per-worker", "1"), "exclude each other"),
        (("--device", "cuda", "--gpus-per-worker", "0"), "more than 0"),
        (("--precision", "auto"), "name one"),
        (("--gpus-per-worker", "2"), "between"),
    ],
)
def test_options_that_make_no_sense_on_a_cluster_are_refused(camcli, many, tmp_path, options, said):
    refused = camcli("run", many, "-o", tmp_path / "out", *TINY, "--engine", "ray", *options)
    assert (refused.code, said in refused.err) == (2, True), refused.err
    assert not (tmp_path / "out").exists()


def test_paths_on_stdin_are_refused_before_any_is_read(camcli, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    refused = camcli("run", "-", "-o", tmp_path / "out", *TINY, "--engine", "ray")
    assert (refused.code, "stdin" in refused.err) == (2, True)


def test_without_ray_the_command_says_how_to_install_it(camcli, many, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = camcli("run", many, "-o", tmp_path / "out", *TINY, "--engine", "ray")
    assert (refused.code, "pip install 'camcli[ray]'" in refused.err) == (2, True)


def test_options_for_a_cluster_have_no_effect_without_one(camcli, many, tmp_path):
    done = camcli("run", many, "-o", tmp_path / "out", *TINY, "--images-per-shard", 9)
    assert (done.code, "--images-per-shard has no effect without --engine ray" in done.err) == (0, True)


def test_a_plain_run_imports_no_ray():
    names = "import sys, camcli.cli.app, camcli.distributed.run, camcli.pipeline.runner"
    code = f"{names}; sys.exit(bool({{'ray', 'torch', 'pyarrow'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize(
    ("nodes", "gpus", "cpus", "expected"),
    [
        ([(16, 1.0)], 1.0, None, Workers(1, 16, 1.0)),
        ([(16, 2.0), (64, 8.0), (4, 0.0)], 1.0, None, Workers(10, 8, 1.0)),
        ([(8, 1.0)], 0.25, None, Workers(4, 2, 0.25)),
        ([(8, 1.0)], 1.0, 4, Workers(1, 4, 1.0)),
        ([(8, 4.0)], 1.0, 4, Workers(2, 4, 1.0)),
        ([(2, 4.0)], 1.0, None, Workers(2, 1, 1.0)),
        ([(8, 0.0), (6, 0.0)], 0.0, None, Workers(3, 4, 0.0)),
        ([(8, 0.0), (2, 0.0), (0, 0.0)], 0.0, None, Workers(5, 2, 0.0)),
        ([(8, 0.0)], 0.0, 8, Workers(1, 8, 0.0)),
    ],
)
def test_workers_fill_the_nodes(nodes, gpus, cpus, expected):
    assert fitting_workers(nodes, gpus, cpus) == expected


@pytest.mark.parametrize(
    ("nodes", "gpus", "cpus", "said"),
    [([(8, 0.0)], 1.0, None, "has a GPU"), ([(8, 0.0)], 0.0, 9, "9 CPU cores"), ([], 0.0, None, "0 nodes")],
)
def test_a_cluster_without_room_for_a_worker_is_refused(nodes, gpus, cpus, said):
    with pytest.raises(RunError, match=said):
        fitting_workers(nodes, gpus, cpus)


def test_deaths_without_progress_give_a_shard_up_and_others_do_not():
    state = Coordinator()
    answers = [state.begin(0, recorded) for recorded in (5, 5, 6, 6, 6)]
    assert [answer.answer for answer in answers] == [GO] * 5
    assert [answer.is_first for answer in answers] == [True, False, False, False, False]
    assert MOST_DEATHS == 3
    state.dying(0, "RuntimeError: CUDA error")
    last = state.begin(0, 6)
    assert (last.answer, last.reason) == (GIVE_UP, "RuntimeError: CUDA error")
    assert [state.begin(1, recorded).answer for recorded in range(9)] == [GO] * 9


def test_a_run_that_is_stopped_waits_for_the_shards_in_progress_alone(monkeypatch):
    state, now = Coordinator(), [0.0]
    monkeypatch.setattr("camcli.distributed.coordinator.time.monotonic", lambda: now[0])
    assert not state.has_begun()
    assert [state.begin(shard, 0).answer for shard in (1, 2, 3)] == [GO] * 3
    assert state.has_begun()
    assert state.report(1, 7, 2, False) is False
    assert state.progress() == {1: (7, 2)}
    assert state.stop() == 3
    assert state.begin(4, 0).answer == STOP
    assert state.report(1, 6, 2, True) is True
    assert state.begin(2, 0).answer == STOP  # its worker had died
    assert state.stop() == 1
    now[0] = 61.0  # that of shard 3 is silent
    assert state.stop() == 0


def test_the_number_of_shards_is_that_of_the_folder_once_it_has_begun(tmp_path):
    root = Root(str(tmp_path))
    assert [shards.count_shards(root, images, 100) for images in (0, 1, 100, 101, 10**12)] == [1, 1, 1, 2, 999_999]
    (tmp_path / "shard-2-of-7").mkdir()
    (tmp_path / "shard-of-nothing").mkdir()
    assert shards.count_shards(root, 101, 100) == 7
    (tmp_path / "shard-2-of-8").mkdir()
    with pytest.raises(InputError, match="several runs"):
        shards.count_shards(root, 101, 100)


def test_each_image_is_in_the_shard_of_its_name(many):
    sources = discover_sources([str(many)], Search("out"))
    labels = {source.image: "x" for source in sources[:5]}
    found = shards.divide(sources, 4, labels)
    assert sorted((s for shard in found for s in shard.sources), key=sources.index) == sources
    for shard in found:
        assert [shards.shard_of(source.image, 4) for source in shard.sources] == [shard.index] * len(shard.sources)
        assert shard.labels == {source.image: "x" for source in shard.sources if source.image in labels}


def tiny_config(out, **changes):
    return RunConfig(
        model="tests.networks:brightness", layer=("cells",), class_=("bright",), output=str(out), workers=0, device="cpu", **changes
    )


@pytest.fixture
def plan(many, tmp_path):
    weights = tmp_path / "labels.txt"
    weights.write_text("bright\ndark\n")
    config = tiny_config(tmp_path / "out", labels=str(weights))
    sources = discover_sources([str(many)], Search(config.output))
    (tmp_path / "out" / ".camcli").mkdir(parents=True)
    (tmp_path / "out" / CLUSTER).write_text("mark")
    return Plan(config, run_settings(config, str(many)), os.getcwd(), "mark", len(sources), sample_of(sources))


def test_a_node_that_sees_everything_lacks_nothing(plan):
    assert [what_is_missing(plan, is_start=is_start) for is_start in (True, False)] == ["", ""]


MISSING = {
    "install the same version": lambda plan, many: dataclasses.replace(plan, version="0.0.1"),
    "does not see the image": lambda plan, many: shutil.rmtree(many),
    "sees another file": lambda plan, many: dataclasses.replace(plan, sample=dataclasses.replace(plan.sample, size=3)),
    "does not see the output folder": lambda plan, many: dataclasses.replace(plan, mark="another"),
    "cannot enter": lambda plan, many: dataclasses.replace(plan, folder="/nonexistent"),
    "another one, for --labels": lambda plan, many: Path(plan.config.labels).write_text("bright\nother\n"),
    "lacks a file": lambda plan, many: [os.unlink(plan.config.labels), os.mkdir(plan.config.labels)],
}


@pytest.mark.parametrize("said", MISSING)
def test_a_node_that_lacks_something_says_what(plan, many, said):
    changed = MISSING[said](plan, many)
    assert said in what_is_missing(changed if isinstance(changed, Plan) else plan, is_start=True)


def test_a_prepared_run_of_a_shard_is_an_ordinary_run_of_the_shard(many, tmp_path):
    """One model for all shards, labels handed over: every file is the one that camcli run --shard writes."""
    changes = {"class_from": "folder", "topk": 1, "labels": str(tmp_path / "names.txt")}
    (tmp_path / "names.txt").write_text("sub\nmany\n")
    config = dataclasses.replace(tiny_config(tmp_path / "out", **changes), class_=())
    sources = discover_sources([str(many)], Search(config.output))
    settings = run_settings(config, str(many))
    job = prepare_job(dataclasses.replace(config, class_from=None))
    labels = {source.image: os.path.basename(os.path.dirname(source.path)) for source in sources}
    stop = contextlib.nullcontext(threading.Event())
    invocation = Invocation("test", [str(many)])
    for shard in shards.divide(sources, 3, labels):
        part = shards.shard_config(config, shard)
        prepared = Prepared(lambda: job, settings, shard.labels)
        inputs = Inputs(str(many), shard.sources)
        run_images(part, inputs, SilentRunListener(), stop, invocation=invocation, prepared=prepared)
        usual = dataclasses.replace(part, output=str(tmp_path / "usual"))
        run_images(usual, inputs, SilentRunListener(), stop, invocation=invocation)
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "usual")
    states = shards.check_shards(shards.divide(sources, 3, labels), config, settings)
    assert [(state.todo, state.is_done) for state in states] == [(0, True)] * 3
    changed = sources[0]
    Path(changed.path).write_bytes(encoded(photo(77), "JPEG"))
    states = shards.check_shards(shards.divide(sources, 3, labels), config, settings)
    expected = [(int(k == shards.shard_of(changed.image, 3)), k != shards.shard_of(changed.image, 3)) for k in range(3)]
    assert [(state.todo, state.is_done) for state in states] == expected
