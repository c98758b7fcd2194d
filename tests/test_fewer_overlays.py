"""``--no-overlays`` and ``--overlays-for``: fewer overlays, and everything else as in a run with all of them."""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pytest

from camcli.output.ledger import read_ledger
from camcli.output.root import Root
from tests.faults import fill_album
from tests.folders import TINY, contents_of, rows_of, state_of
from tests.pictures import encoded, photo
from tests.test_faults import Kills, undisturbed
from tests.test_report import data_of

RICH = (*TINY[:4], "--topk", 2, "--method", "gradcam", "--method", "layercam", "--save-maps", "--masks", "--boxes", "all")


def labelled(imgs, tmp_path):
    """A table in which two images are dark, which the model takes for bright, and one has no label."""
    table = tmp_path / "labels.csv"
    names = ["a.jpg,bright", "a.png,dark", "A.JPG,bright", "sub/a.jpg,dark", "sub/b.png,bright"]
    table.write_text("\n".join(["image,label", *names]))
    return table


def without_overlays(out) -> dict[str, bytes]:
    """What a run has written, without overlays, tables and journal."""
    return {name: data for name, data in contents_of(out).items() if not name.startswith("overlays/") and name != "predictions.csv"}


def assert_equal_otherwise(out, whole, chosen) -> None:
    """``out`` is ``whole`` with the overlays of the images ``chosen`` alone."""
    expected = [{**row, "overlay": row["overlay"] if chosen(row) else ""} for row in rows_of(whole)]
    assert rows_of(out) == expected
    assert without_overlays(out) == without_overlays(whole)
    overlays = {row["overlay"] for row in expected} - {""}
    assert {name for name in contents_of(out) if name.startswith("overlays/")} == overlays
    assert {name: contents_of(out)[name] for name in overlays} == {name: contents_of(whole)[name] for name in overlays}


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        (["--no-overlays"], lambda row: False),
        (["--overlays-for", "wrong"], lambda row: row["correct"] == "no"),
        (["--overlays-for", "below:0.731"], lambda row: float(row["predicted_probability"]) < 0.731),
        (["--overlays-for", "below:0"], lambda row: False),
        (["--overlays-for", "below:1", "--overlays-for", "wrong"], lambda row: True),
        (["--overlays-for", "failures"], lambda row: True),  # dark's maps are empty in every image
    ],
    ids=lambda flags: "-".join(flags) if isinstance(flags, list) else "",
)
def test_everything_else_is_equal(camcli, imgs, tmp_path, flags, chosen):
    (imgs / "broken.png").write_text("text")
    out, whole, labels = tmp_path / "out", tmp_path / "whole", ("--class-from", labelled(imgs, tmp_path))
    assert camcli("run", imgs, "-o", whole, *RICH, *labels).code == 1
    share = [float(row["predicted_probability"]) < 0.731 for row in rows_of(whole)]
    assert any(share), "the limit selects nothing"
    assert not all(share)
    assert camcli("run", imgs, "-o", out, *RICH, *labels, *flags).code == 1
    assert_equal_otherwise(out, whole, chosen)
    assert camcli("verify", out).code == 0
    before = state_of(out)
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *RICH, *labels, *flags).err
    assert state_of(out) == before


def test_failures_are_images_with_a_map_that_cannot_be_painted(camcli, imgs, tmp_path):
    """Without dark no map is empty, so no image is chosen."""
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--overlays-for", "failures").code == 0
    assert {(row["status"], row["overlay"]) for row in rows_of(tmp_path / "out")} == {("ok", "")}
    assert not (tmp_path / "out" / "overlays").exists()


def test_the_limit_is_that_of_the_table(camcli, imgs, tmp_path):
    """Each probability of the table as the limit: what the table shows as below it has an overlay, and nothing else."""
    camcli("run", imgs, "-o", tmp_path / "whole", *TINY)
    for limit in sorted({row["predicted_probability"] for row in rows_of(tmp_path / "whole")}):
        out = tmp_path / f"out-{limit}"
        camcli("run", imgs, "-o", out, *TINY, "--overlays-for", f"below:{limit}")
        assert [bool(row["overlay"]) for row in rows_of(out)] == [
            float(row["predicted_probability"]) < float(limit) for row in rows_of(out)
        ]


@pytest.mark.parametrize(
    "word", ["below", "below:", "below:x", "below:1.5", "below:-1", "below:nan", "right", "below:1e-1", "wrong"]
)
def test_wrong_words_are_refused(camcli, imgs, tmp_path, word):
    """wrong needs labels."""
    refused = camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--overlays-for", word)
    assert refused.code == 2
    assert "--overlays-for" in refused.err
    assert not (tmp_path / "out").exists()


def test_the_choice_binds_the_folder_in_whatever_words(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    labels = ("--class-from", labelled(imgs, tmp_path))
    choice = ("--overlays-for", "wrong", "--overlays-for", "below:.5", "--overlays-for", "below:0.3")
    camcli("run", imgs, "-o", out, *TINY, *labels, *choice)
    again = camcli("run", imgs, "-o", out, *TINY, *labels, "--overlays-for", "below:0.50", "--overlays-for", "wrong")
    assert "Nothing to do" in again.err
    for other in ((), ("--no-overlays",), ("--overlays-for", "wrong")):
        refused = camcli("run", imgs, "-o", out, *TINY, *labels, *other)
        assert (refused.code, "overlays" in refused.err) == (2, True)
    assert "no effect without --overlays" in camcli("run", imgs, "-o", tmp_path / "o", *TINY, "--no-overlays", *choice[2:4]).err


def test_a_map_or_mask_without_an_overlay_is_missed_and_written_again(camcli, imgs, tmp_path):
    out, flags = tmp_path / "out", (*RICH, "--no-overlays")
    camcli("run", imgs, "-o", out, *flags)
    whole = contents_of(out)
    for name in [name for name in whole if name.startswith(("maps/", "masks/"))][::5]:
        (out / name).unlink()
        assert os.path.basename(name) in camcli("verify", out).out
        assert "1 to do" in camcli("run", imgs, "-o", out, *flags).err
        assert contents_of(out) == whole
    (out / "maps" / "mine.npy").write_text("mine")
    assert camcli("run", imgs, "-o", out, *TINY, "--overwrite").code == 0
    assert [path.name for path in (out / "maps").rglob("*")] == ["mine.npy"], (
        "all maps of the earlier run are removed, and no other"
    )
    assert not (out / "masks").exists()


def test_deleted_and_changed_images_leave_no_map(camcli, imgs, tmp_path):
    out, flags = tmp_path / "out", (*RICH, "--no-overlays")
    camcli("run", imgs, "-o", out, *flags)
    (imgs / "a.png").write_text("broken now")
    assert camcli("run", imgs, "-o", out, *flags).code == 1
    assert not list((out / "maps").rglob("a.png.*"))
    assert camcli("verify", out).code == 0


def test_shards_are_merged(camcli, imgs, tmp_path):
    out, whole, flags = tmp_path / "out", tmp_path / "whole", (*RICH, "--no-overlays")
    camcli("run", imgs, "-o", whole, *flags)
    for part in ("0/2", "1/2"):
        camcli("run", imgs, "-o", out, *flags, "--shard", part)
    assert camcli("merge", out).code == 0
    assert {name: data for name, data in contents_of(out).items() if not name.startswith("shard-")} == contents_of(whole)


def test_names_of_a_file_system_that_folds_case_are_found_anywhere(camcli, imgs, tmp_path, monkeypatch):
    """A folder made where A.JPG and a.jpg are one name, and moved to where they are two: the journal knows."""
    from camcli.output.folder import OutputFolder

    out, flags = tmp_path / "out", (*TINY, "--save-maps", "--no-overlays")
    real = OutputFolder.__enter__

    def folding(self):
        folder = real(self)
        folder._folds_case = True
        return folder

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "__enter__", folding)
        camcli("run", imgs, "-o", out, *flags)
    assert [name for name in contents_of(out) if name.startswith("maps/A.JPG~")]
    assert camcli("verify", out).code == 0
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *flags).err
    assert camcli("diff", out, out).code == 0
    (imgs / "0.png").write_bytes(encoded(photo(8), "PNG"))
    assert "1 to do" in camcli("run", imgs, "-o", out, *flags).err
    assert camcli("verify", out).code == 0
    ledger = read_ledger(str(out))
    assert [image for image, entry in ledger.entries.items() if entry.folded] == ["A.JPG"]
    camcli("run", imgs, "-o", out, *TINY, "--overwrite")
    assert not (out / "maps").exists()


def test_diff_compares_the_maps_and_report_shows_their_figures(camcli, imgs, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    camcli("run", imgs, "-o", whole, *RICH, "--report")
    camcli("run", imgs, "-o", out, *RICH, "--no-overlays", "--report")
    assert camcli("diff", whole, out).out == camcli("diff", whole, whole).out
    rows = [data_of(folder) for folder in (whole, out)]
    for column in rows[0]["rows"]:
        if column != "overlay":
            assert rows[0]["rows"][column] == rows[1]["rows"][column], column
    assert set(rows[1]["rows"]["overlay"]) == {""}
    maps = [sorted((folder / "report" / "maps").glob("*.js")) for folder in (whole, out)]
    assert [path.read_bytes() for path in maps[0]] == [path.read_bytes() for path in maps[1]]
    assert not (out / "report" / "thumbs").exists()


def test_render_paints_what_is_there_and_no_more(camcli, imgs, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    flags = (*TINY[:4], "--topk", 2, "--save-maps", "--overlays-for", "below:0.731")
    camcli("run", imgs, "-o", out, *flags)
    camcli("run", imgs, "-o", whole, *flags, "--style", "heatmap", "--image-format", "png")
    drawn = camcli("render", out, "--style", "heatmap", "--image-format", "png")
    assert drawn.code == 0
    assert contents_of(out) == contents_of(whole)
    assert camcli("verify", out).code == 0
    camcli("run", imgs, "-o", tmp_path / "none", *TINY, "--save-maps", "--no-overlays")
    refused = camcli("render", tmp_path / "none", "--style", "heatmap")
    assert (refused.code, "--no-overlays" in refused.err) == (2, True)


def test_the_end_of_a_run_names_no_folder_that_is_not_there(camcli, imgs, tmp_path):
    done = camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--no-overlays")
    assert "Overlays in" not in done.err
    assert f"Table in {tmp_path / 'out'}" in done.err.replace("\n", "")


def test_killed_processes_lose_nothing(forks, tmp_path):
    fill_album(tmp_path / "imgs", 40)
    flags = (*TINY, "--save-maps", "--overlays-for", "below:0.731", "--batch-size", 4, "--quiet")
    assert undisturbed(forks, tmp_path / "imgs", tmp_path / "whole", *flags) == 1
    kills = Kills(forks, tmp_path / "imgs", tmp_path, flags, random.Random(5))
    assert kills.go_on_until(4, tmp_path / "whole", 1) == []


def test_a_forged_row_without_an_overlay_reaches_no_other_file(camcli, imgs, tmp_path):
    """The place of its map is made from its cells; one that would leave the folder is refused."""
    out, flags = tmp_path / "out", (*TINY, "--save-maps", "--no-overlays")
    camcli("run", imgs, "-o", out, *flags)
    theirs = tmp_path / "theirs.1-bright.npy"
    np.save(theirs, np.ones((2, 2), np.float32))
    before = theirs.read_bytes()
    table = (out / "predictions.csv").read_text()
    (out / "predictions.csv").write_text(table.replace("a.png,", "../../theirs,", 1))
    for command in (("verify", out), ("report", out), ("diff", out, out), ("run", imgs, "-o", out, *flags),
                    ("run", imgs, "-o", out, *flags, "--overwrite")):  # fmt: skip
        assert "Traceback" not in camcli(*command).err
        assert theirs.read_bytes() == before
    assert Root(str(out)).exists("predictions.csv")
    shutil.rmtree(out)
