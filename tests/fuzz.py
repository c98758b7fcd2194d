"""Mutated image files against ``decode_bytes``: ``python -m tests.fuzz --runs 200000 --seed 0 --jobs 2``.

Children decode, and write down what they are about to decode in memory that they share with their parent, so that the file that
kills one is known. A finding is a death, a hang, an exception other than ImageError (MemoryError under the limit too), or an array
that is no picture within the limit; each is saved as a file. An input that ends in a new way becomes a seed.
"""

from __future__ import annotations

import argparse
import importlib
import mmap
import multiprocessing
import os
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import numpy as np

from camcli.errors import ImageError
from camcli.images.decode import decode_bytes
from tests.corpus import corpus, png_of

Target = Callable[[bytes, int], np.ndarray]
Seeds = Mapping[str, Sequence[bytes]]
Mutation = Callable[[bytearray, Random, Seeds], bytearray]

MOST_BYTES = 1 << 18
"""Of one input."""

MOST_SEED_BYTES = 1 << 14
MOST_KEPT = 2000
MOST_SAVED = 25
"""Inputs that a child keeps as new seeds, and findings of one kind that it saves."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "other")
OUTCOMES = ("decoded", "refused", "finding")

_HEAD = struct.Struct("<qdqq")  # run, monotonic second at which it began or 0, length of the input, seeds kept
_COUNTS = 8 * len(FORMATS) * len(OUTCOMES)
_INTEGERS = (0, 1, 2, 3, 7, 8, 16, 64, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Plan:
    """What was asked for. ``limit``: seconds for one input; ``memory``: bytes above what a child begins with."""

    runs: int
    seed: int
    jobs: int
    target: Target
    save: Path
    max_pixels: int
    limit: float
    memory: int


def format_of(data: bytes) -> str:
    """Which of FORMATS the first bytes claim."""
    for name, start in (("JPEG", b"\xff\xd8"), ("PNG", b"\x89PNG"), ("GIF", b"GIF8"), ("BMP", b"BM")):
        if data.startswith(start):
            return name
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return "AVIF" if data[4:8] == b"ftyp" else "other"


def flip_bits(data: bytearray, random: Random, _seeds: Seeds) -> bytearray:
    for _ in range(1 << random.randrange(6)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def set_integer(data: bytearray, random: Random, _seeds: Seeds, within: int | None = None) -> bytearray:
    width = random.choice((1, 2, 4))
    value = (random.choice(_INTEGERS) + random.choice((-1, 0, 0, 1))) % (1 << 8 * width)
    place = random.randrange(min(len(data), within or len(data)))
    data[place : place + width] = value.to_bytes(width, random.choice(("little", "big")))
    return data


def set_header(data: bytearray, random: Random, seeds: Seeds) -> bytearray:
    return set_integer(data, random, seeds, within=80)


def set_random(data: bytearray, random: Random, _seeds: Seeds) -> bytearray:
    place = random.randrange(len(data))
    data[place : place + random.randrange(1, 9)] = random.randbytes(random.randrange(1, 9))
    return data


def delete(data: bytearray, random: Random, _seeds: Seeds) -> bytearray:
    place = random.randrange(len(data))
    del data[place : place + _length(random, data)]
    return data


def duplicate(data: bytearray, random: Random, _seeds: Seeds) -> bytearray:
    place, length = random.randrange(len(data)), _length(random, data)
    to = random.choice((place, random.randrange(len(data))))
    data[to:to] = data[place : place + length] * random.choice((1, 1, 1, 3, 30))
    return data


def splice(data: bytearray, random: Random, seeds: Seeds) -> bytearray:
    """The beginning of one and the end of another, of the same format three times in four."""
    kind = format_of(bytes(data[:16])) if random.randrange(4) else random.choice(FORMATS)
    other = random.choice(seeds.get(kind) or seeds["other"])
    return data[: random.randrange(len(data)) + 1] + other[random.randrange(len(other)) :]


def truncate(data: bytearray, random: Random, _seeds: Seeds) -> bytearray:
    return data[: random.randrange(len(data)) + 1]


def spoil_tail(data: bytearray, random: Random, _seeds: Seeds) -> bytearray:
    keep = random.randrange(len(data)) + 1
    return data[:keep] + random.choice((b"\0", b"\xff")) * (len(data) - keep)


def mend_png(data: bytearray, random: Random, seeds: Seeds) -> bytearray:
    """Change a PNG's chunks, or the pixels inside, and give them right checksums; any other file is left to the others."""
    chunks = list(png_chunks(bytes(data)))
    if not chunks:
        return random.choice(PLAIN)(data, random, seeds)
    if random.randrange(2):
        pick = random.randrange(len(chunks))
        kind, body = chunks[pick]
        way = random.randrange(4)
        if way == 0 or not body:
            chunks.insert(random.randrange(len(chunks)), chunks[pick])
        elif way == 1:
            del chunks[pick]
        else:
            chunks[pick] = (kind, bytes(random.choice(PLAIN)(bytearray(body), random, seeds)))
        return bytearray(png_of(chunks))
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    try:
        rows = zlib.decompressobj().decompress(packed, 1 << 18)
    except zlib.error:
        return flip_bits(data, random, seeds)
    rows = bytes(random.choice(PLAIN)(bytearray(rows or b"\0"), random, seeds))
    before = [chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")]
    return bytearray(png_of([*before, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each whole chunk; nothing for other files."""
    at = 8
    while data[:4] == b"\x89PNG" and at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def _length(random: Random, data: bytearray) -> int:
    return random.choice((1, 2, 4, random.randrange(1, 64), random.randrange(1, len(data) + 1)))


PLAIN: tuple[Mutation, ...] = (flip_bits, set_integer, set_header, set_random, delete, duplicate, splice, truncate, spoil_tail)
MUTATIONS: tuple[Mutation, ...] = (*PLAIN, flip_bits, set_integer, set_header, mend_png, mend_png)


def mutated(random: Random, seeds: Seeds) -> bytes:
    """One input: a seed of any format, changed one to four times."""
    data = bytearray(random.choice(seeds[random.choice(tuple(seeds))]))
    mend = data[:4] == b"\x89PNG" and random.randrange(2)
    for _ in range(random.choice((1, 1, 2, 4))):
        change = mend_png if mend else random.choice(MUTATIONS)
        data = change(data, random, seeds)[:MOST_BYTES] or bytearray(b"\0")
    return bytes(data)


@lru_cache
def first_seeds() -> dict[str, tuple[bytes, ...]]:
    """The corpus' small files, each once, by format."""
    files = dict.fromkeys(case.data for case in corpus() if case.data and len(case.data) <= MOST_SEED_BYTES)
    return {name: found for name in FORMATS if (found := tuple(data for data in files if format_of(data) == name))}


class Slate:
    """Memory shared by parent and child: what is being decoded, since when, and what was counted; it outlives the child."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _HEAD.size + _COUNTS + MOST_BYTES)
        self.counts = np.frombuffer(self._memory, np.int64, _COUNTS // 8, _HEAD.size).reshape(len(FORMATS), len(OUTCOMES))

    def begin(self, run: int, data: bytes, kept: int) -> None:
        """Write down ``data`` before it is decoded."""
        start = _HEAD.size + _COUNTS
        self._memory[start : start + len(data)] = data
        _HEAD.pack_into(self._memory, 0, run, time.monotonic(), len(data), kept)

    def end(self, data: bytes, outcome: str) -> None:
        """Count it; nothing is being decoded now."""
        struct.pack_into("<d", self._memory, 8, 0.0)
        self.count(data, outcome)

    def count(self, data: bytes, outcome: str) -> None:
        self.counts[FORMATS.index(format_of(data)), OUTCOMES.index(outcome)] += 1

    def read(self) -> tuple[int, float, bytes, int]:
        """(run, when it began or 0, input, seeds kept)."""
        run, began, length, kept = _HEAD.unpack_from(self._memory)
        start = _HEAD.size + _COUNTS
        return run, began, self._memory[start : start + length], kept


def outcome_of(target: Target, data: bytes, max_pixels: int) -> tuple[str, str]:
    """(one of OUTCOMES, what it was in words without numbers)."""
    try:
        pixels = target(data, max_pixels)
    except ImageError as error:
        return "refused", re.sub(r"\d+", "0", f"{error.stage} {error}")[:80]
    except Exception as error:
        return "finding", type(error).__name__
    sound = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    if not sound or not 0 < pixels.shape[0] * pixels.shape[1] <= max_pixels:
        return "finding", "array"
    return "decoded", f"{pixels.size.bit_length()} {int(pixels[0, 0, 0]) // 64}"


def planted(data: bytes, max_pixels: int, crash: Callable[[], None] | None = None) -> np.ndarray:
    """A room with two defects, to try the fuzzer on: damaged BMPs kill it, some GIFs raise what nobody expects."""
    try:
        return decode_bytes(data, max_pixels)
    except ImageError:
        if format_of(data) == "BMP":
            (crash or partial(signal.raise_signal, signal.SIGSEGV))()
        if format_of(data) == "GIF":
            raise ZeroDivisionError from None
        raise


def work(plan: Plan, slate: Slate, first: int) -> None:
    """A child's life: runs ``first``, ``first + jobs`` and so on."""
    _confine(plan)
    seeds = {name: list(files) for name, files in first_seeds().items()}
    seen: set[tuple[str, ...]] = set()
    saved: Counter[str] = Counter()
    for run in range(first, plan.runs, plan.jobs):
        data = mutated(Random(f"{plan.seed} {run}"), seeds)
        slate.begin(run, data, len(seen))
        outcome, words = outcome_of(plan.target, data, plan.max_pixels)
        slate.end(data, outcome)
        if outcome == "finding":
            saved[words] += 1
            if saved[words] <= MOST_SAVED:
                (plan.save / f"{words}-{run}.bin").write_bytes(data)
        way = (format_of(data), outcome, words)
        if way not in seen and len(data) <= MOST_SEED_BYTES and len(seen) < MOST_KEPT and way[0] in seeds:
            seen.add(way)
            seeds[way[0]].append(data)


def _confine(plan: Plan) -> None:
    """No core files, no more memory than allowed, and no words of C libraries on the terminal."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statistics = Path("/proc/self/statm")
    held = int(statistics.read_text().split()[0]) * resource.getpagesize() if statistics.exists() else 1 << 30
    resource.setrlimit(resource.RLIMIT_AS, (held + plan.memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class Worker:
    """A share of the runs: a child, its slate, and another child when one dies."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.plan, self.slate, self.saved = plan, Slate(), 0
        self.child = self._start(number)

    def _start(self, first: int) -> BaseProcess:
        child = multiprocessing.get_context("fork").Process(target=work, args=(self.plan, self.slate, first), daemon=True)
        child.start()
        return child

    def look(self) -> bool:
        """Whether it is still at work; a child that died or hangs is a finding, and is replaced."""
        began, code = self.slate.read()[1], self.child.exitcode
        if code is None and began and time.monotonic() - began >= self.plan.limit:
            self.child.kill()
            self.child.join()
            return self._replace("hang")
        if code is None or code == 0:
            return code is None
        return self._replace(f"signal-{-code}" if code < 0 else f"exit-{code}")

    def _replace(self, how: str) -> bool:
        run, began, data, _ = self.slate.read()
        if not began and how != "hang":  # a hang may end just before the kill; any other death here is the fuzzer's own
            raise SystemExit(f"fuzz: a child ended with {how} while it decoded nothing")
        if began:
            self.slate.end(data, "finding")
            self.saved += 1
            if self.saved <= MOST_SAVED:
                (self.plan.save / f"{how}-{run}.bin").write_bytes(data)
        if run + self.plan.jobs >= self.plan.runs:
            return False
        self.child = self._start(run + self.plan.jobs)
        return True


def fuzz(plan: Plan) -> int:
    """Run the plan, print what came of it; the number of findings."""
    first_seeds()  # once, before the children inherit it
    begun = time.monotonic()
    plan.save.mkdir(parents=True, exist_ok=True)
    workers = [Worker(plan, number) for number in range(min(plan.jobs, plan.runs))]
    busy = list(workers)
    while busy:
        time.sleep(0.02)
        busy = [worker for worker in busy if worker.look()]
    seconds = time.monotonic() - begun
    counts = np.sum([worker.slate.counts for worker in workers], axis=0)
    kept = sum(worker.slate.read()[3] for worker in workers)
    print(f"{counts.sum()} runs in {seconds:.0f} s, {counts.sum() / seconds:.0f} a second, {kept} inputs kept as new seeds")
    print(f"{'':8}" + "".join(f"{word:>10}" for word in OUTCOMES))
    for name, row in zip((*FORMATS, "all"), [*counts, counts.sum(axis=0)], strict=True):
        print(f"{name:8}" + "".join(f"{number:>10}" for number in row))
    found = int(counts[:, OUTCOMES.index("finding")].sum())
    kinds = Counter(path.name.rpartition("-")[0] for path in plan.save.glob("*.bin"))
    told = ", ".join(f"{kind} ({number} saved)" for kind, number in sorted(kinds.items()))
    print(f"findings: {told}; see {plan.save}" if found else "findings: none")
    return found


def fuzz_folders(runs: int, seed: int, jobs: int) -> int:
    """How many of ``runs`` damaged output folders made a command end as none should; each is told."""
    with tempfile.TemporaryDirectory() as place, multiprocessing.get_context("spawn").Pool(jobs) as pool:
        parts = [(f"{place}/{number}", runs // jobs, seed * jobs + number) for number in range(jobs)]
        found = [words for part in pool.starmap(_fuzz_part, parts) for words in part]
    print(f"{runs} damaged folders: {len(found)} findings", *found, sep="\n", flush=True)
    return len(found)


def _fuzz_part(place: str, runs: int, seed: int) -> list[str]:
    from tests.commands import rich_folder
    from tests.test_untrusted import fuzz_documents

    made, copies = Path(place) / "made", Path(place) / "copies"
    made.mkdir(parents=True)
    copies.mkdir()
    return fuzz_documents(rich_folder(made), copies, runs, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="child processes")
    parser.add_argument("--target", default="camcli.images.decode:decode_bytes", help="module:function")
    parser.add_argument("--save", type=Path, default=None, help="folder for findings; a new temporary one")
    parser.add_argument("--max-pixels", type=int, default=1_000_000)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for one input")
    parser.add_argument("--memory", type=int, default=2 << 30, help="bytes that a child may take beyond what it begins with")
    parser.add_argument("--documents", type=int, default=10_000, help="output folders with damaged tables, journals and JSON")
    asked = vars(parser.parse_args())
    documents = asked.pop("documents")
    module, _, name = asked["target"].partition(":")
    asked["target"] = getattr(importlib.import_module(module), name)
    asked["save"] = asked["save"] or Path(tempfile.mkdtemp(prefix="fuzz-"))
    print(f"findings go to {asked['save']}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # daemon children end with their parent
    findings = fuzz(Plan(**asked))
    if documents:
        findings += fuzz_folders(documents, asked["seed"], asked["jobs"])
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
