"""``camcli models``, ``layers``, ``classes``, ``methods``: tables for people, lines for programs."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from camcli.cam import METHODS
from tests.forks import command_in_shell
from tests.test_models import torchvision_classifiers


def table(text):
    lines = [line.split("\t") for line in text.splitlines()]
    assert len({len(line) for line in lines}) == 1, "a line with more or fewer cells"
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_models(camcli):
    everything = camcli("models")
    rows = {row["name"]: row for row in table(everything.out)}
    assert rows["resnet50"] == {
        "name": "resnet50", "source": "torchvision", "parameters_m": "25.6", "input": "224x224", "top1": "80.9", "cached": "no",
    }  # fmt: skip
    assert rows["efficientnet_lite0"]["cached"] == "yes"
    assert {name for name, row in rows.items() if row["source"] == "torchvision"} == torchvision_classifiers()
    assert not any(row["source"] == "timm" for row in rows.values())
    assert "timm" in everything.err
    assert {row["name"] for row in table(camcli("models", "vit_b").out)} >= {"vit_b_16", "vit_b_32"}
    assert all(row["name"].startswith("timm/resnet1") for row in table(camcli("models", "timm/resnet1*").out))
    none = camcli("models", "no-such-thing")
    assert (none.code, none.out) == (2, "")


def test_layers(camcli):
    done = camcli("layers", "resnet18")
    rows = table(done.out)
    assert done.code == 0
    assert [row["layer"] for row in rows if row["default"]] == ["layer4"]
    assert all(row["usable"] == "yes" for row in rows)
    assert rows[0] == {
        "layer": "conv1",
        "type": "Conv2d",
        "output": "64x112x112",
        "map": "112x112",
        "usable": "yes",
        "default": "",
    }
    every = {row["layer"]: row for row in table(camcli("layers", "resnet18", "--all").out)}
    assert every["fc"]["usable"].startswith("no: its output 1000")
    assert camcli("layers", "resnet").code == 2


def test_classes(camcli):
    assert len(table(camcli("classes", "resnet18").out)) == 1000
    assert table(camcli("classes", "efficientnet_lite0", "GOO*").out) == [{"class_index": "99", "class_name": "goose"}]
    near = camcli("classes", "resnet18", "gooze")
    assert near.code == 2
    assert "'goose'" in near.err
    assert table(camcli("classes", "tests.networks:brightness").out)[1] == {"class_index": "1", "class_name": "dark"}


def test_methods(camcli):
    rows = table(camcli("methods").out)
    by_name = {row["method"]: row for row in rows}
    assert "Selvaraju" in by_name["gradcam"]["source"]
    assert by_name["scorecam"]["forward_passes"] == "1 a channel"
    assert set(by_name) == set(METHODS)
    assert len(rows) >= 15
    assert all(all(row.values()) for row in rows)


def test_a_reader_that_leaves_early_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m camcli models 'timm/*' | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0
    assert done.stdout.startswith("name\t")
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_on_a_terminal_there_is_a_table_and_a_bar(forks, tmp_path, monkeypatch):
    """In a real pseudo-terminal: aligned columns without tabs, and the progress bar with rate and remaining time."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    root = Path(__file__).parent.parent
    monkeypatch.setenv("TERM", "xterm")
    forks.run(["classes", "resnet18", "goose"], [slave] * 3).wait(60)
    second = forks.run(["run", root / "sample_images", "-o", tmp_path / "out", "-b", 2], [slave] * 3)
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        seen += chunk
        if not chunk:
            break
    assert second.wait(60) == 0
    text = seen.decode("utf-8", "replace")
    assert "class_name" in text
    assert "\t" not in text.split("efficientnet_lite0")[0]
    assert "100%" in text
    assert "8/8" in text
    assert "img/s" in text or "s/img" in text


@pytest.mark.parametrize("broken", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", ["classes efficientnet_lite0", "--help"])
def test_a_stdout_that_cannot_be_written(command, broken):
    camcli = f"{sys.executable} -m camcli" if command == "--help" else command_in_shell()
    done = subprocess.run(
        f"{camcli} {command} {broken}",
        shell=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (3 if "full" in broken else 0)


def test_a_model_without_a_usable_layer_still_lists_them(camcli, on_path):
    (on_path / "flat.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(150528, 2))\n"
    )
    done = camcli("layers", "flat:net")
    assert done.code == 0
    assert all(row["usable"].startswith("no: ") for row in table(done.out))
    assert "no usable layer" in done.err
