"""What strangers wrote, in names, labels, settings and documents: it is never printed raw, waited for, or a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import struct
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from camcli.cli import app
from camcli.cli.console import Console
from camcli.cli.guard import MOST_CHARACTERS, Guarded, safe_line
from camcli.documents import parse_toml
from camcli.errors import ConfigError
from camcli.models.sources.fitted import read_fitted
from camcli.records import escape_name, escape_text, unescape_name
from tests.conftest import ROOT
from tests.folders import TINY, start
from tests.networks import with_classes
from tests.pictures import encoded, photo

CONTROLS = {
    "ESC": "\x1b[31m", "BEL": "\a", "BS": "\b", "CR": "\r", "LF": "\n", "NUL": "\0", "DEL": "\x7f", "CSI": "\x9b31m", "NEL": "\x85",
    "line separator": "\u2028", "bidi override": "\u202e", "tag": "\U000e0041", "surrogate": "\ud800", "byte": "\udcff",
}  # fmt: skip
POISON = "x\x1b]0;owned\a\x1b[31m\b\r\x7f\x9b2J\x85\u202ey"
"""What a file, a name and an argument may all contain."""


def is_safe(text: str) -> bool:
    """Whether a terminal takes it for text and line ends alone."""
    return escape_text(text, keep="\n\t") == text


@contextlib.contextmanager
def at_most(seconds: float):
    """Fails where what is inside waits for somebody, or takes longer."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    started = time.monotonic()
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < seconds


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_no_control_character_survives_in_a_message(control):
    for text in (control, f"a{control}b", f"{control}{control}"):
        for safe in (escape_name(text), escape_text(text), safe_line(text)):
            assert is_safe(safe)
            assert "\n" not in safe
            safe.encode("utf-8")
    stream = io.StringIO()
    gate = Guarded(stream)
    gate.write(f"a{control}b")
    assert is_safe(stream.getvalue())


def test_names_can_be_had_back_and_are_escaped_once():
    name = "a\\b\x1b\udcff"
    assert escape_name(name) == "a\\\\b\\x1b\\xff"
    assert safe_line(escape_name(name)) == escape_name(name), "the last gate doubles no backslash"
    assert unescape_name(escape_name(name)) == name


def test_a_message_of_a_megabyte_loses_its_middle():
    line = safe_line("begin" + "x" * 1_000_000 + "end")
    assert len(line) < MOST_CHARACTERS + 50
    assert line.startswith("begin")
    assert line.endswith("end")


def test_progress_bars_of_libraries_pass_the_gate():
    stream = io.StringIO()
    gate = Guarded(stream)
    for piece in ("\r 10%|#   |", "\n\x1b[A", "\x1b[A", "two\nlines\n"):
        gate.write(piece)
    assert stream.getvalue() == "\r 10%|#   |\n\x1b[A\x1b[Atwo\nlines\n"
    gate.write("\x1b[A\x1b[31m")
    gate.write("a\rb")
    assert stream.getvalue().endswith("\\x1b[A\\x1b[31ma\\x0db")


def test_on_a_terminal_only_our_own_colours_are_raw(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", Guarded(terminal))
    console = Console()
    console.info(POISON)
    console.warn(POISON)
    console.error(POISON)
    with console.bar(2) as tell:
        tell(1, 2, POISON)
        console.info(POISON)
    text = terminal.getvalue()
    for own in ("\x1b[31mcamcli: \x1b[0m", "\x1b[33mcamcli: note: \x1b[0m"):
        assert own in text
        text = text.replace(own, "")
    assert "owned" in text
    assert is_safe(text.replace("\r", "").replace("\x1b[A", ""))


BARE = ("run", "imgs", "-o", "out")
RUN = (*BARE, *TINY)


def made(body: str) -> str:
    """The name of a factory with that body, in a module in the current folder. ``P`` is the poison in it."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    text_file("stranger.py", f"import warnings\nfrom tests.networks import brightness\nP = {POISON!r}\ndef made():\n{lines}")
    return "stranger:made"


def own(body: str, *more: str) -> tuple[str, ...]:
    """A run with a factory of that body."""
    return (*BARE, "--model", made(body), *(more or ("--layer", "cells")))


def fitted(**changes) -> tuple[str, ...]:
    """A run with a fitted model, whose folder holds a description alone."""
    description = {
        "camcli-fit": 1, "backbone": "tests.networks:colours", "layer": "4", "grid": "nchw", "classes": ["a", "b"],
        "preprocess": {"resize": "squash", "resize_to": [64, 64], "crop": [64, 64], "interpolation": "bilinear",
                       "mean": [0, 0, 0], "std": [1, 1, 1]},
    }  # fmt: skip
    Path("fitted").mkdir(exist_ok=True)
    Path("fitted/model.json").write_text(json.dumps({**description, **changes}), encoding="utf-8")
    return (*BARE, "--model", "fitted")


def poisoned_checkpoint(name: str) -> str:
    torch.save({**with_classes().state_dict(), POISON: torch.zeros(1)}, name)
    return name


def poisoned_safetensors(name: str) -> str:
    header = json.dumps({POISON: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    Path(name).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    return name


def text_file(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8", newline="")
    return name


def foreign_journal() -> tuple[str, ...]:
    """A run into a folder whose journal names other settings."""
    path = Path("out/.camcli/journal.jsonl")
    head, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    record = json.loads(head)
    record["settings"].update({"style": POISON, f"new{POISON}": POISON, "model": "\ud800"})
    path.write_text(json.dumps(record) + "\n" + "".join(rest), encoding="utf-8")
    return RUN


HEADS = ("--model", "tests.networks:with_classes")
LAYER = "m = brightness()\nm.add_module('x' + P.replace('.', ''), m.cells)\nreturn m"
STRANGERS = {
    "an input": lambda: ("run", POISON, "-o", "out", *TINY),
    "a model": lambda: (*RUN, "--model", POISON),
    "weights": lambda: (*RUN, "--weights", POISON),
    "weights, a file": lambda: (*RUN, "--weights", f"{POISON}.pt"),
    "a damaged file of weights": lambda: (*RUN, "--weights", text_file(f"{POISON}.pt", "text")),
    "a layer": lambda: (*RUN, "--layer", POISON),
    "a class": lambda: (*RUN, "--class", POISON),
    "a method": lambda: (*RUN, "--method", POISON),
    "a device": lambda: (*RUN, "--device", POISON),
    "a number": lambda: (*RUN, "--topk", POISON),
    "a batch size": lambda: (*RUN, "--batch-size", POISON),
    "an option": lambda: (*RUN, f"--{POISON}"),
    "a command": lambda: (POISON,),
    "an output folder": lambda: (*RUN, "-o", f"no/{POISON}"),
    "a file of labels": lambda: (*RUN, "--labels", POISON),
    "labels": lambda: (*RUN[:-2], "--labels", text_file("labels.json", json.dumps([POISON, f"{POISON}2"]))),
    "labels that do not fit": lambda: (*RUN, "--labels", text_file("labels.csv", f"{POISON},x\n{POISON},y\n")),
    "a table of labels": lambda: (*RUN, "--class-from", POISON),
    "its labels": lambda: (*RUN, "--class-from", text_file("true.csv", f"image,label\na.jpg,{POISON.replace(chr(13), '')}\n")),
    "its header": lambda: (*RUN, "--class-from", text_file("true.csv", f"image,label\n\"{POISON}\"\n")),
    "a TOML file": lambda: (*RUN, "--config", POISON),
    "a TOML key": lambda: (*RUN, "--config", text_file("run.toml", f"{json.dumps(POISON)} = 1")),
    "a TOML value": lambda: (*RUN, "--config", text_file("run.toml", f"style = {json.dumps(POISON)}")),
    "a TOML list": lambda: (*RUN, "--config", text_file("run.toml", f"alpha = [{json.dumps(POISON)}]")),
    "TOML that is none": lambda: (*RUN, "--config", text_file("run.toml", f"{POISON} = ")),
    "a log": lambda: (*RUN, "--log-file", f"no/{POISON}"),
    "a tensor": lambda: (*BARE, *HEADS, "--weights", poisoned_checkpoint("a.pt")),
    "a tensor, safetensors": lambda: (*BARE, *HEADS, "--weights", poisoned_safetensors("a.safetensors")),
    "an error of a factory": lambda: own("raise ValueError(P)"),
    "an error that cannot be read": lambda: own("class Odd(Exception):\n  __str__ = None\nraise Odd"),
    "a warning of a factory": lambda: own("warnings.warn(P)\nreturn brightness()"),
    "what a factory prints": lambda: own("print(P)\nreturn brightness()"),
    "classes of a factory": lambda: own("m = brightness()\nm.categories = (P, P + '2')\nreturn m"),
    "a layer of a factory": lambda: own(LAYER, "--layer", "all"),
    "layers, listed": lambda: ("layers", made(LAYER)),
    "classes, listed": lambda: ("classes", made("m = brightness()\nm.categories = (P, 'b')\nreturn m")),
    "a fitted model's layer": lambda: fitted(layer=POISON),
    "a fitted model's backbone": lambda: fitted(backbone=POISON),
    "a fitted model's code": lambda: fitted(backbone=f"{POISON}:f"),
    "a fitted model's grid": lambda: fitted(grid=POISON),
    "settings of a foreign journal": foreign_journal,
    "a pattern": lambda: ("models", POISON),
    "a folder that is none": lambda: ("verify", POISON),
    "runs that are none": lambda: ("diff", POISON, POISON),
    "data that are none": lambda: ("fit", POISON, "-o", "model"),
    "a class to dream of": lambda: ("dream", "tests.networks:brightness", "--class", POISON, "-o", "dreams"),
}  # fmt: skip


@pytest.fixture
def one_image(tmp_path, monkeypatch):
    """A folder with an image whose name is hostile too, and the current folder beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "a.jpg").write_bytes(encoded(photo(1), "JPEG"))
    (tmp_path / "imgs" / f"{POISON}.jpg").write_bytes(b"no image")
    yield tmp_path
    sys.modules.pop("stranger", None)


def print_warning(message, category, filename, lineno, file=None, line=None):
    """As Python does it where no pytest collects warnings."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.filterwarnings("default")
def test_law_26_nothing_of_a_stranger_reaches_the_terminal_raw(camcli, one_image, monkeypatch, stranger):
    if "journal" in stranger:
        camcli(*RUN)
    monkeypatch.setattr(warnings, "showwarning", print_warning)
    arguments = STRANGERS[stranger]()
    log = () if "log" in stranger or arguments[0] != "run" else ("--log-file", "log.txt")
    done = camcli(*arguments, *log)
    assert is_safe(done.err), done.err
    assert is_safe(done.out), done.out
    assert "Traceback" not in done.err
    assert done.err or done.out
    assert "owned" in done.err or stranger not in ("a warning of a factory", "what a factory prints", "an error of a factory")
    if Path("log.txt").exists():
        assert is_safe(Path("log.txt").read_text(encoding="utf-8"))


def test_law_26_the_traceback_of_a_defect_is_escaped_too(camcli, one_image, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError(POISON)

    monkeypatch.setattr(app, "app", broken)
    done = camcli("run")
    assert done.code == 3
    assert "Traceback" in done.err
    assert "this is a bug in camcli" in done.err
    assert is_safe(done.err)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2400000000000 bytes."), "out of memory"),
        (RuntimeError("can't start new thread"), "no more threads"),
    ],
)
def test_law_28_too_little_of_anything_is_one_message(camcli, monkeypatch, error, words):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(app, "app", broken)
    done = camcli("run")
    assert done.code == 3
    assert words in done.err
    assert done.err.count("\n") == 1


def fifo(path):
    os.mkfifo(path)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2 << 30)


def written(data):
    return lambda path: path.write_bytes(data)


DEEP = 100_000
DOCUMENTS = {
    "a FIFO": fifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "a device": lambda path: path.symlink_to("/dev/null"),
    "a folder": lambda path: path.mkdir(),
    "of 2 GB": sparse,
    "JSON nested deep": written(b"[" * DEEP),
    "objects nested deep": written(b'{"a":' * DEEP),
    "TOML nested deep": written(b"a = " + b"[" * DEEP),
    "tables nested deep": written(b"a = " + b"{a = " * DEEP),
    "a dotted key": written(b"a" + b".a" * DEEP + b" = 1"),
    "a quoted dotted key": written(b'"a"' + b' . "a"' * (DEEP // 4) + b" = 1"),
    "a long number": written(b"batch-size = " + b"9" * 10_000),
    "a long number, JSON": written(b'{"camcli-fit": ' + b"9" * 10_000 + b"}"),
    "a long index": written(b'{"' + b"9" * 10_000 + b'": "a"}'),
    "a long index, CSV": written(b"9" * 10_000 + b",a\n1,b\n"),
    "a lone surrogate": written(rb'["\ud800", "b"]'),
    "a lone surrogate, TOML": written(rb'style = "\ud800"'),
    "a NUL": written(rb'labels = "a\u0000b"'),
    "NULs": written(b"image,label\n" + b"\0" * 100),
    "no UTF-8": written(b"image,label\n\xff\xfe,\x80\n"),
    "a huge field": written(b"image,label\n" + b"x" * (1 << 20) + b",y\n"),
    "an open quote": written(b'image,label\n"' + b"x,\n" * 10_000),
    "null": written(b"null"),
    "nothing": written(b""),
}
HARMLESS = {("run.toml", "nothing"), ("true.csv", "a lone surrogate")}
"""A table of no options, and the header of a table of no images."""

READERS = {
    "labels.json": "--labels",
    "labels.csv": "--labels",
    "true.csv": "--class-from",
    "run.toml": "--config",
    "model.json": "--model",
}


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("name", READERS)
def test_law_27_a_document_that_is_none_is_refused_soon(camcli, one_image, name, document):
    place = one_image / name
    value = place
    if name == "model.json":
        place = one_image / "fitted" / name
        place.parent.mkdir()
        value = place.parent
    DOCUMENTS[document](place)
    with at_most(seconds=5):  # two, on a machine that has nothing else to do
        done = camcli(*RUN, READERS[name], value)
    if (name, document) in HARMLESS:
        return
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert done.err.count("\n") <= 2
    assert len(done.err) < 5000


def test_law_27_toml_takes_a_time_that_grows_with_its_size():
    for line in ("a" + ".a" * 249 + " = 1", "[a" + ".a" * 249 + "]", '"a"' + '."a"' * 249 + " = 1"):
        with at_most(seconds=6), contextlib.suppress(ValueError):
            parse_toml("\n".join(f"k{number}{line}" for number in range(200)))
    assert parse_toml('layer = "' + "a." * 1000 + '"  # ' + "." * 100)["layer"].count(".") == 1000
    assert parse_toml("# " + "." * 1000 + "\ntopk = 2") == {"topk": 2}


def test_law_27_a_log_is_a_file_a_terminal_or_nothing(camcli, one_image):
    for make, name in ((fifo, "fifo"), (lambda path: path.mkdir(), "folder"), (lambda path: path.symlink_to("/dev/zero"), "zero")):
        make(one_image / name)
        with at_most(seconds=5):
            done = camcli(*RUN, "--log-file", name)
        assert done.code == 2
        assert "--log-file" in done.err
    for harmless in ("/dev/null", "/dev/full"):
        Console.open_log(harmless)
        Console.close_log()
    with pytest.raises(ConfigError, match="a FIFO"):
        Console.open_log("fifo")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--threads", "100000"), ("--threads", "2147483648"), ("--workers", "100000"), ("--batch-size", "1000000000000"),
        ("--batch-size", "9" * 5000), ("--class", "9" * 5000), ("--class", "-1"), ("--topk", "9" * 5000),
        ("--topk", "1000000000000"),
        ("--limit", "9" * 5000), ("--max-pixels", "9" * 5000), ("--smooth", "9" * 5000), ("--alpha", "nan"), ("--noise", "inf"),
        ("--shard", f"0/{'9' * 5000}"), ("--device", f"cuda:{'9' * 5000}"),
    ],
)  # fmt: skip
def test_numbers_beyond_all_measure_are_refused(camcli, one_image, option, value):
    done = camcli(*RUN, option, value)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert len(done.err) < 6000


def test_a_fitted_model_cannot_ask_for_more_than_its_weights_hold(camcli, one_image):
    from safetensors.torch import save_file

    fitted(classes=[f"c{number}" for number in range(200_000)], backbone="tests.networks:colours")
    assert len(read_fitted("fitted").classes) == 200_000
    save_file({"head.weight": torch.zeros(2, 12), "head.bias": torch.zeros(2)}, "fitted/model.safetensors")
    done = camcli(*BARE, "--model", "fitted", "--weights", "tests.networks:colours")
    assert done.code == 2
    assert "head.weight is 2 x 12" in done.err
    assert "200,000 classes" in done.err


def test_categories_that_are_none(camcli, one_image):
    done = camcli(*own("m = brightness()\nm.categories = 5\nreturn m"))
    assert done.code == 2
    assert "the categories of stranger:made cannot be read" in done.err


LOCALES = {
    "POSIX": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "elsewhere": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Tokyo", "HOME": "/nonexistent"},
}


def test_law_29_another_locale_time_zone_home_or_umask_does_nothing_twice(tmp_path):
    """Names are bytes; what Python takes them for must not depend on who starts it."""
    (tmp_path / "imgs").mkdir()
    for name in ("a.jpg", "é.jpg", "日本.png", "\udcff.jpg"):
        (tmp_path / "imgs" / name).write_bytes(encoded(photo(1), "JPEG"))
    command = ("run", tmp_path / "imgs", "-o", tmp_path / "out", *TINY)
    states = []
    for environment in LOCALES.values():
        process = start(*command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, umask=0o077 if states else 0o022)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
        assert "Nothing to do" in said if states else "4 images explained" in said
        states.append((tmp_path / "out" / "predictions.csv").read_bytes())
    assert states[0] == states[1]
    assert "é.jpg" in states[0].decode("utf-8")
    assert b"\\xff.jpg" in states[0]
