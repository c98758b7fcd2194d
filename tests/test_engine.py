"""The engine: what it is given to do changes how fast it is, never what is written."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from camcli import resources
from camcli.config.run import RunConfig
from camcli.images.header import Header
from camcli.output.folder import OutputFolder
from camcli.pipeline import engine, memory
from camcli.pipeline.batches import Batches, ListedSources
from camcli.pipeline.engine import Engine
from camcli.pipeline.job import prepare_job
from camcli.pipeline.pool import Pool
from camcli.pipeline.reading import Reader, painted_bytes
from camcli.pipeline.stages import InputImage, explain_images, prepared_batches
from camcli.pipeline.tasks import Failed, InputSettings, PreparedImage, ReadTask
from camcli.records import Failure, Preprocess, Stamp, Success
from camcli.source import Source
from camcli.timing import STAGES, StageTimer
from tests.conftest import SAMPLES
from tests.folders import TINY, contents_of, rows_of
from tests.pictures import encoded, noise, photo


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The sample photos in one folder."""
    folder = tmp_path_factory.mktemp("samples")
    for path in sorted(SAMPLES.rglob("*")):
        if path.suffix in (".jpg", ".png"):
            shutil.copy(path, folder / path.name)
    return folder


def maps_of(out):
    return {str(path.relative_to(out / "maps")): np.load(path) for path in sorted((out / "maps").rglob("*.npy"))}


def test_results_do_not_depend_on_workers(camcli, samples, tmp_path):
    """Every byte of every file is the same."""
    found = []
    for workers in (1, 2, 5):
        out = tmp_path / str(workers)
        assert camcli("run", samples, "-o", out, "--workers", workers, "--save-maps").code == 0
        found.append(contents_of(out))
    assert len(found[0]) > 16
    assert found[1:] == [found[0]] * 2


def test_results_hardly_depend_on_batch_size_and_threads(camcli, samples, tmp_path):
    """Labels equal, scores and maps within 1e-4: the same sums in another order, no more."""
    found = {}
    for size, threads in ((16, 2), (16, 1), (1, 2), (3, 1), ("auto", 2)):
        out = tmp_path / f"{size}-{threads}"
        assert camcli("run", samples, "-o", out, "--batch-size", size, "--threads", threads, "--save-maps").code == 0
        found[size, threads] = rows_of(out), maps_of(out)
    rows, maps = found.pop((16, 2))
    for others, other_maps in found.values():
        for row, other in zip(rows, others, strict=True):
            assert (row["image"], row["class_name"], row["status"]) == (other["image"], other["class_name"], other["status"])
            assert abs(float(row["logit"]) - float(other["logit"])) < 1e-4
            assert abs(float(row["probability"]) - float(other["probability"])) < 1e-4
        for name, values in maps.items():
            assert np.abs(values - other_maps[name]).max() < 1e-4 * values.max(), name


def test_bfloat16_tells_the_same_story(camcli, samples, tmp_path):
    """Correlation with float32's maps at least 0.995, and the same best class, on every sample photo."""
    for precision in ("fp32", "bf16"):
        done = camcli("run", samples, "-o", tmp_path / precision, "--precision", precision, "--save-maps")
        assert done.code == 0
        assert ("bf16" in done.err) == (precision == "bf16")
    exact, short = (rows_of(tmp_path / precision) for precision in ("fp32", "bf16"))
    assert [row["predicted_class"] for row in exact] == [row["predicted_class"] for row in short]
    maps, others = (maps_of(tmp_path / precision) for precision in ("fp32", "bf16"))
    assert len(maps) == len(exact) >= 8
    for name, values in maps.items():
        assert np.corrcoef(values.ravel(), others[name].ravel())[0, 1] >= 0.995, name


def test_a_folder_is_not_continued_in_another_precision(camcli, samples, tmp_path):
    assert camcli("run", samples, "-o", tmp_path / "out", *TINY).code == 0
    refused = camcli("run", samples, "-o", tmp_path / "out", *TINY, "--precision", "bf16")
    assert refused.code == 2
    assert "precision" in refused.err
    again = camcli("run", samples, "-o", tmp_path / "out", *TINY, "--compile", "on", "--batch-size", 2, "--threads", 1)
    assert again.code == 0
    assert "Nothing to do" in again.err


def test_wrong_speed_options_are_refused_before_any_work(camcli, samples, tmp_path):
    for arguments, said in (
        (("--precision", "tf32", "--device", "cpu"), "NVIDIA"),
        (("--precision", "half"), "bf16"),
        (("--batch-size", "many"), "neither a whole number nor auto"),
        (("--batch-size", "0"), "between 1 and 65536"),
        (("--compile", "yes"), "auto"),
        (("--threads", "0"), "between 1 and 1024"),
    ):
        refused = camcli("run", samples, "-o", tmp_path / "out", *arguments)
        assert refused.code == 2
        assert said in " ".join(refused.err.replace("│", " ").split())
        assert not (tmp_path / "out").exists()


def test_a_preset_may_say_auto(camcli, samples, tmp_path):
    preset = tmp_path / "preset.toml"
    preset.write_text('batch-size = "auto"\n')
    assert camcli("run", samples, "-o", tmp_path / "out", *TINY, "--config", preset).code == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["batch-size"] == "auto"
    assert record["network"]["batch_size"] == 16


def test_where_the_time_went_is_recorded_and_told(camcli, samples, tmp_path):
    told = camcli("run", samples, "-o", tmp_path / "out", *TINY, "--verbose")
    seconds = json.loads((tmp_path / "out" / "run.json").read_text())["this_run"]["stages"]
    assert list(seconds) == [*STAGES, "wait for images", "wait for overlays"]
    assert all(seconds[stage] > 0 for stage in ("decode", "prepare", "network", "render"))
    for stage in ("loading", "network", "waiting for overlays", *StageTimer().meanwhile()):
        assert f"  {stage} " in told.err
    assert "waiting for" not in camcli("run", samples, "-o", tmp_path / "other", *TINY).err


def test_the_hint_names_the_stage_that_starves_the_others():
    def hint(**seconds):
        stages = StageTimer()
        for name, value in seconds.items():
            (stages._waited if name in ("images", "overlays") else stages._worked)[name] = value
        return stages.hint(10.0)

    assert hint(images=2.4, decode=9) == ""
    assert "decoding" in hint(images=5, decode=9, read=1)
    assert "faster disk" in hint(images=5, decode=1, read=9)
    assert "painting" in hint(overlays=5, images=1, render=9)
    assert "50% of the time for overlays" in hint(overlays=5, write=9)


def test_what_is_in_memory_is_bounded_by_bytes_not_by_images(monkeypatch, tmp_path):
    """Large photos: workers keep the pixels that fit into the allowance, and one image beyond it at a time."""
    for number in range(40):
        (tmp_path / f"{number:02d}.png").write_bytes(encoded(photo(number, (400, 300)), "PNG"))
    sources = [Source(str(tmp_path), f"{number:02d}.png") for number in range(40)]
    one = 400 * 300 * 3
    peak = painted_bytes(Header("PNG", 400, 300, 0), RunConfig())
    allowance = 6 * one + peak
    monkeypatch.setattr(memory, "_ENOUGH", allowance)
    monkeypatch.setattr(memory, "_ENOUGH_EACH", allowance)
    monkeypatch.setattr(memory, "_PATIENCE", 1)
    most, real = [0], Reader.read

    def counted(self, *arguments, **options):
        found = real(self, *arguments, **options)
        most[0] = max(most[0], self._pixels())
        return found

    monkeypatch.setattr(Reader, "read", counted)
    for batch_size in (32, 1):
        most[0] = 0
        job = prepare_job(RunConfig(model="tests.networks:brightness", layer=("cells",), class_=("bright",), batch_size=batch_size))
        with OutputFolder(str(tmp_path / f"out-{batch_size}"), {}) as folder, Pool(0) as pool:
            outcomes = list(explain_images(sources, job, folder.begin(sources), pool))
        assert [type(outcome) for outcome in outcomes] == [Success] * 40
        assert [outcome.image for outcome in outcomes] == [source.image for source in sources]
        assert 0 < most[0] <= allowance + one
    assert allowance + one < 32 * one, "the bound says something about a batch of 32 photos"


class Reading:
    """Stands for a pool that reads: gives results in an order drawn at random. ``failing``: numbers that cannot be read."""

    def __init__(self, slots: int, failing: set[int], seed: int) -> None:
        self.inputs = np.zeros((slots, 1, 1, 3), np.uint8)
        self.waiting: list[ReadTask] = []
        self.most = 0
        self._failing, self._draw = failing, random.Random(seed)

    def read(self, tasks):
        self.waiting += tasks

    def some(self):
        """The results of some tasks, in any order."""
        self._draw.shuffle(self.waiting)
        count = self._draw.randint(0, len(self.waiting))
        tasks, self.waiting = self.waiting[:count], self.waiting[count:]
        for task in tasks:
            if task.number in self._failing:
                yield Failed(task.number, Failure(task.source.image, "decode", "broken"))
            else:
                yield PreparedImage(task.number, task.source, Stamp(1, 1), None, task.slot)


def batches_of(count, size, window, failing, seed, slots=None):
    """All batches of ``count`` images, and the most images that were in progress."""
    pool = Reading(slots or window, failing, seed)
    found = Batches(pool, ListedSources(Source("", str(number)) for number in range(count)), size, window)
    done, recorded, most = [], 0, 0
    latest = time.monotonic() + 20
    while not found.has_ended:
        assert time.monotonic() < latest, "nothing goes on"
        found.order(recorded)
        most = max(most, found._read - recorded - sum(isinstance(item, Failed) for item in found._batch))
        taken = [task.slot for task in pool.waiting]
        assert len(taken) == len(set(taken)), "two images in one slot"
        batch = found.next(cut=False)
        if batch is None:
            for result in pool.some():
                found.add(result)
            continue
        found.free([item for item in batch if isinstance(item, PreparedImage)])
        recorded += len(batch)
        done.append(batch)
    return done, most


@pytest.mark.parametrize("failing", [set(), set(range(0, 23, 5)), {0, 1, 2, 21, 22}, set(range(23))], ids=str)
@pytest.mark.parametrize(("size", "window"), [(1, 1), (4, 4), (4, 9), (4, 40), (32, 40)])
def test_batches_follow_from_the_images_alone(size, window, failing):
    """Whatever the order in which the workers are done; failures keep their place, and so few are in progress."""
    runs = []
    for seed in range(5):
        batches, most = batches_of(23, size, window, failing, seed)
        assert most <= window
        assert [item.number for batch in batches for item in batch] == list(range(23))
        assert {item.number for batch in batches for item in batch if isinstance(item, Failed)} == failing
        runs.append([[item.number for item in batch] for batch in batches])
    assert runs == [runs[0]] * 5
    images = [len(set(batch) - failing) for batch in runs[0]]
    assert all(count == size for count in images[:-1])
    assert sum(images) == 23 - len(failing)


def test_the_batches_do_not_depend_on_the_window_and_the_slots():
    """So neither on the number of workers, which decides both."""
    failing = {3, 4, *range(11, 27)}
    expected = [[item.number for item in batch] for batch in batches_of(30, 4, 40, failing, 0)[0]]
    for window, slots in ((8, 4), (8, 5), (9, 40), (30, 7)):
        found = batches_of(30, 4, window, failing, 1, slots)[0]
        assert [[item.number for item in batch] for batch in found] == expected


def test_a_flood_of_failures_is_recorded_in_between():
    batches, _ = batches_of(200, 4, 100, set(range(200)), 0)
    assert max(map(len, batches)) <= 68
    assert sum(map(len, batches)) == 200


def test_an_incomplete_batch_comes_only_when_it_is_asked_for():
    pool = Reading(8, set(), 0)
    found = Batches(pool, ListedSources(Source("", str(number)) for number in range(9)), 4, 8)
    found.order(0)
    results = [PreparedImage(task.number, task.source, Stamp(1, 1), None, task.slot) for task in pool.waiting]
    for result in results[1:3]:
        found.add(result)
    assert found.next(cut=True) is None, "the first one is missing"
    found.add(results[0])
    assert found.next(cut=False) is None
    assert found.has_begun
    assert found.next(cut=True) == results[:3]
    assert not found.has_begun


def test_batches_for_training_keep_their_order_and_their_failures(tmp_path):
    """As ``camcli fit`` and ``camcli sanity`` read them, with the inputs that one image alone would have."""
    for number in range(11):
        (tmp_path / f"{number:02d}.png").write_bytes(b"text" if number in (3, 10) else encoded(photo(number), "PNG"))
    sources = [Source(str(tmp_path), f"{number:02d}.png") for number in range(11)]
    settings = InputSettings(Preprocess("squash", (32, 32), (32, 32)), "model", 10**7)
    batches = list(prepared_batches(sources, settings, 4))
    items = [item for batch in batches for item in batch]
    assert [sum(isinstance(item, InputImage) for item in batch) for batch in batches] == [4, 4, 1]
    assert [item.image if isinstance(item, Failure) else item.source.image for item in items] == [one.image for one in sources]
    for item in items:
        if isinstance(item, InputImage):
            [[alone]] = prepared_batches([item.source], settings, 1)
            assert np.array_equal(item.input, alone.input)
            assert item.stamp == alone.stamp
    stopped = threading.Event()
    remaining = prepared_batches(sources, settings, 4, stopped)
    next(remaining)
    stopped.set()
    assert list(remaining) == []


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(monkeypatch):
    """Each image explained once and in order, whatever the memory allows; one that does not fit alone ends the run."""
    job = prepare_job(RunConfig(model="tests.networks:brightness", layer=("cells",), class_=("bright",), batch_size=8))
    inputs = [np.full((224, 224, 3), 10 * number, np.uint8) for number in range(8)]
    real, sizes = engine.explain_batch, []

    def scarce(network, tensor, *rest):
        sizes.append(len(tensor))
        if len(tensor) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, tensor, *rest)

    monkeypatch.setattr(engine, "explain_batch", scarce)
    working = Engine(job)
    for _ in range(2):
        found = list(working.collect(working.explain(inputs)).each(job.names))
        logits = [one.best.logit if one.best.class_name == "bright" else -one.best.logit for one in found]
        assert np.allclose(logits, [10 * number / 255 for number in range(8)], atol=1e-6)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_short_batch_is_filled_up_for_a_compiled_network_and_no_more_comes_out(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda trunk, **_: trunk)
    config = RunConfig(model="tests.networks:brightness", layer=("cells",), class_=("bright",), batch_size=8, compile="on")
    job = prepare_job(config)
    assert job.network.batch == 8
    real, sizes = engine.explain_batch, []
    monkeypatch.setattr(
        engine, "explain_batch", lambda network, tensor, *rest: sizes.append(len(tensor)) or real(network, tensor, *rest)
    )
    working = Engine(job)
    for count in (8, 5, 4, 1):
        inputs = [np.full((224, 224, 3), 20 * number, np.uint8) for number in range(count)]
        found = list(working.collect(working.explain(inputs)).each(job.names))
        cells = found[0].heatmaps[0].values.size  # the gradient in a cell is one part of their mean
        assert [round(float(one.heatmaps[0].values.mean()) * cells * 255) for one in found] == [20 * k for k in range(count)]
    assert sizes == [8, 8, 4, 1]


def test_cores_are_those_of_the_affinity_and_of_the_control_group(monkeypatch, tmp_path):
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    groups = [tmp_path / "inner", tmp_path]
    groups[0].mkdir()
    monkeypatch.setattr(resources, "_control_groups", lambda: iter(groups))
    assert resources.available_cores() == 16
    (groups[1] / "cpu.max").write_text("250000 100000\n")
    assert resources.available_cores() == 3
    (groups[0] / "cpu.max").write_text("max 100000\n")
    assert resources.available_cores() == 3
    (groups[0] / "cpu.max").write_text("50000 100000\n")
    assert resources.available_cores() == 1
    (groups[0] / "cpu.max").unlink()
    (groups[1] / "cpu.max").unlink()
    (groups[1] / "cpu.cfs_quota_us").write_text("-1\n")
    (groups[1] / "cpu.cfs_period_us").write_text("100000\n")
    assert resources.available_cores() == 16
    (groups[1] / "cpu.cfs_quota_us").write_text("400000\n")
    assert resources.available_cores() == 4


def test_memory_is_what_the_control_group_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "_control_groups", lambda: iter([tmp_path]))
    free = resources.available_memory()
    assert free > 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert resources.available_memory() > 1 << 20
    (tmp_path / "memory.max").write_text("5000\n")
    assert resources.available_memory() == 4000


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_gpu_gives_what_the_cpu_gives(camcli, samples, tmp_path, precision):
    cpu, gpu = tmp_path / "cpu", tmp_path / "gpu"
    methods = ("--method", "gradcam", "--method", "layercam", "--method", "hirescam", "--topk", 3, "--save-maps")
    assert camcli("run", samples, "-o", cpu, "--device", "cpu", *methods).code == 0
    assert camcli("run", samples, "-o", gpu, "--device", "cuda", "--precision", precision, "--batch-size", 3, *methods).code == 0
    exact = precision == "fp32"
    rows, others = ({(row["image"], row["class_name"]): row for row in rows_of(out)} for out in (cpu, gpu))
    if exact:
        assert list(rows) == list(others)
    for key in rows.keys() & others.keys():
        assert abs(float(rows[key]["logit"]) - float(others[key]["logit"])) < (1e-3 if exact else 0.3)
    maps, other_maps = maps_of(cpu), maps_of(gpu)
    for name in maps.keys() & other_maps.keys():
        correlation = np.corrcoef(maps[name].ravel(), other_maps[name].ravel())[0, 1]
        assert correlation >= (0.99999 if exact else 0.99), name


@pytest.mark.gpu
def test_a_gpu_compiled_gives_what_the_cpu_gives(camcli, samples, tmp_path):
    cpu, gpu = tmp_path / "cpu", tmp_path / "gpu"
    assert camcli("run", samples, "-o", cpu, "--device", "cpu", "--save-maps").code == 0
    done = camcli("run", samples, "-o", gpu, "--device", "cuda", "--compile", "on", "--batch-size", 3, "--save-maps")
    assert done.code == 0
    assert "compiled" in done.err
    for name, values in maps_of(cpu).items():
        assert np.corrcoef(values.ravel(), maps_of(gpu)[name].ravel())[0, 1] >= 0.9999, name


@pytest.mark.gpu
def test_folding_is_proved_on_a_gpu_too():
    """Not against convolutions that PyTorch rounds to TF32 by itself; and the user's modes stay as they were."""
    modes = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    job = prepare_job(RunConfig(device="cuda"))
    assert not [note for note in job.model.notes if "folded" in note]
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == modes


@pytest.mark.gpu
def test_batches_on_a_gpu_overlap_and_come_back_in_order():
    """Several batches are begun before the first is collected."""
    job = prepare_job(RunConfig(device="cuda", batch_size=4))
    working = Engine(job)
    inputs = [noise(number, (224, 224)) for number in range(12)]
    alone = [working.collect(working.explain([image]))[0] for image in inputs]
    torch.cuda.synchronize()
    begun = [working.explain(inputs[start : start + 4]) for start in (0, 4, 8)]
    together = [found for parts in begun for found in working.collect(parts)]
    for one, other in zip(together, alone, strict=True):
        assert one.best.class_index == other.best.class_index
        assert np.allclose(one.heatmaps[0].values, other.heatmaps[0].values, atol=1e-3 * other.heatmaps[0].peak)
