"""Checkpoints that are damaged, hostile or odd: one message says so and what to do; never code, a hang or a full memory."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import struct
import sys
import time
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from camcli.errors import WeightsError
from camcli.models.checkpoints import fill_module, read_checkpoint
from tests.networks import with_classes

HEAD, BIAS = "4.weight", "4.bias"


def weights(**changes):
    """The state of the network, with other tensors in it."""
    return {**with_classes().state_dict(), **changes}


def load(path):
    """The network with the weights of the file, and the number of classes where that is another."""
    return fill_module(with_classes, read_checkpoint(str(path)), str(path), "with_classes")


def refused(path, *words):
    """The error that loading the file ends with, soon."""
    started = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert time.monotonic() - started < 5
    text = str(caught.value)
    assert all(word in text for word in words), text
    return text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same weights as a zip archive, as PyTorch wrote them before 1.6, and as safetensors."""
    folder = tmp_path_factory.mktemp("whole")
    torch.save(weights(), folder / "new.pt")
    torch.save(weights(), folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(weights(), folder / "a.safetensors")
    return [folder / name for name in ("new.pt", "old.pt", "a.safetensors")]


def test_the_undamaged_files_load(whole):
    for path in whole:
        module, count = load(path)
        assert count is None
        assert torch.equal(module.state_dict()[HEAD], weights()[HEAD])


@pytest.mark.parametrize("place", range(3))
def test_a_file_that_is_cut_anywhere_is_refused(whole, tmp_path, place):
    data = whole[place].read_bytes()
    cut = tmp_path / whole[place].name
    for length in sorted({*range(0, 40), *range(0, len(data), 97), *range(len(data) - 90, len(data))}):
        cut.write_bytes(data[:length])
        assert "is not a" in refused(cut)


@pytest.mark.parametrize("place", [0, 2])
def test_zeros_anywhere_in_an_archive_are_found(whole, tmp_path, place):
    """As a download that broke off, or a power cut, leaves them. PyTorch itself does not look at the checksums."""
    data = whole[place].read_bytes()
    damaged = tmp_path / whole[place].name
    names = ("data.pkl", "data/") if place == 0 else ()
    with zipfile.ZipFile(whole[place]) if place == 0 else open(os.devnull) as archive:
        starts = (
            [member.header_offset + 100 for member in archive.infolist() if any(n in member.filename for n in names)]
            if names
            else [1]
        )
    for start in starts:
        damaged.write_bytes(data[:start] + b"\0" * 300 + data[start + 300 :])
        refused(damaged, "damaged", "again")


def test_bytes_that_are_changed_at_random_end_in_a_model_or_one_message(whole, tmp_path):
    draw = random.Random(0)
    for number in range(150):
        source = whole[number % 3]
        data = bytearray(source.read_bytes())
        for _ in range(draw.choice([1, 3, 20, 200])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path = tmp_path / source.name
        path.write_bytes(data)
        with contextlib.suppress(WeightsError):
            load(path)


def nested(depth):
    found = weights()
    for _ in range(depth):
        found = {"state_dict": found}
    return found


def in_itself():
    found = {}
    found["model"] = found["state_dict"] = found["net"] = found
    return found


class Bait:
    """Unpickling this makes a folder."""

    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def expanded(classes):
    return weights(**{HEAD: torch.zeros(1).expand(classes, 6), BIAS: torch.zeros(1).expand(classes)})


SAVED = {
    "nested 3,000 deep": (lambda: nested(3000), "has no named tensors"),
    "in itself": (in_itself, "has no named tensors"),
    "a list": (lambda: [1, 2], "has no named tensors"),
    "nothing": (lambda: None, "has no named tensors"),
    "no names": (lambda: {1: torch.zeros(1)}, "has no named tensors"),
    "a tensor": (lambda: torch.zeros(3), "has no named tensors"),
    "a whole module": (with_classes, "would run code"),
    "bait": (lambda: weights(extra=Bait()), "would run code"),
    "a head of 28 GB in a few bytes": (lambda: expanded(10**9), "is damaged: its tensors claim 28.0 GB"),
    "sparse": (lambda: weights(**{HEAD: torch.zeros(4, 6).to_sparse()}), "'4.weight' is sparse"),
    "quantized": (lambda: weights(**{HEAD: torch.quantize_per_tensor(torch.zeros(4, 6), 0.1, 0, torch.qint8)}), "is quantized"),
    "without values": (lambda: weights(**{HEAD: torch.zeros(4, 6, device="meta")}), "has no values"),
    "complex": (lambda: weights(**{HEAD: torch.zeros(4, 6, dtype=torch.complex64)}), "is complex"),
    "not a number": (lambda: weights(**{HEAD: torch.full((4, 6), float("nan"))}), "NaN"),
    "text for a tensor": (lambda: weights(**{HEAD: "text"}), "lacks 4.weight"),
    "a scalar": (lambda: weights(**{HEAD: torch.zeros(())}), "4.weight is a scalar there"),
    "no class": (lambda: weights(**{HEAD: torch.zeros(0, 6), BIAS: torch.zeros(0)}), "does not fit"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SAVED)
def test_what_pytorch_can_save_and_no_network_can_use(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    make, words = SAVED[kind]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)  # of what writes: what reads has the usual one
    try:
        torch.save(make(), "a.pt")
    finally:
        sys.setrecursionlimit(limit)
    refused("a.pt", "a.pt", words)
    assert not os.path.exists("pwned")


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(6, 4).t(), torch.zeros(4, 6).half(), torch.zeros(4, 6, dtype=torch.float64), torch.zeros(8, 12)[::2, ::2],
     torch.zeros(1).expand(4, 6), torch.nn.Parameter(torch.zeros(4, 6)), torch.zeros(4, 6, dtype=torch.int8)],
)  # fmt: skip
def test_odd_strides_and_types_are_weights_all_the_same(tmp_path, tensor):
    torch.save(
        {"state_dict": {"module.model." + key: value for key, value in weights(**{HEAD: tensor}).items()}}, tmp_path / "a.pt"
    )
    module, count = load(tmp_path / "a.pt")
    assert count is None
    assert not module.state_dict()[HEAD].any()
    assert torch.equal(module.state_dict()["0.weight"], weights()["0.weight"])


PICKLES = {
    "lists in lists": b"\x80\x02" + b"]" * 100_000 + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "a string of 4 GB": b"\x80\x02X" + struct.pack("<I", 0xFFFFFFFF) + b"x.",
    "bytes of a petabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"x.",
    "a number of 2 GB": b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"x.",
    "a memo that is not there": b"\x80\x02j" + struct.pack("<I", 123) + b".",
    "bait": pickle.dumps(Bait()),
    "zeros": b"\0" * 5000,
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_that_are_none(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(PICKLES[kind])
    refused("a.pt", "is not a PyTorch checkpoint", "damaged")
    assert not os.path.exists("pwned")


def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (100 << 20))
    refused(tmp_path / "a.pt", "damaged")


HEADERS = {
    "longer than the file": (1 << 62, b"{}"),
    "nested deep": (None, b'{"a":' * 100_000),
    "a tensor of an exabyte": (None, json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}).encode()),
    "offsets beyond the end": (None, json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode()),
    "text": (None, b"hello"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_safetensors_with_a_header_that_lies(tmp_path, kind):
    length, header = HEADERS[kind]
    data = struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * 4
    (tmp_path / "a.safetensors").write_bytes(data)
    refused(tmp_path / "a.safetensors", "is not a safetensors file")
