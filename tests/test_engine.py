"""The engine: what it is given to do changes how fast it is, never what is written."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from camcli import resources
from camcli.config.run import RunConfig
from camcli.pipeline import engine, reading
from camcli.pipeline.engine import Engine
from camcli.pipeline.job import prepare_job
from camcli.pipeline.reading import PreparedImage, batches, held_bytes, read_ahead
from camcli.records import Failure, Image, Source, Stamp
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
    """Large photos: what is read ahead and the batch that is filling hold at most the limit each, and a photo a thread."""
    size = 400 * 300 * 3 + 224 * 224 * 3
    limit = 6 * size
    monkeypatch.setattr(reading, "MOST_BYTES", limit)
    job = prepare_job(RunConfig(model="tests.networks:brightness", layer=("cells",), class_=("bright",)))
    for number in range(60):
        (tmp_path / f"{number:02d}.png").write_bytes(encoded(photo(number, (400, 300)), "PNG"))
    sources = [Source(str(tmp_path), f"{number:02d}.png") for number in range(60)]
    held, most, lock, threads = [0], [0], threading.Lock(), 4
    real = reading._prepare

    def counted(*arguments):
        item = real(*arguments)
        with lock:
            held[0] += held_bytes(item)
            most[0] = max(most[0], held[0])
        return item

    monkeypatch.setattr(reading, "_prepare", counted)
    sizes = []
    with ThreadPoolExecutor(threads) as pool:
        for batch in batches(read_ahead(pool, sources, job.inputs, StageTimer(), 64), 64, None):
            time.sleep(0.05)  # the network is at work; reading ahead goes on
            with lock:
                held[0] -= sum(map(held_bytes, batch))
            sizes.append(len(batch))
    assert sizes == [6] * 10
    assert limit <= most[0] <= 2 * limit + threads * size
    assert 2 * limit + threads * size < 30 * size, "the bound says something about sixty photos"


def test_batches_follow_from_the_images_alone():
    def item(number, failed=False, side=10):
        if failed:
            return Failure(str(number), "decode", "broken")
        pixels = np.zeros((side, side, 3), np.uint8)
        return PreparedImage(Source("", str(number)), Image(pixels, Stamp(1, 1)), None, pixels)

    items = [item(number, failed=number % 5 == 0) for number in range(23)]
    runs = list(batches(iter(items), 4, None))
    assert [one for run in runs for one in run] == items
    assert [sum(isinstance(one, PreparedImage) for one in run) for run in runs] == [4, 4, 4, 4, 2]
    flood = list(batches((item(number, failed=True) for number in range(200)), 4, None))
    assert max(map(len, flood)) <= 68
    stopped = threading.Event()
    stopped.set()
    assert len(next(batches(iter(items), 4, stopped))) == 1


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
        found = working.collect(working.explain(inputs))
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
        found = working.collect(working.explain(inputs))
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
