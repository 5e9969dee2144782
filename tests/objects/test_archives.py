"""Archives from strangers: good ones are unpacked whole, bad ones leave nothing anywhere."""

from __future__ import annotations

import binascii
import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from localml.core.errors import Code, LocalmlError
from localml.objects import Limits, inspect_archive, unpack, unpack_in_place
from localml.objects.archive_rules import Meter

SYM, HARD, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


def tar(*members: tuple[str, bytes | str] | tuple[str, bytes | str, bytes], mode: int = 0o644) -> bytes:
    """A tar of files ``(name, content)`` and others ``(name, target, type)``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, *kind in members:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if kind:
                entry.type, entry.linkname = kind[0], str(content)
                archive.addfile(entry)
            else:
                data = content if isinstance(content, bytes) else content.encode()
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def zipped(*members: tuple[str, bytes] | tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of files ``(name, content)`` or ``(name, content, mode)``."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content, *mode in members:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            entry.external_attr = (mode[0] if mode else 0o644) << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(data: bytes, place: Path, limits: Limits = Limits(), code: Code = Code.INVALID) -> str:  # noqa: B008
    """Check that looking and unpacking both refuse, alike, and that nothing is left; return the message."""
    with pytest.raises(LocalmlError) as looked:
        inspect_archive(io.BytesIO(data), limits)
    with pytest.raises(LocalmlError) as caught:
        unpack(io.BytesIO(data), place / "dest", limits)
    assert os.listdir(place) == []
    assert (caught.value.code, caught.value.field) == (code, "archive")
    assert (looked.value.code, looked.value.message) == (caught.value.code, caught.value.message)
    return caught.value.message


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_tar_is_known_by_its_content_and_unpacked(tmp_path: Path, kind: str) -> None:
    data = COMPRESS[kind](tar(("pkg", "", DIR), ("pkg/setup.py", b"setup()"), ("README", b"x" * 2000)))
    file = tmp_path / "trainer.bin"
    file.write_bytes(data)
    steps: list[int] = []
    info = unpack(file, tmp_path / "deep" / "dest", progress=steps.append)
    assert (info.kind, info.files, info.size, info.top_names) == (kind, 2, 2007, ("README", "pkg"))
    assert contents(tmp_path / "deep" / "dest") == {"pkg/setup.py": b"setup()", "README": b"x" * 2000}
    assert sum(steps) == 2007
    assert inspect_archive(file) == info
    assert stat.S_IMODE((tmp_path / "deep" / "dest").stat().st_mode) == 0o755


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_is_unpacked(tmp_path: Path, method: int) -> None:
    data = zipped(("pkg/", b"", 0o755 | stat.S_IFDIR), ("pkg/a.py", b"a", stat.S_IFREG | 0o755), ("b", b"", 0))
    info = unpack(io.BytesIO(data), tmp_path / "dest")
    assert (info.kind, info.files, info.top_names) == ("zip", 2, ("b", "pkg"))
    assert contents(tmp_path / "dest") == {"pkg/a.py": b"a", "b": b""}
    assert os.access(tmp_path / "dest" / "pkg" / "a.py", os.X_OK)


def test_archives_made_by_the_usual_tools_are_unpacked(tmp_path: Path) -> None:
    for number, form in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        packed = io.BytesIO()
        name = "x" * 90 + ("" if form == tarfile.USTAR_FORMAT else "/" + "é" * 100)
        with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
            entry = tarfile.TarInfo("./" + name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
        unpack(packed, tmp_path / str(number))
        assert contents(tmp_path / str(number)) == {name: b"abc"}


def test_several_xz_streams_are_one_archive(tmp_path: Path) -> None:
    plain = tar(("a", os.urandom(300_000)), ("b", b"b"))
    data = lzma.compress(plain[:1000]) + b"\0" * 8 + lzma.compress(plain[1000:])
    assert unpack(io.BytesIO(data), tmp_path / "dest").files == 2


def test_empty_archives_make_an_empty_folder(tmp_path: Path) -> None:
    for number, data in enumerate((tar(), gzip.compress(tar()), zipped())):
        assert unpack(io.BytesIO(data), tmp_path / str(number)).files == 0
        assert os.listdir(tmp_path / str(number)) == []


def test_names_keep_their_case_and_letters(tmp_path: Path) -> None:
    names = ["File", "file", "数据.txt", "e\u0301", "\u00e9", "a\\b", "sp ace", "\udcff"]
    unpack(io.BytesIO(tar(*((name, name.encode("utf-8", "surrogateescape")) for name in names))), tmp_path / "tar")
    unpack(io.BytesIO(zipped(*((name, b"") for name in names[:-1]))), tmp_path / "zip")
    assert sorted(os.listdir(tmp_path / "tar")) == sorted(names)
    assert sorted(os.listdir(tmp_path / "zip")) == sorted(names[:-1])


def test_setuid_and_others_write_permission_are_taken_away(tmp_path: Path) -> None:
    unpack(io.BytesIO(tar(("tool", b"x"), mode=0o6777)), tmp_path / "dest")
    unpack(io.BytesIO(tar(("locked", b"x"), mode=0)), tmp_path / "locked")
    assert stat.S_IMODE((tmp_path / "dest" / "tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "locked" / "locked").stat().st_mode) == 0o600


def test_of_members_with_the_same_name_the_last_one_counts(tmp_path: Path) -> None:
    data = tar(
        ("a", b"first"),
        ("keep", "a", HARD),
        ("a", b"second"),
        ("b", "a", SYM),
        ("b", b"file"),
        ("c", b""),
        ("c", "a", SYM),
    )
    info = unpack(io.BytesIO(data), tmp_path / "dest")
    dest = tmp_path / "dest"
    assert contents(dest) == {"a": b"second", "keep": b"first", "b": b"file", "c": b"second"}
    assert (dest / "c").is_symlink()
    assert not (dest / "b").is_symlink()
    assert info.files == 4
    assert unpack(io.BytesIO(_duplicate_zip()), tmp_path / "zip").files == 1
    assert contents(tmp_path / "zip") == {"a": b"2"}


def _duplicate_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"2")
    return packed.getvalue()


def test_links_inside_are_kept(tmp_path: Path) -> None:
    data = tar(
        ("lib/v1/x", b"1"),
        ("lib/latest", "v1", SYM),
        ("lib/up", "../lib/latest/x", SYM),
        ("hard", "lib/v1/x", HARD),
        ("self", "self2", SYM),
        ("lib/copy", "lib/latest", HARD),
    )
    unpack(io.BytesIO(data), tmp_path / "dest")
    assert (tmp_path / "dest" / "lib" / "up").read_bytes() == b"1"
    assert (tmp_path / "dest" / "hard").samefile(tmp_path / "dest" / "lib" / "v1" / "x")
    assert os.readlink(tmp_path / "dest" / "lib" / "copy") == "v1"
    unpack(io.BytesIO(zipped(("x", b"1"), ("y", b"x", stat.S_IFLNK | 0o777))), tmp_path / "zip")
    assert (tmp_path / "zip" / "y").read_bytes() == b"1"


BAD_TARS = {
    "an absolute name": (tar(("/etc/cron.d/x", b"")), "/etc/cron.d/x", "absolute"),
    "a climbing name": (tar(("a/../../x", b"")), "a/../../x", "'..'"),
    "an absolute link": (tar(("l", "/etc", SYM)), "l", "absolute"),
    "a climbing link": (tar(("a/l", "../../x", SYM)), "a/l", "out of the archive"),
    "a link that leaves and returns": (tar(("l", "../dest/x", SYM)), "l", "out of the archive"),
    "links that leave together": (tar(("a/b/c", b""), ("s", "a/b", SYM), ("t", "s/../../..", SYM)), "t", "out"),
    "a link through a link to here": (tar(("here", ".", SYM), ("l", "here/../x", SYM)), "l", "out"),
    "links in a circle": (tar(("a", "b", SYM), ("b", "a", SYM)), "a", "circle"),
    "an empty link": (tar(("l", "", SYM)), "l", "target"),
    "a file through a link": (tar(("l", "sub", SYM), ("sub", "", DIR), ("l/x", b"")), "l/x", "through the link"),
    "a folder through a link": (tar(("l", ".", SYM), ("l/sub", "", DIR)), "l/sub", "through the link"),
    "a folder over a link": (tar(("l", ".", SYM), ("l", "", DIR)), "l", "through the link"),
    "a link over a folder": (tar(("d/x", b""), ("d", ".", SYM)), "d", "name of a folder"),
    "a file over a folder": (tar(("d/x", b""), ("d", b"")), "d", "name of a folder"),
    "a file below a file": (tar(("f", b""), ("f/x", b"")), "f/x", "which is a file"),
    "a hard link outside": (tar(("h", "/etc/passwd", HARD)), "/etc/passwd", "absolute"),
    "a hard link up": (tar(("h", "../x", HARD)), "../x", "'..'"),
    "a hard link to nothing": (tar(("h", "later", HARD), ("later", b"")), "h", "does not hold before"),
    "a hard link to a link elsewhere": (tar(("a/l", "x", SYM), ("h", "a/l", HARD)), "h", "another folder"),
    "a pipe": (tar(("p", "", tarfile.FIFOTYPE)), "p", "devices and pipes"),
    "a device": (tar(("d", "", tarfile.CHRTYPE)), "d", "devices and pipes"),
    "a disk": (tar(("d", "", tarfile.BLKTYPE)), "d", "devices and pipes"),
    "a nameless file": (tar((".", b"")), ".", "no name"),
    "a deep name": (tar(("a/" * 101 + "x", b"")), "a/a/", "folders deep"),
    "a long name": (tar(("x" * 256, b"")), "xxx", "too long"),
}


@pytest.mark.parametrize("what", BAD_TARS)
def test_a_tar_with_a_bad_member_is_refused_by_name(tmp_path: Path, what: str) -> None:
    data, name, words = BAD_TARS[what]
    message = refuse(data, tmp_path)
    assert name in message
    assert words in message


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_bad_member_is_found_behind_good_ones_in_every_compression(tmp_path: Path, kind: str) -> None:
    refuse(COMPRESS[kind](tar(("good", os.urandom(5000)), ("../bad", b""))), tmp_path)


BAD_ZIPS = {
    "a climbing name": (zipped(("../x", b"")), "'..'"),
    "an absolute name": (zipped(("/x", b"")), "absolute"),
    "an absolute link": (zipped(("l", b"/etc", stat.S_IFLNK)), "absolute"),
    "a climbing link": (zipped(("l", b"..", stat.S_IFLNK)), "out of the archive"),
    "a file through a link": (zipped(("l", b".", stat.S_IFLNK), ("l/x", b"")), "through the link"),
    "a pipe": (zipped(("p", b"", stat.S_IFIFO)), "devices and pipes"),
    "a long link": (zipped(("l", b"x" * 5000, stat.S_IFLNK)), "too long"),
    "another compression": (zipped(("x", b"x"), method=zipfile.ZIP_LZMA), "compression method 14"),
}


@pytest.mark.parametrize("what", BAD_ZIPS)
def test_a_zip_with_a_bad_member_is_refused(tmp_path: Path, what: str) -> None:
    data, words = BAD_ZIPS[what]
    assert words in refuse(data, tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(("secret", b"x")))
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + offset] |= 1
    assert "'secret' is encrypted" in refuse(bytes(data), tmp_path)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_truncated_tar_is_refused_wherever_it_ends(tmp_path: Path, kind: str) -> None:
    data = COMPRESS[kind](tar(("a", os.urandom(1024)), ("b", os.urandom(700))))
    needed = 3072 + 512 if kind == "tar" else len(data)  # of the zeros that end a tar, one block tells the end
    assert needed > 1724, "the content cannot be packed"
    for end in (1, 5, 511, 512, 513, 1000, 1536, needed - 513, needed - 8, needed - 1):
        refuse(data[:end], tmp_path)


def test_a_truncated_or_damaged_zip_is_refused(tmp_path: Path) -> None:
    data = zipped(("a", os.urandom(1000)), ("b", os.urandom(1000)), method=zipfile.ZIP_STORED)
    for end in (5, 100, len(data) // 2, len(data) - 1):
        refuse(data[:end], tmp_path)
    damaged = bytearray(data)
    damaged[500] ^= 0xFF
    assert "CRC" in refuse(bytes(damaged), tmp_path)


def test_damage_in_the_middle_of_a_tar_is_not_taken_for_its_end(tmp_path: Path) -> None:
    data = bytearray(tar(("a", b"x" * 512), ("b", b"y" * 512)))
    data[1024 + 10] ^= 0xFF
    assert "corrupt" in refuse(bytes(data), tmp_path)


def test_a_wrong_checksum_after_the_last_member_is_noticed(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar(("a", b"x"))))
    data[-8] ^= 0xFF
    assert "corrupt" in refuse(bytes(data), tmp_path)


@pytest.mark.parametrize("data", [b"", b"x", b"hello world" * 100, b"\0" * 100, b"\x89PNG\r\n", b"{}"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "is no tar" in refuse(data, tmp_path)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
def test_compressed_data_that_is_no_tar_is_refused(tmp_path: Path, kind: str) -> None:
    assert "no tar" in refuse(COMPRESS[kind](b"print('hello')\n" * 200), tmp_path)


def test_too_many_files_or_folders_are_refused(tmp_path: Path) -> None:
    limits = Limits(files=10)
    unpack(io.BytesIO(tar(*((f"f{i}", b"") for i in range(10)))), tmp_path / "ok", limits)
    (tmp_path / "ok" / "f0").unlink()
    place = tmp_path / "place"
    place.mkdir()
    assert "'f10' is one too many" in refuse(tar(*((f"f{i}", b"") for i in range(11))), place, limits, Code.TOO_LARGE)
    refuse(zipped(*((f"f{i}", b"") for i in range(11))), place, limits, Code.TOO_LARGE)
    refuse(tar(("a/b/c/d/e/f/g/h/i/j/k", b"")), place, limits, Code.TOO_LARGE)
    refuse(tar(*(("same", b"") for _ in range(11))), place, limits, Code.TOO_LARGE)


def test_too_much_data_is_refused_while_it_is_unpacked(tmp_path: Path) -> None:
    limits = Limits(size=10_000)
    for data in (tar(("a", b"x" * 9_999), ("b", b"xx")), zipped(("a", b"x" * 9_999), ("b", b"xx"))):
        assert "'b' is too much" in refuse(data, tmp_path, limits, Code.TOO_LARGE)


def test_a_bomb_is_refused_by_its_ratio_and_small_archives_of_zeros_are_not(tmp_path: Path) -> None:
    limits = Limits(ratio=50, ratio_from=1 << 20)
    for data in (gzip.compress(tar(("z", bytes(4 << 20)))), zipped(("z", bytes(4 << 20)))):
        assert "times its packed size" in refuse(data, tmp_path, limits, Code.TOO_LARGE)
    assert unpack(io.BytesIO(gzip.compress(tar(("z", bytes(1 << 19))))), tmp_path / "dest", limits).size == 1 << 19


def test_a_zip_that_claims_less_than_it_holds_is_not_believed(tmp_path: Path) -> None:
    data = bytearray(zipped(("a", b"x" * 100_000)))
    for header, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(header) + offset
        data[place : place + 4] = (10).to_bytes(4, "little")
    assert "corrupt" in refuse(bytes(data), tmp_path)


def test_holes_of_a_sparse_file_count_as_data(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("holes")
        entry.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,1", "GNU.sparse.name": "holes"}
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    assert "is too much" in refuse(packed.getvalue(), tmp_path, Limits(size=1 << 22), Code.TOO_LARGE)


def test_a_header_that_claims_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        entry = tarfile.TarInfo("big")
        entry.type, entry.size = kind, 5 << 30
        refuse(entry.tobuf(tarfile.GNU_FORMAT) + bytes(2048), tmp_path)


def test_a_negative_size_does_not_hang(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("back")
    block = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + (0x10000 - 512).to_bytes(2, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    refuse(bytes(block) + bytes(1024), tmp_path)


def test_headers_without_end_are_refused(tmp_path: Path) -> None:
    record = tarfile.TarInfo("g")
    record.type, record.size = tarfile.XGLTYPE, 512
    block = record.tobuf(tarfile.USTAR_FORMAT) + b"10 a=bbbb\n" + bytes(502)
    refuse(block * 5000 + bytes(1024), tmp_path)


def test_an_xz_header_that_wants_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    packer = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    data = bytearray(packer.compress(tar(("a", b"x"))) + packer.flush())
    data[16] = 34  # block header: the property byte of LZMA2 for a dictionary of 512 MiB
    assert data[12] == 2, "a block header of 12 bytes"
    data[20:24] = binascii.crc32(bytes(data[12:20])).to_bytes(4, "little")
    assert "Memory usage limit" in refuse(bytes(data), tmp_path)


def test_a_taken_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path)
    data = io.BytesIO(tar(("a", b"x")))
    for name in ("dest", "dest/mine", "link"):
        with pytest.raises(LocalmlError) as caught:
            unpack(data, tmp_path / name)
        assert caught.value.code == Code.CONFLICT
    (tmp_path / "dest" / "mine").unlink()
    unpack(data, tmp_path / "dest")
    assert contents(tmp_path / "dest") == {"a": b"x"}


def test_a_missing_archive_or_a_folder_is_said_to_be_so(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "none.tar", Code.NOT_FOUND), (tmp_path, Code.INVALID)):
        with pytest.raises(LocalmlError) as caught:
            unpack(path, tmp_path / "dest")
        assert caught.value.code == code
    assert os.listdir(tmp_path) == []


def test_an_interrupted_unpacking_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(io.BytesIO(tar(("a", b"x"))), tmp_path / "dest", progress=interrupt)
    assert os.listdir(tmp_path) == []


def test_a_member_is_named_even_when_its_name_is_no_text(tmp_path: Path) -> None:
    message = refuse(tar(("\udcff/../x", b"")), tmp_path)
    message.encode()
    assert "udcff" in message


def test_the_meter_allows_exactly_the_limit() -> None:
    meter = Meter(Limits(files=2, size=5), lambda: 1)
    meter.made("a", 2)
    meter.wrote("a", 5)
    with pytest.raises(LocalmlError):
        meter.wrote("a", 1)


@pytest.mark.parametrize("name", ["model.tar.gz", "model.tgz", "MODEL.TAR"])
@pytest.mark.parametrize("top", ["", "model/"])
def test_the_only_file_of_a_folder_gives_way_to_what_is_in_it(tmp_path: Path, name: str, top: str) -> None:
    mode = "w" if name.endswith("TAR") else "w:gz"
    with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
        for path in ("model.onnx", "labels/en.txt"):
            member = tarfile.TarInfo(top + path)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    unpack_in_place(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "labels/en.txt",
        "model.onnx",
    ]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_other_files_stay_as_they_are(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as packed:  # PyTorch's own format is a zip
        packed.writestr("net/data.pkl", b"x")
    unpack_in_place(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
    (tmp_path / "second.zip").write_bytes((tmp_path / "net.pt").read_bytes())
    unpack_in_place(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt", "second.zip"]
