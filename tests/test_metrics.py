"""Metrics of maps: equal to torchcam, grad-cam and captum, or to a closed form; the traps measured in other packages."""

from __future__ import annotations

import csv
import itertools
import json
import os
from functools import partial

import numpy as np
import pytest
import torch
from captum import metrics as captum_metrics
from pytorch_grad_cam.metrics import cam_mult_image
from pytorch_grad_cam.metrics import road as peer_road
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import nn
from torchcam.methods import GradCAM
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

from camcli.cam import METHODS
from camcli.cam.explain import Explanation, Options, explain_batch
from camcli.config.run import CURVES, METRICS, metric_columns
from camcli.metrics import FACTS, curves, road, stability
from camcli.metrics.batch import MetricSettings, on_input, to_peak
from camcli.metrics.measure import measure
from camcli.network import eager
from camcli.records import Box, Grid, Layer
from camcli.render.maps import place_map, scale_map
from camcli.report.maps import entropy
from tests.conftest import Cam
from tests.folders import TINY

LAYER = Layer("features", Grid("nchw", 8, 8))
GIVEN = ("given", "given")


@pytest.fixture
def inputs():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def steep(network):
    """``network`` with logits that are far enough apart for the probabilities to say something."""
    with torch.no_grad():
        network.head.weight *= 20
    return network


def measured(network, inputs, maps, classes, *names, options=None, **settings):
    """The metrics of given ``maps`` (B, h, w) for one class an image."""
    with torch.no_grad():
        logits = network(inputs)
    found = Explanation(logits, torch.tensor(classes)[:, None], {GIVEN: maps[:, None]})
    wanted = np.ones((len(inputs), 1, 1), bool)
    chosen = MetricSettings(names, **settings)
    result = measure(eager(network), inputs, [LAYER], [GIVEN], found, wanted, chosen, options or Options(chunk=7))
    return {column: values[:, 0, 0].numpy() for column, values in result.items()}


def explained(network, inputs, methods, classes, names, **options):
    """The metrics of the methods' own maps: column -> (B, R)."""
    options = Options(**{"chunk": 5, **options})
    targets = torch.tensor(classes)[:, None]
    found = explain_batch(eager(network), inputs, [LAYER], methods, lambda _: targets, options)
    results = list(found.maps)
    wanted = np.ones((len(inputs), 1, len(results)), bool)
    columns = measure(eager(network), inputs, [LAYER], results, found, wanted, MetricSettings(names), options)
    return {column: values[:, 0].numpy() for column, values in columns.items()}, [method for _, method in results]


def probabilities(network, inputs):
    with torch.no_grad():
        return network(inputs).double().softmax(dim=1).numpy()


def test_every_metric_has_its_facts_and_columns():
    assert tuple(FACTS) == METRICS
    assert all(fact.measures and fact.wrong and fact.source and fact.better in ("lower", "higher", "") for fact in FACTS.values())
    assert metric_columns(["insertion", "drop"]) == ("drop", "insertion", "insertion_curve")


# ---- other packages


def test_drop_increase_deletion_and_insertion_are_torchcams(cam_network, inputs):
    """Average drop, increase in confidence, and both areas, for one image at a time so that no mean hides a difference."""
    network = steep(cam_network)
    classes = [0, 2, 4]
    extractor = GradCAM(network, "features")
    for image, index in zip(inputs, classes, strict=True):
        one = image[None]
        by_class, areas = (
            kind(extractor, partial(torch.softmax, dim=-1)) for kind in (ClassificationMetric, DeletionInsertionMetric)
        )
        by_class.update(one, index)
        areas.update(one, index)
        with torch.enable_grad():
            (maps,) = extractor(index, network(one).softmax(dim=1))  # of the probability, as its metrics do; scaled to [0, 1]
        ours = measured(network, one, maps.detach(), [index], "drop", "increase", "deletion", "insertion", baseline="zero")
        assert ours["drop"][0] == pytest.approx(by_class.summary()["avg_drop"], abs=1e-5)
        assert ours["increase"][0] == by_class.summary()["conf_increase"]
        assert ours["deletion"][0] == pytest.approx(areas.summary()["deletion_auc"], abs=1e-5)
        assert ours["insertion"][0] == pytest.approx(areas.summary()["insertion_auc"], abs=1e-5)
    extractor.remove_hooks()


def untied(count, size=32):
    generator = torch.Generator().manual_seed(5)
    return torch.stack([torch.randperm(size * size, generator=generator).view(size, size) for _ in range(count)]) / (
        size * size - 1.0
    )


def test_confidence_changes_are_grad_cams(cam_network, inputs):
    """Its drop is not divided by p: ours times p is its."""
    network, classes, maps = steep(cam_network), [0, 2, 4], untied(3)
    targets = [ClassifierOutputSoftmaxTarget(index) for index in classes]
    p = probabilities(network, inputs)[range(3), classes]
    ours = measured(network, inputs, maps, classes, "drop", "increase")
    peer = [
        kind()(inputs, maps.numpy()[:, None], targets, network)
        for kind in (cam_mult_image.DropInConfidence, cam_mult_image.IncreaseInConfidence)
    ]
    np.testing.assert_allclose(ours["drop"] * p, peer[0], atol=1e-5)
    np.testing.assert_array_equal(ours["increase"], peer[1])


def test_road_is_grad_cams_on_maps_without_ties(cam_network, inputs, monkeypatch):
    """Without noise, which each draws for itself."""
    network, classes, maps = steep(cam_network), [0, 2, 4], untied(3)
    targets = [ClassifierOutputSoftmaxTarget(index) for index in classes]
    monkeypatch.setattr(road, "NOISE", 0.0)
    monkeypatch.setattr(peer_road.NoisyLinearImputer.__init__, "__defaults__", (0.0, peer_road.neighbors_weights))
    peer = peer_road.ROADCombined([20, 40, 60, 80])(inputs, maps.numpy(), targets, network)
    np.testing.assert_allclose(measured(network, inputs, maps, classes, "road")["road"], peer, atol=1e-5)


def test_imputation_is_the_solution_of_the_system():
    """By a dense solver, on an image of odd size, with a hole that touches the border."""
    image = torch.randn(1, 2, 9, 13, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    removed = torch.rand(9, 13, generator=torch.Generator().manual_seed(3)) < 0.7
    removed[:5, :6] = True
    cells = [tuple(cell) for cell in removed.nonzero().tolist()]
    system, right = np.zeros((len(cells), len(cells))), np.zeros((len(cells), 2))
    for row, (y, x) in enumerate(cells):
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            near = (y + dy, x + dx)
            if (dy or dx) and 0 <= near[0] < 9 and 0 <= near[1] < 13:
                weight = 1 / 12 if dy and dx else 1 / 6
                system[row, row] += weight
                if removed[near]:
                    system[row, cells.index(near)] -= weight
                else:
                    right[row] += weight * image[0, :, near[0], near[1]].numpy()
    expected = image.clone()
    expected[0, :, removed] = torch.from_numpy(np.linalg.solve(system, right).T)
    found = road.imputed(image, removed[None, None])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_imputing_one_image_does_not_change_another():
    images, removed = torch.randn(3, 3, 40, 40), torch.rand(3, 1, 40, 40) < torch.tensor([0.2, 0.9, 0.6]).view(3, 1, 1, 1)
    together = road.imputed(images, removed)
    alone = torch.cat([road.imputed(images[i : i + 1], removed[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_half_a_map_of_zeros_does_not_remove_the_whole_image(cam_network, inputs):
    """A threshold by percentile removes everything from a map with 43 % zeros; ranks remove exactly the share."""
    maps = untied(1)
    maps[maps < 0.43] = 0
    ranks = curves.pixel_ranks(maps)
    peer = peer_road.RemoveMostRelevantFirst(20, lambda image, mask: mask)(inputs[0], maps[0])
    assert peer.sum() == 0, "20 is a percentile: the peer keeps nothing of such a map"
    for share in (0.2, 0.4, 0.6, 0.8):
        assert (ranks < round(share * 1024)).sum() == round(share * 1024)


def test_equal_values_are_ranked_by_position():
    maps = torch.tensor([[[0.0, 2.0, 1.0], [2.0, 0.0, 1.0]]])
    assert curves.pixel_ranks(maps).tolist() == [[4, 0, 2, 1, 5, 3]]
    assert curves.pixel_ranks(torch.zeros(1, 40, 40)).tolist() == [list(range(1600))]


def test_infidelity_is_captums(cam_network, inputs):
    """Its normalised form, with our squares as its perturbations."""
    network, classes, maps = steep(cam_network), [0, 2, 4], untied(3)
    masks = stability.squares((32, 32))
    left = {"sample": 0}

    def perturb(images):
        mask = masks[left["sample"]].expand(len(images), 3, -1, -1)
        left["sample"] += 1
        return mask / 3, images * (1 - mask)  # each pixel's value is shared by three channels

    found = captum_metrics.infidelity(
        lambda images: network(images).softmax(dim=1),
        perturb,
        inputs,
        maps[:, None].expand(-1, 3, -1, -1),
        target=torch.tensor(classes),
        n_perturb_samples=len(masks),
        max_examples_per_batch=3,
        normalize=True,
    )
    ours = measured(network, inputs, maps, classes, "infidelity")["infidelity"]
    np.testing.assert_allclose(ours, found.detach().numpy(), atol=1e-5)
    assert ours.max() > 1e-4
    np.testing.assert_allclose(measured(network, inputs, 7 * maps, classes, "infidelity")["infidelity"], ours, rtol=1e-4)


def test_sensitivity_is_captums(cam_network, inputs):
    network, classes = steep(cam_network), [0, 2, 4]
    targets = torch.tensor(classes)[:, None]
    noises, left = stability.noises((3, 32, 32)), {"sample": 0}

    def perturb(images, *_):
        left["sample"] += 1
        images = images[0] if isinstance(images, tuple) else images
        return (images + noises[left["sample"] - 1],)

    def explain(images, **_):
        images = images[0] if isinstance(images, tuple) else images
        maps = explain_batch(eager(network), images, [LAYER], ["gradcam"], lambda _: targets).maps
        return (maps["features", "gradcam"],)  # a tuple: captum 0.9.0 takes a tensor's first image for the map of every image

    found = captum_metrics.sensitivity_max(explain, inputs, perturb, n_perturb_samples=len(noises), max_examples_per_batch=3)
    ours, _ = explained(network, inputs, ["gradcam"], classes, ("sensitivity",))
    np.testing.assert_allclose(ours["sensitivity"][:, 0], found.detach().numpy(), atol=1e-5)
    assert ours["sensitivity"].min() > 0


# ---- closed forms


class Linear(nn.Module):
    """The logit of class 0 is a weighted sum of pixels; that of class 1 is 0."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        score = (x * self.weight).sum(dim=(1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_contributions_are_the_best_order_for_a_linear_model(seed):
    """Brute force over all orders of six pixels: none has a smaller deletion or a larger insertion area of the logit."""
    generator = torch.Generator().manual_seed(seed)
    image, weight = (torch.randn(1, 3, 2, 3, generator=generator) for _ in "iw")
    network = Linear(weight)
    contribution = (image * weight).sum(dim=1)
    orders = torch.tensor(list(itertools.permutations(range(6))), dtype=torch.float32).view(-1, 2, 3)
    settings = {"steps": 6, "score": "logit", "baseline": "zero", "options": Options(chunk=256)}
    every = measured(
        network, image.expand(len(orders), -1, -1, -1), orders + 1, [0] * len(orders), "deletion", "insertion", **settings
    )
    shifted = contribution - contribution.min() + 1  # maps are positive, the order is the same
    best = measured(network, image, shifted, [0], "deletion", "insertion", **settings)
    assert best["deletion"][0] == pytest.approx(every["deletion"].min(), abs=1e-6)
    assert best["insertion"][0] == pytest.approx(every["insertion"].max(), abs=1e-6)
    total = float(contribution.sum())
    assert best["deletion_curve"][0, 0] == pytest.approx(total, abs=1e-5)
    assert best["deletion_curve"][0, -1] == 0
    assert best["insertion_curve"][0, 0] == 0
    assert best["insertion_curve"][0, -1] == pytest.approx(total, abs=1e-5)


def test_the_full_map_keeps_everything_and_the_empty_half_loses_its_half():
    weight = torch.zeros(1, 3, 4, 4)
    weight[:, :, :, :2], weight[:, :, :, 2:] = 0.3, 0.1
    network, image = Linear(weight), torch.ones(1, 3, 4, 4)
    half = torch.zeros(1, 4, 4)
    half[:, :, :2] = 1
    found = measured(network, image, torch.cat([torch.ones(1, 4, 4)]), [0], "drop", "increase", "gain", "complexity")
    assert [found[name][0] for name in ("drop", "increase", "gain", "complexity")] == [0, 0, 0, 1]
    assert measured(network, image, half, [0], "drop", score="logit")["drop"][0] == pytest.approx(0.25, abs=1e-6)
    p, kept = (1 / (1 + np.exp(-logit)) for logit in (9.6, 7.2))
    assert measured(network, image, half, [0], "drop")["drop"][0] == pytest.approx((p - kept) / p, abs=1e-6)
    weight[:, :, :, 2:] = -0.1
    p, kept = (1 / (1 + np.exp(-logit)) for logit in (4.8, 7.2))
    found = measured(Linear(weight), image, half, [0], "drop", "increase", "gain")
    assert found["gain"][0] == pytest.approx((kept - p) / (1 - p), abs=1e-6)
    assert (found["drop"][0], found["increase"][0]) == (0, 1)


def test_the_explained_class_counts_and_not_the_best(cam_network, inputs):
    """Dropping the best class's probability is a mistake of a published ADCC."""
    network = steep(cam_network)
    p = probabilities(network, inputs)
    maps = untied(3)
    for index in range(5):
        masked = probabilities(network, inputs * maps[:, None])
        found = measured(network, inputs, maps, [index] * 3, "drop")["drop"]
        np.testing.assert_allclose(found, np.maximum(0, p[:, index] - masked[:, index]) / p[:, index], atol=1e-5)


def test_adcc_is_the_harmonic_mean_and_never_divides_by_zero(cam_network, inputs):
    network = steep(cam_network)
    names = ("drop", "coherency", "complexity", "adcc")
    found, methods = explained(network, inputs, ["gradcam", "layercam", "uniform", "random"], [0, 2, 4], names)
    parts = np.stack([np.maximum(found["coherency"], 0), 1 - found["complexity"], 1 - found["drop"]])
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found["adcc"], 3 / (1 / parts).sum(axis=0), atol=1e-12)
    uniform = methods.index("uniform")
    assert found["adcc"][:, uniform].tolist() == [0, 0, 0], "its complexity is 1"
    assert found["coherency"][:, methods.index("random")].tolist() == [1, 1, 1]


def test_coherency_is_the_correlation_with_the_map_of_the_masked_image(cam_network, inputs):
    network, classes = steep(cam_network), [0, 2, 4]
    found, _ = explained(network, inputs, ["gradcam"], classes, ("coherency",))
    targets = torch.tensor(classes)[:, None]
    before = explain_batch(network, inputs, [LAYER], ["gradcam"], lambda _: targets).maps["features", "gradcam"][:, 0]
    masked = inputs * on_input(to_peak(before), (32, 32))[:, None]
    after = explain_batch(network, masked, [LAYER], ["gradcam"], lambda _: targets).maps["features", "gradcam"][:, 0]
    expected = [np.corrcoef(one.flatten(), other.flatten())[0, 1] for one, other in zip(before.numpy(), after.numpy(), strict=True)]
    np.testing.assert_allclose(found["coherency"][:, 0], expected, atol=1e-5)


def test_entropy_is_the_reports_and_sparsity_is_the_gini_index():
    maps = torch.stack([torch.ones(4, 5), torch.rand(4, 5), torch.randn(4, 5)])
    network, images = Linear(torch.zeros(1, 3, 8, 8)), torch.zeros(3, 3, 8, 8)
    found = measured(network, images, maps, [0, 0, 0], "entropy", "sparsity")
    np.testing.assert_allclose(found["entropy"], [entropy(one.numpy()) for one in maps], atol=1e-6)
    for value, one in zip(found["sparsity"], maps, strict=True):
        values = one.clamp_min(0).flatten().double().numpy()
        mean_difference = np.abs(values[:, None] - values).mean()
        assert value == pytest.approx(mean_difference / (2 * values.mean()), abs=1e-9)
    single = torch.zeros(1, 4, 5)
    single[0, 2, 2] = 3
    assert measured(network, images[:1], single, [0], "sparsity")["sparsity"][0] == pytest.approx(1 - 1 / 20)


def test_a_map_is_on_the_input_where_it_is_on_the_image():
    values = torch.rand(1, 7, 5) - 0.2
    placed = place_map(scale_map(values[0].numpy()), (0, 0, 40, 30), Box(0, 0, 40, 30), (40, 30)).whole()
    np.testing.assert_allclose(on_input(to_peak(values), (30, 40))[0].numpy(), placed, atol=1e-6)


def test_batches_chunks_and_neighbours_change_nothing(cam_network, inputs):
    network, names = steep(cam_network), METRICS
    methods = ["gradcam", "scorecam", "uniform", "random", "center"]
    whole, _ = explained(network, inputs, methods, [0, 2, 4], names, seeds=(5, 6, 7))
    assert all(np.isfinite(values).all() for values in whole.values())
    for i in range(3):
        alone, _ = explained(network, inputs[i : i + 1], methods, [[0, 2, 4][i]], names, seeds=((5, 6, 7)[i],), chunk=3)
        for column, values in alone.items():
            np.testing.assert_allclose(values[0], whole[column][i], atol=2e-5, err_msg=column)


# ---- controls


def test_controls_know_nothing_of_the_network(cam_network, inputs):
    controls = [name for name, method in METHODS.items() if method.control]
    assert controls == ["uniform", "random", "center"]
    other = Cam(classes=5)
    one, two = (
        explain_batch(network, images, [LAYER], controls, lambda _: torch.tensor([[0, 3]] * 3), Options(seeds=(1, 2, 3))).maps
        for network, images in ((cam_network, inputs), (other, -inputs))
    )
    for key, values in one.items():
        assert torch.equal(values, two[key]), key
        assert torch.equal(values[:, 0], values[:, 1])
    random = one["input", "random"][:, 0]
    assert not torch.equal(random[0], random[1])
    assert one["input", "uniform"].unique().tolist() == [1]
    center = one["input", "center"][0, 0]
    assert torch.equal(center, center.flip(0))
    assert torch.equal(center, center.T)


def test_random_is_seeded_by_the_name_and_nothing_else(camcli, imgs, tmp_path):
    def maps(out):
        return {path.relative_to(out): path.read_bytes() for path in sorted((out / "maps").rglob("*.npy"))}

    flags = (*TINY, "--method", "random", "--save-maps", "--no-overlays")
    assert camcli("run", imgs, "-o", tmp_path / "one", *flags, "--batch-size", 1).code == 0
    assert camcli("run", imgs, "-o", tmp_path / "two", *flags, "--limit", 3).code == 0
    one, two = maps(tmp_path / "one"), maps(tmp_path / "two")
    assert len(two) == 3
    assert two.items() <= one.items()
    assert len(set(one.values())) == len(one) == 6


# ---- columns of a run

FULL = (*TINY, "--method", "gradcam", "--method", "uniform", "--metrics", "drop,increase,gain,deletion", "--metrics", "entropy")


def rows_of(out):
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_metrics_are_columns_behind_the_others(camcli, imgs, tmp_path):
    assert camcli("run", imgs, "-o", tmp_path / "out", *FULL, "--steps", 8, "--boxes", "largest").code == 0
    rows = rows_of(tmp_path / "out")
    assert list(rows[0])[-6:] == ["drop", "increase", "gain", "deletion", "deletion_curve", "entropy"]
    for row in rows:
        curve = [float(value) for value in row["deletion_curve"].split(" ")]
        assert len(curve) == 9
        assert curve[0] == pytest.approx(float(row["probability"]), abs=1e-5)
        if row["method"] == "uniform":
            assert (row["status"], row["drop"], row["entropy"]) == ("ok", "0", "1")
    done = camcli("run", imgs, "-o", tmp_path / "out", *FULL, "--steps", 8, "--boxes", "largest", "--format", "jsonl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert all(isinstance(line["drop"], float) and len(line["deletion_curve"]) == 9 for line in lines)


def test_an_empty_map_has_no_metrics(camcli, tmp_path, imgs):
    """A map without a positive value says nothing, so nothing is measured: empty cells, null in JSON."""
    flags = (*TINY[:4], "--class", "dark", "--metrics", "drop,deletion", "--format", "jsonl", "--quiet")
    done = camcli("run", imgs, "-o", tmp_path / "out", *flags)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert {row["status"] for row in rows} == {"empty"}
    assert {row[name] for row in rows for name in ("drop", "deletion", "deletion_curve")} == {None}
    assert camcli("verify", tmp_path / "out").code == 0


def test_parquet_has_numbers_and_lists(camcli, imgs, tmp_path):
    from pyarrow import parquet

    assert camcli("run", imgs, "-o", tmp_path / "out", *FULL, "--format", "parquet").code == 0
    table = parquet.read_table(tmp_path / "out" / "predictions.parquet")
    assert str(table.schema.field("drop").type) == "double"
    assert str(table.schema.field("deletion_curve").type) in ("list<element: double>", "list<item: double>")
    assert [round(value, 5) for value in table.column("deletion").to_pylist()] == [
        round(float(row["deletion"]), 5) for row in rows_of(tmp_path / "out")
    ]


def test_shards_merge_and_resume_with_metrics(camcli, imgs, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = (*FULL, "--batch-size", 1)
    assert camcli("run", imgs, "-o", whole, *flags).code == 0
    for index in range(2):
        assert camcli("run", imgs, "-o", parts, *flags, "--shard", f"{index}/2").code == 0
    assert camcli("merge", parts).code == 0
    order = lambda out: sorted((out / "predictions.csv").read_bytes().splitlines())  # noqa: E731
    assert order(parts) == order(whole)
    assert camcli("run", imgs, "-o", tmp_path / "cut", *flags, "--limit", 2).code == 0
    assert camcli("run", imgs, "-o", tmp_path / "cut", *flags).code == 0
    assert (tmp_path / "cut" / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    for out in (whole, parts, tmp_path / "cut"):
        assert camcli("verify", out).code == 0


def test_other_metrics_are_another_run_and_options_without_effect_are_not(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    assert camcli("run", imgs, "-o", out, *TINY, "--metrics", "gain,drop").code == 0
    assert camcli("run", imgs, "-o", out, *TINY, "--metrics", "drop", "--metrics", "gain").code == 0, "the order does not matter"
    refused = camcli("run", imgs, "-o", out, *TINY, "--metrics", "drop")
    assert refused.code == 2
    assert "metrics: was drop, gain, now drop" in refused.err
    same = camcli("run", imgs, "-o", out, *TINY, "--metrics", "gain,drop", "--steps", 5)
    assert same.code == 0
    assert "--steps has no effect without --metrics deletion or insertion." in same.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--metrics", "dorp"), "Did you mean 'drop'"),
        (("--metrics", "drop,"), "'' is not one of"),
        (("--metrics", "gain", "--metric-score", "logit"), "use --metric-score probability"),
        (("--metrics", "deletion", "--steps", 1), "between 2 and 1000"),
        (("--metrics", "deletion", "--baseline", "white"), "is not one of zero, mean, blur"),
    ],
)
def test_what_cannot_be_measured_is_refused(camcli, imgs, tmp_path, flags, words):
    done = camcli("run", imgs, "-o", tmp_path / "out", *TINY, *flags)
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "out").exists()


def test_forged_metrics_are_damaged_rows(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    assert camcli("run", imgs, "-o", out, *TINY, "--metrics", "entropy").code == 0
    text = (out / "predictions.csv").read_text(encoding="utf-8")
    cell = rows_of(out)[0]["entropy"]
    (out / "predictions.csv").write_text(text.replace(cell, "<" + cell[1:], 1), encoding="utf-8")
    assert camcli("verify", out).code == 1


def test_methods_lists_the_metrics_with_their_cost(camcli):
    lines = camcli("methods", "--metrics").out.splitlines()
    assert lines[0].split("\t") == ["metric", "better", "forward_passes", "measures", "source"]
    assert [line.split("\t")[0] for line in lines[1:]] == list(METRICS)


def test_the_passes_are_as_many_as_the_table_says(cam_network, inputs):
    """Counted in images that went through the network, for two maps of three images."""
    network = steep(cam_network)

    def passes(*names):
        seen = []
        hook = network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        try:
            explained(network, inputs, ["gradcam", "layercam"], [0, 2, 4], names)
        finally:
            hook.remove()
        return (sum(seen) - 3) / 3

    assert passes("entropy", "sparsity", "complexity") == 0
    assert passes("drop") == passes("drop", "increase", "gain") == passes("drop", "adcc") == 2
    assert passes("deletion") == pytest.approx(2 * 19 + 1 / 3)
    assert passes("insertion") == 2 * 19 + 1
    assert passes("road") == 16
    assert passes("infidelity") == 10
    assert passes("sensitivity") == 4


def test_old_folders_go_on(camcli, imgs, tmp_path):
    """A journal that does not name the options has their defaults."""
    out = tmp_path / "out"
    assert camcli("run", imgs, "-o", out, *TINY, "--limit", 2).code == 0
    journal = out / ".camcli" / "journal.jsonl"
    first, *rest = journal.read_bytes().splitlines(keepends=True)
    header = json.loads(first)
    for name in ("metrics", "steps", "baseline", "metric-score"):
        header["settings"].pop(name, None)
    header.pop("check")
    from camcli.output.journal import _line

    journal.write_bytes(_line(header) + b"".join(rest))
    before = os.stat(out / "predictions.csv").st_size
    assert camcli("run", imgs, "-o", out, *TINY).code == 0
    assert os.stat(out / "predictions.csv").st_size > before


def test_the_names_of_curves_are_metrics():
    assert set(CURVES) <= set(METRICS)
