"""``--maps-format parquet``: the raw maps of a run in a few files, for everything that a file for each map is for."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil

import duckdb
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from camcli.output import parquet
from camcli.output.ledger import read_ledger
from camcli.output.maps import StoredMaps
from camcli.output.packed import pack_arrays, unpack_arrays
from camcli.output.root import Root
from camcli.records import checksum_of, escape_name, unescape_name
from tests.conftest import ROOT
from tests.faults import fill_album
from tests.folders import TINY, contents_of, failures_of, rows_of, state_of
from tests.pictures import encoded, photo
from tests.test_faults import Kills, undisturbed
from tests.test_report import data_of
from tests.test_shards import PARTS, many, results_in  # noqa: F401 - many is a fixture

FLAGS = (*TINY[:4], "--topk", 2, "--method", "gradcam", "--method", "layercam", "--masks", "--save-maps")
PACKED = (*FLAGS, "--maps-format", "parquet")
TABLE = os.path.join(".camcli", "maps.bin")


@pytest.fixture
def small_parts(monkeypatch):
    """About two maps of 28 x 28 a part."""
    monkeypatch.setattr(parquet, "MAP_BYTES_A_PART", 5000)


def read(out) -> list[dict[str, object]]:
    return pyarrow.parquet.read_table(out / "maps.parquet").to_pylist()


def expected_maps(whole) -> list[dict[str, object]]:
    """The maps of a run with a file for each, as ``maps.parquet`` has them."""
    found = []
    for row in rows_of(whole):
        if row["status"] == "ok":
            name = unescape_name(row["overlay"]).replace("overlays/", "maps/", 1).rpartition(".")[0] + ".npy"
            values = np.load(whole / name)
            cells = {"image": row["image"], "rank": int(row["rank"]), "class_index": int(row["class_index"])}
            cells |= {"layer": row["layer"], "method": row["method"], "height": values.shape[0], "width": values.shape[1]}
            found.append({**cells, "map": values.ravel().tolist()})
    return found


def tables_and_overlays(out) -> dict[str, bytes]:
    return {name: data for name, data in contents_of(out).items() if not name.startswith(("maps", ".camcli", "report"))}


arrays = st.sampled_from([np.float32, np.float16]).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 2**32 - 1), arrays), max_size=5))
def test_arrays_are_unpacked_as_they_were_packed(given):
    found = list(unpack_arrays(pack_arrays(given)))
    assert [row for row, _ in found] == [row for row, _ in given]
    for (_, one), (_, other) in zip(found, given, strict=True):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@hypothesis.given(st.binary(max_size=60), st.integers(0, 60))
def test_other_bytes_raise_one_error(noise, at):
    data = pack_arrays([(0, np.ones((2, 3), np.float32)), (1, np.ones(4, np.float16))])
    for forged in (noise, data[:at], data[:at] + noise, b"\0\0\0\0\0\xff" + noise, b"\0\0\0\0\0\2" + b"\xff" * 8 + noise):
        try:
            total = sum(values.nbytes for _, values in unpack_arrays(forged))
        except ValueError:
            continue
        assert total <= len(forged)


def test_packed_maps_are_the_maps_of_a_run_with_a_file_for_each(camcli, imgs, tmp_path, small_parts):
    (imgs / "broken.png").write_text("text")
    shutil.copy(imgs / "a.png", imgs / os.fsdecode(b"\xff,\n.png"))
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert camcli("run", imgs, "-o", whole, *FLAGS).code == 1
    assert camcli("run", imgs, "-o", out, *PACKED).code == 1
    assert not (out / "maps").exists()
    assert tables_and_overlays(out) == tables_and_overlays(whole)
    assert read(out) == expected_maps(whole)
    assert len(list((out / "maps.parquet").iterdir())) == 7
    assert len({row["image"] for row in read(out)}) == 7
    assert camcli("verify", out).code == 0
    before = state_of(out)
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *PACKED).err
    assert state_of(out) == before
    refused = camcli("run", imgs, "-o", out, *FLAGS)
    assert (refused.code, "maps-format: was parquet, now npy" in refused.err) == (2, True)


@pytest.mark.parametrize("flags", [("--workers", 2, "--batch-size", 4), ("--workers", 0, "--batch-size", 1)])
def test_the_number_of_workers_changes_no_byte(forks, tmp_path, flags):
    fill_album(tmp_path / "imgs", 12)
    for name, more in (("whole", ("--workers", 1)), ("out", flags)):
        assert undisturbed(forks, tmp_path / "imgs", tmp_path / name, *PACKED, *more, "--quiet") == 1
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


def test_all_readers_of_maps_read_them(camcli, imgs, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    camcli("run", imgs, "-o", whole, *FLAGS, "--report")
    camcli("run", imgs, "-o", out, *PACKED, "--report")
    assert data_of(out)["rows"] == data_of(whole)["rows"]
    maps = [sorted((folder / "report" / "maps").glob("*.js")) for folder in (whole, out)]
    assert [path.read_bytes() for path in maps[0]] == [path.read_bytes() for path in maps[1]]
    assert camcli("diff", whole, out).out == camcli("diff", whole, whole).out
    assert "1.0" in camcli("diff", whole, out).out
    look = ("--style", "contour", "--image-format", "png", "--legend")
    for folder in (whole, out):
        drawn = camcli("render", folder, *look)
        assert drawn.code == 0, drawn.err
    assert tables_and_overlays(out) == tables_and_overlays(whole)
    assert read(out) == expected_maps(whole)
    assert camcli("verify", out).code == 0
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *PACKED, *look).err


def test_maps_of_rows_without_overlays_are_there_too(camcli, imgs, tmp_path):
    camcli("run", imgs, "-o", tmp_path / "whole", *FLAGS)
    camcli("run", imgs, "-o", tmp_path / "out", *PACKED, "--no-overlays")
    assert read(tmp_path / "out") == expected_maps(tmp_path / "whole")
    assert camcli("verify", tmp_path / "out").code == 0
    assert camcli("diff", tmp_path / "out", tmp_path / "whole").out == camcli("diff", tmp_path / "whole", tmp_path / "whole").out


def test_new_changed_broken_and_sorted_images(camcli, imgs, tmp_path, small_parts):
    """Rows and maps are kept, dropped and reordered together: the folder is that of a run that began with these images."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", imgs, "-o", out, *PACKED)
    (imgs / "0-first.png").write_bytes(encoded(photo(30), "PNG"))
    (imgs / "a.png").write_bytes(encoded(photo(31), "PNG"))
    (imgs / "sub" / "a.jpg").write_text("broken now")
    assert camcli("run", imgs, "-o", out, *PACKED).code == 1
    assert camcli("run", imgs, "-o", whole, *PACKED).code == 1
    assert contents_of(out, ("run.json", "lock", "journal.jsonl")) == contents_of(whole, ("run.json", "lock", "journal.jsonl"))
    assert read_ledger(str(out)).entries.keys() == read_ledger(str(whole)).entries.keys()
    assert camcli("verify", out).code == 0


def test_only_the_last_parts_change_when_images_are_added(camcli, imgs, tmp_path, small_parts):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PACKED)
    before = {name: state for name, state in state_of(out).items() if name.startswith("maps.parquet")}
    (imgs / "z.png").write_bytes(encoded(photo(9), "PNG"))
    camcli("run", imgs, "-o", out, *PACKED)
    after = state_of(out)
    assert len(before) == 6
    assert {name: after[name] for name in before} == before
    assert "maps.parquet/part-00006.parquet" in after


def test_joined_shards_have_the_maps_of_one_machine(camcli, many, tmp_path, small_parts):  # noqa: F811
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", many, "-o", whole, *PACKED)
    for part in PARTS:
        camcli("run", many, "-o", out, *PACKED, "--shard", part)
    assert camcli("merge", out).code == 1
    assert results_in(out) == contents_of(whole)
    before = state_of(out)
    assert "Nothing to do" in camcli("run", many, "-o", out, *PACKED).err
    assert state_of(out) == before
    (many / "0-new.jpg").write_bytes(encoded(photo(50), "JPEG"))
    for part in PARTS:
        camcli("run", many, "-o", out, *PACKED, "--shard", part)
    camcli("run", many, "-o", whole, *PACKED)
    assert camcli("merge", out).code == 1
    assert results_in(out) == contents_of(whole), "joined again over the rows of the first joining"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:5000] + bytes(8) + path.read_bytes()[5008:]),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
    ],
    ids=["cut", "zeros", "more", "empty", "missing", "all zeros"],
)
def test_damage_is_found_and_mended_by_the_same_command(camcli, imgs, tmp_path, damage):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PACKED)
    whole = contents_of(out)
    damage(out / TABLE)
    found = camcli("verify", out)
    assert (found.code, "maps.bin" in found.out) == (1, True)
    assert camcli("run", imgs, "-o", out, *PACKED).code == 0
    assert contents_of(out) == whole
    assert camcli("verify", out).code == 0


def test_a_table_that_is_not_ours_is_refused(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PACKED)
    (out / TABLE).write_bytes(b"x" * 9000)
    assert camcli("run", imgs, "-o", out, *PACKED).code == 2
    assert camcli("run", imgs, "-o", out, *PACKED, "--overwrite").code == 0
    assert camcli("verify", out).code == 0


def test_overwrite_removes_them(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PACKED)
    (out / "maps.parquet" / "mine.parquet").write_text("mine")
    assert "mine.parquet" in camcli("verify", out).out
    camcli("run", imgs, "-o", out, *FLAGS, "--overwrite")
    assert [path.name for path in (out / "maps.parquet").iterdir()] == ["mine.parquet"]
    assert not (out / TABLE).exists()
    assert len(list((out / "maps").rglob("*.npy"))) == 12


def test_links_are_not_followed(camcli, imgs, tmp_path):
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    theirs.mkdir()
    camcli("run", imgs, "-o", out, *PACKED)
    shutil.copy(out / TABLE, theirs / "maps.bin")
    before = state_of(theirs)
    (imgs / "z.png").write_bytes(encoded(photo(9), "PNG"))
    for place in (TABLE, "maps.parquet", "maps.parquet/part-00000.parquet", "predictions.parquet"):
        shutil.copytree(out, tmp_path / "copy", symlinks=True)
        path = tmp_path / "copy" / place
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(theirs if "." not in os.path.basename(place) or place.endswith("s.parquet") else theirs / "maps.bin")
        for flags in (PACKED, (*PACKED, "--format", "parquet", "--overwrite")):
            assert "Traceback" not in camcli("run", imgs, "-o", tmp_path / "copy", *flags).err
        assert state_of(theirs) == before, place
        shutil.rmtree(tmp_path / "copy")


def test_a_hard_link_of_the_table_is_not_written_through(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *PACKED)
    os.link(out / TABLE, tmp_path / "backup")
    before = (tmp_path / "backup").read_bytes()
    (imgs / "z.png").write_bytes(encoded(photo(9), "PNG"))
    camcli("run", imgs, "-o", out, *PACKED)
    assert (tmp_path / "backup").read_bytes() == before
    assert (out / TABLE).read_bytes() != before


def test_forged_arrays_are_damaged_maps_and_no_traceback(camcli, imgs, tmp_path):
    """With checksums that fit: not finite, of another type or shape, of no row, and no arrays at all."""
    from dataclasses import replace

    forged = [
        pack_arrays([(0, np.full((2, 2), np.nan, np.float32))]),
        pack_arrays([(0, np.ones((2, 2), np.float16))]),
        pack_arrays([(0, np.ones(7, np.float32))]),
        pack_arrays([(99, np.ones((2, 2), np.float32))]),
        pack_arrays([(0, np.ones((0, 2), np.float32))]),
        b"noise",
    ]
    made = tmp_path / "made"
    camcli("run", imgs, "-o", made, *PACKED)
    for data in forged:
        out = tmp_path / "out"
        shutil.copytree(made, out)
        ledger = read_ledger(str(out))
        contents = [(replace(entry, packed=(checksum_of(data),)), rows) for entry, rows in ledger.rows()]
        table = [ledger.headers[TABLE], *[data] * len(contents)]
        ledger.exchange([(replace(entry, packed=()), rows) for entry, rows in contents])
        (out / TABLE).write_bytes(b"".join(table))
        ledger.entries = {entry.image: entry for entry, _ in contents}
        (out / ".camcli" / "journal.jsonl").write_bytes(b"".join(ledger._journal_lines(ledger.entries.values())))
        maps = StoredMaps(Root(str(out)), read_ledger(str(out)))
        for entry, rows in read_ledger(str(out)).explained():
            with pytest.raises(ValueError):
                maps.of_image(entry, rows)[0].read()
        resumed = ("run", imgs, "-o", out, *PACKED)
        for command in (("report", out), ("render", out, "--style", "heatmap"), ("diff", made, out), resumed, ("verify", out)):
            assert "Traceback" not in camcli(*command).err
        shutil.rmtree(out)


def test_killed_processes_lose_nothing(forks, tmp_path):
    fill_album(tmp_path / "imgs", 40)
    flags = (*TINY, "--save-maps", "--maps-format", "parquet", "--format", "parquet", "--batch-size", 4, "--quiet")
    assert undisturbed(forks, tmp_path / "imgs", tmp_path / "whole", *flags) == 1
    kills = Kills(forks, tmp_path / "imgs", tmp_path, flags, random.Random(7))
    assert kills.go_on_until(4, tmp_path / "whole", 1) == []
    assert contents_of(tmp_path / "whole")["maps.parquet/part-00000.parquet"]


def test_a_death_at_any_write_of_the_table_is_mended(camcli, imgs, tmp_path, monkeypatch):
    """Half of the write, then death: rows, maps and journal agree after the next run."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    flags = (*PACKED, "--batch-size", 1)
    camcli("run", imgs, "-o", whole, *flags)
    real, calls = os.write, itertools.count()

    class Killed(BaseException):
        pass

    for number in itertools.count(0, 2):
        shutil.rmtree(out, ignore_errors=True)
        calls = itertools.count()

        def write(handle, data, number=number, calls=calls):
            name = os.readlink(f"/proc/self/fd/{handle}")
            if name.startswith(str(out / ".camcli")) and name.endswith(("maps.bin", "journal.jsonl")) and next(calls) == number:
                real(handle, bytes(data)[: len(data) // 2])
                raise Killed
            return real(handle, data)

        died = False
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            try:
                camcli("run", imgs, "-o", out, *flags)
            except Killed:
                died = True
        if not died:
            break
        assert camcli("run", imgs, "-o", out, *flags).code == 0
        assert contents_of(out) == contents_of(whole)
    assert number >= 4, "deaths at the table and at the journal"
    assert failures_of(out) == []


def test_a_folder_without_packed_maps_has_the_journal_of_earlier_versions(camcli, imgs, tmp_path):
    """Nothing is added to it, so an earlier version could go on too."""
    camcli("run", imgs, "-o", tmp_path / "out", *FLAGS)
    for line in (tmp_path / "out" / ".camcli" / "journal.jsonl").read_text().splitlines()[1:]:
        keys = re.findall(r'"(\w+)":', line)
        assert keys == ["image", "size", "mtime_ns", *(["sha256"] if "sha256" in keys else []), "stage", "predictions", "failures",
                        "rows", "files", "check"]  # fmt: skip


def test_the_lines_in_the_page_read_the_maps(camcli, imgs, tmp_path, monkeypatch, small_parts):
    page = (
        (ROOT / "docs" / "output.md").read_text(encoding="utf-8").partition("\n## Maps, masks and boxes\n")[2].partition("\n## ")[0]
    )
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    camcli("run", imgs, "-o", tmp_path / "heatmaps", *PACKED)
    space: dict[str, object] = {"pd": pd, "duckdb": duckdb}
    exec(example, space)
    maps = expected_maps_of(tmp_path / "heatmaps")
    assert len(space["frame"]) == len(maps)
    first = space["frame"].iloc[0]
    np.testing.assert_array_equal(space["heatmap"], np.reshape(first["map"], (first["height"], first["width"])))
    assert np.asarray(space["heatmap"]).shape == (28, 28)


def expected_maps_of(out):
    maps = StoredMaps(Root(str(out)), ledger := read_ledger(str(out)))
    return [
        (escape_name(entry.image), stored.read())
        for entry, rows in ledger.explained()
        for stored in maps.of_image(entry, rows)
        if stored is not None
    ]
