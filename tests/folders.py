"""Runs of the command, and what they leave in a folder."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

TINY = ("--model", "tests.networks:brightness", "--layer", "cells", "--class", "bright")
COMMAND = [sys.executable, "-m", "camcli"]


def start(*arguments, **options):
    """The command in a fresh process, whose start is part of the test; ``tests.forks.forked`` costs a tenth."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent, **options,
    )  # fmt: skip


def rows_of(folder):
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def state_of(folder):
    """Every file below ``folder`` with its bytes and modification time."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def contents_of(folder, without=("run.json", "journal.jsonl", "lock")):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and p.name not in without}


def failures_of(folder):
    with open(folder / "failures.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
