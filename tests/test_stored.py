"""Output in a store, without a cluster: shards count when they are there as a whole, and the mirror leads nowhere else."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.distributed import shards, worker
from camcli.distributed.coordinator import GO, Coordinator, Permission
from camcli.distributed.mirror import Mirror, mirrored
from camcli.distributed.plan import Plan, sample_of, what_is_missing
from camcli.distributed.scratch import scratch_folder
from camcli.distributed.stored import fetch_run, set_output, write_run
from camcli.errors import ConfigError, OutputError, SettingsError
from camcli.images.discover import Search, discover_sources
from camcli.images.remote import s3 as s3_store
from camcli.images.remote.addresses import file_of_key, key_of_file
from camcli.images.remote.folder import output_at
from camcli.images.remote.store import Store, store_of
from camcli.layout import CLUSTER, JOURNAL, RUN_RECORD, SCRATCH
from camcli.output.locks import claimed
from camcli.output.root import Root
from camcli.pipeline.inputs import Inputs
from camcli.pipeline.invocation import Invocation
from camcli.pipeline.runner import run_images
from camcli.pipeline.summary import SilentRunListener
from camcli.runs.merge import merge_shards
from tests.folders import TINY, contents_of
from tests.pictures import encoded, photo, write_photos
from tests.servers import objects_below
from tests.test_remote import BUCKET, moto, quick, s3  # noqa: F401 - fixtures

OUT = f"s3://{BUCKET}/runs/a b"
PREFIX = "runs/a b/"


def objects(s3, prefix=PREFIX):  # noqa: F811
    return objects_below(s3.client, BUCKET, prefix)


def put_names(s3):  # noqa: F811
    """The objects that were written or deleted, in order: (method, name)."""
    begin = f"/{BUCKET}/{PREFIX}".replace(" ", "%20")
    return [(method, path.partition("?")[0].removeprefix(begin)) for method, path, _ in s3.requests if method in ("PUT", "DELETE")]


@pytest.fixture
def photos(tmp_path):
    """Twelve photos, one with a name that is not UTF-8, and a file that is no image."""
    folder = tmp_path / "photos"
    write_photos(folder, [f"{'sub' if number % 2 else '.'}/{number} 50%FF.jpg" for number in range(10)])
    write_photos(folder, [b"\xff%41.png", "é ü?*+#.png"], 20)
    (folder / "broken.jpg").write_text("no image")
    return folder


class OfShards:
    """Runs over ``photos`` in three shards, as workers do them, with output in the store."""

    def __init__(self, photos, place, **changes):
        self.config = RunConfig(
            model="tests.networks:brightness", layer=("cells",), class_=("bright",), workers=0, save_maps=True, **changes
        )
        self.sources = discover_sources([str(photos)], Search(""))
        self.settings = run_settings(self.config, str(photos))
        self.root, self._place = str(photos), place
        self.shards = shards.divide(self.sources, 3, None)

    def run(self, shard, output):
        config = dataclasses.replace(shards.shard_config(self.config, shard), output=str(output))
        stop, invocation = contextlib.nullcontext(threading.Event()), Invocation("test", [self.root])
        return run_images(config, Inputs(self.root, shard.sources), SilentRunListener(), stop, invocation=invocation)

    def write(self, shard):
        """What a worker does with a shard. Returns how many images it explained."""
        folder = output_at(OUT).below(shard.name)
        with scratch_folder() as place:
            root = Root(place).below(shard.name)
            fetched = fetch_run(folder, root, dict(folder.files()))
            summary = self.run(shard, place)
            set_output(root, OUT)
            write_run(root, folder, fetched)
        return summary.counts.explained + summary.counts.failed

    @contextlib.contextmanager
    def mirror(self):
        with mirrored(OUT) as mirror, claimed(mirror.root, "run", lambda: True):
            mirror.update()
            yield mirror

    def states(self):
        with self.mirror() as mirror:
            return self.check(mirror)

    def check(self, mirror: Mirror):
        config = dataclasses.replace(self.config, output=mirror.root.path)
        return shards.check_shards(self.shards, config, self.settings)

    def merge(self):
        with mirrored(OUT) as mirror:
            with claimed(mirror.root, "run", lambda: True):
                mirror.update()
            merge_shards(mirror.root.path)
            mirror.write_merged()


def folder_of(found, without=("run.json", "journal.jsonl")):
    """Objects as ``contents_of`` names the files of a folder, for those of the merged run."""
    return {
        file_of_key(name): data for name, data in found.items() if Path(name).name not in without and not name.startswith("shard-")
    }


KINDS = {
    "files": {},
    "parquet": {"format": "parquet", "maps_format": "parquet", "boxes": "all", "boxes_json": True, "masks": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_shards_in_a_store_are_merged_as_in_a_folder(photos, s3, tmp_path, kind):  # noqa: F811
    """The same rows and overlays, byte by byte; a change of an image is found, and only its shard is written again."""
    runs = OfShards(photos, tmp_path, **KINDS[kind])
    for shard in runs.shards:
        assert runs.write(shard) == len(shard.sources)
        runs.run(shard, tmp_path / "whole")
    merge_shards(str(tmp_path / "whole"))
    runs.merge()
    expected = {name: data for name, data in contents_of(tmp_path / "whole").items() if not name.startswith("shard-")}
    assert folder_of(objects(s3)) == expected
    assert [state.todo for state in runs.states()] == [0, 0, 0]
    assert all(state.is_done for state in runs.states())
    secrets = b"\n".join(objects(s3).values())
    assert b"AKIDEXAMPLE" not in secrets
    assert b"camcli-scratch" not in secrets, "nobody needs to know where a worker's temporary folder was"

    changed = runs.sources[3]
    Path(changed.path).write_bytes(encoded(photo(77), "JPEG"))
    runs.sources = discover_sources([str(photos)], Search(""))
    runs.shards = shards.divide(runs.sources, 3, None)
    whose = shards.shard_of(changed.image, 3)
    assert [state.todo for state in runs.states()] == [int(number == whose) for number in range(3)]
    s3.forget()
    assert runs.write(runs.shards[whose]) == 1
    rows = [name for method, name in put_names(s3) if method == "PUT" and "/overlays/" in name]
    assert len(rows) == 1, "the other overlays of the shard are there already"
    s3.forget()
    runs.merge()
    copied = [name for method, name in put_names(s3) if method == "PUT" and name.startswith("overlays/")]
    assert len(copied) == 1
    runs.run(runs.shards[whose], tmp_path / "whole")
    merge_shards(str(tmp_path / "whole"))
    expected = {name: data for name, data in contents_of(tmp_path / "whole").items() if not name.startswith("shard-")}
    assert folder_of(objects(s3)) == expected
    assert [state.todo for state in runs.states()] == [0, 0, 0]


def test_the_record_of_a_shard_is_deleted_first_and_written_last(photos, s3, tmp_path, quick):  # noqa: F811
    """An upload that fails leaves a shard that does not count, and the next one starts over."""
    runs = OfShards(photos, tmp_path)
    shard = runs.shards[0]
    runs.write(shard)
    written = put_names(s3)
    assert written[0] == ("DELETE", f"{shard.name}/{RUN_RECORD}")
    assert written[1] == ("PUT", f"{shard.name}/{JOURNAL}")
    assert written[-1] == ("PUT", f"{shard.name}/{RUN_RECORD}")
    whole = objects(s3)
    assert [state.is_done for state in runs.states()] == [True, False, False]

    Path(shard.sources[0].path).write_bytes(encoded(photo(78), "JPEG"))
    for name in ("predictions.csv", "run.json"):
        s3.fault = lambda path, nth, name=name: "close" if path.endswith(f"/{name}") and s3.requests[-1][0] == "PUT" else ""
        with pytest.raises(OutputError, match=f"cannot write 's3://.*{name}': .*5 times"):
            runs.write(shard)
        s3.fault = lambda path, nth: ""
        assert f"{shard.name}/{RUN_RECORD}" not in objects(s3)
        assert [state.todo for state in runs.states()] == [len(shard.sources) for shard in runs.shards]
    assert runs.write(shard) == len(shard.sources)
    assert objects(s3).keys() == whole.keys()


def test_what_passes_is_tried_again_and_what_is_refused_is_not(photos, s3, tmp_path, quick):  # noqa: F811
    runs = OfShards(photos, tmp_path)
    s3.fault = lambda path, nth: ("close", "503", "")[(nth - 1) % 3]
    runs.write(runs.shards[0])
    s3.fault = lambda path, nth: ""
    assert [state.is_done for state in runs.states()] == [True, False, False]
    s3.fault = lambda path, nth: "403" if s3.requests[-1][0] == "PUT" else ""
    s3.forget()
    with pytest.raises(OutputError, match=r"cannot write .*the store refuses it"):
        runs.write(runs.shards[1])
    assert max(s3.asked.values()) == 1


def test_objects_that_a_run_no_longer_has_are_deleted_and_no_others(photos, s3, tmp_path):  # noqa: F811
    runs = OfShards(photos, tmp_path)
    shard = runs.shards[0]
    foreign = ("notes.txt", f"{shard.name}/notes.txt", f"{shard.name}/overlays/mine.jpg", "overlays/mine.jpg")
    stale = f"{shard.name}/overlays/gone.jpg.1-cat.jpg"
    for name in (*foreign[:3], stale):
        s3.client.put_object(Bucket=BUCKET, Key=PREFIX + name, Body=b"x")
    for shard in runs.shards:
        runs.write(shard)
    runs.merge()
    s3.client.put_object(Bucket=BUCKET, Key=PREFIX + foreign[3], Body=b"x")
    s3.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}overlays/gone.jpg.1-cat.jpg", Body=b"x")
    runs.merge()
    found = objects(s3)
    assert {name for name in found if found[name] == b"x"} == set(foreign)


HOSTILE = (
    "../x", "/x", "//x", "a/../../x", "shard-0-of-3/../../x", "shard-0-of-3//x", "shard-0-of-3/overlays/../../../x.jpg.1-a.jpg",
    "overlays//tmp/x.jpg.1-a.jpg", "shard-0-of-3/.camcli/../../../x", "overlays/" + "n" * 300 + ".jpg.1-a.jpg",
    "shard-0-of-3/masks/" + "n" * 300 + ".jpg.1-a.png", "shard-0-of-3", "shard-0-of-3/maps.parquet/" + "n" * 300 + ".parquet",
    "overlays/a\0b.jpg.1-a.jpg", "predictions.csv/x", "run.json/", "shard-0-of-3/overlays/a.jpg.1-a.jpg/b.jpg.1-a.jpg",
    "shard-0-of-3/overlays/a.jpg.1-a.jpg", ".camcli/scratch/../../../x", "shard-0-of-3/predictions.parquet/../../x.parquet",
)  # fmt: skip


def test_names_of_objects_never_lead_out_of_the_mirror(photos, s3, tmp_path, monkeypatch):  # noqa: F811
    """Strangers' objects neither write elsewhere nor end the run."""
    runs = OfShards(photos, tmp_path)
    for shard in runs.shards:
        runs.write(shard)
    runs.merge()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    listed = Store.list

    def with_hostile(self, bucket, prefix):
        found = list(listed(self, bucket, prefix))
        yield from found
        yield from (dataclasses.replace(found[0], key=PREFIX + name) for name in HOSTILE if PREFIX in prefix)

    monkeypatch.setattr(Store, "list", with_hostile)
    with runs.mirror() as mirror:
        assert [state.is_done for state in runs.check(mirror)] == [True] * 3
        inside = Path(mirror.root.path)
        outside = {place for place in (tmp_path / "temporary").rglob("*") if inside != place and inside not in place.parents}
        assert outside == {inside.parent}
        assert (inside / SCRATCH).is_dir()
    whole = objects(s3)
    runs.merge()
    assert objects(s3).keys() == whole.keys()
    assert not Path("/x").exists()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_other_settings_are_refused_with_the_address(photos, s3, tmp_path):  # noqa: F811
    runs = OfShards(photos, tmp_path)
    runs.write(runs.shards[1])
    other = OfShards(photos, tmp_path, topk=2)
    with pytest.raises(SettingsError) as refused:
        other.states()
    said = str(refused.value)
    assert said.startswith(f"'{OUT}/shard-1-of-3' holds a run with other settings (topk: was the default, now 2). "), said
    assert f"-o '{OUT}-2'" in said
    assert "/tmp" not in said


class Asked:
    """Answers a worker as the coordinator does, without a cluster."""

    def __init__(self):
        self.state = Coordinator()

    def call(self, method, *values):
        return getattr(self.state, method)(*values)


def test_a_worker_has_patience_with_a_store_and_gives_up_its_shard_alone(photos, s3, tmp_path, quick, monkeypatch):  # noqa: F811
    """An upload that fails is made again; a store that stays away costs one shard, one that refuses ends the run."""
    monkeypatch.setattr(worker, "_BETWEEN_UPLOADS", 0.01)
    runs = OfShards(photos, tmp_path, output=OUT, device="cpu")
    s3.client.put_object(Bucket=BUCKET, Key=PREFIX + CLUSTER, Body=b"mark")
    plan = Plan(runs.config, runs.settings, os.getcwd(), "mark", len(runs.sources), sample_of(runs.sources))
    one = worker.ShardWorker(pickle.dumps(plan), None)
    one._coordinator = Asked()

    def state(shard, fault):
        s3.forget()
        s3.fault = lambda path, nth: fault(nth) if path.endswith(f"{shard.name}/{RUN_RECORD}") else ""
        result = pickle.loads(one({"shard": [pickle.dumps(shard)]})["result"][0])
        s3.fault = lambda path, nth: ""
        return result.state, str(result.error)

    assert state(runs.shards[0], lambda nth: "close" if 2 <= nth < 10 else "")[0] == "finished"
    ended, said = state(runs.shards[1], lambda nth: "close")
    assert (ended, "cannot delete" in said) == ("given up", True), said
    ended, said = state(runs.shards[2], lambda nth: "403")
    assert (ended, "the store refuses it" in said) == ("error", True), said
    assert [state.is_done for state in runs.states()] == [True, False, False]
    one._coordinator.state.begin(1, 0)  # another worker has the shard now
    monkeypatch.setattr(one._coordinator.state, "begin", lambda shard, recorded: Permission(GO, number=1))
    assert state(runs.shards[1], lambda nth: "")[0] == "interrupted"
    assert [state.is_done for state in runs.states()] == [True, False, False]


def test_a_node_says_why_it_does_not_see_the_output(photos, s3, tmp_path):  # noqa: F811
    runs = OfShards(photos, tmp_path, output=OUT)
    plan = Plan(runs.config, runs.settings, os.getcwd(), "mark", len(runs.sources), sample_of(runs.sources))
    assert "there is no such object; every node needs its own credentials" in what_is_missing(plan, is_start=True)
    s3.client.put_object(Bucket=BUCKET, Key=PREFIX + CLUSTER, Body=b"other")
    assert what_is_missing(plan, is_start=True) == f"sees another store at '{OUT}'"
    s3.client.put_object(Bucket=BUCKET, Key=PREFIX + CLUSTER, Body=b"mark")
    assert what_is_missing(plan, is_start=True) == ""


def test_tables_that_are_not_of_a_run_are_refused(s3):  # noqa: F811
    s3.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}predictions.csv", Body=b"mine")
    with pytest.raises(OutputError, match="which camcli did not write"), mirrored(OUT) as mirror:
        mirror.update()


def test_a_mark_of_another_run_is_seen(s3):  # noqa: F811
    for expected in (False, True):
        with mirrored(OUT) as mirror:
            mirror.update()
            assert mirror.has_mark is expected
        s3.client.put_object(Bucket=BUCKET, Key=PREFIX + CLUSTER, Body=b"mark")


def test_a_large_file_is_written_in_pieces(s3, tmp_path, monkeypatch, quick):  # noqa: F811
    """Pieces that fail are tried again; after one that stays nothing is left."""
    monkeypatch.setattr(s3_store, "PIECE", 5 << 20)
    data = os.urandom(11 << 20)
    for name in ("table", "other"):
        (tmp_path / name).write_bytes(data)
    s3.fault = lambda path, nth: "503" if nth % 3 == 2 else ""
    output_at(OUT).write("table", Root(str(tmp_path)))
    s3.fault = lambda path, nth: ""
    assert objects(s3) == {"table": data}
    s3.fault = lambda path, nth: "500" if "partNumber=2" in s3.requests[-1][1] else ""
    with pytest.raises(OutputError, match="cannot write"):
        output_at(OUT).write("other", Root(str(tmp_path)))
    s3.fault = lambda path, nth: ""
    assert objects(s3).keys() == {"table"}
    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=BUCKET)


def test_any_store_of_fsspec_is_written_to_by_its_general_methods(tmp_path):
    import fsspec

    from camcli.images.remote.other import Other

    files, shop = fsspec.filesystem("memory"), Store(Other("memory://bucket"))
    (tmp_path / "a").write_bytes(b"a" * 1000)
    with open(tmp_path / "a", "rb") as file:
        shop.put("memory://bucket/p/a", file, 1000)
    shop.duplicate("memory://bucket/p/a", "memory://bucket/q/a")
    assert files.cat_file("/bucket/q/a") == b"a" * 1000
    shop.delete("memory://bucket/p/a")
    shop.delete("memory://bucket/p/a")
    assert [one.key for one in shop.list("bucket", "")] == ["q/a"]
    files.rm("/bucket", recursive=True)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from([chr(0xDC80), chr(0xDCFF), "%", "2", "5", "F"])))
def test_every_name_of_a_file_has_a_key_of_its_own(name):
    key = key_of_file(name)
    key.encode("utf-8")
    assert file_of_key(key) == name


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("https://host/x", "a web server cannot be written to"),
        ("s3://bucket/a//b", "empty, '.' or '..'"),
        ("s3://bucket/../b", "empty, '.' or '..'"),
        ("s3://", "names no bucket"),
        ("file:///tmp/x", "give the path"),
        ("s3://user:secret@bucket/x", "contains a password"),
        ("nothing://bucket/x", "no protocol that fsspec knows"),
    ],
)
def test_an_address_that_cannot_be_an_output_is_refused(output, said):
    with pytest.raises(ConfigError) as refused:
        output_at(output)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("output", ["s3://bucket", "s3://bucket/", "s3://bucket/a?b=c/d%41é", "s3://bucket/x\ny"])
def test_a_worker_writes_to_the_same_place_as_the_program(output):
    folder = output_at(output)
    assert folder.address == output_at(folder.address).address == output.rstrip("/")


def test_a_shard_without_images_is_one(photos, s3, tmp_path):  # noqa: F811
    runs = OfShards(photos, tmp_path)
    runs.shards = shards.divide(runs.sources[:1], 3, None)
    for shard in runs.shards:
        runs.write(shard)
    assert all(state.is_done for state in runs.states())
    runs.merge()
    assert len(objects(s3)["predictions.csv"].splitlines()) == 2


def test_an_address_as_output_needs_a_cluster(camcli, photos):
    refused = camcli("run", photos, "-o", "s3://user:secret@bucket/run", *TINY)
    assert (refused.code, "only --engine ray writes to" in refused.err, "secret" in refused.err) == (2, True, False)
    refused = camcli("run", photos, "-o", "s3://bucket/run", *TINY, "--engine", "ray", "--report")
    assert (refused.code, "--report needs the overlays" in refused.err) == (2, True)


def test_a_bucket_that_does_not_exist_is_said_at_once(s3):  # noqa: F811
    with pytest.raises(OutputError, match="there is no such bucket"), mirrored("s3://nobody/x") as mirror:
        mirror.update()
    assert store_of("s3://nobody/x") is store_of(OUT)


def test_folders_of_dead_workers_are_removed_and_those_in_use_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as first:
        Path(first, "file").write_text("x")
        dead = Path(first[:-8] + "deadbeef")
        dead.mkdir()
        (dead / "file").write_text("x")
        (tmp_path / "camcli-scratch-x").mkdir()
        with scratch_folder() as second:
            assert {place.name for place in tmp_path.iterdir()} == {Path(first).name, Path(second).name, "camcli-scratch-x"}
            assert Path(first, "file").exists()
    assert [place.name for place in tmp_path.iterdir()] == ["camcli-scratch-x"]
