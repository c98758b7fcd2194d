"""Names that survive a table, registries that help, discovery that ends."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli.cam import METHODS
from camcli.errors import CamcliError, ConfigError, InputError, first_line, message_of, nearest_names
from camcli.images.decode import decode_image
from camcli.images.discover import discover_sources, listed_sources
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
    with pytest.raises(ConfigError, match=r"no animal 'taby'\. Did you mean 'tabby'\?"):
        registry["taby"]
    assert (registry.get("tabby"), registry.get("taby"), registry.get("taby", 7)) == (1, None, 7)
    with pytest.raises(ValueError, match="twice"):
        registry.register("tabby")(2)
    assert "gradcam" in METHODS


def test_the_nearest_names():
    assert nearest_names("RESNET5", ["resnet50", "resnet18", "vgg16"])[0] == "resnet50"
    assert nearest_names("retriever", ["golden retriever", "goose"]) == ["golden retriever"]
    assert nearest_names("xyz", ["golden retriever"]) == []


def test_the_first_line_of_an_error():
    assert first_line(ValueError("one\ntwo")) == "ValueError: one"
    assert first_line(ValueError("one\ntwo"), with_type=False) == "one"
    assert first_line(ValueError(), with_type=False) == "ValueError"
    assert message_of(ValueError("one\n  two")) == "one two"


def test_every_error_has_its_exit_code():
    def codes(kind):
        return {kind.__name__: kind.exit_code} | {k: v for child in kind.__subclasses__() for k, v in codes(child).items()}

    found = codes(CamcliError)
    assert set(found.values()) == {2, 3}
    from camcli import errors

    for name, code in found.items():
        assert name in errors.__doc__, f"{name} is missing in the tree"
        assert code == getattr(errors, name).exit_code


def names(inputs, output="/nonexistent/out"):
    return [source.image for source in discover_sources([str(path) for path in inputs], str(output))]


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
    found = listed_sources([deep, "b.jpg", *(f"{number}/{deep}" for number in range(20))], str(tmp_path / "out"))
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
    assert [source.image for source in listed_sources(listed, "out")] == [listed[1]]


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

            outcomes = [decode_image(source, 10**6) for source in discover_sources([str(tmp_path)], "/nonexistent")]
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


def test_what_an_interruption_breaks_is_an_interruption(monkeypatch, capsys):
    """An import that a signal cuts short may end as any error: it is no defect."""
    from camcli.cli import app

    def broken(*_, **__):
        with contextlib.suppress(BaseException):
            app.SIGNALS._arrived(2, None)
        raise AttributeError("half a module")

    monkeypatch.setattr(app, "app", broken)
    monkeypatch.setattr(app.SIGNALS, "install", lambda: None)
    monkeypatch.setattr(app.SIGNALS, "ignore", lambda: None)
    for name, value in (("number", None), ("raised", False), ("_deferring", False)):
        monkeypatch.setattr(app.SIGNALS, name, value)
    with pytest.raises(SystemExit) as ended:
        app.main([])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "camcli: interrupted.\n"
