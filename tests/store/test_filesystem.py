import os

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store.folders import KINDS, place_of
from vlmprof.errors import StoreError, UserError
from vlmprof.job import storage
from vlmprof.store import filesystem
from vlmprof.store import filesystem as places
from vlmprof.store.filesystem import results_folder


@pytest.fixture(params=KINDS)
def place(request, tmp_path, monkeypatch):
    return place_of(request.param, tmp_path, monkeypatch)


def test_an_object_is_written_read_listed_and_removed(place):
    assert place.read("a/b.txt") is None
    assert place.names("a") == {}
    place.write("a/b.txt", b"one")
    place.write("a/b.txt", pa.py_buffer(b"two, longer"))
    place.write("a/c/d.txt", b"deeper")
    assert place.read("a/b.txt") == b"two, longer"
    assert place.names("a") == {"b.txt": 11}
    place.remove("a/b.txt")
    place.remove("a/b.txt")
    assert place.names("a") == {}
    assert place.read("a/c/d.txt") == b"deeper"


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    place = results_folder(tmp_path)
    place.write("a.txt", b"before")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        place.write("a.txt", b"after")
    assert place.names("") == {"a.txt": 6}
    assert place.read("a.txt") == b"before"


def test_data_then_name_then_folder_are_on_disk(tmp_path, monkeypatch):
    seen = []
    real = os.fsync
    monkeypatch.setattr(
        places.os, "fsync", lambda handle: (seen.append(results_folder(tmp_path).read("a.txt")), real(handle))
    )
    results_folder(tmp_path).write("a.txt", b"x")
    assert seen == [None, b"x"]


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("hdfs://host/x", "not supported; expected a path, or one of file://, s3://"),
        ("s3://key:secret@bucket/x", "must not contain keys"),
        ("s3://key@bucket/x", "must not contain keys"),
        ("gs://user:secret@bucket/x", "must not contain keys"),
        ("s3://bucket/a/../b", "names no folder"),
        ("s3://", "names no folder"),
    ],
)
def test_a_uri_that_is_refused_says_why_and_no_secret(uri, why):
    with pytest.raises(StoreError, match=why) as caught:
        results_folder(uri)
    assert "secret" not in str(caught.value)


def test_paths_and_uris(tmp_path):
    assert results_folder(f"file://{tmp_path}").folder == tmp_path
    assert results_folder(str(tmp_path)).root == results_folder(results_folder(tmp_path)).root == str(tmp_path)
    remote = results_folder("s3://bucket/sweeps/x?region=eu-west-1&scheme=http&endpoint_override=localhost:9")
    assert (remote.root, remote.folder, remote.shared) == ("bucket/sweeps/x", None, True)
    assert remote.address("pareto.parquet") == "s3://bucket/sweeps/x/pareto.parquet"
    with pytest.raises(UserError, match="needs a folder on a mounted file system"):
        storage.mounted("s3://bucket/x")


@given(st.text())
def test_any_text_is_judged(text):
    assert isinstance(storage.problem(text), str)


MOUNTS = r"""22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:40 / /net rw shared:1 - nfs4 server:/export rw
24 22 0:41 / /net/scratch\040disk rw - xfs /dev/sdb rw
25 22 0:42 / /mnt/s3 rw - fuse.s3fs s3fs rw
"""


@pytest.mark.parametrize(
    ("folder", "shared"),
    [("/home/x", False), ("/net/a", True), ("/network", False), ("/net/scratch disk/a", False), ("/mnt/s3/b", True)],
)
def test_what_other_hosts_see(folder, shared, tmp_path, monkeypatch):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "mountinfo")
    assert filesystem.seen_by_other_hosts(places.Path(folder)) is shared


def test_this_machine_s_own_list_is_understood(tmp_path):
    assert filesystem.seen_by_other_hosts(tmp_path) in (True, False)
    if filesystem.MOUNTS.is_file():
        assert dict(filesystem._mounts(filesystem.MOUNTS.read_text()))[places.Path("/proc")] == "proc"


def test_a_file_that_vanishes_while_it_is_listed_takes_no_other_with_it(tmp_path, monkeypatch):
    folder = results_folder(tmp_path)
    for name in ("a", "b", "c"):
        folder.write(f"trials/{name}", b"x")
    real = os.scandir

    class Vanishing:
        """Between the listing and the look at it a file gets another name, as a writer's does."""

        def __init__(self, path):
            self._entries = list(real(path))
            (path / "b").rename(path / "d")

        def __enter__(self):
            return iter(self._entries)

        def __exit__(self, *raised):
            return None

    monkeypatch.setattr(places.os, "scandir", Vanishing)
    assert set(folder.names("trials")) == {"a", "c"}
