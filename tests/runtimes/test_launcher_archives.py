"""A package that tries to leave its folder does not, whatever it is made of."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from helpers.launcher_bench import Bench, launcher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

archives = launcher("archives")
console = launcher("console")


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    return member


@pytest.mark.parametrize(
    "members",
    [
        {"../escaped": "x"},
        {"a/../../escaped": "x"},
        {"/tmp/localml-escaped": "x"},
        {"out": link("out", ".."), "out/escaped": "x"},
        {"out": link("out", "/tmp"), "out/localml-escaped": "x"},
        {"a": link("a", "b/.."), "b": link("b", "../../..")},
        {"hard": link("hard", "../../secret", tarfile.LNKTYPE)},
        {"a": link("a", "b"), "b": link("b", "a"), "a/file": "x"},
        {"pipe": special("pipe", tarfile.FIFOTYPE)},
        {"device": special("device", tarfile.CHRTYPE)},
    ],
)
def test_a_package_that_leaves_its_folder_ends_the_job(bench: Bench, members: dict[str, str | tarfile.TarInfo]) -> None:
    (bench.work / "secret").write_text("secret")
    before = sorted(bench.work.parent.rglob("*"))
    uri = bench.pack(members)
    code, out, err = bench.run({"trainer_uri": uri})
    assert (code, out) == (65, "")
    assert "refused" in err or "cannot be unpacked" in err
    assert "Traceback" not in err
    assert sorted(bench.work.parent.rglob("*")) == sorted([*before, bench.buckets / "code" / "demo.tar.gz"])
    assert not Path("/tmp/localml-escaped").exists()


def test_links_that_stay_inside_work(tmp_path: Path, bench: Bench) -> None:
    uri = bench.pack(
        {
            "a/file": "content",
            "a/soft": link("a/soft", "file"),
            "b": link("b", "a"),
            "b/through": "written",
            "hard": link("hard", "a/file", tarfile.LNKTYPE),
        }
    )
    target = tmp_path / "target"
    target.mkdir()
    archives.unpack(bench.buckets / uri.removeprefix("fds://"), target)
    assert (target / "a/soft").read_text() == (target / "hard").read_text() == "content"
    assert (target / "a/through").read_text() == "written"


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"\x1f\x8b\x08broken", gzip.compress(b"no tar" * 200, mtime=0)]
)
def test_what_is_no_archive_is_refused(bench: Bench, content: bytes) -> None:
    (bench.buckets / "code" / "odd.tar.gz").write_bytes(content)
    code, _, err = bench.run({"trainer_uri": "fds://code/odd.tar.gz"})
    assert code == 65
    assert "Traceback" not in err


def test_a_truncated_archive_is_refused(tmp_path: Path, bench: Bench) -> None:
    uri = bench.pack({"file": bytes(range(256)) * 400})
    path = bench.buckets / uri.removeprefix("fds://")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(console.LauncherError):
        archives.unpack(path, tmp_path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, bench: Bench) -> None:
    uri = bench.pack({"zeros": bytes(3_000_000)})
    path = bench.buckets / uri.removeprefix("fds://")
    assert path.stat().st_size < 10_000
    with pytest.raises(console.LauncherError, match="more than 1,000,000 bytes"):
        archives.unpack(path, tmp_path, archives.Limits(size=1_000_000))


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, bench: Bench) -> None:
    uri = bench.pack({f"file{number}": "" for number in range(11)})
    with pytest.raises(console.LauncherError, match="more than 10 members"):
        archives.unpack(bench.buckets / uri.removeprefix("fds://"), tmp_path, archives.Limits(members=10))


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c"]), min_size=1, max_size=5).map("/".join)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(members=st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=8))
def test_nothing_is_ever_written_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes, str]]
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    target = outer / "x" / "y" / "target"
    target.mkdir(parents=True)
    with tarfile.open(outer / "archive.tar", "w") as tar:
        for name, kind, other in members:
            member = link(name, other, kind)
            member.size = 1 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"!"))
    try:
        archives.unpack(outer / "archive.tar", target)
    except console.LauncherError:
        pass
    outside = [path for path in outer.rglob("*") if not path.is_relative_to(target)]
    assert sorted(outside) == [outer / "archive.tar", outer / "x", outer / "x" / "y"]
