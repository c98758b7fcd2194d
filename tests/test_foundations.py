"""Names that survive a table, registries that help, discovery that ends."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli.cam import METHODS
from camcli.errors import CamcliError, ConfigError, InputError, nearest_names
from camcli.images.decode import decode_image
from camcli.images.discover import Search, discover_sources, listed_sources
from camcli.output.names import MAX_NAME_BYTES, file_stem, slug
from camcli.records import Failure, Prediction, escape_name, unescape_name
from camcli.registry import Registry


@given(st.binary(min_size=1, max_size=60))
def test_every_name_can_be_had_back_from_what_is_shown(raw):
    name = os.fsdecode(raw)
    text = escape_name(name)
    assert unescape_name(text) == name
    text.encode("utf-8")
    assert "\n" not in text
    assert "\x1b" not in text
    assert all(char.isprintable() or char.isspace() or char == "\u200d" for char in text)
    assert len(text.splitlines()) <= 1


def test_ordinary_names_are_shown_as_they_are():
    for name in ("cat.jpg", "ä 🦊 (1).png", "全角\u3000空白.jpg", "👩\u200d🚀.jpg"):
        assert escape_name(name) == name
    assert escape_name("a\nb") == "a\\x0ab"
    assert escape_name(os.fsdecode(b"\xff")) == "\\xff"
    assert escape_name("a\\x0ab") == "a\\\\x0ab"


@given(
    image=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300),
    label=st.text(max_size=80),
    rank=st.integers(1, 999),
)
def test_no_overlay_name_is_too_long_and_none_leaves_its_folder(image, label, rank):
    image = image.encode()[:255].decode("utf-8", "ignore").strip(".") or "x"
    stem = file_stem(f"sub/{image}", Prediction(rank, 5, label, 0.0, 0.0), ("layer4.2", "gradcam"))
    folder, name = os.path.split(stem + ".jpg")
    assert folder == "sub"
    assert len(os.fsencode(name)) <= MAX_NAME_BYTES
    assert name.startswith(image[:40].rstrip()) or "~" in name


def test_long_names_that_differ_at_the_end_stay_apart():
    best = Prediction(1, 5, "tabby", 0.0, 0.0)
    assert file_stem("x" * 250 + "a.jp", best) != file_stem("x" * 250 + "b.jp", best)


def test_layers_and_methods_never_share_a_file():
    from camcli.output.names import distinct_slug

    names = [*METHODS, "a.b", "a-b", "a_b", "a b", "a/b", "x" * 50 + "1", "x" * 50 + "2", "fuse-max", "input"]
    assert len({distinct_slug(name) for name in names}) == len(names)
    assert distinct_slug("layer4.2.conv3") == "layer4.2.conv3"
    assert distinct_slug("gradcam++") == "gradcam++"


def test_slugs():
    assert slug("German shepherd, dog") == "German-shepherd-dog"
    assert slug("../../etc") == "etc"
    assert slug("猫") == "猫"
    assert slug("///") == ""
    assert file_stem("a.jpg", Prediction(2, 7, "???", 0, 0)) == "a.jpg.2-7"


def test_a_registry_is_a_mapping_that_helps():
    registry: Registry[int] = Registry("animal")
    registry.register("tabby")(1)
    assert dict(registry) == {"tabby": 1}
    assert "tabby" in registry
    assert (registry.get("tabby"), registry.get("taby"), registry.get("taby", 5)) == (1, None, 5)
    with pytest.raises(ConfigError, match=r"no animal 'taby'\. Did you mean 'tabby'\?"):
        registry["taby"]
    with pytest.raises(ValueError, match="twice"):
        registry.register("tabby")(2)
    assert "gradcam" in METHODS


def test_the_nearest_names():
    assert nearest_names("RESNET5", ["resnet50", "resnet18", "vgg16"])[0] == "resnet50"
    assert nearest_names("retriever", ["golden retriever", "goose"]) == ["golden retriever"]
    assert nearest_names("xyz", ["golden retriever"]) == []


EXIT_CODES = {
    "CamcliError": 3,
    "UsageError": 2,
    "ConfigError": 2,
    "InputError": 2,
    "ModelError": 2,
    "WeightsError": 2,
    "LabelsError": 2,
    "LayerError": 2,
    "ClassError": 2,
    "DeviceError": 2,
    "SettingsError": 2,
    "RunError": 3,
    "OutputError": 3,
    "InUseError": 3,
    "OutOfMemoryError": 3,
    "ImageError": 3,
}
"""As documented: 2 for what the user can mend by writing the command differently, 3 for a run that cannot go on."""


def test_every_error_has_its_documented_exit_code(camcli, monkeypatch):
    """A new error needs an entry in the table above. The tree in ``camcli.errors`` names it below a class of the same code."""
    from camcli import errors
    from camcli.cli import app

    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, CamcliError)}
    assert {name: kind.exit_code for name, kind in kinds.items()} == EXIT_CODES
    for name, kind in kinds.items():

        def fails(*_, kind=kind, **__):
            raise kind(*["text"] * (2 if kind is errors.ImageError else 1))

        monkeypatch.setattr(app, "app", fails)
        assert camcli().code == EXIT_CODES[name], name
    told = {}
    branch = None
    for name, code in re.findall(r"^ +(\w+Error)\b(?: \((\d)\))?", errors.__doc__, re.MULTILINE):
        branch = int(code) if code else None if name in ("CamcliError", "ImageError") else branch
        told[name] = branch
    assert told == {**EXIT_CODES, "CamcliError": None, "ImageError": None}


def names(inputs, output="/nonexistent/out"):
    return [source.image for source in discover_sources([str(path) for path in inputs], Search(str(output)))]


def test_folders_and_files_come_in_one_order(tmp_path):
    for name in ("b.jpg", "a/z.png", "a/b/c.JPEG", "c.gif", "a.webp", "note.txt", ".x.jpg", ".d/y.jpg", "a/.z.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names([tmp_path]) == ["a/b/c.JPEG", "a/z.png", "a.webp", "b.jpg", "c.gif"]
    assert names([tmp_path / "note.txt"]) == ["note.txt"], "a file named by the user is always tried"
    assert names([tmp_path / "b.jpg", tmp_path / "a"]) == ["b.jpg", "a/b/c.JPEG", "a/z.png"]
    assert names([tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a"]) == ["b/c.JPEG", "z.png"]


def test_runs_are_never_their_own_input(tmp_path):
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "a.jpg").touch()
    for run in ("imgs/out", "imgs/old"):
        (tmp_path / run / "overlays").mkdir(parents=True)
        (tmp_path / run / "overlays" / "a.jpg.1-x.jpg").touch()
        (tmp_path / run / ".camcli").mkdir()
    assert names([tmp_path / "imgs"], tmp_path / "imgs" / "out") == ["a.jpg"]
    (tmp_path / "imgs" / "overlays").mkdir()
    (tmp_path / "imgs" / "overlays" / "b.jpg").touch()
    assert names([tmp_path / "imgs"], tmp_path / "imgs") == ["a.jpg"]


def test_links_end_and_nothing_comes_twice(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jpg").touch()
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    (tmp_path / "d" / "self").symlink_to("self")
    (tmp_path / "twin.jpg").symlink_to("d/a.jpg")
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    (tmp_path / ".store").mkdir()
    (tmp_path / ".store" / "object").touch()
    (tmp_path / "annexed.jpg").symlink_to(".store/object")
    assert names([tmp_path]) == ["annexed.jpg", "d/a.jpg", "dangling.jpg"]


def test_deep_trees_do_not_exhaust_the_stack(tmp_path):
    deep = tmp_path
    for _ in range(400):
        deep = deep / "d"
    os.makedirs(deep)
    (deep / "x.jpg").touch()
    assert names([tmp_path]) == ["d/" * 400 + "x.jpg"]


@pytest.mark.parametrize("depth", [985, 2500, 100_000])
def test_a_path_that_is_too_deep_or_too_long_stops_nothing(tmp_path, monkeypatch, depth):
    """A line of a list is one image: what cannot be opened is that image's failure."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.jpg").touch()
    deep = "a/" * depth + "x.jpg"
    if depth == 985:
        for level in range(1, depth + 1):
            os.mkdir("a/" * level)
        (tmp_path / deep).touch()
    found = listed_sources([deep, "b.jpg", *(f"{number}/{deep}" for number in range(20))], Search(str(tmp_path / "out")))
    assert [source.image for source in found][:2] == [deep, "b.jpg"]
    assert len(found) == 22
    failure = decode_image(found[2], 10**6)
    assert isinstance(failure, Failure)
    assert failure.stage == "read"
    if depth == 985:  # what removes the folders of tests recurses
        os.unlink(deep)
        for level in range(depth, 0, -1):
            os.rmdir("a/" * level)


def test_images_below_the_overlays_of_a_run_are_left_out_at_any_depth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / ".camcli").mkdir(parents=True)
    listed = ["run/overlays/" + "a/" * 1500 + "x.jpg", "run/other/" + "a/" * 1500 + "x.jpg", "run/maps/y.png"]
    assert [source.image for source in listed_sources(listed, Search("out"))] == [listed[1]]


def test_what_cannot_be_found_is_said(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        names([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="nothing to do"):
        names([tmp_path])


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root's rights to meet an unreadable folder")
def test_unreadable_folders_and_files_are_failures_not_silence(tmp_path):
    """As an ordinary user, in a child process."""
    for name in ("open/a.jpg", "shut/b.jpg", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
    os.chmod(tmp_path / "shut", 0)
    os.chmod(tmp_path / "c.jpg", 0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and Path(tempfile.gettempdir()) in folder.parents:
            os.chmod(folder, 0o755)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child leaves by _exit
        try:
            os.setgid(65534)
            os.setuid(65534)
            from camcli.images.decode import decode_image

            outcomes = [decode_image(source, 10**6) for source in discover_sources([str(tmp_path)], Search("/nonexistent"))]
            os.write(writer, "\n".join(f"{o.image}: {o.reason}" for o in outcomes).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    said = os.read(reader, 4096).decode()
    os.chmod(tmp_path / "shut", 0o755)
    assert "c.jpg: permission denied" in said
    assert "shut: permission denied" in said
    assert "open/a.jpg: not an image" in said


def test_what_an_interruption_breaks_is_an_interruption(camcli, monkeypatch):
    """An import that a signal cuts short may end as any error: it is no defect."""
    from camcli.cli import app

    def broken(*_, **__):
        with contextlib.suppress(BaseException):
            app.SIGNALS._arrived(2, None)
        raise AttributeError("half a module")

    monkeypatch.setattr(app, "app", broken)
    ended = camcli()
    assert (ended.code, ended.err) == (130, "camcli: interrupted.\n")
    assert (app.SIGNALS.number, app.SIGNALS.raised) == (None, False), "a test left its signal behind"


def test_help_names_arguments_as_users_write_them(camcli):
    """Without the types of Python and the braces that Typer adds."""
    from camcli.cli.command import all_commands

    pages = {command.name: camcli(command.name, "--help").out for command in all_commands()}
    assert pages["run"].startswith("Usage: camcli run [OPTIONS] INPUTS...\n")
    assert "\n  MODEL    Model" in pages["classes"]
    assert "[default: efficientnet_lite0]" in " ".join(pages["layers"].split())
    assert {name for name, page in pages.items() if re.search(r"[{}]| <\w|default: \(", page)} == set()
