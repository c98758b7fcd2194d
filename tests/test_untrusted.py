"""An output folder is data: whatever a stranger has put into it, nothing outside is touched, nothing hangs or tracebacks."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from camcli.errors import ImageError
from camcli.output.journal import Header, read_header
from camcli.output.ledger import Ledger, read_ledger
from camcli.output.names import folded
from camcli.output.root import Root
from camcli.output.unconfirmed import Unconfirmed
from tests.commands import RICH, command, commands_on, copied, rich_folder, snapshot
from tests.failing import Failing
from tests.folders import contents_of, failures_of, rows_of

HOSTILE = ("link to a file", "link to a folder", "link to nowhere", "hard link", "FIFO", "socket", "folder", "file")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with every kind of file, in ``out``, over ``imgs``."""
    return rich_folder(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bystanders(tmp_path):
    """A folder of somebody else, with names that look like camcli's own, and an empty folder."""
    folder = tmp_path / "theirs"
    (folder / "sub" / "empty").mkdir(parents=True)
    names = ("shot.2024-05-01.jpg", "pic.1-x.png", "a.jpg.1-bright.jpg", "sub/b.png.1-bright.npy", "rows.js", "predictions.csv")
    for name in (*names, "journal.jsonl", "run.json", "1-2", "lock"):
        (folder / name).write_text(f"mine: {name}")
    return folder


def replaced(path: Path, kind: str, theirs: Path) -> None:
    """Put something hostile in the place of ``path``."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    if kind == "link to a file":
        path.symlink_to(theirs / "shot.2024-05-01.jpg")
    elif kind == "link to a folder":
        path.symlink_to(theirs)
    elif kind == "link to nowhere":
        path.symlink_to(theirs / "not-there")
    elif kind == "hard link":
        path.hardlink_to(theirs / "shot.2024-05-01.jpg")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "folder":
        (path / "inner").mkdir(parents=True)
    else:
        path.write_bytes(b"\0" * 20)


DERIVED = ("report", "boxes.json", "evaluation", "clusters")
"""What is made of the tables and the maps, and made again by the same command; ``camcli verify`` looks into none of it."""


def names_in(out: Path) -> list[str]:
    """Every file and folder that camcli has made in ``out``."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*"))


@pytest.mark.parametrize("name", sorted(commands_on(Path("out"), Path("imgs"))))
def test_law_23_whatever_stands_at_a_name_of_ours_nothing_outside_is_touched(made, tmp_path, bystanders, name):
    """Each kind of thing in the place of files and folders that camcli makes, for every command; test_soak has all places."""
    draw, before = random.Random(name), snapshot(bystanders)
    places = [(place, kind) for place in names_in(made) for kind in HOSTILE]
    assert_harmless(made, tmp_path, bystanders, before, name, draw.sample(places, 8 if name == "evaluate" else 30))


def results_of(folder: Path) -> dict[str, bytes]:
    """What a run has written into ``folder``; the report says where it lies, so that of a copy is another one."""
    return {name: data for name, data in contents_of(folder).items() if not name.startswith(("report", ".camcli/report"))}


def assert_harmless(made, tmp_path, bystanders, before, name, places) -> None:
    for place, kind in places:
        with copied(made, tmp_path) as out:
            inputs = snapshot(made.parent / "imgs")
            replaced(out / place, kind, bystanders)
            code, said = command(*commands_on(out, made.parent / "imgs")[name])
            told = f"{name} with a {kind} at {place}: exit code {code}\n{said}"
            assert "Traceback" not in said, told
            assert code in (0, 1, 2, 3), told
            assert snapshot(bystanders) == before, told
            assert snapshot(made.parent / "imgs") == inputs, told
            harmless = place.startswith((".camcli/scratch", ".camcli/lock", ".camcli/report.jsonl", *DERIVED))
            if name == "verify" and not place.startswith("clusters") and not (harmless and kind in ("file", "hard link", "folder")):
                assert code != 0, told


def test_law_23_folders_of_ours_that_lead_elsewhere_are_refused_before_a_model_is_loaded(made, tmp_path, bystanders):
    """The links of the attack, at every folder, for every command, and into a folder that holds what looks like ours."""
    before = snapshot(bystanders)
    for place in ("overlays", "maps", "masks", "report", "report/thumbs", ".camcli", ".camcli/scratch", "overlays/sub"):
        for name in ("report", "render", "run", "overwrite"):
            with copied(made, tmp_path) as out:
                replaced(out / place, "link to a folder", bystanders)
                code, said = command(*commands_on(out, made.parent / "imgs")[name])
                assert snapshot(bystanders) == before, (place, name, said)
                assert "Traceback" not in said
                assert code in (2, 3) or place in ("overlays/sub", "report/thumbs"), (place, name, said)


ELSEWHERE = (
    "../theirs/pic.1-x.png",
    "overlays/../../theirs/pic.1-x.png",
    "overlays/a.jpg.1-b/../../../theirs/pic.1-x.png",
    "/etc/passwd",
)


def forged(out: Path, changes) -> None:
    """Rewrite the rows of ``out``, with checksums that fit: ``changes(row)`` is told each."""
    from dataclasses import replace

    from camcli.output.writers import csv_line

    root = Root(str(out))
    header = read_header(root)
    ledger = Ledger(root, header.settings, header.redrawn)
    ledger.load()
    contents = []
    for entry, data in ledger.rows():
        rows = ledger.own_rows(entry, data)
        if not entry.stage:
            for row in rows:
                changes(row)
            data = b"".join(csv_line(tuple(row.values())) for row in rows)
        contents.append((replace(entry, length=len(data), rows=None, files=None), data))
    ledger.exchange(contents)


@pytest.mark.parametrize("elsewhere", [*ELSEWHERE, "predictions.csv", "run.json", "overlays/mine.jpg", ".camcli/journal.jsonl"])
def test_law_23_no_forged_row_reaches_another_file(made, tmp_path, bystanders, elsewhere):
    """An overlay is only what stands in the place that camcli gives to that row."""
    before = snapshot(bystanders)
    for name in ("verify", "report", "render", "diff", "run", "overwrite"):
        with copied(made, tmp_path) as out:
            (out / "overlays" / "mine.jpg").write_text("not camcli's")
            forged(out, lambda row: row.update(overlay=elsewhere))
            code, said = command(*commands_on(out, made.parent / "imgs")[name])
            told = f"{name}: {code} {said}"
            assert "Traceback" not in said, told
            assert snapshot(bystanders) == before, told
            assert (out / "overlays" / "mine.jpg").read_text() == "not camcli's", told
            if name == "verify":
                assert code == 1, told
            if name == "run":
                assert code == 0, told  # the broken image was told of before
                assert {row["overlay"] for row in rows_of(out)} == {row["overlay"] for row in rows_of(made)}, told


def test_law_23_a_forged_part_is_not_joined(tmp_path, bystanders, made):
    before, imgs = snapshot(bystanders), made.parent / "imgs"
    for part in ("0/2", "1/2"):
        command("run", imgs, "-o", tmp_path / "out", *RICH, "--shard", part)
    for elsewhere in ELSEWHERE:
        with copied(tmp_path / "out", tmp_path / "copy") as out:
            for part in ("shard-0-of-2", "shard-1-of-2"):
                forged(out / part, lambda row, elsewhere=elsewhere: row.update(overlay=elsewhere))
            code, said = command("merge", out)
            assert (code, "Traceback" in said) == (3, False), said
            assert snapshot(bystanders) == before
    (tmp_path / "out" / "shard-0-of-1000000000").mkdir()
    assert command("verify", tmp_path / "out")[0] == 0
    assert command("merge", tmp_path / "out")[0] == 1, "a folder that cannot be a part is none"
    shutil.rmtree(tmp_path / "out" / "shard-1-of-2")
    (tmp_path / "out" / "shard-1-of-2").symlink_to(bystanders)
    assert command("merge", tmp_path / "out")[0] == 2
    (tmp_path / "out" / "shard-1-of-999999").mkdir()
    assert command("merge", tmp_path / "out")[0] == 2
    assert snapshot(bystanders) == before


def test_a_file_that_only_looks_like_ours_is_never_removed(made, tmp_path):
    """By no command: only what the table, the journal or the log names is."""
    strangers = ("overlays/shot.2024-05-01.jpg", "maps/pic.1-x.npy", "masks/sub/b.png.9-else.png", "report/thumbs/a.1-b.jpg",
                 ".camcli/scratch/mine.txt", "overlays/empty", "notes.txt")  # fmt: skip
    for name, arguments in commands_on(tmp_path / "out", made.parent / "imgs").items():
        with copied(made, tmp_path) as out:
            for stranger in strangers:
                if stranger.endswith("empty"):
                    (out / stranger).mkdir()
                else:
                    (out / stranger).write_text("mine")
            command(*arguments)
            gone = [stranger for stranger in strangers if not (out / stranger).exists()]
            assert not gone, f"{name} removed {gone}"


def test_a_killed_run_leaves_its_files_by_name_and_the_next_removes_them(made, tmp_path):
    with copied(made, tmp_path) as out:
        left = "overlays/a.jpg.1-of-a-killed-run.jpg"
        (out / left).write_text("of a killed run")
        hostile = ["../theirs/pic.1-x.png", "/etc/x.1-y.jpg", "predictions.csv", "overlays/../predictions.csv", 5, None, ["x"]]
        lines = [json.dumps([left]), "[", json.dumps(hostile), json.dumps([hostile[0]]), "\0" * 40]
        (out / ".camcli" / "unconfirmed.jsonl").write_text("\n".join(lines))
        before = results_of(made)
        os.utime(made.parent / "imgs" / "a.jpg", ns=(10**18, 10**18 + 1))  # so that there is something to do
        try:
            assert command(*commands_on(out, made.parent / "imgs")["run"])[0] == 0
        finally:
            os.utime(made.parent / "imgs" / "a.jpg", ns=(10**18, 10**18))
        assert not (out / left).exists()
        assert results_of(out).keys() == before.keys()


def test_what_is_written_behind_a_torn_line_of_the_log_is_read(tmp_path):
    """A full disk may leave half a line; the next one must not be lost with it."""
    (tmp_path / ".camcli" / "scratch").mkdir(parents=True)
    (tmp_path / ".camcli" / "unconfirmed.jsonl").write_text('["overlays/a.jpg.1-b.j')
    log = Unconfirmed(Root(str(tmp_path)))
    log.mark_unconfirmed(["overlays/c.jpg.1-d.jpg"])
    log.close()
    assert log.read() == {"overlays/c.jpg.1-d.jpg"}


def test_a_hard_link_of_a_table_is_not_written_through(made, tmp_path):
    """As a backup by hard links makes them: what the run appends goes to its own file."""
    with copied(made, tmp_path) as out:
        for name in ("predictions.csv", "failures.csv", ".camcli/journal.jsonl"):
            os.link(out / name, tmp_path / os.path.basename(name))
        before = {name: (tmp_path / name).read_bytes() for name in ("predictions.csv", "failures.csv", "journal.jsonl")}
        (out / "overlays" / "a.jpg.1-bright.jpg").unlink()
        assert command(*commands_on(out, made.parent / "imgs")["run"])[0] == 0
        assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_a_name_that_the_file_system_cannot_take_fails_alone(made, tmp_path, monkeypatch):
    """As exFAT and FUSE refuse ``?`` and ``:``: with EINVAL, or as if the folder were not there."""
    imgs = tmp_path / "imgs"
    shutil.copytree(made.parent / "imgs", imgs)
    for code, name in ((errno.EINVAL, "what?.jpg"), (errno.ENOENT, "a:b.jpg")):
        shutil.copy(imgs / "a.jpg", imgs / name)
        real = os.replace

        def refusing(source, target, *rest, real=real, code=code, name=name, **options):
            if str(target).startswith(name):
                raise OSError(code, os.strerror(code), target)
            return real(source, target, *rest, **options)

        monkeypatch.setattr(os, "replace", refusing)
        code, said = command("run", imgs, "-o", tmp_path / "out", *RICH)
        assert code == 1, said
        assert [row["image"] for row in failures_of(tmp_path / "out") if row["stage"] == "write"] == [name]
        assert {row["image"] for row in rows_of(tmp_path / "out")} >= {"a.jpg", "sub/b.png"}
        monkeypatch.undo()
        (imgs / name).unlink()
        shutil.rmtree(tmp_path / "out")


def test_a_file_system_that_folds_case_keeps_two_names_apart(made, tmp_path, monkeypatch):
    """As exFAT, NTFS and APFS do: told by the lock, which is there in capitals too."""
    imgs, real = tmp_path / "imgs", Root.exists
    names = ("a.jpg", "A.jpg", "b/a.jpg", "B/a.jpg", "e\u0301.jpg", "\u00e9.jpg")
    for name in names:
        (imgs / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made.parent / "imgs" / "a.jpg", imgs / name)
    monkeypatch.setattr(Root, "exists", lambda root, name: real(root, name.replace("/LOCK", "/lock")))
    assert command("run", imgs, "-o", tmp_path / "out", *RICH)[0] == 0
    overlays = [row["overlay"] for row in rows_of(tmp_path / "out")]
    assert len({folded(overlay) for overlay in overlays}) == len(names)
    assert "overlays/a.jpg.1-bright.jpg" in overlays, "what is in folded form already keeps its name"
    assert command("verify", tmp_path / "out")[0] == 0
    assert "Nothing to do" in command("run", imgs, "-o", tmp_path / "out", *RICH)[1]


def test_the_root_of_the_file_system_is_no_output_folder(made, tmp_path):
    (tmp_path / "root").symlink_to("/")
    for place in ("/", "//", tmp_path / "root"):
        code, said = command("run", made.parent / "imgs", "-o", place, *RICH)
        assert (code, "root of the file system" in said) == (3, True), said
        assert not os.path.exists("/.camcli")


@pytest.mark.parametrize("path", ["", ".", "..", "a/..", "../a", "/a", "a//b", "./a", "a/./b", "a\0b", "a/"])
def test_the_door_takes_relative_normalised_paths_only(tmp_path, path):
    root = Root(str(tmp_path))
    for act in (root.open, root.read, root.remove, root.append, root.create, root.make_folder, lambda name: root.truncate(name, 0)):
        with pytest.raises(OSError, match="not a path inside the output folder"):
            act(path)
    (tmp_path / ".camcli" / "scratch").mkdir(parents=True)
    with pytest.raises(ImageError):
        root.write(path, b"")


def test_an_exchange_of_names_in_between_does_not_fool_the_door(tmp_path, monkeypatch):
    """A folder becomes a link after it has been looked at: what is opened is what was there, or nothing."""
    root, theirs = Root(str(tmp_path / "out")), tmp_path / "theirs"
    (tmp_path / "out" / ".camcli" / "scratch").mkdir(parents=True)
    (tmp_path / "out" / "overlays").mkdir()
    theirs.mkdir()
    real = os.replace

    def exchanging(*arguments, **options):
        if not (tmp_path / "out" / "overlays").is_symlink():
            os.rename(tmp_path / "out" / "overlays", tmp_path / "moved")
            (tmp_path / "out" / "overlays").symlink_to(theirs)
        return real(*arguments, **options)

    monkeypatch.setattr(os, "replace", exchanging)
    root.write("overlays/a.jpg.1-b.jpg", b"x")
    assert list(theirs.iterdir()) == []
    assert (tmp_path / "moved" / "a.jpg.1-b.jpg").read_bytes() == b"x"
    with pytest.raises(OSError, match="symbolic link"):
        root.open("overlays/a.jpg.1-b.jpg")


def test_a_folder_985_levels_deep_is_like_any_other(tmp_path):
    """Longer than any path that the system takes in one piece."""
    root, deep = Root(str(tmp_path)), "/".join(["a" * 20] * 985)
    (tmp_path / ".camcli" / "scratch").mkdir(parents=True)
    try:
        root.write(f"overlays/{deep}/x.jpg.1-y.jpg", b"x")
        assert list(root.files("overlays")) == [f"overlays/{deep}/x.jpg.1-y.jpg"]
        root.remove(f"overlays/{deep}/x.jpg.1-y.jpg")
        root.remove_folder(f"overlays/{deep}")
        assert not root.exists("overlays")
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "overlays"], check=True)  # shutil recurses


def test_no_descriptor_stays_open_whatever_fails(made, tmp_path):
    """After every operation that fails, and after commands over hostile folders."""
    before = len(os.listdir("/proc/self/fd"))
    with copied(made, tmp_path) as out:
        for number in range(1, 30):
            with Failing(str(out), frozenset({"open", "create", "replace", "mkdir", "write"}), number):
                command(*commands_on(out, made.parent / "imgs")["run"])
    assert len(os.listdir("/proc/self/fd")) == before


# tables, journal and JSON as a stranger may have written them

_ODD = (None, True, -1, 0, 5, 1e400, "", "x", "\ud800", "a\0b", [], {}, [[]], [1, 2], {"a": 1}, "9" * 10_000, "../..", "\x1b[2J")


def deep(depth: int = 100_000) -> str:
    return "[" * depth


def mutated(value, draw: random.Random):
    """``value``, a JSON value, with one thing in it changed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        if draw.random() < 0.2:
            return {name: inner for name, inner in value.items() if name != key}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], mutated(value[place], draw), *value[place + 1 :]]
    return draw.choice(_ODD)


def damage(path: Path, draw: random.Random) -> None:
    """Change the file at ``path``, a table or a document, as a stranger or a failing disk would."""
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    kind = draw.randrange(8)
    if kind < 4 and path.suffix in (".json", ".jsonl"):
        place = 0 if path.suffix == ".json" else draw.randrange(len(lines))
        text = data if path.suffix == ".json" else lines[place]
        value = json.loads(text)
        value = {key: inner for key, inner in value.items() if key != "check"} if isinstance(value, dict) else value
        new = json.dumps(mutated(value, draw)).encode() + b"\n"
        data = new if path.suffix == ".json" else b"".join([*lines[:place], new, *lines[place + 1 :]])
    elif kind == 4:
        data = deep().encode() + (b"\n" if draw.random() < 0.5 else b"")
    elif kind == 5:
        start = draw.randrange(len(data))
        stop = min(len(data), start + draw.choice((1, 10, 100)))
        data = data[:start] + bytes(stop - start) + data[stop:]
    elif kind == 6:
        place = draw.randrange(len(data))
        data = data[:place] + draw.randbytes(draw.choice((1, 5))) + data[place + draw.choice((0, 1, 3)) :]
    else:
        data = b"".join(draw.sample(lines, draw.randrange(len(lines) + 1)))
    path.write_bytes(data)


def fuzz_documents(made: Path, place: Path, runs: int, seed: int) -> list[str]:
    """``runs`` damaged folders, each under one command: what was violated. Part of ``make fuzz`` too."""
    draw, found = random.Random(seed), []
    imgs, inputs = made.parent / "imgs", snapshot(made.parent / "imgs")
    documents = ["predictions.csv", "failures.csv", "run.json", ".camcli/journal.jsonl", ".camcli/report.jsonl"]
    for number in range(runs):
        with copied(made, place) as out:
            for name in draw.sample(documents, draw.choice((1, 1, 1, 2))):
                damage(out / name, draw)
            name = draw.choices(("verify", "report", "render", "diff", "run", "overwrite"), (8, 4, 3, 4, 3, 1))[0]
            code, said = command(*commands_on(out, imgs)[name])
            if "Traceback" in said or code not in (0, 1, 2, 3) or snapshot(imgs) != inputs:
                found.append(f"{number} (seed {seed}): {name} ended with {code}: {said[-1500:]}")
    return found


def test_law_23_damaged_and_forged_documents_never_traceback(made, tmp_path):
    """A sample; make fuzz does ten thousand."""
    found = fuzz_documents(made, tmp_path, 80, 0)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "settings",
    [
        {"inputs": 5}, {"inputs": "a\0b"}, {"max-pixels": "many"}, {"fit": "stretch"}, {"alpha": float("nan")},
        {"method": "gradcam"},
        {"style": "cubist"}, {"quality": 1000}, {"max-side": 0}, {"save-maps": "yes"}, {"weights-sha256": []},
    ],
    ids=str,
)  # fmt: skip
def test_law_23_settings_that_no_run_writes_are_told_with_their_line(made, tmp_path, settings):
    for name in ("verify", "report", "render", "diff", "run"):
        with copied(made, tmp_path) as out:
            journal = out / ".camcli" / "journal.jsonl"
            first, *rest = journal.read_bytes().splitlines(keepends=True)
            header = {**json.loads(first)["settings"], **settings}
            journal.write_bytes(Header(header).line() + b"".join(rest))
            code, said = command(*commands_on(out, made.parent / "imgs")[name])
            assert "Traceback" not in said
            assert (code, "line 1 of" in said) == (1 if name == "verify" else 2, True), (name, said)


def test_a_journal_of_a_later_format_is_refused_with_both_versions(made, tmp_path):
    with copied(made, tmp_path) as out:
        journal = out / ".camcli" / "journal.jsonl"
        first, *rest = journal.read_bytes().splitlines(keepends=True)
        later = {**json.loads(first), "camcli_journal": 2, "camcli": "9.9"}
        later.pop("check")
        journal.write_bytes(json.dumps(later).encode() + b"\n" + b"".join(rest))
        for name in ("report", "render", "diff", "run"):
            code, said = command(*commands_on(out, made.parent / "imgs")[name])
            assert (code, "camcli 9.9" in said, "format 1" in said) == (2, True, True), said


def test_a_folder_of_an_earlier_version_goes_on(made, tmp_path):
    """Its journal knows no checksums, and not the options that came since: they had their defaults then."""
    with copied(made, tmp_path) as out:
        journal = out / ".camcli" / "journal.jsonl"
        lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
        for line in lines:
            for key in ("check", "rows", "files", "camcli"):
                line.pop(key, None)
        for option in ("legend", "max-side", "precision"):
            del lines[0]["settings"][option]
        journal.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        before = results_of(out)
        for name in ("verify", "report", "diff", "run"):
            code, said = command(*commands_on(out, made.parent / "imgs")[name])
            assert code == 0, said
            assert results_of(out) == before, name
        assert "Nothing to do" in said
        assert command(*commands_on(out, made.parent / "imgs")["render"])[0] == 0
        assert len(read_ledger(str(out)).entries) == 3


# what a loss of power leaves


def spoiled_tails(path: Path, longest: int, step: int):
    """The bytes of a file whose last bytes are zeros, for every ``step``-th number of them."""
    data = path.read_bytes()
    for count in range(1, min(longest, len(data)) + 1, step):
        yield count, data[:-count] + bytes(count)
        yield -count, data + bytes(count)


def assert_mended(made: Path, place: Path, longest: int, step: int) -> None:
    """Zeros at the end of tables and journal, of every length: found by verify, mended by the same command.

    Not those that reach the first line of the journal, without which nothing is known of the run. The other lines are longer when
    the images were so young that they were hashed.
    """
    whole = results_of(made)
    for name in ("predictions.csv", "failures.csv", ".camcli/journal.jsonl"):
        reach = (made / name).stat().st_size - len((made / name).read_bytes().partition(b"\n")[0]) - 1
        for count, data in spoiled_tails(made / name, min(longest, reach) if name.endswith("jsonl") else longest, step):
            with copied(made, place) as out:
                (out / name).write_bytes(data)
                code, said = command("verify", out)
                assert (code, "Traceback" in said) == (1, False), (name, count, said)
                code, said = command(*commands_on(out, made.parent / "imgs")["run"], "--quiet")
                assert "Traceback" not in said, (name, count, said)
                assert results_of(out) == whole, (name, count, said)
                assert command("verify", out)[0] == 0, (name, count)


def test_law_24_zeros_at_the_end_of_a_table_are_found_and_mended(made, tmp_path):
    """At every ninety-seventh length; test_soak has every one."""
    assert_mended(made, tmp_path, 400, 97)


def test_law_24_zeros_in_the_middle_of_any_file_are_found(made, tmp_path):
    """And a flipped digit in a table; a file that is deleted as verify says is written again."""
    whole = results_of(made)
    files = [name for name in names_in(made) if (made / name).is_file() and not name.startswith((".camcli", "run.json", *DERIVED))]
    for name in [*files, ".camcli/journal.jsonl"]:
        with copied(made, tmp_path) as out:
            data = bytearray((out / name).read_bytes())
            middle = len(data) // 2
            data[middle : middle + 8] = bytes(8)
            (out / name).write_bytes(data)
            code, said = command("verify", out)
            assert code == 1, name
            assert "Traceback" not in said
            if name.startswith(("overlays", "maps", "masks")):
                assert f"{name}\tchanged since it was written" in said
                (out / name).unlink()
            command(*commands_on(out, made.parent / "imgs")["run"], "--quiet")
            assert results_of(out) == whole, name
    for name in ("predictions.csv", "failures.csv", ".camcli/journal.jsonl"):
        data = (made / name).read_bytes()
        start = len(data.splitlines(keepends=True)[0])
        digits = [place for place in range(start, len(data)) if data[place : place + 1].isdigit()]
        for place in digits[:: max(1, len(digits) // 8)]:
            with copied(made, tmp_path) as out:
                flipped = b"1" if data[place : place + 1] != b"1" else b"2"
                (out / name).write_bytes(data[:place] + flipped + data[place + 1 :])
                assert command("verify", out)[0] == 1, (name, place)
