"""camcli evaluate: intervals and verdicts, localization in closed forms, annotations of strangers, the grid pointing game."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from camcli.cam import METHODS
from camcli.errors import InputError
from camcli.evaluate import bootstrap, localization
from camcli.evaluate.boxes import Object, read_boxes
from camcli.evaluate.compare import Kind, compare
from camcli.evaluate.grid import Candidate, Player, cell_shares, compose, tiled
from camcli.evaluate.localization import KINDS, locate
from camcli.evaluate.values import CONTROLS, Key, Values
from camcli.records import Box
from tests.conftest import ROOT
from tests.folders import TINY
from tests.pictures import encoded

METHOD_FLAGS = ("--method", "gradcam", "--method", "uniform", "--method", "random", "--method", "center")


def box(x, y, w, h, name="bright"):
    return Object(name, (float(x), float(y), float(w), float(h)))


# ---- intervals


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many_images():
    values = np.random.default_rng(1).normal(3, 2, (400, 1))
    found = bootstrap.estimate(values, bootstrap.mean)
    error = values.std() / math.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)
    assert found == bootstrap.estimate(values, bootstrap.mean), "seeded"


def test_a_difference_is_paired():
    """Images differ much more than methods: unpaired intervals overlap, the paired one excludes zero."""
    generator = np.random.default_rng(2)
    one = generator.normal(0, 10, (60, 1))
    other = one - 1 + generator.normal(0, 0.5, (60, 1))
    assert bootstrap.estimate(one, bootstrap.mean).low < bootstrap.estimate(other, bootstrap.mean).high
    found = bootstrap.difference(one, other, bootstrap.mean)
    assert 0.8 < found.low < found.value < found.high < 1.2


def test_images_without_a_value_are_left_out_and_one_image_has_no_interval():
    values = np.array([[1.0], [np.nan], [3.0]])
    assert (bootstrap.estimate(values, bootstrap.mean).value, bootstrap.estimate(values, bootstrap.mean).count) == (2, 2)
    found = bootstrap.difference(values, np.array([[np.nan], [1.0], [1.0]]), bootstrap.mean)
    assert (found.value, found.count) == (2, 1)
    assert math.isnan(found.low)
    assert bootstrap.estimate(values[1:2], bootstrap.mean).count == 0


def values_of(columns, metric="m"):
    found = Values()
    for (layer, method), numbers in columns.items():
        for image, number in enumerate(numbers):
            found.add(metric, Key(0, layer, method), f"{image}.jpg", "a", None if number is None else [number])
    return found


def verdicts(better="higher", **methods):
    found = values_of({("l", method): numbers for method, numbers in methods.items()})
    return {result.key.method: result for result in compare(found, [Player("run", "run")], {"m": Kind(better)})}


def test_a_verdict_needs_an_interval_that_excludes_the_best_control():
    noise = np.random.default_rng(0).normal(0, 0.01, 30)
    good, fair, poor = 0.8 + noise, 0.5 + noise[::-1], 0.2 + noise
    found = verdicts(gradcam=good, random=poor, center=fair)
    assert (found["gradcam"].best, found["gradcam"].verdict) == ("center", "better than center")
    assert found["gradcam"].controls["center"].better == 1
    assert verdicts(gradcam=fair, random=poor, center=good)["gradcam"].verdict == "worse than center"
    assert verdicts(gradcam=fair, center=fair + noise)["gradcam"].verdict == "no difference shown"
    assert verdicts("lower", gradcam=poor, center=fair, random=good)["gradcam"].verdict == "better than center"
    assert verdicts(gradcam=good)["gradcam"].verdict == "no control"
    assert verdicts("", gradcam=good, center=poor)["gradcam"].verdict == ""
    assert found["center"].verdict == ""


def test_pairs_are_of_the_same_image_and_class_and_ties_count_half():
    found = verdicts(gradcam=[1.0, 0.5, None, 0.9], center=[0.5, 0.5, 0.1, None])["gradcam"]
    assert found.controls["center"].estimate.count == 2
    assert found.controls["center"].better == 0.75
    assert found.left_out == 1


def test_classes_of_an_image_count_together():
    found = Values()
    for name, number in (("cat", 0.0), ("dog", 1.0)):
        found.add("m", Key(0, "l", "gradcam"), "a.jpg", name, [number])
    found.add("m", Key(0, "l", "gradcam"), "b.jpg", "cat", [1.0])
    assert found.of("m", Key(0, "l", "gradcam")).tolist() == [[0.5], [1.0]]


def test_the_controls_are_the_methods_that_say_so():
    assert tuple(name for name, method in METHODS.items() if method.control) == CONTROLS


# ---- localization


def whole(values, size=(40, 30)):
    return locate(np.asarray(values, np.float32), Box(0, 0, *size))


def test_a_map_equal_to_the_object_finds_all_of_it():
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 10:35] = 1
    found, objects = whole(mask), [box(10, 5, 25, 15)]
    assert localization.energy(found, localization.covered_by_boxes(found, objects)) == pytest.approx(1)
    assert localization.pointing(found, objects, 0) == 1
    assert localization.localization_error(found, objects) == 0
    largest, of_any = localization.box_hits(found, objects)
    assert localization.max_box_acc(largest[None], np.ones(1)).tolist() == [1]
    assert localization.max_box_acc_v2(of_any[None], np.ones(1)).tolist() == [1]
    scores = localization.pixel_scores(found, localization.mask_samples(found, mask), mask)
    assert localization.pixel_average_precision(scores[None], np.ones(1)) == pytest.approx(1)


@pytest.mark.parametrize("object_", [(0, 0, 40, 30), (7.25, 3.5, 11.5, 20.25), (-5, 10, 100, 5), (39, 29, 50, 50)])
def test_the_uniform_map_has_the_energy_of_the_area(object_):
    found = whole(np.ones((7, 7)))
    x, y, w, h = object_
    area = (min(x + w, 40) - max(x, 0)) * (min(y + h, 30) - max(y, 0))
    assert localization.energy(found, localization.covered_by_boxes(found, [box(*object_)])) == pytest.approx(area / 1200, abs=1e-6)
    mask = np.zeros((30, 40), np.uint8)
    mask[3:9, 4:20] = 1
    scores = localization.pixel_scores(found, localization.mask_samples(found, mask), mask)
    assert localization.pixel_average_precision(scores[None], np.ones(1)) == pytest.approx(6 * 16 / 1200), "the base rate"


def test_the_uniform_map_points_everywhere_alike():
    found = whole(np.ones((7, 7)))
    assert localization.pointing(found, [box(0, 0, 20, 30)], 0) == 0.5
    assert localization.pointing(found, [box(0, 0, 20, 30)], 2) == pytest.approx(0.55)


def test_an_empty_map_is_never_a_hit():
    """A pointing game that stores into a boolean array counts empty masks as hits."""
    found, objects = locate(None, Box(0, 0, 40, 30)), [box(0, 0, 40, 30)]
    assert localization.pointing(found, objects, 15) == 0
    assert localization.energy(found, localization.covered_by_boxes(found, objects)) == 0
    assert localization.localization_error(found, objects) == 1
    assert not any(hits.any() for hits in localization.box_hits(found, objects))
    assert localization.pointing_at_mask(found, np.ones((30, 40), np.uint8), 15) == 0
    assert localization.pointing_at_mask(whole(np.ones((7, 7))), np.zeros((30, 40), np.uint8), 15) == 0


def test_the_tolerance_is_in_pixels_of_the_image():
    values = np.zeros((30, 40), np.float32)
    values[10, 10] = 1  # its centre is at 10.5, 10.5
    found = whole(values)
    assert localization.pointing(found, [box(20, 10, 5, 5)], 9.5) == 1
    assert localization.pointing(found, [box(20, 10, 5, 5)], 9.4) == 0
    mask = np.zeros((30, 40), np.uint8)
    mask[10, 20:25] = 1
    assert localization.pointing_at_mask(found, mask, 10) == 1
    assert localization.pointing_at_mask(found, mask, 9.9) == 0


def test_overlaps_add_no_pixel():
    boxes = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 10.0, 10.0], [20.0, 20.0, 1.0, 1.0]])
    assert localization.overlaps(boxes, [box(0, 0, 10, 10)]).tolist() == pytest.approx([1, 1 / 3, 0])
    assert localization.overlaps(boxes, [box(0, 0, 10, 5), box(5, 0, 10, 10)])[1] == 1


def test_what_was_cropped_away_counts_as_not_found():
    """The network saw the right half: a map on all of it, and an object that is half outside."""
    found = locate(np.ones((7, 7), np.float32), Box(20, 0, 20, 30))
    objects = [box(10, 0, 20, 30)]
    assert localization.energy(found, localization.covered_by_boxes(found, objects)) == pytest.approx(0.5)
    assert localization.overlaps(localization.component_boxes(found, 0.15), objects).tolist() == pytest.approx([10 / 30])
    assert localization.energy(found, localization.covered_by_boxes(found, [box(0, 0, 15, 30)])) == 0
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 10:30] = 1
    perfect = locate(mask[:, 20:].astype(np.float32), Box(20, 0, 20, 30))
    scores = localization.pixel_scores(perfect, localization.mask_samples(perfect, mask), mask)
    assert localization.pixel_average_precision(scores[None], np.ones(1)) == pytest.approx(0.5), "half of it cannot be found"


def test_the_best_threshold_is_that_of_all_images():
    """Two images that are right at different thresholds: one of them is found, whatever the threshold."""
    hits = np.zeros((2, len(localization.THRESHOLDS)))
    hits[0, :50] = hits[1, 50:] = 1
    found = bootstrap.estimate(hits, localization.max_box_acc)
    assert found.value == 0.5
    assert KINDS["maxboxacc"].by_image is False


def test_a_grid_of_pixel_scores_against_sorting_every_pixel():
    """Average precision with one threshold for each value, by hand."""
    generator = np.random.default_rng(3)
    values = (generator.integers(0, 200, (30, 40)) / 200).astype(np.float32)
    values[0, 0] = 199 / 200
    mask = (generator.random((30, 40)) < 0.3).astype(np.uint8)
    found = localization.Located(values, Box(0, 0, 40, 30))
    scores = localization.pixel_scores(found, mask.astype(np.float32), mask)
    expected, last = 0.0, 0.0
    for threshold in sorted(set(values.ravel()), reverse=True):
        chosen = values >= threshold
        recall = mask[chosen].sum() / mask.sum()
        expected += mask[chosen].mean() * (recall - last)
        last = recall
    assert localization.pixel_average_precision(scores[None], np.ones(1)) == pytest.approx(expected, abs=2e-3)


# ---- annotations


def coco(folder, images, annotations, categories=({"id": 7, "name": "bright"},)):
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": list(categories)}), encoding="utf-8")
    return path


IMAGES = [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}, {"id": 2, "file_name": "b.jpg"}]


def test_the_three_formats_say_the_same(tmp_path):
    from_coco = read_boxes(str(coco(tmp_path, IMAGES[:1], [{"image_id": 1, "category_id": 7, "bbox": [9, 19, 32, 22.0]}])))
    (tmp_path / "boxes.csv").write_text("image,class,x,y,w,h\na.jpg,bright,9,19,32,22\n", encoding="utf-8")
    voc = tmp_path / "voc"
    voc.mkdir()
    (voc / "a.xml").write_text(
        "<annotation><filename>a.jpg</filename><size><width>100</width><height>80</height></size><object><name>bright</name>"
        "<part><name>tail</name><bndbox><xmin>1</xmin></bndbox></part>"
        "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>41</xmax><ymax>41</ymax></bndbox></object></annotation>",
        encoding="utf-8",
    )
    expected = {"a.jpg": [box(9, 19, 32, 22)]}
    assert from_coco.objects == read_boxes(str(tmp_path / "boxes.csv")).objects == read_boxes(str(voc)).objects == expected
    assert not from_coco.problems


BAD = [
    ({"image_id": 9, "category_id": 7, "bbox": [0, 0, 5, 5]}, "unknown image"),
    ({"image_id": [], "category_id": 7, "bbox": [0, 0, 5, 5]}, "unknown image"),
    ({"image_id": 1, "category_id": 8, "bbox": [0, 0, 5, 5]}, "unknown class"),
    ({"image_id": 1, "category_id": 7, "bbox": [200, 0, 5, 5]}, "outside its image"),
    ({"image_id": 1, "category_id": 7, "bbox": [-9, 0, 5, 5]}, "outside its image"),
    ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 0, 5]}, "no area"),
    ({"image_id": 1, "category_id": 7, "bbox": [0, 0, -3, 5]}, "no area"),
    ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 5]}, "four numbers"),
    ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, "x"]}, "four numbers"),
    ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, True]}, "four numbers"),
    ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, float("nan")]}, "four numbers"),
    ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 1e300]}, "four numbers"),
    ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5], "iscrowd": 1}, "crowd"),
    ("text", "no object"),
]


@pytest.mark.parametrize(("bad", "words"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_annotation_is_left_out_and_counted(tmp_path, bad, words):
    good = {"image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4]}
    found = read_boxes(str(coco(tmp_path, IMAGES, [bad, good, bad])))
    assert found.objects == {"a.jpg": [], "b.jpg": [box(1, 2, 3, 4)]}
    (sentence,) = found.sentences()
    assert words in sentence
    assert "2 times" in sentence
    assert "annotations[0]" in sentence


def test_a_box_that_is_partly_outside_is_cut(tmp_path):
    found = read_boxes(str(coco(tmp_path, IMAGES, [{"image_id": 1, "category_id": 7, "bbox": [-10, 70, 50, 50]}])))
    assert found.objects["a.jpg"] == [box(0, 70, 40, 10)]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "null", '{"images": 3}', "[" * 100_000, '{"images": [], "annotations": [' + "1" * 10_000 + "]}", "\udcff"],
    ids=lambda text: text[:20],
)
def test_a_broken_file_is_refused_in_words(tmp_path, text):
    (tmp_path / "broken.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"broken\.json cannot be read"):
        read_boxes(str(tmp_path / "broken.json"))


BOMB = '<!DOCTYPE a [<!ENTITY x "{}"><!ENTITY y "&x;&x;&x;">]><annotation><filename>&y;</filename></annotation>'


@pytest.mark.parametrize(
    "text",
    [
        BOMB.format("a" * 1000),
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>',
        "<annotation>" * 200,
        "<annotation><filename>a.jpg</annotation>",
        "",
        "\0\0\0",
    ],
    ids=["bomb", "external", "entity", "deep", "open", "empty", "zeros"],
)
def test_a_bad_voc_file_spoils_no_other(tmp_path, text):
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    (tmp_path / "b.xml").write_text(
        "<annotation><filename>b.jpg</filename><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax>"
        "<ymax>5</ymax></bndbox></object></annotation>",
        encoding="utf-8",
    )
    found = read_boxes(str(tmp_path))
    assert found.objects == {"b.jpg": [box(0, 0, 5, 5, "cat")]}
    assert any("a.xml" in sentence for sentence in found.sentences())


# ---- the command


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Ten dark photos of 256 x 256 with a bright square at a known place, a finished run with maps, and its boxes."""
    place = tmp_path_factory.mktemp("squares")
    (place / "imgs").mkdir()
    annotations, images = [], []
    generator = np.random.default_rng(0)
    for number in range(10):
        x, y = (int(value) for value in generator.integers(20, 150, 2))
        pixels = generator.integers(0, 30, (256, 256, 3)).astype(np.uint8)
        pixels[y : y + 72, x : x + 72] = 230
        (place / "imgs" / f"{number}.png").write_bytes(encoded(pixels, "PNG"))
        images.append({"id": number, "file_name": f"{number}.png", "width": 256, "height": 256})
        annotations.append({"image_id": number, "category_id": 7, "bbox": [x, y, 72, 72]})
        mask = np.zeros((256, 256), np.uint8)
        mask[y : y + 72, x : x + 72] = 255
        (place / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(place / "masks" / f"{number}.png"), mask)
    coco(place, images, annotations)
    return place


@pytest.fixture
def squares_run(squares, camcli, tmp_path):
    flags = (
        *TINY,
        *METHOD_FLAGS,
        "--metrics",
        "drop,deletion,insertion",
        "--steps",
        5,
        "--save-maps",
        "--no-overlays",
        "--fit",
        "squash",
    )
    assert camcli("run", squares / "imgs", "-o", tmp_path / "out", *flags).code == 0
    return tmp_path / "out"


def table(text):
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def test_boxes_and_masks_where_the_truth_is_known(camcli, squares, squares_run):
    done = camcli("evaluate", squares_run, "--boxes", squares / "coco.json", "--masks", squares / "masks")
    assert done.code == 0, done.err
    rows = {(row["metric"], row["method"]): row for row in table(done.out)}
    for metric in ("energy", "maxboxacc", "maxboxacc_v2", "pxap"):
        assert rows[metric, "gradcam"]["verdict"].startswith("better than "), metric
    assert float(rows["maxboxacc", "gradcam"]["mean"]) == 1
    assert float(rows["pointing", "gradcam"]["mean"]) == 1
    assert float(rows["energy", "uniform"]["mean"]) == pytest.approx(72 * 72 / 256 / 256, abs=1e-3)
    assert rows["drop", "uniform"]["mean"] == "0.000"
    names = ("evaluation.csv", "evaluation.json", "evaluation-methods.png", "evaluation-curves.png")
    assert all((squares_run / name).stat().st_size for name in names)
    record = json.loads((squares_run / "evaluation.json").read_bytes())
    assert record["left_out"] == []
    with open(squares_run / "evaluation.csv", newline="", encoding="utf-8") as file:
        cells = {(row["metric"], row["method"]): row for row in csv.DictReader(file)}
    assert float(cells["energy", "gradcam"]["center_low"]) > 0
    assert cells["energy", "gradcam"]["images"] == "10"
    before = {name: (squares_run / name).stat().st_mtime_ns for name in names}
    assert camcli("evaluate", squares_run, "--boxes", squares / "coco.json", "--masks", squares / "masks").code == 0
    assert {name: (squares_run / name).stat().st_mtime_ns for name in names} == before, "the same results, written again"
    assert camcli("verify", squares_run).code == 0


def test_bad_annotations_stop_nothing_else(camcli, squares, squares_run, tmp_path):
    document = json.loads((squares / "coco.json").read_bytes())
    document["annotations"] = [each for each in document["annotations"] if each["image_id"] != 3]
    document["annotations"] += [
        {"image_id": 77, "category_id": 7, "bbox": [0, 0, 1, 1]},
        {"image_id": 0, "category_id": 7, "bbox": [0, 0, 0, 0]},
    ]
    document["images"].append({"id": 50, "file_name": "elsewhere/\x1b[31mred.png"})
    (tmp_path / "bad.json").write_text(json.dumps(document), encoding="utf-8")
    done = camcli("evaluate", squares_run, "--boxes", tmp_path / "bad.json", "-o", tmp_path / "results")
    assert done.code == 0
    for words in (
        "unknown image: 1 time",
        "no area: 1 time",
        "1 image annotated that no run has explained",
        "1 image without a box of the explained class; the first is 3.png",
    ):
        assert words in done.err, words
    assert "\x1b" not in done.err
    rows = {(row["metric"], row["method"]): row for row in table(done.out)}
    assert rows["energy", "gradcam"]["images"] == "9"
    assert (tmp_path / "results" / "evaluation.csv").exists()
    assert not (squares_run / "evaluation.csv").exists()


def test_boxes_that_fit_no_map_are_not_called_missing(camcli, squares, tmp_path):
    assert camcli("run", squares / "imgs", *TINY, "--save-maps", "-o", tmp_path / "out").code == 0
    (tmp_path / "boxes.csv").write_text("image,class,x,y,w,h\n0.png,zebra,0,0,9,9\n", encoding="utf-8")
    done = camcli("evaluate", tmp_path / "out", "--boxes", tmp_path / "boxes.csv")
    assert done.code == 2
    assert "no map can be compared with an object: 10 images without a box of the explained class" in done.err


def test_maps_in_a_binary_table_are_the_same_maps(camcli, squares, squares_run, tmp_path):
    flags = (*TINY, *METHOD_FLAGS, "--save-maps", "--maps-format", "parquet", "--no-overlays", "--fit", "squash")
    assert camcli("run", squares / "imgs", "-o", tmp_path / "packed", *flags).code == 0
    one, other = (camcli("evaluate", out, "--boxes", squares / "coco.json").out for out in (squares_run, tmp_path / "packed"))
    assert [row for row in table(one) if row["metric"] in KINDS] == table(other)


def test_several_runs_are_compared_and_share_their_controls(camcli, squares, squares_run, tmp_path):
    flags = (
        *TINY,
        "--method",
        "hirescam",
        "--metrics",
        "drop,deletion,insertion",
        "--steps",
        5,
        "--no-overlays",
        "--fit",
        "squash",
    )
    assert camcli("run", squares / "imgs", "-o", tmp_path / "second", *flags).code == 0
    done = camcli("evaluate", squares_run, tmp_path / "second", "-o", tmp_path / "both")
    rows = {(row["metric"], row["run"], row["method"]): row for row in table(done.out)}
    assert rows["drop", "second", "hirescam"]["to"] == "uniform"
    assert rows["drop", "second", "hirescam"]["mean"] == rows["drop", "out", "gradcam"]["mean"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--boxes", "nothing.json"), "No such file"),
        (("--masks", "nowhere"), "there is no such folder"),
        (("--grid", 2, "--boxes", "x.json"), "--grid needs no annotation"),
        (("--tolerance", -1), "at least 0"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(camcli, squares_run, flags, words):
    done = camcli("evaluate", squares_run, *flags)
    assert done.code == 2
    assert words in done.err


def test_runs_without_metrics_or_maps_say_what_to_do(camcli, imgs, squares, tmp_path):
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY).code == 0
    done = camcli("evaluate", tmp_path / "out")
    assert (done.code, "Run with --metrics" in done.err) == (2, True)
    done = camcli("evaluate", tmp_path / "out", "--boxes", squares / "coco.json")
    assert (done.code, "run it with --save-maps" in done.err) == (2, True)
    assert camcli("evaluate", tmp_path).code == 2


def test_overwriting_a_run_removes_its_evaluation(camcli, squares, squares_run):
    assert camcli("evaluate", squares_run).code == 0
    assert camcli("run", squares / "imgs", "-o", squares_run, *TINY, "--overwrite").code == 0
    assert not list(squares_run.glob("evaluation*"))


# ---- the grid pointing game


def test_cells_of_a_picture_are_row_by_row():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert tiled(images, 2)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    maps = torch.zeros(4, 4, 4)
    for cell, values in enumerate(maps):
        values[2 * (cell // 2) : 2 * (cell // 2) + 2, 2 * (cell % 2) : 2 * (cell % 2) + 2] = 1
        values[0, 0] -= 5 * (cell == 3)  # negative values do not count
    assert list(cell_shares(maps, (4, 4), 2)) == [1, 1, 1, 1]
    assert list(cell_shares(torch.ones(4, 7, 7), (64, 64), 2)) == pytest.approx([0.25] * 4)
    assert list(cell_shares(torch.zeros(4, 7, 7), (64, 64), 2)) == [0] * 4


def test_pictures_have_different_classes_and_use_each_image_once():
    generator = np.random.default_rng(0)
    found = [Candidate(f"{n}.jpg", int(generator.integers(6)), float(generator.random()), np.zeros((2, 2, 3))) for n in range(40)]
    pictures = compose(found, 4, 100)
    assert pictures == compose(list(reversed(found)), 4, 100)
    used = [one.image for picture in pictures for one in picture]
    assert len(used) == len(set(used))
    assert all(len({one.class_index for one in picture}) == 4 for picture in pictures)
    assert len(pictures) >= 8
    assert len(compose(found, 4, 3)) == 3
    assert compose(found[:2], 4, 3) == []


def test_the_game_where_the_truth_is_known(camcli, tmp_path):
    """Four colours, a network that sees each: every map lies in its own cell."""
    (tmp_path / "imgs").mkdir()
    for number in range(12):
        pixels = np.full((64, 64, 3), 20, np.uint8)
        if number % 4 < 3:
            pixels[:, :, number % 4] = 250
        (tmp_path / "imgs" / f"{number}.png").write_bytes(encoded(pixels, "PNG"))
    flags = (
        "--model",
        "tests.networks:four_colours",
        "--layer",
        "cells",
        "--method",
        "hirescam",
        "--pictures",
        3,
        "-o",
        tmp_path / "grid",
    )
    done = camcli("evaluate", tmp_path / "imgs", "--grid", 2, *flags)
    assert done.code == 0, done.err
    rows = {row["method"]: row for row in table(done.out)}
    assert float(rows["hirescam"]["mean"]) > 0.95
    assert rows["hirescam"]["verdict"].startswith("better than")
    assert float(rows["uniform"]["mean"]) == pytest.approx(0.25, abs=1e-3)
    assert float(rows["center"]["mean"]) == pytest.approx(0.25, abs=1e-3)
    record = json.loads((tmp_path / "grid" / "evaluation.json").read_bytes())
    assert record["grid"]["chance"] == 0.25
    assert len(record["grid"]["pictures"]) == 3
    few = camcli("evaluate", tmp_path / "imgs" / "0.png", "--grid", 2, *flags)
    assert few.code == 2
    assert "needs images of 4 different classes" in few.err


# ---- planted truth


@pytest.mark.soak
def test_the_page_keeps_its_promise(camcli, tmp_path, monkeypatch):
    """The commands of docs/evaluate.md: CAM beats every control where the truth is known; guided backpropagation is not best."""
    page = (
        (ROOT / "docs" / "evaluate.md")
        .read_text(encoding="utf-8")
        .partition("## A test with a known answer")[2]
        .partition("\n## ")[0]
    )
    lines = [line.strip().split() for line in page.splitlines() if line.startswith("    ")]
    assert [line[0] for line in lines] == ["python", "camcli", "camcli", "camcli"]
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, ROOT / lines[0][1], *lines[0][2:]], check=True)
    for line in lines[1:]:
        done = camcli(*line[1:])
        assert done.code == 0, done.err
    with open("found/evaluation.csv", newline="", encoding="utf-8") as file:
        rows = {(row["metric"], row["method"]): row for row in csv.DictReader(file)}
    for metric in ("energy", "maxboxacc"):
        for control in CONTROLS:
            assert float(rows[metric, "cam"]["low"]) > float(rows[metric, control]["high"]), (metric, control)
        assert rows[metric, "cam"]["verdict"].startswith("better than")
    for metric in ("drop", "deletion"):
        assert float(rows[metric, "cam"]["high"]) < float(rows[metric, "guided-backprop"]["low"]), metric
    assert rows["deletion", "guided-backprop"]["verdict"] == "worse than random"
    for (metric, method), row in rows.items():
        cell = f"| {metric} | {method} | "
        if cell in page:
            mean = float(page.partition(cell)[2].partition(" |")[0])
            assert float(row["mean"]) == pytest.approx(mean, abs=0.02), (metric, method)
