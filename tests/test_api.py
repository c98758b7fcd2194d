"""The Python interface gives what the command line gives."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import camcli as package
from camcli.errors import ClassError, ConfigError, ImageError, InputError, LayerError, ModelError, OutputError
from camcli.images.decode import decode_bytes
from camcli.records import Preprocess
from tests.conftest import ROOT, SAMPLES, Cam
from tests.folders import TINY, rows_of
from tests.networks import brightness
from tests.pictures import noise, photo


def test_three_lines_equal_a_run(camcli, tmp_path):
    files = [SAMPLES / "chelsea.png", SAMPLES / "space" / "rocket.jpg"]
    model = package.load()
    found = package.explain(model, files, topk=2, methods=["gradcam", "layercam"])
    assert camcli("run", *files, "-o", tmp_path / "out", "--topk", 2, "--method", "gradcam", "--method", "layercam",
                  "--save-maps", "--no-outline").code == 0  # fmt: skip
    rows = rows_of(tmp_path / "out")
    flat = [(one, heatmap) for one in found for heatmap in one.heatmaps]
    assert len(rows) == len(flat) == 8
    for row, (one, heatmap) in zip(rows, flat, strict=True):
        assert row["class_name"] == heatmap.prediction.class_name
        assert row["method"] == heatmap.method
        assert float(row["logit"]) == pytest.approx(heatmap.prediction.logit, abs=1e-4)
        assert (one.pixels.x, one.pixels.y, one.pixels.w, one.pixels.h) == tuple(int(row[f"box_{key}"]) for key in "xywh")
        stem = row["overlay"].removeprefix("overlays/").removesuffix(".jpg")
        np.testing.assert_allclose(np.load(tmp_path / "out" / "maps" / f"{stem}.npy"), heatmap.values, atol=1e-4 * heatmap.peak)
    written = np.asarray(PillowImage.open(tmp_path / "out" / rows[0]["overlay"])).astype(int)
    assert np.abs(found[0].overlay(0, outline=False) - written).mean() < 3, "up to what JPEG loses"


def test_tensors_and_files_agree():
    model = package.load(brightness(), layers=["cells"], preprocess=brightness().preprocess)
    path = SAMPLES / "retina.jpg"
    pixels = decode_bytes(path.read_bytes(), 10**9)
    (from_file,) = package.explain(model, [path])
    x, y, w, h = (round(value) for value in from_file.box)
    assert pixels.shape == from_file.image.shape
    window = PillowImage.fromarray(pixels).resize((256, 256), PillowImage.Resampling.BILINEAR).crop((16, 16, 240, 240))
    tensor = torch.from_numpy(np.asarray(window).copy()).permute(2, 0, 1)[None].float() / 255
    (from_tensor,) = package.explain(model, tensor)
    np.testing.assert_allclose(from_tensor.heatmaps[0].values, from_file.heatmaps[0].values, atol=1e-6)
    assert (from_tensor.box, from_tensor.image) == (None, None)
    with pytest.raises(ValueError, match="files or pictures instead"):
        from_tensor.overlay()
    assert (x, y, w, h) == (88, 88, 1235, 1235)


def test_your_own_module_stays_as_it_is():
    torch.manual_seed(0)
    network = Cam().train()
    model = package.load(network, layers=["features"], preprocess=Preprocess(crop=(32, 32)))
    found = package.explain(model, torch.randn(5, 3, 32, 32), topk=1, classes=[2, "class 4"], batch_size=2)
    assert len(found) == 5
    assert {heatmap.prediction.class_index for one in found for heatmap in one.heatmaps} >= {2, 4}
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not any(child._forward_hooks for child in network.modules())


def test_what_does_not_exist_is_said(tmp_path):
    network = Cam()
    preprocess = Preprocess(crop=(32, 32))
    with pytest.raises(LayerError, match="'features'"):
        package.load(network, layers=["featurs"], preprocess=preprocess)
    model = package.load(network, layers=["features"], preprocess=preprocess)
    with pytest.raises(ClassError, match="0 to 4"):
        package.explain(model, torch.zeros(1, 3, 32, 32), classes=[9])
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(ImageError, match=r"text\.jpg: not an image"):
        package.explain(model, [tmp_path / "text.jpg"])
    with pytest.raises(AttributeError, match="no attribute 'explode'"):
        package.explode()


def test_importing_the_package_imports_no_torch():
    check = "import sys, camcli; heavy = {'torch', 'numpy', 'cv2'}; assert not heavy & set(sys.modules)"
    check += "; camcli.load; assert heavy <= set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_package_shows_its_interface_without_importing_it():
    check = (
        "import sys, camcli; print(*(name for name in dir(camcli) if not name.startswith('_'))); assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout.split()
    assert shown == sorted(package.__all__)
    assert all(getattr(package, name) is not None for name in shown)


def test_type_checkers_find_the_annotations():
    """PEP 561: the marker lies in the package, of which the wheel takes every file."""
    assert (ROOT / "camcli" / "py.typed").exists()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert (build["wheel"]["packages"], build["wheel"].get("exclude")) == (["camcli"], None)


@pytest.fixture(scope="module")
def bright():
    return package.load(brightness(), layers="cells")


def maps_of(found):
    return [heatmap.values for one in found for heatmap in one.heatmaps]


PICTURES = {
    "colour": photo(0),
    "grey": photo(1).convert("L"),
    "transparent": PillowImage.merge("RGBA", (*photo(2).split(), photo(3).getchannel(0))),
    "transparent grey": photo(4).convert("LA"),
    "palette": photo(5).quantize(8),
    "black and white": photo(6).convert("1"),
    "16 bits": PillowImage.fromarray(noise(7)[..., 0].astype(np.uint16) * 257),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_an_array_and_the_file_give_equal_maps(bright, tmp_path, kind):
    """A file of Pillow opened or in memory, and its pixels where these are 8 bits: as camcli reads the file."""
    picture, path = PICTURES[kind], tmp_path / "a.png"
    picture.save(path)
    ways = [path, str(path), picture, PillowImage.open(path)]
    if picture.mode in ("RGB", "L", "RGBA"):
        ways += [np.asarray(picture), np.asfortranarray(picture)]
    if picture.mode == "L":
        ways.append(np.asarray(picture)[..., None])
    before = [np.asarray(way).copy() for way in ways[2:]]
    found = package.explain(bright, ways)
    assert len(found) == len(ways)
    for one in found[1:]:
        np.testing.assert_array_equal(one.image, found[0].image)
        np.testing.assert_array_equal(maps_of([one]), maps_of(found[:1]))
        np.testing.assert_array_equal(one.overlay(), found[0].overlay())
    for way, kept in zip(ways[2:], before, strict=True):
        np.testing.assert_array_equal(np.asarray(way), kept)
    assert np.ptp(found[0].image) > 100


def test_a_picture_is_turned_as_its_file_is(bright, tmp_path):
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    photo(8).save(tmp_path / "a.png", exif=exif)
    opened = PillowImage.open(tmp_path / "a.png")
    from_file, from_picture, again = package.explain(bright, [tmp_path / "a.png", opened, opened])
    assert from_file.image.shape == (60, 50, 3), "photo() is 60 wide and 50 high"
    for one in (from_picture, again):
        np.testing.assert_array_equal(one.image, from_file.image)
    assert opened.getexif()[0x0112] == 6, "the caller's picture was turned"


def test_one_alone_is_one_not_a_list_of_its_parts(bright, tmp_path):
    picture = photo(0)
    picture.save(tmp_path / "a.png")
    (expected,) = package.explain(bright, [tmp_path / "a.png"], methods=["gradcam"], classes=["dark"], topk=0)
    stack = np.stack([np.asarray(picture)] * 2)
    for images, count in ((str(tmp_path / "a.png"), 1), (tmp_path / "a.png", 1), (picture, 1), (stack[0], 1), (stack, 2),
                          (iter([picture, tmp_path / "a.png"]), 2)):  # fmt: skip
        found = package.explain(bright, images, methods="gradcam", classes="dark")
        assert len(found) == count
        for one in found:
            assert [heatmap.prediction.class_name for heatmap in one.heatmaps] == ["dark"]
            np.testing.assert_array_equal(maps_of([one]), maps_of([expected]))
    assert package.explain(bright, []) == package.explain(bright, torch.zeros(0, 3, 224, 224)) == []


def test_classes_alone_are_explained_alone(bright):
    def explained(**asked):
        (found,) = package.explain(bright, photo(0), **asked)
        return [heatmap.prediction.class_name for heatmap in found.heatmaps]

    assert explained() == ["bright"]
    assert explained(classes=["dark"]) == explained(classes="dark") == explained(classes=1) == ["dark"]
    assert explained(classes=["dark"], topk=1) == explained(topk=2) == ["bright", "dark"]
    with pytest.raises(ConfigError, match="no class to explain"):
        explained(topk=0)


WRONG = [
    (lambda bright: package.explain(Cam(), photo()), ModelError, r"camcli\.load\(module\)"),
    (lambda bright: package.explain("resnet50", photo()), ModelError, r"camcli\.load\('resnet50'\)"),
    (lambda bright: package.load(3), ModelError, "not an int"),
    (lambda bright: package.explain(bright, torch.zeros(3, 224, 224)), InputError, r"tensor\[None\]"),
    (lambda bright: package.explain(bright, torch.zeros(1, 224, 224, 3)), InputError, "permute"),
    (lambda bright: package.explain(bright, torch.zeros(1, 3, 224, 224, dtype=torch.uint8)), InputError, "not normalised"),
    (lambda bright: package.explain(bright, [torch.zeros(3, 224, 224)]), InputError, "torch.stack"),
    (lambda bright: package.explain(bright, np.zeros((3, 20, 20), np.uint8)), InputError, r"transpose\(1, 2, 0\)"),
    (lambda bright: package.explain(bright, np.zeros((20, 20, 3))), InputError, "float64.*astype"),
    (lambda bright: package.explain(bright, np.zeros((0, 20, 3), np.uint8)), InputError, "not an image"),
    (lambda bright: package.explain(bright, np.zeros((20, 20, 2), np.uint8)), InputError, "not an image"),
    (lambda bright: package.explain(bright, [photo(), 3]), InputError, "image 1 is an int"),
    (lambda bright: package.explain(bright, str(SAMPLES)), InputError, "is a folder.*rglob"),
    (lambda bright: package.explain(bright, [photo(), PillowImage.new("F", (9, 9))]), ImageError, "image 1: samples of mode 'F'"),
    (lambda bright: package.explain(bright, photo())[0].overlay(colormap="turb"), ConfigError, "Did you mean 'turbo'"),
    (lambda bright: package.explain(bright, photo())[0].overlay(alpha=2), ConfigError, "between 0.0 and 1.0"),
    (lambda bright: package.explain(bright, photo())[0].overlay(model="resnet50"), TypeError, "no option 'model'.*colormap"),
    (lambda bright: package.explain(bright, PillowImage.new("RGB", (9, 9)))[0].overlay(), ValueError, "is empty"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_no_model_or_no_picture_is_told_what_to_do(bright, number):
    call, kind, words = WRONG[number]
    with pytest.raises(kind, match=words):
        call(bright)


def test_a_module_says_itself_how_it_wants_its_images():
    """As for --model package.module:factory; what is given wins."""
    assert package.load(brightness(), layers="cells").model.preprocess == brightness().preprocess
    other = package.Preprocess(mean=(0.1, 0.1, 0.1))
    assert package.load(brightness(), layers="cells", preprocess=other).model.preprocess == other


def test_what_load_and_explain_return_is_a_line_to_read(bright):
    (found,) = package.explain(bright, photo(0), topk=2, methods=["gradcam", "layercam", "hirescam"])
    assert repr(bright) == "<camcli model Brightness: 2 classes, layers cells, on cpu>"
    assert "'bright', gradcam at cells, 28 x 28" in repr(found.heatmaps[0])
    assert "3 more" in repr(found)
    for one in (bright, found, found.heatmaps[0], found.best):
        assert len(repr(one)) < 400
        assert "\n" not in repr(one)


LOOKS_OF_PYTHON = [
    {},
    {"style": "side-by-side", "legend": True, "caption": True},
    {"style": "spotlight", "alpha": 0.8, "outline": False},
    {"style": "contour", "colormap": "viridis", "threshold": 0.3, "max_side": 40},
]


@pytest.mark.parametrize("look", LOOKS_OF_PYTHON, ids=lambda look: look.get("style", "default"))
@pytest.mark.parametrize("suffix", ["png", "JPG", "webp"])
def test_a_saved_overlay_is_the_command_lines_byte_by_byte(camcli, bright, tmp_path, look, suffix):
    photo(0, (90, 60)).save(tmp_path / "a.png")
    options = []
    for name, value in look.items():
        flag = name.replace("_", "-")
        options += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", value]
    done = camcli("run", tmp_path / "a.png", "-o", tmp_path / "out", *TINY, "--image-format", suffix.lower(), *options)
    assert done.code == 0, done.err
    (row,) = rows_of(tmp_path / "out")
    (found,) = package.explain(bright, tmp_path / "a.png")
    place = tmp_path / "saved" / f"mine.{suffix}"
    place.parent.mkdir()
    place.write_bytes(b"another picture")
    found.save(place, **look)
    assert place.read_bytes() == (tmp_path / "out" / row["overlay"]).read_bytes()
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_saving_writes_the_whole_file_or_nothing(bright, tmp_path, monkeypatch):
    (found,) = package.explain(bright, photo(0))
    for name in ("a.gif", "a", "png"):
        with pytest.raises(ConfigError, match=r"end the name in \.jpg, \.jpeg, \.png, \.webp"):
            found.save(tmp_path / name)
    with pytest.raises(OutputError, match="there is no folder"):
        found.save(tmp_path / "missing" / "a.png")
    (tmp_path / "a.png").write_bytes(b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("camcli.output.writers.os.replace", full)
    with pytest.raises(OutputError, match="is full"):
        found.save(tmp_path / "a.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"before")]


def test_a_notebook_shows_the_overlay(bright):
    found = package.explain(bright, [photo(0), photo(1, (2000, 100)), PillowImage.new("RGB", (9, 9))])
    shown = [None if (png := one._repr_png_()) is None else np.asarray(PillowImage.open(io.BytesIO(png))) for one in found]
    np.testing.assert_array_equal(shown[0], found[0].overlay())
    assert shown[1].shape == (40, 800, 3)
    assert shown[2] is None, "a map without positive evidence is not painted"
    assert package.explain(bright, torch.zeros(1, 3, 224, 224))[0]._repr_png_() is None
