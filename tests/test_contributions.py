"""``--save-contributions``: what every channel contributes to a logit, computed, stored and kept as the tables are."""

from __future__ import annotations

import itertools
import os
import random

import captum.attr
import numpy as np
import pytest
import torch

from camcli.cam.contributions import channel_contributions
from camcli.cam.explain import Options, explain_batch
from camcli.cam.gradient import grad_cam, hires_cam
from camcli.config.run import RunConfig
from camcli.output.contributions import StoredContributions, packable
from camcli.output.ledger import read_ledger
from camcli.output.packed import unpack_arrays
from camcli.pipeline.job import prepare_job
from tests.faults import fill_album
from tests.folders import TINY, contents_of, rows_of, state_of
from tests.pictures import encoded, photo
from tests.test_faults import Kills, undisturbed
from tests.test_methods import FEATURES
from tests.test_shards import PARTS, many, results_in  # noqa: F401 - many is a fixture

FLAGS = (*TINY[:4], "--topk", 2, "--method", "gradcam", "--method", "layercam", "--save-contributions")
BOTH = (*FLAGS, "--save-maps", "--maps-format", "parquet")
TABLE = os.path.join(".camcli", "contributions.bin")


def stored(out) -> dict[tuple[str, int], np.ndarray]:
    ledger = read_ledger(str(out))
    found = StoredContributions(ledger)
    return {
        (entry.image, number): values
        for entry, rows in ledger.explained()
        for number in range(len(rows))
        if (values := found.read(entry, number)) is not None
    }


def top_two(logits):
    return logits.argsort(dim=1, descending=True)[:, :2]


@pytest.mark.parametrize(
    ("model", "weights"), [(RunConfig.model, RunConfig.weights), ("resnet50", "none"), ("densenet121", "none")]
)
def test_they_add_up_to_the_logit_minus_the_bias_and_equal_captum(model, weights):
    """DenseNet has a ReLU between the layer and the pooling: there the law holds for the sum over cells, not for the means."""
    torch.manual_seed(3)
    job = prepare_job(RunConfig(model=model, weights=weights, device="cpu", save_contributions=True).check())
    inputs = torch.randn(2, 3, *job.model.preprocess.crop)
    found = explain_batch(job.model.module, inputs, job.layers, ["gradcam"], top_two, job.options)
    (layer,) = job.layers
    values = found.contributions[layer.name].double()
    linear = [module for module in job.model.module.modules() if isinstance(module, torch.nn.Linear)][-1]
    expected = found.logits.gather(1, found.targets) - linear.bias[found.targets]
    assert (values.sum(dim=2) - expected).abs().max() <= 1e-4
    oracle = captum.attr.LayerGradientXActivation(job.model.module, job.model.module.get_submodule(layer.name))
    for position in range(2):
        theirs = oracle.attribute(inputs, target=found.targets[:, position]).sum(dim=(2, 3))
        torch.testing.assert_close(values[:, position].float(), theirs.detach(), rtol=1e-5, atol=1e-6)


def test_with_an_equal_gradient_in_all_cells_they_are_the_product_of_the_means():
    generator = torch.Generator().manual_seed(1)
    activations = torch.randn(3, 5, 4, 6, generator=generator, dtype=torch.float64)
    gradients = torch.randn(3, 5, 1, 1, generator=generator, dtype=torch.float64).expand(3, 5, 4, 6)
    found = channel_contributions(activations, gradients)
    torch.testing.assert_close(found, gradients.mean(dim=(2, 3)) * activations.mean(dim=(2, 3)) * 24)
    assert grad_cam(activations, gradients).shape == (3, 4, 6)


def test_they_add_up_to_the_map_of_hirescam_whatever_the_gradient():
    generator = torch.Generator().manual_seed(2)
    activations, gradients = torch.randn(2, 3, 5, 4, 6, generator=generator, dtype=torch.float64)
    found = channel_contributions(activations, gradients)
    torch.testing.assert_close(found.sum(dim=1), hires_cam(activations, gradients).sum(dim=(1, 2)))


@pytest.mark.parametrize(
    ("methods", "options"),
    [
        (["finercam"], {}),
        (["scorecam"], {}),
        (["gradcam", "finercam"], {}),
        (["gradcam"], {"counterfactual": True}),
        (["finercam"], {"counterfactual": True}),
    ],
)
def test_method_and_sign_of_the_map_do_not_change_them(cam_network, methods, options):
    inputs = torch.randn(3, 3, 16, 12)
    plain = explain_batch(cam_network, inputs, [FEATURES], ["gradcam"], top_two, Options(contributions=True))
    found = explain_batch(cam_network, inputs, [FEATURES], methods, top_two, Options(contributions=True, **options))
    for name, values in plain.contributions.items():
        torch.testing.assert_close(found.contributions[name], values)
    assert explain_batch(cam_network, inputs, [FEATURES], methods, top_two, Options()).contributions == {}


def test_a_run_stores_those_of_each_row_in_half_precision(camcli, imgs, tmp_path):
    """The law that the network has, seen through the folder: each row's contributions are those of its class."""
    out = tmp_path / "out"
    assert camcli("run", imgs, "-o", out, "--topk", 2, "--save-contributions", "--batch-size", 4, "--no-overlays").code == 0
    found, rows = stored(out), rows_of(out)
    assert len(found) == len(rows) > 4
    bias = prepare_job(RunConfig(device="cpu").check()).model.module.classifier.bias.double()
    for image, own in itertools.groupby(rows, lambda row: row["image"]):
        for number, row in enumerate(own):
            values = found[image, number].astype(np.float64)
            assert values.shape == (1280,)
            rounding = np.abs(values).sum() * 2.0**-11 + 2.0**-24 * len(values) + 1e-5 * abs(float(row["logit"]))
            assert abs(values.sum() - (float(row["logit"]) - float(bias[int(row["class_index"])]))) <= rounding + 1e-4
    assert os.path.getsize(out / TABLE) <= len(rows) * (2 * 1280 + 10) + 16


def test_values_beyond_half_precision_become_its_limits_and_infinite_rows_are_left_out():
    given = [np.array([1e6, -1e9, 2.0], np.float32), np.array([1.0, np.inf, 0.0], np.float32), np.array([1.0], np.float32)]
    found = list(packable(given))
    assert [number for number, _ in found] == [0, 2]
    assert found[0][1].tolist() == [65504.0, -65504.0, 2.0]


def test_rows_and_overlays_are_those_of_a_run_without(camcli, imgs, tmp_path):
    camcli("run", imgs, "-o", tmp_path / "plain", *FLAGS[:-1])
    camcli("run", imgs, "-o", tmp_path / "out", *FLAGS)
    own = lambda folder: {name: data for name, data in contents_of(folder).items() if not name.startswith(".camcli")}  # noqa: E731
    assert own(tmp_path / "out") == own(tmp_path / "plain")
    assert not (tmp_path / "plain" / TABLE).exists()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == len([path for path in (tmp_path / "plain").rglob("*") if path.is_file()]) + 1


def test_the_same_command_has_nothing_to_do_and_another_is_refused(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *BOTH)
    before = state_of(out)
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *BOTH).err
    assert state_of(out) == before
    assert camcli("verify", out).code == 0
    refused = camcli("run", imgs, "-o", out, *TINY[:4], "--topk", 2, "--method", "gradcam", "--method", "layercam")
    assert refused.code == 2
    assert "save-contributions" in refused.err


def test_both_binary_tables_keep_their_own_records(camcli, imgs, tmp_path):
    camcli("run", imgs, "-o", tmp_path / "one", *FLAGS)
    camcli("run", imgs, "-o", tmp_path / "both", *BOTH)
    assert (tmp_path / "one" / TABLE).read_bytes() == (tmp_path / "both" / TABLE).read_bytes()
    camcli("run", imgs, "-o", tmp_path / "maps", *FLAGS[:-1], "--save-maps", "--maps-format", "parquet")
    name = os.path.join(".camcli", "maps.bin")
    assert (tmp_path / "maps" / name).read_bytes() == (tmp_path / "both" / name).read_bytes()


@pytest.mark.parametrize("flags", [("--workers", 2, "--batch-size", 4), ("--workers", 0, "--batch-size", 1)])
def test_the_number_of_workers_changes_no_byte(forks, tmp_path, flags):
    fill_album(tmp_path / "imgs", 12)
    for name, more in (("whole", ("--workers", 1, "--batch-size", flags[3])), ("out", flags)):
        assert undisturbed(forks, tmp_path / "imgs", tmp_path / name, *BOTH, *more, "--quiet") == 1
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


@pytest.mark.parametrize("flags", [FLAGS, BOTH], ids=["alone", "with maps"])
def test_killed_processes_lose_nothing(forks, tmp_path, flags):
    """SIGKILL at random, then the same command: contributions are those of a run that nothing disturbed."""
    fill_album(tmp_path / "imgs", 40)
    flags = (*flags, "--batch-size", 4, "--quiet")
    assert undisturbed(forks, tmp_path / "imgs", tmp_path / "whole", *flags) == 1
    kills = Kills(forks, tmp_path / "imgs", tmp_path, flags, random.Random(5))
    assert kills.go_on_until(4, tmp_path / "whole", 1) == []
    assert len(contents_of(tmp_path / "whole")[TABLE]) > 1000


def test_joined_shards_have_those_of_one_machine(camcli, many, tmp_path):  # noqa: F811
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", many, "-o", whole, *BOTH)
    for part in PARTS:
        camcli("run", many, "-o", out, *BOTH, "--shard", part)
    assert camcli("merge", out).code == 1
    assert results_in(out) == contents_of(whole)
    assert camcli("verify", out).code == 0


def test_new_changed_and_broken_images(camcli, imgs, tmp_path):
    """Rows and contributions are kept, dropped and reordered together: the folder is that of a run that began with these images."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", imgs, "-o", out, *BOTH)
    (imgs / "0-first.png").write_bytes(encoded(photo(30), "PNG"))
    (imgs / "a.png").write_bytes(encoded(photo(31), "PNG"))
    (imgs / "sub" / "a.jpg").write_text("broken now")
    assert camcli("run", imgs, "-o", out, *BOTH).code == 1
    assert camcli("run", imgs, "-o", whole, *BOTH).code == 1
    assert stored(out).keys() == stored(whole).keys()
    assert all((stored(out)[key] == values).all() for key, values in stored(whole).items())
    assert camcli("verify", out).code == 0


def test_damage_is_found_and_mended(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *FLAGS)
    whole = contents_of(out)
    data = bytearray((out / TABLE).read_bytes())
    data[-3] ^= 1
    (out / TABLE).write_bytes(data)
    assert "contributions.bin" in camcli("verify", out).out
    assert camcli("run", imgs, "-o", out, *FLAGS).code == 0
    assert camcli("verify", out).code == 0
    assert contents_of(out)[TABLE] == whole[TABLE]
    assert list(unpack_arrays(whole[TABLE][16:]))
