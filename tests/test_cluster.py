"""``camcli cluster``: components, groups, flags, tables, and what it does with folders that it cannot use."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_samples

from camcli.cluster import features
from camcli.cluster.features import Components, components_of, joined_space, picture_of
from camcli.cluster.flags import Measured, flags_of, is_suspected, place_of
from camcli.cluster.gap import _border, gap_of, redraw
from camcli.cluster.groups import NONE, find_groups, silhouettes
from camcli.cluster.write import FILES, GROUP_COLUMNS, IMAGE_COLUMNS
from camcli.output.locks import undisturbed
from camcli.output.root import Root
from tests.folders import TINY, contents_of, state_of
from tests.synthetic import synthetic_run


class Held:
    """Rows for ``components_of``, in memory or in blocks."""

    def __init__(self, rows, block=None):
        self.rows, self.block, self.shape = rows.astype(np.float32), block, rows.shape[1:]
        self.held = self.rows if block is None else None

    def blocks(self):
        size = self.block or len(self.rows)
        for start in range(0, len(self.rows), size):
            yield slice(start, start + size), self.rows[start : start + size]


def tilted(count=300, size=40, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 6)) * [9, 6, 4, 3, 2, 1] @ np.linalg.qr(random.normal(size=(size, 6)))[0].T + 5


def test_components_are_those_of_a_plain_singular_value_decomposition():
    rows = tilted()
    found = components_of(Held(rows), len(rows), 0)
    assert isinstance(found, Components)
    centred = rows - rows.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    for number in range(6):
        assert abs(abs(float(axes[number] @ found.axes[number])) - 1) < 1e-4
        assert found.shares[number] == pytest.approx(values[number] ** 2 / (values**2).sum(), rel=1e-3)
    assert (np.diff(found.shares) <= 1e-9).all()


def test_what_components_add_to_the_logit_sums_to_the_logit_beyond_its_mean():
    """Neural PCA's law: over all components, the logit (the sum of the contributions) minus the mean logit, whatever the signs."""
    rows = tilted()
    found = components_of(Held(rows), len(rows), 0)
    np.testing.assert_allclose(found.logits.sum(axis=1), rows.sum(axis=1) - rows.sum(axis=1).mean(), atol=1e-2)
    turned = Components(-found.axes, found.mean, -found.scores, found.shares, found.variance)
    np.testing.assert_allclose(turned.logits, found.logits)


def test_block_by_block_the_leading_components_are_the_same():
    rows = tilted(2000)
    one, other = components_of(Held(rows), len(rows), 0), components_of(Held(rows, 256), len(rows), 0)
    for number in range(5):
        assert abs(float(one.axes[number] @ other.axes[number])) > 0.99
    np.testing.assert_allclose(one.shares[:5], other.shares[:5], rtol=0.02)
    reference = PCA(5).fit(rows).explained_variance_ratio_
    np.testing.assert_allclose(one.shares[:5], reference, rtol=0.01)


def test_parts_side_by_side_weigh_the_same():
    """Scaling maps or contributions by any factor changes no distance in the joined space."""
    one, other = tilted(seed=1), tilted(seed=2)
    first = joined_space([components_of(Held(one), 300, 0), components_of(Held(other), 300, 0)])
    second = joined_space([components_of(Held(1000 * one), 300, 0), components_of(Held(other), 300, 0)])
    apart = [np.linalg.norm(space[:50, None] - space[None, :50], axis=2) for space in (first, second)]
    np.testing.assert_allclose(*apart, rtol=1e-3, atol=1e-3)


def blobs(sizes, apart=12.0, seed=0):
    random = np.random.default_rng(seed)
    parts = [random.normal(size=(size, 6)) + apart * np.eye(6)[place % 6] for place, size in enumerate(sizes)]
    return np.concatenate(parts), np.repeat(np.arange(len(sizes)), sizes)


def test_dense_places_are_found_and_what_is_far_from_them_is_in_none():
    points, truth = blobs((60, 40, 30))
    points = np.concatenate([points, [[200.0] * 6]])
    found = find_groups(points, 1000, 0)
    assert found.dense
    assert found.labels[-1] == NONE
    groups = [set(np.flatnonzero(found.labels == label)) for label in range(3)]
    for label in range(3):
        own = set(np.flatnonzero(truth == label))
        assert max(len(own & group) / len(own | group) for group in groups) > 0.9


def test_of_many_images_a_sample_makes_the_groups_and_the_others_join_them():
    points, truth = blobs((900, 600, 500))
    whole, sampled = find_groups(points, 5000, 0), find_groups(points, 300, 0)
    for found in (whole, sampled):
        assert found.labels.max() == 2
        for label in range(3):
            own = found.labels[truth == label]
            assert (own == np.bincount(own[own >= 0]).argmax()).mean() > 0.9


def test_where_nothing_is_dense_all_images_are_divided():
    points = np.random.default_rng(0).uniform(size=(200, 6))
    found = find_groups(points, 1000, 0)
    assert not found.dense
    assert (found.labels >= 0).all()
    same = find_groups(np.zeros((50, 3)), 1000, 0)
    assert set(same.labels.tolist()) == {0}


def test_silhouettes_are_those_of_scikit_learn():
    points, truth = blobs((40, 30, 20), apart=3.0)
    expected = silhouette_samples(points, truth)
    for label, value in enumerate(silhouettes(points, truth, 0)):
        assert value == pytest.approx(float(expected[truth == label].mean()), abs=1e-9)


def test_a_gap_is_what_separates_two_clouds_and_not_what_cuts_one():
    """Two normal clouds d standard deviations apart: the lowest tenth of one is d - 2 * 1.28 above the highest of the other."""
    random = np.random.default_rng(0)
    cloud = random.normal(size=(4000, 5))
    inside = np.arange(4000) < 1200
    for distance in (0.0, 4.0, 8.0):
        moved = cloud + distance * inside[:, None] * np.eye(5)[2]
        assert gap_of(moved, inside, 0).width == pytest.approx(distance - 2 * 1.2816, abs=0.6), "two errors of the quantiles"
    halves = gap_of(cloud, cloud[:, 0] > 0, 0).width  # of half a normal: lowest tenth 0.1257, standard deviation 0.6028
    assert halves == pytest.approx(2 * 0.1257 / 0.6028, abs=0.1)
    assert gap_of(cloud[:30], np.arange(30) < 15, 0) is None


def test_a_border_is_where_two_normal_distributions_are_equally_likely():
    """One narrow, one wide; the group was found in part: its border is that of all its images, from the closed form."""
    random = np.random.default_rng(0)
    share, spread, apart = 0.3, 2.5, 12.0
    inside = np.arange(6000) < share * 6000
    places = np.where(inside, random.normal(apart, spread, 6000), random.normal(0, 1, 6000))
    by_spread = 1 / spread**2
    logarithms = [(by_spread - 1) / 2, -apart * by_spread, apart**2 * by_spread / 2 + math.log((1 - share) * spread / share)]
    expected = max(np.roots(logarithms))
    for found in (inside, inside & (places > apart)):
        assert _border(places, found) == pytest.approx(expected, abs=0.25)
    assert _border(np.zeros(50), np.arange(50) < 20) == 0


def test_a_border_runs_through_the_gap():
    """Half of a cloud's images were in another group or in none, some of the others' in it: all are put where they belong."""
    random = np.random.default_rng(0)
    truth = np.arange(400) < 100
    space = random.normal(size=(400, 20)) + 9.0 * truth[:, None] * np.eye(20)[13]
    labels = np.where(truth, 0, 1)
    labels[:20], labels[20:50], labels[395:] = NONE, 1, 0
    found, gaps = redraw(labels, space, 0)
    np.testing.assert_array_equal(found == 0, truth)
    assert (found[~truth] != 0).all()
    assert gaps[0] > 1
    assert gaps[1] == -math.inf, "the larger part has none"
    cut = np.where(random.random(400) < 0.3, 0, 1)
    np.testing.assert_array_equal(redraw(cut, space, 0)[0], cut, "groups without a gap stay as they are")


@pytest.mark.parametrize("layout", ["tsne", "pca"])
@pytest.mark.parametrize("count", [5, 60, 400])
def test_pictures_keep_groups_together_and_are_repeatable(monkeypatch, layout, count):
    """Also where the images are so many that a part of them is placed, and the others between their neighbours."""
    monkeypatch.setattr(features, "_LARGEST_PICTURE", 300)
    points, truth = blobs((count // 5 * 3, count - count // 5 * 3))
    places = picture_of(points, layout, 0)
    assert places.shape == (count, 2)
    assert ((places >= 0) & (places <= 1)).all()
    np.testing.assert_array_equal(places, picture_of(points, layout, 0))
    if count > 50:
        middles = [places[truth == label].mean(axis=0) for label in (0, 1)]
        nearest = np.linalg.norm(places[:, None] - np.array(middles), axis=2).argmin(axis=1)
        assert (nearest == truth).mean() > 0.95


def measured(**changes):
    corner, middle = np.zeros((7, 7)), np.zeros((7, 7))
    corner[5:, :2], middle[2:5, 2:5] = 0.25, 1 / 9
    facts = {
        "share": 0.3, "silhouette": 0.6, "maps": (corner, middle), "likeness": 0.95, "right": ((30, 30), (40, 70)),
        "confidences": (np.linspace(0.95, 0.99, 30), np.linspace(0.4, 0.9, 70)),
    }  # fmt: skip
    return Measured(**{**facts, **changes})


def test_every_flag_has_its_figures_and_its_cause():
    found = flags_of(measured())
    assert set(found) == {"tight", "fixed", "outside", "right", "sure"}
    assert (
        flags_of(measured(gap=3.1, few=0.18))["apart"]
        == "1% of the channels carry 18% of its extra evidence, gap to the others 3.1"
    )
    assert "apart" in flags_of(measured(gap=0.1, few=0.22))
    for changes in (
        {"gap": 2.9, "few": 0.18},
        {"gap": -0.1, "few": 0.3},
        {"gap": 5.0, "few": 0.1},
        {"gap": 5.0, "few": 0.5, "share": 0.6},
    ):
        assert "apart" not in flags_of(measured(**changes)), changes
    assert "silhouette 0.60" in found["tight"]
    assert found["fixed"].startswith("bottom left; 100%")
    assert "0%" in found["outside"]
    assert found["right"] == "accuracy 100% in the group, 57% outside"
    assert "tight" not in flags_of(measured(silhouette=0.3))
    assert "tight" not in flags_of(measured(share=0.8))
    assert "fixed" not in flags_of(measured(likeness=0.2))
    assert "outside" not in flags_of(measured(share=0.6)), "the usual place is that of the larger part"
    assert "right" not in flags_of(measured(right=((2, 2), (40, 70)))), "two images prove nothing"
    assert "right" not in flags_of(measured(right=((0, 0), (0, 0))))
    same = np.linspace(0.4, 0.9, 50)
    assert "sure" not in flags_of(measured(confidences=(same, same)))
    assert is_suspected(found)
    assert not is_suspected({"tight": "", "fixed": "", "outside": ""}), "a group that makes the network neither surer nor right"
    assert not is_suspected({"sure": "", "right": ""})
    assert is_suspected({"apart": ""})


@pytest.mark.parametrize(
    ("cell", "words"), [((0, 0), "top left"), ((3, 3), "centre"), ((6, 3), "bottom"), ((3, 6), "right"), ((0, 6), "top right")]
)
def test_places_in_words(cell, words):
    values = np.zeros((7, 7))
    values[cell] = 1
    assert place_of(values) == words


def test_the_place_is_that_of_the_strongest_cells():
    """The centre of all evidence would be between the corner and the object, where there is none."""
    values = np.zeros((7, 7))
    values[5:, :2], values[2:5, 3:6] = 1.0, 0.6
    assert place_of(values) == "bottom left"
    assert place_of(np.zeros((7, 7))) == "nowhere"


def tables(folder):
    found = []
    for name in ("clusters.csv", "groups.csv"):
        with open(folder / name, encoding="utf-8", newline="") as file:
            found.append(list(csv.DictReader(file)))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 240 images in three classes, one with a planted group."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, synthetic_run(out, 240, 3)


@pytest.mark.parametrize(
    ("evidence", "sample"),
    [
        *(("both", 4000), ("what", 100), ("where", 4000)),
        *(pytest.param(*pair, marks=pytest.mark.soak) for pair in (("both", 100), ("what", 4000), ("where", 100))),
    ],
)
def test_a_planted_group_is_found_and_flagged_first(camcli, tmp_path, evidence, sample):
    """Also where the class is read in blocks, and the groups are made from a sample."""
    out = tmp_path / "out"
    marked = synthetic_run(out, 900, 3, seed=1)
    done = camcli("cluster", out, "--evidence", evidence, "--sample", sample)
    assert done.code == 0, done.err
    images, groups = tables(out / "clusters")
    own = {row["image"] for row in images if row["group"] == "1"}
    assert len(own & marked) >= 0.9 * max(len(own), len(marked))
    assert (groups[0]["suspected"], groups[0]["class"]) == ("yes", "class 000")
    assert [row["suspected"] for row in groups[1:]] == ["no"] * (len(groups) - 1)
    assert "1 may be a shortcut" in done.err


def test_the_tables_hold_every_image_and_group_once(camcli, run, tmp_path):
    out, _ = run
    assert camcli("cluster", out, "-o", tmp_path / "c").code == 0
    images, groups = tables(tmp_path / "c")
    assert tuple(images[0]) == IMAGE_COLUMNS
    assert tuple(groups[0]) == GROUP_COLUMNS
    assert len({row["image"] for row in images}) == len(images) == 240
    assert [int(row["group"]) for row in groups] == list(range(1, len(groups) + 1))
    for row in groups:
        assert sum(image["group"] == row["group"] for image in images) == int(row["images"])
    record = json.loads((tmp_path / "c" / "clusters.json").read_text())
    assert [group["group"] for each in record["classes"] for group in each["groups"]]
    assert {path.name for path in (tmp_path / "c").iterdir()} == {*FILES, ".camcli"}


def test_the_same_folder_gives_the_same_bytes_and_the_same_command_has_nothing_to_do(camcli, run, tmp_path):
    out, _ = run
    assert camcli("cluster", out, "-o", tmp_path / "c").code == 0
    first, before = contents_of(tmp_path / "c"), state_of(tmp_path / "c")
    again = camcli("cluster", out, "-o", tmp_path / "c")
    assert "Nothing to do" in again.err
    assert state_of(tmp_path / "c") == before
    assert camcli("cluster", out, "-o", tmp_path / "c", "--overwrite").code == 0
    assert contents_of(tmp_path / "c") == first
    refused = camcli("cluster", out, "-o", tmp_path / "c", "--seed", 1)
    assert (refused.code, "seed: was 0, now 1" in refused.err) == (2, True)
    assert camcli("cluster", out, "-o", tmp_path / "c", "--seed", 1, "--overwrite").code == 0


def test_a_run_that_has_changed_is_grouped_again(camcli, tmp_path):
    out = tmp_path / "out"
    synthetic_run(out, 120, 2)
    assert camcli("cluster", out).code == 0
    shutil.rmtree(out / ".camcli")
    shutil.rmtree(out / "overlays")
    for name in ("predictions.csv", "failures.csv"):
        (out / name).unlink()
    synthetic_run(out, 150, 2)
    done = camcli("cluster", out)
    assert "have changed since" in done.err
    assert len(tables(out / "clusters")[0]) == 150


def test_several_runs_are_grouped_together(camcli, tmp_path):
    synthetic_run(tmp_path / "a", 120, 2, seed=3)
    synthetic_run(tmp_path / "b", 120, 2, seed=3)
    assert camcli("cluster", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c").code == 0
    images, _ = tables(tmp_path / "c")
    assert len(images) == 240
    groups = [{row["image"]: row["group"] for row in images if row["run"].endswith(end)} for end in ("a", "b")]
    assert groups[0] == groups[1], "equal images are in equal groups"


def test_groups_of_folders_that_were_moved_together_are_still_theirs(camcli, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("a", "b"):
        synthetic_run(tmp_path / "here" / name, 120, 2, seed=3)
    assert camcli("cluster", "a", "b").code == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rename(tmp_path / "there")
    done = camcli("cluster", "there/a", "there/b")
    assert (done.code, "Nothing to do" in done.err) == (0, True)
    other = camcli("cluster", "there/a", "-o", "there/a/clusters")
    assert (other.code, "runs: was" in other.err) == (2, True)


def test_a_run_without_contributions_says_which_command_adds_them(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY)
    for flags, missing in (((), "--save-contributions --save-maps"), (("--evidence", "where"), "--save-maps")):
        refused = camcli("cluster", out, *flags)
        assert refused.code == 2
        assert f"camcli run ... {missing} --overwrite" in refused.err
    assert not (out / "clusters").exists()
    added = camcli(
        "run", imgs, "-o", out, "--model", TINY[1], "--layer", TINY[3], "--save-contributions", "--save-maps", "--overwrite"
    )
    assert added.code == 0
    few = camcli("cluster", out)
    assert (few.code, "no class has 30 images" in few.err) == (2, True)
    assert camcli("cluster", out, "--min-images", 5).code == 0
    assert camcli("verify", out).code == 0


def test_what_is_not_there_is_said(camcli, run, imgs, tmp_path):
    out, _ = run
    for flags, words in (
        (("--class", "zebra"), "no image is of class 'zebra'"),
        (("--layer", "stem"), "--layer 'stem' is not in the run, which has: layer4"),
        (("--method", "cam"), "--method 'cam' is not in the run"),
        (("--paste",), "--paste needs --test GROUP"),
        (("--test", 999), "there is no group 999"),
        (("--layout", "umap"), "umap"),
    ):
        refused = camcli("cluster", out, "-o", tmp_path / "c", *flags)
        assert refused.code == 2, (flags, refused.err)
        assert words in refused.err
    assert "holds no run" in camcli("cluster", imgs, "-o", tmp_path / "d").err
    with undisturbed(Root(str(out)), "busy"):
        assert camcli("cluster", out, "-o", tmp_path / "e").code == 3


def test_damaged_rows_are_left_out_and_counted(camcli, tmp_path):
    out = tmp_path / "out"
    synthetic_run(out, 120, 2)
    table = out / ".camcli" / "contributions.bin"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 255
    table.write_bytes(data)
    done = camcli("cluster", out)
    assert (done.code, "1 image left out" in done.err) == (1, True)
    assert len(tables(out / "clusters")[0]) == 119


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"settings": {}, "classes": [1]}', '{"settings": {}, "classes": [{"class": 1}], "left_out": {}}']
)
def test_a_forged_record_is_replaced(camcli, run, tmp_path, text):
    out, _ = run
    camcli("cluster", out, "-o", tmp_path / "c")
    whole = contents_of(tmp_path / "c")
    (tmp_path / "c" / "clusters.json").write_text(text)
    assert camcli("cluster", out, "-o", tmp_path / "c").code == 0
    assert contents_of(tmp_path / "c") == whole


def test_files_of_others_are_not_replaced(camcli, run, tmp_path):
    out, _ = run
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "clusters.csv").write_text("mine")
    refused = camcli("cluster", out, "-o", tmp_path / "c")
    assert (refused.code, "which camcli did not write" in refused.err) == (3, True)
    assert (tmp_path / "c" / "clusters.csv").read_text() == "mine"
    assert camcli("cluster", out, "-o", out).code == 3


def test_without_scikit_learn_there_is_one_clear_error(camcli, run, tmp_path, monkeypatch):
    out, _ = run
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    refused = camcli("cluster", out, "-o", tmp_path / "c")
    assert (refused.code, "pip install 'camcli[cluster]'" in refused.err) == (2, True)
    assert not (tmp_path / "c").exists()
