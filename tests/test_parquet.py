"""``--format parquet``: the rows of predictions.csv, typed, in parts that are complete or absent."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import re
import shutil
import sys

import duckdb
import hypothesis
import hypothesis.strategies as st
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet
import pytest

from camcli.errors import OutputError
from camcli.output import parquet
from camcli.output.parquet import encode_rows
from camcli.output.writers import BOX_COLUMNS, csv_line, prediction_columns, prediction_line
from camcli.records import Box, Boxes, Row
from tests.conftest import ROOT
from tests.folders import TINY, contents_of, rows_of, state_of
from tests.pictures import encoded, photo
from tests.test_shards import PARTS, many, results_in  # noqa: F401 - many is a fixture

PARQUET = (*TINY, "--format", "parquet")
FLOATS = ("logit", "probability", "predicted_probability", "peak")
WHOLE = ("rank", "class_index", "box_x", "box_y", "box_w", "box_h", *BOX_COLUMNS)


def expected_cells(cells: dict[str, str]) -> dict[str, object]:
    """A row of the CSV as Parquet has it, by Python's own readers of numbers."""
    found: dict[str, object] = dict(cells)
    for column, text in cells.items():
        if column == "bboxes":
            found[column] = [list(map(int, box.split())) for box in text.split(";")] if text else []
        elif column in FLOATS:
            found[column] = float(text)
        elif column in WHOLE:
            found[column] = int(text) if text else None
        elif column == "correct":
            found[column] = {"yes": True, "no": False, "": None}[text]
    return found


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and one == other


def read(out) -> list[dict[str, object]]:
    return pyarrow.parquet.read_table(out / "predictions.parquet").to_pylist()


def assert_same_rows(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, map(expected_cells, expected), strict=True):
        assert list(one) == list(other)
        assert [column for column in one if not same(one[column], other[column])] == []


names = st.one_of(
    st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20),
    st.binary(min_size=1, max_size=12).filter(lambda data: b"\0" not in data).map(os.fsdecode),
    st.sampled_from(
        ['a,"b".jpg', "=1+1", " x ", "\ufeffx", "nan", "NULL", "é\u0301", "a\r\nb", "\u2028", "\\x41", "👩\u200d🔬", "yes"]
    ),
)
floats = st.floats(allow_nan=True, allow_infinity=True)
sides = st.integers(0, 2**31)
boxes = st.builds(Box, sides, sides, sides, sides)


@st.composite
def tables(draw) -> list[Row]:
    """Rows of one run: all or none are labelled, all or none have boxes."""
    labelled, boxed = draw(st.booleans()), draw(st.booleans())
    return [
        Row(
            draw(names), draw(st.integers(1, 2**40)), draw(st.integers(0, 2**40)), draw(names), draw(floats), draw(floats),
            draw(names), draw(floats), draw(names), draw(names), draw(st.sampled_from(["ok", "empty", "nonfinite"])), draw(floats),
            draw(sides), draw(sides), draw(sides), draw(sides), draw(st.one_of(st.just(""), names)),
            draw(st.one_of(st.just(""), names)) if labelled else None,
            draw(st.sampled_from([None, True, False])) if labelled else None,
            Boxes(tuple(draw(st.lists(boxes, max_size=3))), draw(sides), draw(sides)) if boxed else None,
        )
        for _ in range(draw(st.integers(0, 4)))
    ]  # fmt: skip


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(tables())
def test_a_row_in_csv_and_in_parquet_is_the_same_row(rows):
    first = rows[0] if rows else None
    columns = prediction_columns(
        labelled=first is not None and first.label is not None, boxed=first is not None and first.boxes is not None
    )
    data = b"".join(map(prediction_line, rows))
    table = pyarrow.parquet.read_table(io.BytesIO(encode_rows(columns, data)))
    assert table.column_names == list(columns)
    cells = [dict(zip(columns, line, strict=True)) for line in csv.reader(io.StringIO(data.decode("utf-8"), newline=""))]
    assert_same_rows(table.to_pylist(), cells)


@pytest.mark.parametrize(
    "data", [b"a,b\n", b"a,1,1,c,1,1,p,x,l,m,ok,1,0,0,1,1,\n", b"\xff" + b",1" * 16 + b"\n", b"a" + b",1" * 17 + b"\n"]
)
def test_cells_that_no_run_writes_are_one_clear_error(data):
    with pytest.raises(OutputError, match="camcli verify"):
        encode_rows(prediction_columns(labelled=False, boxed=False), data)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_A_PART", 4)


def test_a_run_with_odd_names_labels_boxes_and_every_status(camcli, imgs, tmp_path, small_parts):
    """With several classes an image, so that parts end within the rows of an image; dark's maps are empty."""
    for name in ("-é.png", 'q"u,o.png', os.fsdecode(b"\xfe.png"), "new\nline.png"):
        shutil.copy(imgs / "a.png", imgs / name)
    (imgs / "sub" / "broken.png").write_text("text")
    labels = tmp_path / "labels.csv"
    labels.write_text("image,label\na.jpg,bright\na.png,dark\n")
    flags = (*TINY[:4], "--topk", 2, "--class-from", labels, "--boxes", "all", "--format", "parquet")
    done = camcli("run", imgs, "-o", tmp_path / "out", *flags)
    assert (done.code, done.out) == (1, ""), "parquet does not turn on stdout"
    rows = rows_of(tmp_path / "out")
    assert {row["status"] for row in rows} == {"ok", "empty"}
    assert {row["correct"] for row in rows} == {"yes", "no", ""}
    parts = sorted(path.name for path in (tmp_path / "out" / "predictions.parquet").iterdir())
    assert parts == [f"part-{number:05d}.parquet" for number in range(5)]
    assert_same_rows(read(tmp_path / "out"), rows)
    assert camcli("verify", tmp_path / "out").code == 0


def test_columns_have_types_and_classes_are_dictionaries(camcli, imgs, tmp_path):
    assert camcli("run", imgs, "-o", tmp_path / "out", *PARQUET, "--boxes", "all").code == 0
    schema = pyarrow.parquet.read_schema(tmp_path / "out" / "predictions.parquet" / "part-00000.parquet")
    types = {field.name: str(field.type) for field in schema}
    for column in ("class_name", "predicted_class", "layer", "method", "status"):
        assert types[column] == "dictionary<values=string, indices=int32, ordered=0>"
    assert (types["image"], types["logit"], types["rank"], types["bboxes"]) == (
        "string", "double", "int64", "list<element: list<element: int64>>",
    )  # fmt: skip


def test_an_empty_run_has_columns_too(camcli, tmp_path):
    (tmp_path / "x.png").write_text("text")
    assert camcli("run", tmp_path / "x.png", "-o", tmp_path / "out", *PARQUET).code == 1
    assert len(pd.read_parquet(tmp_path / "out" / "predictions.parquet")) == 0
    assert read(tmp_path / "out") == []


def test_rows_on_stdout_may_be_asked_for_too(camcli, imgs, tmp_path):
    done = camcli("run", imgs, "-o", tmp_path / "out", *PARQUET, "--csv", "-")
    assert done.out == (tmp_path / "out" / "predictions.csv").read_text()
    assert_same_rows(read(tmp_path / "out"), rows_of(tmp_path / "out"))


def test_only_parts_whose_rows_have_changed_are_written_again(camcli, imgs, tmp_path, small_parts):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PARQUET)
    before = state_of(out)
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *PARQUET).err
    assert state_of(out) == before
    (imgs / "z.png").write_bytes(encoded(photo(9), "PNG"))
    camcli("run", imgs, "-o", out, *PARQUET)
    after = state_of(out)
    assert after["predictions.parquet/part-00000.parquet"] == before["predictions.parquet/part-00000.parquet"]
    assert after["predictions.parquet/part-00001.parquet"] != before["predictions.parquet/part-00001.parquet"]
    assert_same_rows(read(out), rows_of(out))


def test_a_folder_that_has_them_keeps_them_current_and_one_that_lacks_them_gets_them(camcli, imgs, tmp_path, small_parts):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY)
    assert not (out / "predictions.parquet").exists()
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *PARQUET).err
    assert_same_rows(read(out), rows_of(out))
    (imgs / "0.png").write_bytes(encoded(photo(9), "PNG"))
    assert camcli("run", imgs, "-o", out, *TINY).code == 0
    assert len(read(out)) == 7
    assert_same_rows(read(out), rows_of(out))
    os.unlink(out / "predictions.parquet" / "part-00001.parquet")
    assert "part-00001.parquet" in camcli("verify", out).out
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY).err
    assert_same_rows(read(out), rows_of(out))
    assert camcli("verify", out).code == 0


def test_fewer_rows_have_fewer_parts_and_overwrite_removes_all(camcli, imgs, tmp_path, small_parts):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PARQUET)
    theirs = out / "predictions.parquet" / "part-00007.parquet"
    theirs.write_text("mine")
    for name in ("a.jpg", "a.png", "A.JPG"):
        (imgs / name).write_text("broken now")
    assert camcli("run", imgs, "-o", out, *PARQUET).code == 1
    assert sorted(path.name for path in (out / "predictions.parquet").iterdir()) == ["part-00000.parquet", "part-00007.parquet"]
    said = camcli("verify", out)
    assert (said.code, "part-00007.parquet" in said.out) == (1, True)
    assert camcli("run", imgs, "-o", out, *TINY, "--overwrite").code == 1
    assert [path.name for path in (out / "predictions.parquet").iterdir()] == ["part-00007.parquet"]
    assert theirs.read_text() == "mine"
    theirs.unlink()
    assert camcli("run", imgs, "-o", out, *PARQUET, "--overwrite").code == 1
    assert camcli("run", imgs, "-o", out, *TINY, "--overwrite").code == 1
    assert not (out / "predictions.parquet").exists()


def test_joined_shards_have_the_parquet_of_one_machine(camcli, many, tmp_path, small_parts):  # noqa: F811
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", many, "-o", whole, *PARQUET)
    for part in PARTS:
        camcli("run", many, "-o", out, *PARQUET, "--shard", part)
    assert camcli("merge", out).code == 1
    assert results_in(out) == contents_of(whole)
    assert_same_rows(read(out), rows_of(whole))


def test_rendering_keeps_them_current(camcli, imgs, tmp_path, small_parts):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PARQUET, "--save-maps")
    assert camcli("render", out, "--image-format", "png").code == 0
    assert {row["overlay"][-4:] for row in read(out)} == {".png"}
    assert_same_rows(read(out), rows_of(out))
    assert camcli("verify", out).code == 0


def test_damage_is_found_and_mended(camcli, imgs, tmp_path, small_parts):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PARQUET)
    whole = contents_of(out)
    part = out / "predictions.parquet" / "part-00001.parquet"
    for data in (part.read_bytes()[:-1] + b"\0", part.read_bytes()[:-1], b""):
        part.write_bytes(data)
        assert "part-00001.parquet" in camcli("verify", out).out
        camcli("run", imgs, "-o", out, *TINY)
        assert contents_of(out) == whole
    manifest = out / ".camcli" / "parts.jsonl"
    for data in (b"", b"[]\n{\n\xff\n[1,2,3,4]\n", b'["predictions.parquet/part-00000.parquet","","x",1]\n', b"\0" * 99):
        manifest.write_bytes(data)
        assert camcli("run", imgs, "-o", out, *PARQUET).code == 0
        assert contents_of(out) == whole


@pytest.mark.parametrize("name", ["../theirs/part-00000.parquet", "predictions.csv", "/etc/part-00000.parquet",
                                  "predictions.parquet/../predictions.csv", "predictions.parquet/part-0.parquet"])  # fmt: skip
def test_a_forged_manifest_removes_nothing_of_others(camcli, imgs, tmp_path, name):
    out = tmp_path / "out"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "part-00000.parquet").write_text("mine")
    camcli("run", imgs, "-o", out, *PARQUET)
    whole = contents_of(out)
    with open(out / ".camcli" / "parts.jsonl", "a") as file:
        file.write(json.dumps([name, "0" * 64, 1, 1]) + "\n")
    for flags in (PARQUET, (*PARQUET, "--overwrite")):
        assert camcli("run", imgs, "-o", out, *flags).code == 0
        assert contents_of(out) == whole
    assert (tmp_path / "theirs" / "part-00000.parquet").read_text() == "mine"


def test_a_run_that_is_killed_at_any_moment_of_the_writing_is_completed(camcli, forks, imgs, tmp_path, small_parts, monkeypatch):
    """Killed at each operation in turn: each part is complete or absent, and the next run completes the folder."""
    from camcli.output import parts

    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", imgs, "-o", whole, *PARQUET)

    class Killed(BaseException):
        pass

    steps = {"left": 0}

    def dying(real):
        def call(*arguments):
            if not steps["left"]:
                raise Killed
            steps["left"] -= 1
            return real(*arguments)

        return call

    for left in range(8):
        shutil.rmtree(out, ignore_errors=True)
        camcli("run", imgs, "-o", out, *TINY)
        (imgs / "z.png").unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(parts, "_append", dying(parts._append))
            patch.setattr(parts.Root, "write", dying(parts.Root.write))
            patch.setattr(parts.Root, "write_changed", dying(parts.Root.write_changed))
            steps["left"] = left
            try:
                camcli("run", imgs, "-o", out, *PARQUET)
            except Killed:
                pass
            else:
                assert left == 7
        for path in (out / "predictions.parquet").glob("*"):
            assert path.read_bytes() == (whole / "predictions.parquet" / path.name).read_bytes()
        assert camcli("run", imgs, "-o", out, *PARQUET).code == 0
        assert contents_of(out) == contents_of(whole)


def test_killed_processes_lose_nothing(forks, tmp_path):
    """SIGKILL at random, then the same command: tables and Parquet are those of a run that nothing disturbed."""
    from tests.test_faults import Kills, fill_album, undisturbed

    fill_album(tmp_path / "imgs", 40)
    flags = (*PARQUET, "--batch-size", 4, "--quiet")
    assert undisturbed(forks, tmp_path / "imgs", tmp_path / "whole", *flags) == 1
    kills = Kills(forks, tmp_path / "imgs", tmp_path, flags, random.Random(3))
    assert kills.go_on_until(4, tmp_path / "whole", 1) == []
    assert contents_of(tmp_path / "whole")["predictions.parquet/part-00000.parquet"]


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """One part at a time: the rows that are held are those of one part."""
    held: list[int] = []

    class Ledger:
        def __init__(self):
            self.settings = {}
            self.headers = {"predictions.csv": csv_line(prediction_columns(labelled=False, boxed=False))}

        def sound_rows(self):
            row = Row("a.jpg", 1, 0, "b", 1.0, 1.0, "b", 1.0, "l", "m", "ok", 1.0, 0, 0, 1, 1, "")
            for _ in range(1000):
                yield None, prediction_line(row) * 3

    monkeypatch.setattr(parquet, "ROWS_A_PART", 100)
    monkeypatch.setattr(parquet, "encode_rows", lambda columns, data: held.append(data.count(b"\n")) or b"x")
    (tmp_path / ".camcli" / "scratch").mkdir(parents=True)
    parquet.write_parquet(parquet.Root(str(tmp_path)), Ledger(), asked=True)
    assert held == [100] * 30


@pytest.mark.parametrize("flags", [PARQUET, TINY], ids=["asked", "has parts"])
def test_without_pyarrow_there_is_one_clear_error_at_once(camcli, imgs, tmp_path, monkeypatch, flags):
    if flags == TINY:
        camcli("run", imgs, "-o", tmp_path / "out", *PARQUET)
        (imgs / "z.png").write_bytes(encoded(photo(9), "PNG"))
    before = state_of(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = camcli("run", imgs, "-o", tmp_path / "out", *flags)
    assert refused.code == 2
    assert "pip install 'camcli[parquet]'" in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    assert state_of(tmp_path) == before


def test_the_lines_in_the_page_read_a_folder(camcli, imgs, tmp_path, monkeypatch, small_parts):
    page = (ROOT / "docs" / "output.md").read_text(encoding="utf-8").partition("\n## Parquet\n")[2].partition("\n## ")[0]
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [line for line in example.splitlines() if "heatmaps/predictions.parquet" in line]
    assert len(lines) == 3
    monkeypatch.chdir(tmp_path)
    assert camcli("run", imgs, *PARQUET).code == 0
    images = [row["image"] for row in rows_of(tmp_path / "heatmaps")]
    assert len(images) == 6
    space: dict[str, object] = {"pd": pd, "duckdb": duckdb, "pq": pyarrow.parquet}
    exec(example, space)
    for name in ("frame", "relation", "table"):
        found = space[name]
        frame = found if isinstance(found, pd.DataFrame) else found.df() if name == "relation" else found.to_pandas()
        assert sorted(frame["image"]) == sorted(images)
        assert frame["probability"].dtype == float
