"""Which object URIs are taken, what they name, and that none leads out of the bucket tree."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localml.core.errors import Code, LocalmlError
from localml.objects import Buckets, parse


@pytest.mark.parametrize(
    ("uri", "scheme", "bucket", "key"),
    [
        ("fds://cloud-ml-test/linear/trainer-1.0.0.tar.gz", "fds", "cloud-ml-test", "linear/trainer-1.0.0.tar.gz"),
        ("obs://data/train/", "obs", "data", "train"),
        ("s3://data", "s3", "data", ""),
        ("S3://Data/Key", "s3", "Data", "Key"),
        ("/bucket/code/boot.py", "", "bucket", "code/boot.py"),
        ("hdfs://namenode:9000/user/me/x", "hdfs", "hdfs", "user/me/x"),
        ("hdfs:///user", "hdfs", "hdfs", "user"),
        ("fds://b//a/./c", "fds", "b", "a/c"),
        ("fds://b/100%2e%2e/a?b#c", "fds", "b", "100%2e%2e/a?b#c"),
        ("obs://b/数据/ä b", "obs", "b", "数据/ä b"),
        ("file:///etc/hosts", "file", "", "etc/hosts"),
    ],
)
def test_a_uri_is_taken_apart_and_kept_as_given(uri: str, scheme: str, bucket: str, key: str) -> None:
    found = parse(uri)
    assert (found.scheme, found.bucket, found.key) == (scheme, bucket, key)
    assert str(found) == uri
    assert found.folder == uri.endswith("/")


NO_SCHEME = ["", "bucket/key", "http://b/k", "fds:/b/k"]
NO_BUCKET = ["fds://", "fds:///key", "/", "//etc/passwd", "fds://../x", "fds://./x", "s3://.hidden/x", "s3://b\n/x"]
NO_BUCKET_EITHER = ["fds://key:pw@b/x", "hdfs://h:x/y", "hdfs://a@b/c", "file://host/x", "s3://" + "b" * 200 + "/x"]
NO_KEY = ["fds://b/../c", "obs://b/a/..", "/b/../../etc", "hdfs://h/../x", "file:///a/../b", "s3://b/a\0"]
NO_FILE_NAME = ["s3://b/\udcff", "s3://b/" + "x" * 256, "s3://b/" + "x/" * 2000, "fds://b/.localml-part-1"]


@pytest.mark.parametrize("uri", [*NO_SCHEME, *NO_BUCKET, *NO_BUCKET_EITHER, *NO_KEY, *NO_FILE_NAME])
def test_what_names_no_object_is_refused_by_the_callers_field(uri: str) -> None:
    with pytest.raises(LocalmlError) as caught:
        parse(uri, field="code_dir")
    assert (caught.value.code, caught.value.field) == (Code.INVALID, "code_dir")
    assert caught.value.message.startswith("code_dir: ")


def test_the_scheme_does_not_matter_for_where_an_object_is(tmp_path: Path) -> None:
    buckets = Buckets(tmp_path)
    place = tmp_path / "b" / "k"
    assert {buckets.path(uri) for uri in ("fds://b/k", "obs://b/k", "s3://b/k", "/b/k", "/b//k/")} == {place}
    assert buckets.path("hdfs://one:9000/k") == buckets.path("hdfs://two/k") == tmp_path / "hdfs" / "k"


def test_a_file_uri_is_for_administrators(tmp_path: Path) -> None:
    buckets = Buckets(tmp_path)
    assert buckets.path("file:///etc/hosts", allow_file=True) == Path("/etc/hosts")
    for refused in (buckets.path, buckets.inside, buckets.delete, buckets.open, buckets.exists):
        with pytest.raises(LocalmlError) as caught:
            refused("file:///etc/hosts")  # type: ignore[operator]
        assert caught.value.code == Code.INVALID


def test_a_container_sees_the_object_below_the_mount(tmp_path: Path) -> None:
    buckets = Buckets(tmp_path)
    assert buckets.inside("obs://data/train/") == "/buckets/data/train/"
    assert buckets.inside("fds://data//a/b.txt", "/mnt/") == "/mnt/data/a/b.txt"
    assert buckets.inside("s3://data") == "/buckets/data"


@pytest.mark.parametrize("target", ["/etc", "../../..", "/", "../other"])
def test_a_link_out_of_the_bucket_is_refused_for_what_is_and_what_is_to_be(tmp_path: Path, target: str) -> None:
    buckets = Buckets(tmp_path / "buckets")
    buckets.make_folder("s3://b")
    (tmp_path / "buckets" / "b" / "out").symlink_to(target)
    for uri in ("s3://b/out", "s3://b/out/passwd", "s3://b/out/new/file"):
        with pytest.raises(LocalmlError, match="out of its bucket"):
            buckets.path(uri)
        with pytest.raises(LocalmlError, match="out of its bucket"):
            buckets.open(uri, "wb")


def test_a_link_inside_the_tree_is_followed(tmp_path: Path) -> None:
    buckets = Buckets(tmp_path)
    buckets.make_folder("s3://b/run-3")
    (tmp_path / "b" / "latest").symlink_to("run-3")
    assert buckets.path("s3://b/latest/model") == tmp_path / "b" / "run-3" / "model"


names = st.sampled_from(
    ["a", "..", ".", "", "b", "out", "loop", "in", "%2e%2e", "\\..", "~", "b\0", "-", "…"]
) | st.text(max_size=4)
uris = st.builds(
    lambda scheme, parts: scheme + "/".join(parts),
    st.sampled_from(["fds://", "obs://b/", "s3://", "hdfs://", "hdfs://h:1/", "/", "", "file://", "S3://b/../"]),
    st.lists(names, max_size=6),
)


@given(uri=uris)
@settings(deadline=None)
def test_no_uri_leads_out_of_the_tree(uri: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder).resolve()
        buckets = Buckets(outer / "root")
        (outer / "root" / "b").mkdir()
        for name, target in (("out", "../.."), ("loop", "loop"), ("in", "."), ("a", "in/out/x")):
            (outer / "root" / "b" / name).symlink_to(target)
        with suppress(LocalmlError):  # any other exception fails the test
            place = buckets.path(uri)
            assert place.is_relative_to(buckets.root)
            with buckets.open(uri, "wb") as file:
                file.write(b"x")
            assert place.read_bytes() == b"x"
        assert os.listdir(outer) == ["root"]
