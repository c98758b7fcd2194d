"""A report of a folder that a stranger has made or changed: each table, map, overlay and document holds what it likes."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PillowImage

from camcli.errors import OutputError
from camcli.output.journal import Entry
from camcli.output.ledger import Ledger
from camcli.output.root import Root
from camcli.output.writers import csv_line, prediction_columns
from camcli.report import thumbnails
from camcli.report.about import about_run, legible
from camcli.report.data import ROW_NUMBERS, gather
from camcli.report.diff_page import diff_html
from camcli.report.scripts import json_script
from camcli.report.thumbnails import MOST_JPEG_PIXELS, MOST_PIXELS, make_thumbnails, thumbnail_jpeg
from camcli.report.write import page_html, report_run
from camcli.runs import diff as compare
from tests.browser import complaints, open_page, wait
from tests.folders import TINY, rows_of
from tests.pictures import encoded, photo

CELLS = [
    "", "nan", "inf", "-inf", "1e999", "-1e999", "1e300", "-1", "9" * 10_000, "1" * 300, "0x10", "١٢", "1_000", "²", "\0", "yes",
    "</script>", "\u202e\u2028\x1b[31m", "\ud7ff", "None", " 1 ", "1e-400",
]  # fmt: skip
JUNK = [
    None,
    True,
    0,
    -1,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\0",
    "\x1b[31m\u202e",
    [],
    [[]],
    {},
    {"a": 1},
    10**30,
]


class Tables(SimpleNamespace):
    """What ``gather`` needs of a ledger: rows, one image each, and settings."""

    columns = ()

    def rows(self):
        yield from ((SimpleNamespace(image=image, stage="", folded=False), rows) for image, rows in self.images.items())

    def own_rows(self, _entry, data):
        return data


def row_of(image, **cells):
    row = dict.fromkeys(ROW_NUMBERS, "1")
    row |= {"image": image, "class_name": "a", "predicted_class": "a", "predicted_probability": "0.5", "layer": "l", "method": "m"}
    return row | {"status": "ok", "overlay": f"overlays/{image}.1-a.jpg", "label": "a", "correct": "no"} | cells


def test_no_cell_of_a_table_breaks_the_data():
    """Whatever stands in whatever column, the data is JSON that a browser reads, with finite numbers and legible texts."""
    columns = [column for column in row_of("x") if column not in ("image", "overlay")]
    images = {f"{number}.jpg": [row_of(f"{number}.jpg", **{column: cell})] for number, (column, cell) in enumerate(
        (column, cell) for column in columns for cell in CELLS
    )}  # fmt: skip
    found = gather(Root("."), Tables(images=images, settings={}))
    data = json.loads(json_script(found.as_json({}, {}, ".")), parse_constant=pytest.fail)
    assert len(data["images"]["name"]) == len(data["rows"]["image"]) == len(columns) * len(CELLS)
    assert all(value is None or abs(value) < 1e301 for column in ROW_NUMBERS for value in data["rows"][column])
    assert all(text.replace("\u200d", "").isprintable() for text in data["words"])
    assert len(json_script(data)) < 400_000, "no number is written in ten thousand digits"
    assert found.damaged == 0


FORGED = [
    "/etc/passwd.jpg",
    "../a.jpg",
    "overlays/../../a.jpg",
    "overlays//a.jpg",
    "overlays",
    "overlays/.",
    "report/a.jpg",
    "overlays/a\\x00.jpg",
]


@pytest.mark.parametrize("overlay", FORGED)
def test_a_row_whose_overlay_is_elsewhere_is_damaged(overlay, tmp_path):
    """It is counted and left out, so that no thumbnail is made of a file outside ``overlays`` and no page links to one."""
    ledger = Ledger(Root(str(tmp_path)), {"class-from": "folder"})

    def rows_of(path):
        lines = csv_line(tuple(row_of("a.jpg", overlay=path)[column] for column in prediction_columns(labelled=True, boxed=False)))
        return ledger.own_rows(Entry("a.jpg", None, "", len(lines)), lines)

    assert rows_of("overlays/a.jpg.1-a.jpg") is not None
    found = gather(Root(str(tmp_path)), Tables(images={"a.jpg": rows_of(overlay), "b.jpg": [row_of("b.jpg")]}, settings={}))
    assert (found.damaged, found.overlays, found.images["name"]) == (1, ["overlays/b.jpg.1-a.jpg"], ["b.jpg"])


def test_no_settings_and_no_record_break_the_page():
    """Each key of the journal's settings and of run.json in turn is each kind of junk, and all of them are."""
    tables = gather(Root("."), Tables(images={"a.jpg": [row_of("a.jpg")]}, settings={}))
    keys = [
        "inputs",
        "fit",
        "style",
        "legend",
        "max-side",
        "save-maps",
        "model",
        "layer",
        "method",
        "topk",
        "alpha",
        "class",
        "max-pixels",
    ]
    inner = ["name", "weights", "resize", "resize_to", "crop", "started", "command", "inputs"]
    records = ["model", "settings", "device", "this_run", "state", "preprocess"]
    draw = random.Random(0)
    cases = [({key: junk}, {}) for key in keys for junk in JUNK] + [({}, {key: junk}) for key in records for junk in JUNK]
    for _ in range(60):
        objects = [{key: draw.choice(JUNK) for key in [*inner, *keys]} for _ in records]
        record = {key: draw.choice([*JUNK, found]) for key, found in zip(records, objects, strict=True)}
        cases.append(({key: draw.choice(JUNK) for key in keys}, record))
    for settings, record in cases:
        page = page_html("title", record, settings, tables)
        data = json_script(tables.as_json(settings, record, "."))
        assert not {"\x1b", "\u202e", "\0"} & set(page + data), (settings, record)
        page.encode("utf-8"), data.encode("utf-8")


def test_the_head_of_a_report_says_how_the_run_was_made():
    record = {
        "state": "finished", "device": "cuda:0",
        "this_run": {
            "started": "2026-11-24T11:05:12+01:00", "command": "camcli run 'my photos'", "inputs": ["my photos", "more"]
        },
        "model": {"name": "resnet50", "weights": "IMAGENET1K_V2"},
        "settings": {"model": "resnet50", "batch-size": 32, "alpha": 0.3, "quiet": False, "method": ["gradcam"], "unknown": 1},
    }  # fmt: skip
    about = about_run(record, {"alpha": 0.7, "max-pixels": 178_000_000, "layer": []}, ["layer4"], ["gradcam", "hirescam"])
    assert (about.model, about.weights, about.finished) == ("resnet50", "IMAGENET1K_V2", True)
    assert dict(about.facts) == {
        "Layer": "layer4", "Method": "gradcam, hirescam", "Device": "cuda:0", "Images from": "my photos, more",
    }  # fmt: skip
    assert (about.date, about.day) == ("2026-11-24T11:05:12+01:00", "2026-11-24 11:05 UTC+01:00")
    assert about.changed == [("--model", "resnet50"), ("--alpha", "0.7"), ("--batch-size", "32")], "the journal's alpha counts"
    assert ("--max-pixels", "178,000,000") in about.unchanged
    assert ("--layer", "not set") in about.unchanged
    page = page_html("out", record, {"alpha": 0.7})
    for text in (
        "IMAGENET1K_V2",
        "cuda:0",
        '<time datetime="2026-11-24T11:05:12+01:00">',
        "camcli run &#39;my photos&#39;",
        "(3 changed)",
    ):
        assert text in page
    assert "has not finished" not in page


@pytest.mark.parametrize(
    "started", ["2026-11-24", "2026-11-24T11:05:12", "yesterday", "9" * 10_000, 5, None, ["2026-11-24T11:05:12Z"], "\ud800"]
)
def test_what_is_no_moment_is_no_date(started):
    assert about_run({"this_run": {"started": started}}, {}, [], []).day == ""


def test_a_folder_of_an_older_version_has_a_head_too():
    about = about_run({}, {"model": "resnet50", "weights": "DEFAULT", "inputs": "/photos"}, ["a"] * 9, map(str, range(9)))
    assert (about.model, about.weights, about.finished, about.command, about.day) == ("resnet50", "DEFAULT", False, "", "")
    assert about.facts == [("Layer", "a"), ("Method", "0, 1, 2, 3 and 5 more"), ("Images from", "/photos")]


def test_texts_of_strangers_fit_on_a_line():
    assert legible("a\x1b[31m\u202eb\n\ud800\0é猫") == "a\\x1b[31m\\u202eb\\n\\ud800\\x00é猫"
    assert legible("x" * 1000) == "x" * 299 + "…"


def npy(header, data=b""):
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


def saved(values):
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def header(shape, kind="<f4", order="False"):
    return f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}" + " " * 20 + "\n"


WHOLE = saved(np.ones((7, 7), np.float32))
NO_MAPS = {
    "empty": b"",
    "text": b"not a map",
    "cut": WHOLE[:-1],
    "with more behind": WHOLE + b"\0",
    "a trillion cells": npy(header("(1000000, 1000000)"), bytes(196)),
    "a huge side": npy(header(f"({'9' * 200}, 7)"), bytes(196)),
    "negative": npy(header("(-7, -7)"), bytes(196)),
    "no cells": npy(header("(0, 7)")),
    "one-dimensional": saved(np.ones(49, np.float32)),
    "three-dimensional": saved(np.ones((1, 7, 7), np.float32)),
    "a number": saved(np.float32(1)),
    "float64": saved(np.ones((7, 7))),
    "objects": saved(np.array([[{}]], dtype=object)),
    "structured": saved(np.zeros((7, 7), [("a", "<f4")])),
    "not a number": saved(np.full((7, 7), np.nan, np.float32)),
    "infinite": saved(np.full((7, 7), np.inf, np.float32)),
    "nested": npy("(" * 60_000),
    "unhashable": npy("{[]: 1}" + " " * 50 + "\n"),
    "zeros": bytes(len(WHOLE)),
    "a zip": b"PK\x03\x04" + bytes(200),
}


def test_no_map_breaks_a_report_and_only_whole_ones_are_in_it(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    assert camcli("run", imgs / "a.jpg", "-o", out, *TINY, "--save-maps").code == 0
    (stored,) = (out / "maps").rglob("*.npy")
    good = stored.read_bytes()
    for name, content in {**NO_MAPS, "good": good}.items():
        stored.write_bytes(content)
        report_run(str(out))
        text = (out / "report" / "rows.js").read_text(encoding="utf-8")
        data = json.loads(text.removeprefix("var camcliData=").removesuffix(";\n"))
        assert [value is None for value in data["rows"]["entropy"]] == [name != "good"], name
        chunk = (out / "report" / "maps" / "0.js").read_text(encoding="utf-8")
        assert (chunk == "camcliMaps(0,[null]);\n") == (name != "good"), name


def claiming(size, kind, **options):
    """A small picture whose header claims ``size`` (width, height)."""
    data = bytearray(encoded(photo(1, (32, 32)), kind, **options))
    if kind == "JPEG":
        at = data.find(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", size[1], size[0])
    elif kind == "PNG":
        import zlib

        data[16:24] = struct.pack(">II", *size)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif options.get("lossless"):
        bits = int.from_bytes(data[21:25], "little") & ~0xFFFFFFF | (size[0] - 1) | (size[1] - 1) << 14
        data[21:25] = bits.to_bytes(4, "little")
    else:
        data[26:30] = struct.pack("<HH", *size)
    return bytes(data)


def extended_webp(size):
    """A WebP with an extended header (RFC 9649, section 2.7) of ``size`` before a small picture."""
    inner = encoded(photo(1, (32, 32)), "WEBP")[12:]
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (size[0] - 1).to_bytes(3, "little") + (size[1] - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(chunk) + len(inner)) + b"WEBP" + chunk + inner


BOMBS = {
    "png of a thin line": claiming((1, MOST_PIXELS), "PNG"),
    "png": claiming((8001, 8000), "PNG"),
    "png of 2^31 pixels a side": claiming((2**31 - 1, 2**31 - 1), "PNG"),
    "jpeg": claiming((65535, MOST_JPEG_PIXELS // 65535 + 1), "JPEG"),
    "progressive jpeg": claiming((8001, 8000), "JPEG", progressive=True),
    "webp": claiming((16383, 16383), "WEBP"),
    "lossless webp": claiming((16383, 16383), "WEBP", lossless=True),
    "extended webp": extended_webp((16384, 16384)),
    "extended webp of 2^24 pixels a side": extended_webp((2**24, 2**24)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_would_cost_too_much_is_refused_by_its_header(name, monkeypatch):
    """Nothing is decoded: not by Pillow's own limit, which camcli lifts, and a WebP is not even opened."""
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(PillowImage.Image, "load", lambda *_: pytest.fail("decoded"))
    if "webp" in name:
        monkeypatch.setattr(PillowImage, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ValueError, match="too many for a thumbnail"):
        thumbnail_jpeg(io.BytesIO(BOMBS[name]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (4100, 3000), (500, 375)])
def test_honest_pictures_of_every_shape_get_thumbnails(kind, size):
    """Also those of more pixels than are decoded in several threads at once."""
    data = encoded(np.full((size[1], size[0], 3), 200, np.uint8), kind)
    with PillowImage.open(io.BytesIO(thumbnail_jpeg(io.BytesIO(data)))) as small:
        assert small.format == "JPEG"
        assert max(small.size) == min(176, max(size))
        assert abs(np.asarray(small, dtype=float).mean() - 200) < 3


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP"])
def test_a_format_that_no_overlay_has_is_not_opened(kind):
    with pytest.raises(PillowImage.UnidentifiedImageError):
        thumbnail_jpeg(io.BytesIO(encoded(photo(1), kind)))


def test_bombs_and_rubbish_among_overlays_are_counted_and_the_rest_is_shown(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    assert camcli("run", imgs, "-o", out, *TINY).code == 0
    overlays = [out / row["overlay"] for row in rows_of(out)]
    draw = random.Random(1)
    for content in [BOMBS["webp"], BOMBS["png"], b"", draw.randbytes(3000), b"RIFF", overlays[0].read_bytes()[:200]]:
        overlays[0].write_bytes(content)
        report = report_run(str(out))
        assert (report.images, report.pictureless) == (6, 1)


def test_thumbnails_take_no_memory_for_overlays_that_wait(tmp_path):
    """A table of 30,000 rows whose overlays are not there: at most 100 bytes a row, and nothing is left running."""
    import tracemalloc

    tracemalloc.start()
    made = make_thumbnails(Root(str(tmp_path)), (f"overlays/{number}.1-a.jpg" for number in range(30_000)), 3, threading.Event())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (made.made, made.impossible) == (0, 30_000)
    assert peak < 3_000_000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("thumbnail")]


def test_the_first_thumbnail_that_cannot_be_written_ends_it(tmp_path, monkeypatch):
    """A full disk: each thread tries at most once more, not a hundred thousand times."""
    tried = []

    def full(_path, overlay):
        tried.append(overlay)
        raise OutputError("full")

    monkeypatch.setattr(thumbnails, "_make", full)
    with pytest.raises(OutputError):
        make_thumbnails(Root(str(tmp_path)), (f"{number}" for number in range(100_000)), 4, threading.Event())
    assert len(tried) <= 4


def test_a_page_of_hostile_texts_and_numbers_works(browser, camcli, tmp_path):
    """The browser shows it without an error: cells of every kind, and settings and a record that are junk."""
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "a.png").write_bytes(encoded(photo(1), "PNG"))
    out = tmp_path / "out"
    assert camcli("run", tmp_path / "imgs", "-o", out, *TINY, "--report").code == 0
    columns = [column for column in row_of("x") if column not in ("image", "overlay")]
    images = {
        f"{column} {number}.jpg": [row_of(f"{column} {number}.jpg", **{column: cell}), row_of(f"{column} {number}.jpg")]
        for column in columns
        for number, cell in enumerate(CELLS)
    }
    settings = {"fit": 7, "style": [], "legend": "x", "max-side": "y", "save-maps": True, "inputs": "\ud800"}
    record = {
        "preprocess": {"resize": "contain", "crop": [0, "a"], "resize_to": 3},
        "model": {"name": "</script><b>", "weights": {}},
    }
    found = gather(Root(str(out)), Tables(images=images, settings=settings))
    (out / "report" / "rows.js").write_text(
        f"var camcliData={json_script(found.as_json(settings, record, str(out)))};\n", encoding="utf-8"
    )
    (out / "report.html").write_text(page_html("<b>", record, settings, found), encoding="utf-8")
    open_page(browser, out / "report.html")
    wait(browser, "document.querySelectorAll('.card').length > 0")
    complaints(browser)
    places = browser.execute_script("return rows.image.map((_, row) => mapBox(row, 64, 48)).filter((box) => box !== null)")
    assert 0 < len(places) < 2 * len(images), "a map lies somewhere or, where the table names no area, nowhere"
    assert all(value is not None and math.isfinite(value) for box in places for value in box.values())
    assert all(box["w"] > 0 and box["h"] > 0 for box in places)
    for sort in ("wrong", "probability", "margin", "peak", "path"):
        browser.execute_script("change({sort: arguments[0], single: false})", sort)
        assert browser.execute_script("return grid.items.length") == 2 * len(images)
    for place in range(0, 2 * len(images), 40):
        browser.execute_script("openView(arguments[0]); layStage()", place)
        texts = browser.execute_script("return byId('view').textContent")
        assert not any(word in texts for word in ("undefined", "NaN", "null", "Infinity"))
    assert [line for line in complaints(browser) if "ERR_FILE_NOT_FOUND" not in line] == []


def test_no_cell_of_a_table_breaks_a_comparison(monkeypatch):
    """Numbers and boxes that are none count as not there; a page can be written of whatever is compared."""
    cells = {
        f"{column} {number}": {column: cell}
        for column in ("predicted_probability", *ROW_NUMBERS)
        for number, cell in enumerate(CELLS)
    }
    rows = {image: [row_of(image, **changed)] for image, changed in cells.items()}
    monkeypatch.setattr(compare, "_read", lambda _: SimpleNamespace(rows=rows, has_maps=True))
    monkeypatch.setattr(compare, "_map_of", lambda *_: np.eye(7, dtype=np.float32))
    found = compare.compare_runs("a", "b")
    assert len(found.changes) == len(rows)
    compared = {change.image for change in found.changes if change.correlation is not None}
    assert "box_w 0" not in compared, "an empty cell"
    assert {f"peak {number}" for number in range(len(CELLS))} <= compared
    page = diff_html(found, ("a", "b"), ".")
    assert json.loads(page.split("var camcliChanges=")[1].split(";\n")[0], parse_constant=pytest.fail)["names"]
    page.encode("utf-8")
