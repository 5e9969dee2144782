"""Object URIs inside a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.launcher_bench import launcher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

objects = launcher("objects")


@pytest.fixture
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALML_BUCKETS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("fds://b/k/x", "b/k/x"),
        ("OBS://b/k", "b/k"),
        ("s3://b", "b"),
        ("/b/k", "b/k"),
        ("fds://b//k/./x/", "b/k/x"),
        ("hdfs://host:9000/user/x", "hdfs/user/x"),
        ("hdfs:///user/x", "hdfs/user/x"),
        ("fds://b/%2e%2e/k?v=1#x", "b/%2e%2e/k?v=1#x"),
    ],
)
def test_every_scheme_is_a_folder_below_the_buckets(buckets: Path, uri: str, place: str) -> None:
    assert objects.resolve(uri) == buckets / place


def test_a_file_uri_is_the_path_itself(buckets: Path) -> None:
    assert objects.resolve("file:///data/set") == Path("/data/set")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "b/k",
        "fds://",
        "fds:///k",
        "fds://b/../../etc",
        "/..",
        "hdfs://h/../x",
        "gs://b/k",
        "fds://b/\0",
        "file://x",
    ],
)
def test_a_uri_that_has_no_place_is_refused_by_name(buckets: Path, uri: str) -> None:
    with pytest.raises(objects.UriError):
        objects.resolve(uri)


def test_a_link_out_of_the_buckets_is_refused(buckets: Path) -> None:
    (buckets / "b").mkdir()
    (buckets / "b" / "out").symlink_to("/etc")
    with pytest.raises(objects.UriError, match="outside"):
        objects.resolve("fds://b/out/passwd")


def test_outside_of_a_job_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCALML_BUCKETS", raising=False)
    with pytest.raises(objects.UriError, match="only work inside a localml job"):
        objects.resolve("fds://b/k")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(uri=st.text(st.sampled_from("fdsobhi3:/.%a\\"), max_size=20) | st.text(max_size=20).map("fds://".__add__))
def test_no_uri_leads_out_of_the_buckets(buckets: Path, uri: str) -> None:
    try:
        path = objects.resolve(uri)
    except objects.UriError:
        return
    assert path.resolve().is_relative_to(buckets)


def test_fsspec_opens_the_vendors_schemes(buckets: Path) -> None:
    filesystems = launcher("filesystems")
    for kind, uri in (
        (filesystems.FdsFileSystem, "fds://b/new/k"),
        (filesystems.ObsFileSystem, "obs://b/new/k"),
        (filesystems.HdfsFileSystem, "hdfs://h:9/b/new/k"),
    ):
        filesystem = kind(skip_instance_cache=True)
        with filesystem.open(uri, "wb") as file:
            file.write(b"content")
        assert objects.resolve(uri).read_bytes() == b"content"
        assert filesystem.exists(uri)
        assert [Path(name).name for name in filesystem.ls(uri.removesuffix("/k"), detail=False)] == ["k"]
