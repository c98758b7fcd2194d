"""``camcli verify`` finds every damage and nothing else; images are known by their bytes; what failed is tried again when asked."""

from __future__ import annotations

import os
import shutil

import pytest

from camcli.images import decode
from tests.folders import TINY, contents_of, failures_of, rows_of, state_of
from tests.pictures import encoded, photo


@pytest.fixture
def done(camcli, imgs, tmp_path):
    """A finished run with maps and a failure."""
    (imgs / "broken.jpg").write_text("text")
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--save-maps").code == 1
    return tmp_path / "out"


def unlink(path):
    path.unlink()


def cut(path):
    os.truncate(path, path.stat().st_size - 3)


def append(path):
    with open(path, "ab") as file:
        file.write(b"more\n")


def swap_rows(path):
    header, first, second, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([header, second, first, *rest]))


def blank(path):
    path.write_bytes(b"")


def zero_rows(path):
    """As long as before, but zeros from the third row on."""
    data = path.read_bytes()
    start = len(b"".join(data.splitlines(keepends=True)[:3]))
    path.write_bytes(data[:start] + bytes(len(data) - start))


def not_utf8(path):
    data = bytearray(path.read_bytes())
    data[-20] = 0xFF
    path.write_bytes(data)


def line_breaks(path):
    header, first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([header, b"\n" * len(first), *rest]))


def swap_lines(path):
    header, *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([header, last, *lines]))


def foreign(path):
    path.write_bytes(path.read_bytes() + b'{"a": 1}\n')


def empty_list(path):
    path.write_bytes(b"[]\n")


DAMAGES = [
    ("predictions.csv", zero_rows, "are damaged"),
    ("predictions.csv", not_utf8, "are damaged"),
    ("predictions.csv", line_breaks, "are damaged"),
    (".camcli/journal.jsonl", swap_lines, "lines at its end are damaged"),
    (".camcli/journal.jsonl", foreign, "lines at its end are damaged"),
    ("run.json", empty_list, "not an object"),
    ("overlays/a.jpg.1-bright.jpg", unlink, "cannot be read"),
    ("overlays/sub/b.png.1-bright.jpg", cut, "changed since it was written"),
    ("overlays/a.png.1-bright.jpg", blank, "changed since it was written"),
    ("maps/a.jpg.1-bright.npy", unlink, "cannot be read"),
    ("maps/A.JPG.1-bright.npy", cut, "changed since it was written"),
    ("predictions.csv", cut, "lines at its end are damaged, repeat an image, or have no rows"),
    ("predictions.csv", append, "bytes at its end that the journal does not record"),
    ("predictions.csv", swap_rows, "are damaged"),
    ("predictions.csv", unlink, "missing"),
    ("failures.csv", unlink, "missing"),
    ("failures.csv", blank, "missing, or its first line"),
    (".camcli/journal.jsonl", cut, "lines at its end are damaged"),
    (".camcli/journal.jsonl", append, "lines at its end are damaged"),
    ("run.json", unlink, "missing"),
    ("run.json", cut, "cannot be read"),
]


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_every_damage_is_found_and_mended_by_the_same_command(camcli, imgs, done, tmp_path, name, damage, said):
    shutil.copytree(done, tmp_path / "whole")
    damage(done / name)
    before = state_of(done)
    found = camcli("verify", done)
    assert found.code == 1
    assert said in found.out
    assert "Traceback" not in found.err
    assert state_of(done) == before, "verify changed something"
    camcli("run", imgs, "-o", done, *TINY, "--save-maps")
    assert camcli("verify", done).code == 0
    assert contents_of(done) == contents_of(tmp_path / "whole")


def test_a_whole_folder_has_no_problem(camcli, imgs, done):
    assert camcli("verify", done, "--inputs").code == 0
    quiet = camcli("verify", done, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    os.rename(done / "overlays" / "a.jpg.1-bright.jpg", done / "overlays" / "b.jpg.1-bright.jpg")
    found = camcli("verify", done)
    assert sorted(line.split("\t")[0] for line in found.out.splitlines()[1:]) == [
        "overlays/a.jpg.1-bright.jpg",
        "overlays/b.jpg.1-bright.jpg",
    ]
    (done / ".camcli" / "in-flight").touch()
    assert "the last run did not end by itself" in camcli("verify", done).out


def test_what_a_dead_run_left_is_gone_once_the_next_has_nothing_to_do(camcli, imgs, done):
    (done / ".camcli" / "in-flight").write_bytes(b"\x05\0\0\0x.jpg")
    assert camcli("verify", done).code == 1
    assert "Nothing to do" in camcli("run", imgs, "-o", done, *TINY, "--save-maps").err
    assert camcli("verify", done).code == 0


def test_a_folder_that_a_run_is_writing_to_is_not_judged(camcli, done):
    from filelock import FileLock

    with FileLock(done / ".camcli" / "lock"):
        refused = camcli("verify", done)
    assert refused.code == 3
    assert "a run is writing" in refused.err


def test_changed_and_deleted_images_are_named(camcli, imgs, done):
    (imgs / "a.jpg").write_bytes(encoded(photo(9), "JPEG"))
    (imgs / "sub" / "b.png").unlink()
    os.utime(imgs / "a.png", ns=(1, 1))
    assert camcli("verify", done).code == 0, "only --inputs looks at the images"
    found = camcli("verify", done, "--inputs")
    assert found.code == 1
    problems = dict(line.split("\t") for line in found.out.splitlines()[1:])
    assert problems == {
        str(imgs / "a.jpg"): "the image has changed since: run the same command again to explain it",
        str(imgs / "sub" / "b.png"): "the image is missing; its rows are kept",
    }


def test_a_folder_that_is_no_run_is_said(camcli, tmp_path, imgs):
    assert "no folder" in camcli("verify", tmp_path / "nowhere").err
    assert "holds no run" in camcli("verify", imgs).err
    assert camcli("verify", imgs).code == 2


def test_parts_are_verified_with_the_folder(camcli, imgs, tmp_path):
    for part in ("0/2", "1/2"):
        camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--shard", part)
    assert camcli("verify", tmp_path / "out").code == 0
    overlay = next((tmp_path / "out" / "shard-1-of-2").rglob("*.jpg"))
    overlay.unlink()
    assert f"shard-1-of-2/{overlay.relative_to(tmp_path / 'out' / 'shard-1-of-2')}" in camcli("verify", tmp_path / "out").out


def same_size_same_time(path, seed):
    """Other pixels under the same size and modification time."""
    status = path.stat()
    path.write_bytes(encoded(photo(seed), "BMP"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


def old(path):
    os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize("flags", [(), ("--hash",)])
def test_what_tells_that_an_image_has_changed(camcli, tmp_path, flags):
    """Size and time, or with --hash the bytes: a touched file is then the same, and one that only looks the same is not."""
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    for k, name in enumerate(("touched", "replaced", "left")):
        (imgs / f"{name}.bmp").write_bytes(encoded(photo(k), "BMP"))
        old(imgs / f"{name}.bmp")
    camcli("run", imgs, "-o", out, *TINY, *flags)
    first = {row["image"]: row["logit"] for row in rows_of(out)}
    os.utime(imgs / "touched.bmp", ns=(2 * 10**18, 2 * 10**18))
    same_size_same_time(imgs / "replaced.bmp", 9)
    again = camcli("run", imgs, "-o", out, *TINY, *flags)
    assert "2 images done before, 1 to do" in again.err
    changed = {row["image"] for row in rows_of(out) if row["logit"] != first[row["image"]]}
    assert changed == ({"replaced.bmp"} if flags else set())


def test_a_folder_made_without_hashes_is_done_again_with_them(camcli, tmp_path):
    """What was there before cannot be known; from then on every byte is."""
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    for k in range(3):
        (imgs / f"{k}.bmp").write_bytes(encoded(photo(k), "BMP"))
        old(imgs / f"{k}.bmp")
    camcli("run", imgs, "-o", out, *TINY)
    first = rows_of(out)[0]["logit"]
    same_size_same_time(imgs / "0.bmp", 9)
    assert "3 images explained" in camcli("run", imgs, "-o", out, *TINY, "--hash").err
    assert rows_of(out)[0]["logit"] != first
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY, "--hash").err


def test_a_young_file_is_known_by_its_bytes(camcli, tmp_path):
    """Changed again within the same tick of the clock, without a change of size: only its bytes can tell."""
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    (imgs / "a.bmp").write_bytes(encoded(photo(0), "BMP"))
    os.utime(imgs / "a.bmp")
    camcli("run", imgs, "-o", out, *TINY)
    first = rows_of(out)[0]["logit"]
    same_size_same_time(imgs / "a.bmp", 9)
    camcli("run", imgs, "-o", out, *TINY)
    assert rows_of(out)[0]["logit"] != first


def test_what_failed_is_tried_again_only_when_asked(camcli, imgs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    real = decode.decode_bytes

    def failing(data, max_pixels, header=None):
        raise decode.ImageError("decode", "a decoder that will be mended")

    monkeypatch.setattr(decode, "decode_bytes", lambda data, *most: (failing if data[:2] != b"\xff\xd8" else real)(data, *most))
    assert camcli("run", imgs, "-o", out, *TINY).code == 1
    assert len(failures_of(out)) == 3
    monkeypatch.undo()
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY).err
    kept = state_of(out / "overlays")
    retried = camcli("run", imgs, "-o", out, *TINY, "--retry-failed")
    assert retried.code == 0
    assert "3 images done before, 3 to do" in retried.err
    assert failures_of(out) == []
    assert kept.items() <= state_of(out / "overlays").items(), "what had not failed was done again"
    camcli("run", imgs, "-o", tmp_path / "whole", *TINY)
    assert contents_of(out) == contents_of(tmp_path / "whole")
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY, "--retry-failed").err
