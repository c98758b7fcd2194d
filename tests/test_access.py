"""Who may read and write, and how many at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.folders import TINY, contents_of, failures_of, rows_of
from tests.forks import ORDINARY_USER, RIGHTS_KEPT, completed, forked
from tests.pictures import encoded, photo


def as_ordinary_user(*arguments):
    """The command without root's right to read and write everything."""
    done = completed(*arguments, prelude=ORDINARY_USER)
    if done.returncode == RIGHTS_KEPT:
        pytest.skip("root may not give up its rights here")
    return done


def test_unreadable_files_and_folders_are_failures_and_the_rest_is_done(imgs, tmp_path):
    (imgs / "shut").mkdir()
    (imgs / "shut" / "a.jpg").write_bytes(encoded(photo(), "JPEG"))
    for name in ("sub/a.jpg", "shut"):
        (imgs / name).chmod(0)
    try:
        ended = as_ordinary_user("run", imgs, "-o", tmp_path / "out", *TINY)
        assert ended.returncode == 1, ended.stderr
        assert failures_of(tmp_path / "out") == [
            {"image": "shut", "stage": "read", "error": "permission denied"},
            {"image": "sub/a.jpg", "stage": "read", "error": "permission denied"},
        ]
        assert [row["image"] for row in rows_of(tmp_path / "out")] == ["A.JPG", "a.jpg", "a.jpg.png", "a.png", "sub/b.png"]
        assert "Nothing to do" in as_ordinary_user("run", imgs, "-o", tmp_path / "out", *TINY).stderr
    finally:
        (imgs / "shut").chmod(0o755)
        (imgs / "sub" / "a.jpg").chmod(0o644)
    assert as_ordinary_user("run", imgs, "-o", tmp_path / "out", *TINY).returncode == 0
    assert as_ordinary_user("run", imgs, "-o", tmp_path / "whole", *TINY).returncode == 0
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


def test_a_folder_that_may_only_be_read_can_be_verified(imgs, tmp_path):
    assert as_ordinary_user("run", imgs, "-o", tmp_path / "out", *TINY).returncode == 0
    folders = [tmp_path / "out", tmp_path / "out" / ".camcli"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert as_ordinary_user("verify", tmp_path / "out").returncode == 0
        refused = as_ordinary_user("run", imgs, "-o", tmp_path / "out", *TINY, "--model", "no_such_model")
        assert refused.returncode == 3, "the model was looked up before the folder"
        assert "not writable" in refused.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_the_second_run_is_refused_at_once_and_a_killed_one_leaves_no_lock(imgs, tmp_path):
    for k in range(200):
        (imgs / f"more-{k:03d}.jpg").write_bytes(encoded(photo(k, (300, 200)), "JPEG"))
    out = tmp_path / "out"
    holder = forked("run", imgs, *TINY, "-o", out, "--batch-size", 1, "--workers", 1, "--quiet")
    while not (out / "predictions.csv").exists() and holder.poll() is None:
        time.sleep(0.005)
    holder.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        refused = subprocess.run(
            [sys.executable, "-m", "camcli", "run", str(imgs), "-o", str(out), *TINY],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        took = time.monotonic() - begun
        assert refused.returncode == 3
        assert "another run is writing" in refused.stderr
        assert took < 2
    finally:
        holder.kill()
        holder.wait()
    after = forked("run", imgs, *TINY, "-o", out, "--quiet")
    assert after.wait(120) == 0
    assert len(rows_of(out)) == 206
