"""Boxes and masks from heatmaps: against known maps, scipy's components, scikit-image's Otsu, and a scene of two colours."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from scipy import ndimage
from skimage.filters import threshold_otsu

from benchmarks.regions import mask_overlap, sought
from camcli.config.fingerprint import effective_settings
from camcli.config.run import RunConfig
from camcli.images.geometry import input_window
from camcli.records import Box
from camcli.render.maps import place_map, scale_map
from camcli.render.regions import find_boxes, segment
from tests.folders import TINY, contents_of, rows_of, state_of
from tests.networks import brightness
from tests.pictures import encoded, noise, photo


def upsampled(values, width, height):
    """The map at full size, by torch."""
    resized = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], (height, width), mode="bilinear")[0, 0].numpy()
    return np.maximum(resized, 0) / max(values.max(), 1e-30)


def blobs(seed, cells=9):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((cells, cells)) > 0.8, rng.random((cells, cells)), 0).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("threshold", [0.15, 0.5])
def test_boxes_are_those_of_the_connected_parts_of_the_upsampled_map(seed, threshold):
    """Exact to the pixel, the largest part first: scipy finds the parts."""
    values, pixels = blobs(seed), Box(30, 20, 211, 157)
    placed = place_map(scale_map(values), (30.0, 20.0, 211.0, 157.0), pixels, (211, 157))
    found = find_boxes(placed, pixels, threshold)
    labels, count = ndimage.label(upsampled(values, 211, 157) >= threshold, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())[1:]
    parts = ndimage.find_objects(labels)
    expected = {
        Box(30 + x.start, 20 + y.start, x.stop - x.start, y.stop - y.start): area for (y, x), area in zip(parts, areas, strict=True)
    }
    assert len(found) == count > 0
    assert set(found) == set(expected)
    assert [expected[box] for box in found] == sorted(areas, reverse=True)


def dark_photo_with(tmp_path, *rectangles, size=(640, 480)):
    """A black photo with bright rectangles (x, y, w, h, brightness)."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y, w, h, light in rectangles:
        pixels[y : y + h, x : x + w] = light
    (tmp_path / "imgs").mkdir(exist_ok=True)
    (tmp_path / "imgs" / "a.png").write_bytes(encoded(pixels, "PNG"))
    return tmp_path / "imgs"


def test_a_bright_object_is_boxed_where_it_is(camcli, tmp_path):
    """Through the whole command, with a network whose map is the picture in cells of 8 pixels of its input."""
    imgs, out = dark_photo_with(tmp_path, (200, 120, 160, 240, 255), (480, 60, 40, 40, 200)), tmp_path / "out"
    done = camcli("run", imgs, "-o", out, *TINY, "--boxes", "largest", "--save-maps")
    assert done.code == 0, done.err
    (row,) = rows_of(out)
    x, y, w, h = (int(row[name]) for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h"))
    cell = 480 / 256 * 8
    assert abs(x - 200) <= cell
    assert abs(y - 120) <= cell
    assert abs(x + w - 360) <= cell
    assert abs(y + h - 360) <= cell
    seen = Box(*(int(row[name]) for name in ("box_x", "box_y", "box_w", "box_h")))
    values = np.load(out / "maps" / "a.png.1-bright.npy")
    box = input_window((640, 480), brightness().preprocess, "crop").box
    placed = place_map(scale_map(values), box, seen, (seen.w, seen.h)).whole()
    labels, _ = ndimage.label(placed >= 0.15, np.ones((3, 3)))
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    rows, columns = ndimage.find_objects((labels == largest).astype(int))[0]
    expected = (seen.x + columns.start, seen.y + rows.start, columns.stop - columns.start, rows.stop - rows.start)
    assert (x, y, w, h) == expected
    assert (row["image_w"], row["image_h"], row["bboxes"]) == ("640", "480", f"{x} {y} {w} {h}")
    overlay = np.asarray(PillowImage.open(out / row["overlay"]).convert("RGB")).astype(int)
    edge = overlay[y + h // 2, x : x + 4]
    assert (edge[:, [0, 2]].min(axis=1) - edge[:, 1]).max() > 80, "no pink line where the box begins"


def test_all_boxes_and_cocos_file(camcli, tmp_path):
    """Two objects, two boxes; COCO's file says what the table says, also when it is asked for later."""
    imgs, out = dark_photo_with(tmp_path, (200, 120, 160, 240, 255), (440, 100, 60, 60, 255)), tmp_path / "out"
    (imgs / "=odd\n.png").write_bytes((imgs / "a.png").read_bytes())
    (imgs / "black.png").write_bytes(encoded(np.zeros((40, 40, 3), np.uint8), "PNG"))
    flags = (*TINY, "--boxes", "all")
    assert camcli("run", imgs, "-o", out, *flags).code == 0
    assert not (out / "boxes.json").exists()
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *flags, "--boxes-json").err
    found = json.loads((out / "boxes.json").read_text())
    names = {image["id"]: image["file_name"] for image in found["images"]}
    assert sorted(names.values()) == ["=odd\n.png", "a.png", "black.png"]
    assert found["categories"] == [{"id": 0, "name": "bright"}]
    assert [names[one["image_id"]] for one in found["annotations"]] == ["=odd\n.png"] * 2 + ["a.png"] * 2
    for row in rows_of(out):
        if row["image"] == "a.png":
            boxes = [[int(number) for number in box.split()] for box in row["bboxes"].split(";")]
            assert boxes == [one["bbox"] for one in found["annotations"] if names[one["image_id"]] == "a.png"]
            assert [str(number) for number in boxes[0]] == [row[f"bbox_{side}"] for side in "xywh"]
        if row["image"] == "black.png":
            assert (row["bbox_x"], row["bboxes"], row["image_w"]) == ("", "", "40")
    line = json.loads(camcli("run", imgs, "-o", out, *flags, "--format", "jsonl").out.splitlines()[1])
    assert line["bboxes"] == boxes
    refused = camcli("run", imgs, "-o", tmp_path / "other", *TINY, "--boxes-json")
    assert (refused.code, "add --boxes" in refused.err) == (2, True)


def test_masks_are_the_map_at_the_size_of_the_photo():
    values, pixels = blobs(3), Box(10, 5, 90, 70)
    image = noise(0, (120, 80))
    placed = place_map(scale_map(values), (10.0, 5.0, 90.0, 70.0), pixels, (90, 70))
    whole = np.zeros((80, 120))
    whole[5:75, 10:100] = upsampled(values, 90, 70)
    mask = segment(image, placed, pixels, "threshold", 0.15)
    clear = np.abs(whole - 0.15) > 1e-5  # on the edge itself the last digit decides
    assert np.array_equal(mask[clear], np.where(whole >= 0.15, 255, 0)[clear])
    assert clear.mean() > 0.99
    mask[5:75, 10:100] = 0
    assert not mask.any(), "something outside of what the network saw was taken for the object"
    levels = np.rint(placed.whole() * 255).astype(np.uint8)
    otsu = segment(image, placed, pixels, "otsu", 0.15)
    assert np.array_equal(otsu[5:75, 10:100] == 255, levels > threshold_otsu(levels))


def test_grabcut_finds_the_object_where_the_map_only_hints_at_it():
    """A red disc on green: the map is a coarse blob inside it, the mask is the disc."""
    rng = np.random.default_rng(0)
    image = np.full((400, 600, 3), (40, 150, 60), np.uint8)
    disc = np.zeros((400, 600), np.uint8)
    cv2.circle(disc, (330, 190), 110, 255, -1)
    image[disc == 255] = (200, 40, 40)
    image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    values = np.zeros((7, 7), np.float32)
    values[2:5, 3:5] = 1
    pixels = Box(0, 0, 600, 400)
    placed = place_map(values, (0.0, 0.0, 600.0, 400.0), pixels, (600, 400))

    def overlap(mask):
        return ((mask == 255) & (disc == 255)).sum() / ((mask == 255) | (disc == 255)).sum()

    first = segment(image, placed, pixels, "grabcut", 0.15)
    assert overlap(segment(image, placed, pixels, "threshold", 0.15)) < 0.8
    assert overlap(first) > 0.95
    assert np.array_equal(first, segment(image, placed, pixels, "grabcut", 0.15))
    nothing = place_map(np.ones((7, 7), np.float32), (0.0, 0.0, 600.0, 400.0), pixels, (600, 400))
    assert segment(image, nothing, pixels, "grabcut", 0.15).all(), "a map without an outside leaves it to the map"


def test_runs_with_masks_and_boxes_resume_verify_and_merge_like_others(camcli, imgs, tmp_path):
    """Also as WebP and with maps; workers and batches change nothing."""
    regions = ("--masks", "--mask-method", "grabcut", "--boxes", "all")
    flags = (*TINY, *regions, "--image-format", "webp", "--save-maps", "--max-side", 40)
    whole, out, parts = tmp_path / "whole", tmp_path / "out", tmp_path / "parts"
    assert camcli("run", imgs, "-o", whole, *flags).code == 0
    assert camcli("verify", whole).code == 0
    assert len(list((whole / "masks").rglob("*.png"))) == 6
    for row in rows_of(whole):
        picture = PillowImage.open(whole / row["overlay"])
        assert (picture.format, picture.size) == ("WEBP", (40, 33))
        mask = whole / row["overlay"].replace("overlays/", "masks/").replace(".webp", ".png")
        assert PillowImage.open(mask).size == (60, 50)
    camcli("run", imgs, "-o", out, *flags, "--limit", 3, "--workers", 1)
    next((out / "masks").rglob("*.png")).unlink()
    camcli("run", imgs, "-o", out, *flags, "--workers", 8, "--batch-size", 2)
    assert contents_of(out) == contents_of(whole)
    stray = out / "masks" / "gone.jpg.1-bright.png"
    stray.write_bytes(b"")
    assert "no row of the table names it" in camcli("verify", out).out
    (imgs / "new.jpg").write_bytes(encoded(photo(40), "JPEG"))
    camcli("run", imgs, "-o", out, *flags)
    assert stray.exists(), "a file that nobody wrote down was removed"
    stray.unlink()
    for part in ("0/2", "1/2"):
        camcli("run", imgs, "-o", parts, *flags, "--shard", part)
    camcli("merge", parts)
    assert {name: data for name, data in contents_of(parts).items() if not name.startswith("shard")} == contents_of(out)


def test_the_default_mask_finds_the_objects_of_the_sample_photos_best():
    """Intersection over union with outlines drawn by eye; benchmarks/regions.py prints it for more ways and more views."""
    objects = list(sought("crop"))
    assert all(truth.any() for _, truth, _, _ in objects)
    default = np.mean([mask_overlap(one, RunConfig.mask_method, RunConfig().mask_threshold) for one in objects])
    assert default > 1.1 * np.mean([mask_overlap(one, "threshold", 0.15) for one in objects])
    assert default > 1.1 * np.mean([mask_overlap(one, "otsu", 0.0) for one in objects])
    assert RunConfig().box_threshold == 0.15, "as published"


def masks_of(out):
    return {path.name: np.asarray(PillowImage.open(path)) for path in sorted((out / "masks").rglob("*.png"))}


def recorded_by_an_older_version(out, **settings):
    """Rewrite the journal's first line as before masks had a threshold of their own: every option is there, effective or not."""
    journal = out / ".camcli" / "journal.jsonl"
    first, *rest = journal.read_text().splitlines(keepends=True)
    record = json.loads(first)
    record["settings"].pop("mask-threshold", None)
    record["settings"].pop("box-threshold", None)
    record["settings"] |= {"region-threshold": 0.15, "mask-method": "threshold", "noise": 0.15} | settings
    journal.write_text(json.dumps(record) + "\n" + "".join(rest))


@pytest.mark.parametrize("regions", [(), ("--boxes", "all"), ("--masks",), ("--masks", "--boxes", "largest")], ids="-".join)
def test_a_folder_made_with_the_former_defaults_goes_on_with_them(camcli, imgs, tmp_path, regions):
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", imgs, "-o", out, *TINY, *regions, "--region-threshold", 0.15)
    recorded_by_an_older_version(out)
    before = state_of(out)
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY, *regions).err
    assert state_of(out) == before
    (imgs / "new.jpg").write_bytes(encoded(photo(40), "JPEG"))
    assert camcli("run", imgs, "-o", out, *TINY, *regions).code == 0
    camcli("run", imgs, "-o", whole, *TINY, *regions, "--region-threshold", 0.15)
    assert contents_of(out) == contents_of(whole)
    if regions:
        refused = camcli("run", imgs, "-o", out, *TINY, *regions, "--region-threshold", 0.4)
        assert (refused.code, "threshold: was 0.15, now 0.4" in refused.err) == (2, True)


def test_masks_and_boxes_have_defaults_of_their_own(camcli, tmp_path):
    """The darker rectangle is at a quarter of the peak: a box begins there, a mask does not."""
    imgs = dark_photo_with(tmp_path, (200, 120, 160, 240, 255), (440, 100, 60, 60, 64))
    runs = {"default": (), "both": ("--region-threshold", 0.35), "boxes": ("--region-threshold", 0.15)}
    outs = {name: tmp_path / name for name in runs}
    for name, flags in runs.items():
        assert camcli("run", imgs, "-o", outs[name], *TINY, "--masks", "--boxes", "all", *flags).code == 0
    masks = {name: masks_of(out) for name, out in outs.items()}
    assert all(np.array_equal(masks["default"][name], masks["both"][name]) for name in masks["default"])
    assert any(not np.array_equal(masks["default"][name], masks["boxes"][name]) for name in masks["default"])
    boxes = {name: [row["bboxes"] for row in rows_of(out)] for name, out in outs.items()}
    assert boxes["default"] == boxes["boxes"] != boxes["both"]
    refused = camcli("run", imgs, "-o", outs["default"], *TINY, "--masks", "--boxes", "all", "--region-threshold", 0.35)
    assert (refused.code, "box-threshold: was 0.15, now 0.35" in refused.err, "mask-threshold" in refused.err) == (2, True, False)


IDLE = [
    (("--mask-method", "otsu"), "--mask-method has no effect without --masks."),
    (("--mask-method", "threshold"), "--mask-method has no effect without --masks."),
    (("--region-threshold", 0.5), "--region-threshold has no effect without --boxes, or --masks with"),
    (("--masks", "--mask-method", "otsu", "--region-threshold", 0.5), "--region-threshold has no effect without --boxes, or"),
    (("--noise", 0.15), "--noise has no effect without --smooth."),
    (("--noise", 0.4), "--noise has no effect without --smooth."),
]


@pytest.mark.parametrize(
    ("flags", "words"), IDLE, ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None
)
def test_an_option_without_effect_says_so_and_binds_no_folder(camcli, imgs, tmp_path, flags, words):
    out = tmp_path / "out"
    base = ("--masks", "--mask-method", "otsu") if "--masks" in flags else ()
    done = camcli("run", imgs, "-o", out, *TINY, *base)
    assert (done.code, "no effect" in done.err) == (0, False)
    again = camcli("run", imgs, "-o", out, *TINY, *flags)
    assert (again.code, "Nothing to do" in again.err) == (0, True)
    assert words in again.err
    assert "no effect" not in camcli("run", imgs, "-o", out, *TINY, *flags, "--quiet").err
    recorded_by_an_older_version(out, **{"mask-method": "otsu"})
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY, *flags).err


def test_an_option_with_effect_is_silent_and_binds(camcli, imgs, tmp_path):
    for number, (flags, other) in enumerate([
        (("--masks", "--mask-method", "otsu"), ("--masks",)),
        (("--boxes", "all", "--region-threshold", 0.5), ("--boxes", "all")),
        (("--masks", "--region-threshold", 0.5), ("--masks",)),
        (("--smooth", 2, "--noise", 0.4), ("--smooth", 2)),
    ]):  # fmt: skip
        out = tmp_path / str(number)
        done = camcli("run", imgs, "-o", out, *TINY, *flags)
        assert (done.code, "no effect" in done.err) == (0, False)
        assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY, *flags).err
        assert camcli("run", imgs, "-o", out, *TINY, *other).code == 2


def test_a_refusal_names_what_was_asked_for_and_not_what_follows_from_it(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY, "--masks")
    assert "(mask-method: was threshold, now otsu)" in camcli("run", imgs, "-o", out, *TINY, "--masks", "--mask-method", "otsu").err
    assert "(masks: was True, now False)" in camcli("run", imgs, "-o", out, *TINY).err
    assert "(smooth: was 0, now 2)" in camcli("run", imgs, "-o", out, *TINY, "--masks", "--smooth", 2).err


def test_effective_settings_are_their_own():
    settings = RunConfig(
        masks=True, boxes="all", smooth=3, save_maps=True, method=("rise", "occlusion"), metrics=("deletion",)
    ).settings()
    assert effective_settings(settings) == settings
    for config in (RunConfig(), RunConfig(masks=True, mask_method="otsu"), RunConfig(boxes="all", noise=0.3)):
        once = effective_settings(config.settings())
        assert effective_settings(once) == once
        assert config.settings().items() >= once.items()
