"""Runs on a Ray cluster over inputs in a store and in archives, with output in a folder and in a store."""

from __future__ import annotations

import os
import signal

import pytest

from camcli.distributed.shards import shard_of
from camcli.layout import CLUSTER, RUN_RECORD
from tests.folders import TINY, contents_of, failures_of, rows_of
from tests.pictures import encoded, photo, write_photos
from tests.servers import KEYS, objects_below, s3_front, s3_server
from tests.test_archives import below, tarred
from tests.test_ray import SLOW, TwoNodes, ended, local, merged, needs_ray, uses_cluster, wait_for

pytestmark = [needs_ray, uses_cluster, pytest.mark.soak]
"""A cluster takes half a minute. In every run of the tests: stores without Ray (test_stored), Ray without stores (test_ray)."""

BUCKET = "photos"


@pytest.fixture(scope="module")
def s3():
    """An S3 server, behind one that can misbehave."""
    with s3_server() as port, pytest.MonkeyPatch.context() as patch, s3_front(port, patch, BUCKET) as front:
        yield front


@pytest.fixture(scope="module")
def cluster(s3, tmp_path_factory):
    """A cluster whose nodes find the server and its credentials in their environment."""
    nodes = TwoNodes(tmp_path_factory.mktemp("cluster"))
    yield nodes
    nodes.end()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    write_photos(folder, [f"{'sub' if number % 3 else '.'}/{number:02} é.jpg" for number in range(14)])
    (folder / "broken.jpg").write_text("no image")
    return folder


def put(s3, prefix, files):
    for name, data in files.items():
        s3.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data)
    return f"s3://{BUCKET}/{prefix}"


def objects(s3, prefix):
    return objects_below(s3.client, BUCKET, f"{prefix}/")


def downloaded(s3, prefix, folder):
    """What is below ``prefix``, copied to ``folder``."""
    for name, data in objects(s3, prefix).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def finished(s3, prefix):
    """The names of the shards that are there as a whole."""
    return {name.partition("/")[0] for name in objects(s3, prefix) if name.startswith("shard-") and name.endswith(f"/{RUN_RECORD}")}


def test_from_a_store_to_a_store_equals_the_run_of_one_machine(cluster, s3, photos, tmp_path):
    """Another run has nothing to do, and needs no cluster. No secret is written."""
    inputs = put(s3, "in", below(photos))
    out = f"s3://{BUCKET}/out"
    code, said = cluster.run(inputs, out, *TINY, "--save-maps", "--images-per-shard", 8)
    assert (code, "2 shards" in said, f"Overlays in {out}/overlays" in said) == (1, True, True), said
    assert local(cluster.environment, inputs, tmp_path / "whole", *TINY, "--save-maps") == 1
    here = downloaded(s3, "out", tmp_path / "here")
    assert merged(here) == contents_of(tmp_path / "whole")
    assert finished(s3, "out") == {"shard-0-of-2", "shard-1-of-2"}
    assert not (here / CLUSTER).exists()
    whole = b"\n".join([*objects(s3, "out").values(), said.encode()])
    assert not [secret for secret in KEYS.values() if secret.encode() in whole and secret != "us-east-1"]
    before = objects(s3, "out")
    code, said = cluster.run(inputs, out, *TINY, "--save-maps", "--address", "127.0.0.1:1")
    assert (code, f"Nothing to do: 14 images already explained in {out}" in said) == (0, True), said
    assert objects(s3, "out") == before


def test_archives_give_what_one_machine_gives(cluster, s3, photos, tmp_path):
    """A tar on this machine and one in a store, with output in a folder."""
    archive = tarred(tmp_path / "x.tar", below(photos))
    put(s3, "packed", {"x.tar": archive.read_bytes()})
    for number, inputs in enumerate((str(archive), f"s3://{BUCKET}/packed/x.tar")):
        out, whole = tmp_path / f"out{number}", tmp_path / f"whole{number}"
        code, said = cluster.run(inputs, out, *TINY, "--images-per-shard", 8)
        assert code == 1, said
        assert local(cluster.environment, inputs, whole, *TINY) == 1
        assert merged(out) == contents_of(whole)
        assert (len(rows_of(out)), len(failures_of(out))) == (14, 1)


def test_deaths_and_interruptions_lose_no_shard_that_is_in_the_store(cluster, s3, photos, tmp_path):
    """A worker is killed in the middle; the program is interrupted; the program is killed while it merges. Then all is equal."""
    inputs, out = put(s3, "slow", below(photos)), f"s3://{BUCKET}/deaths"
    options = (*SLOW, "--images-per-shard", 4)
    process = cluster.start(inputs, out, *options)
    wait_for(lambda: finished(s3, "deaths"), process)
    os.kill(cluster.workers()[0], signal.SIGKILL)
    wait_for(lambda: len(finished(s3, "deaths")) >= 2, process)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert (code, f"Their shards are in {out}" in said, "run the same command again to resume" in said) == (130, True, True), said
    kept = finished(s3, "deaths")
    assert 2 <= len(kept) < 4, kept
    assert CLUSTER not in objects(s3, "deaths")
    records = {name: data for name, data in objects(s3, "deaths").items() if name.partition("/")[0] in kept}

    process = cluster.start(inputs, out, *options)
    s3.fault = lambda path, nth: (process.kill() or "close") if path.endswith("/deaths/predictions.csv") else ""
    assert ended(process)[0] == -signal.SIGKILL
    s3.fault = lambda path, nth: ""
    assert not {RUN_RECORD, "predictions.csv"} & objects(s3, "deaths").keys()
    assert records.items() <= objects(s3, "deaths").items(), "finished shards are not explained again"

    code, said = cluster.run(inputs, out, *options)
    assert code == 1, "the failure was not reported yet"
    assert local(cluster.environment, inputs, tmp_path / "whole", *SLOW) == 1
    assert merged(downloaded(s3, "deaths", tmp_path / "here")) == contents_of(tmp_path / "whole")


def test_new_and_changed_images_and_a_failing_store(cluster, s3, photos, tmp_path):
    """Only shards with something to do run again; a shard that cannot be written is named, and the same command finishes it."""
    out, prefix = f"s3://{BUCKET}/changes", "changes"
    options = (*TINY, "--images-per-shard", 4)
    assert cluster.run(photos, out, *options)[0] == 1
    count = len(finished(s3, prefix))
    before = objects(s3, prefix)
    changed = sorted(below(photos))[0]
    (photos / changed).write_bytes(encoded(photo(99), "JPEG"))
    wrong = f"shard-{shard_of(changed, count)}-of-{count}"
    s3.fault = lambda path, nth: "403" if path.endswith(f"{wrong}/predictions.csv") and s3.requests[-1][0] == "PUT" else ""
    code, said = cluster.run(photos, out, *options)
    s3.fault = lambda path, nth: ""
    assert (code, "cannot write" in said, wrong in said) == (3, True, True), said
    assert wrong not in finished(s3, prefix)
    assert cluster.run(photos, out, *options)[0] == 1, "its failure was not reported yet"
    after = objects(s3, prefix)
    same = {name for name, data in before.items() if name.startswith("shard-") and not name.startswith(wrong)}
    assert all(after[name] == before[name] for name in same)
    assert local(cluster.environment, photos, tmp_path / "whole", *TINY) == 1
    assert merged(downloaded(s3, prefix, tmp_path / "here")) == contents_of(tmp_path / "whole")
    assert cluster.run(photos, out, *options, "--overwrite", "--topk", 2)[0] == 1
    assert local(cluster.environment, photos, tmp_path / "both", *TINY, "--topk", 2) == 1
    assert merged(downloaded(s3, prefix, tmp_path / "again")) == contents_of(tmp_path / "both")
