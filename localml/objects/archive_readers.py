"""Reading tar and zip archives member by member, without believing them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Protocol

from localml.objects.archive_rules import MemberKind, Meter, corrupt, refused

BLOCK = 512
CHUNK = 1 << 20
MAX_HEADER = 1 << 20  # long names, pax records and sparse maps of one member
MAX_DIRECTORY = 64 << 20  # a zip's table of contents
MAX_XZ_MEMORY = 256 << 20  # xz -9 needs 65 MiB; a header may claim 4 GiB
MAX_TARGET = 4096

_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_ENCRYPTED = 0x1
_ENTRY = b"PK\1\2"


class Reader(Protocol):
    """The one thing that is asked of a source of bytes."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. ``open`` gives the content of a file and must be read before the next member is asked for."""

    name: str
    kind: MemberKind
    mode: int = 0o644
    target: str = ""
    open: Callable[[], IO[bytes] | None] = lambda: None


def sniff(file: BinaryIO) -> str:
    """What the bytes say that it is: ``tar``, ``tar.gz``, ``tar.bz2``, ``tar.xz``, ``zip``, or empty for none.

    A compressed file is taken for a tar here; reading it tells whether it is one.
    """
    file.seek(0)
    head = file.read(BLOCK)
    file.seek(0)
    for magic, kind in (
        (b"\x1f\x8b", "tar.gz"),
        (b"BZh", "tar.bz2"),
        (b"\xfd7zXZ\x00", "tar.xz"),
        (b"PK\x03\x04", "zip"),
        (b"PK\x05\x06", "zip"),
    ):
        if head.startswith(magic):
            return kind
    return "tar" if _is_tar_block(head) else ""


def _is_tar_block(block: bytes) -> bool:
    if len(block) == BLOCK and not block.strip(b"\0"):
        return True  # a tar without members
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def tar_members(file: BinaryIO, kind: str, meter: Meter) -> Iterator[Member]:
    """The members of a tar, and at its end a check that it is whole."""
    stream = _TarStream(_decompressed(file, kind), meter)
    first = stream.read(BLOCK)
    if kind != "tar" and not _is_tar_block(first):
        raise corrupt("what is compressed is no tar archive")
    stream.unread(first)
    with tarfile.open(
        fileobj=stream,  # type: ignore[call-overload]
        mode="r:",
        encoding="utf-8",
        errors="surrogateescape",
    ) as archive:
        while True:
            stream.begin_header()
            entry = archive.next()
            if entry is None:
                break
            stream.begin_content()
            yield _tar_member(archive, entry)
    if stream.last_block != bytes(BLOCK):
        raise corrupt("the end of the archive is missing")
    stream.drain()


def _tar_member(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Member:
    if entry.isdir():
        return Member(entry.name, MemberKind.FOLDER)
    if entry.issym():
        return Member(entry.name, MemberKind.SYMLINK, target=entry.linkname)
    if entry.islnk():
        return Member(entry.name, MemberKind.HARDLINK, target=entry.linkname)
    if not entry.isreg():
        raise refused(entry.name, "is neither file, folder nor link (devices and pipes are not unpacked)")
    return Member(entry.name, MemberKind.FILE, entry.mode, open=lambda: archive.extractfile(entry))


def _decompressed(file: BinaryIO, kind: str) -> Reader:
    if kind == "tar.gz":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if kind == "tar.bz2":
        return bz2.BZ2File(file, "rb")
    return _XzReader(file) if kind == "tar.xz" else file


class _XzReader:
    """Reads xz data, several streams one after the other too, with a limit on the decompressor's memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ready = b""
        self._start()

    def _start(self) -> None:
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        pieces = [self._ready[:size]]
        self._ready = self._ready[size:]
        missing = size - len(pieces[0])
        while missing:
            piece = self._more(missing)
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _more(self, size: int) -> bytes:
        """At least one and at most ``size`` bytes, none at the end."""
        while True:
            if self._xz.eof:
                packed = (self._xz.unused_data or self._file.read(CHUNK)).lstrip(b"\0")  # padding between streams
                if not packed:
                    return b""
                self._start()
            else:
                packed = self._file.read(CHUNK) if self._xz.needs_input else b""
                if self._xz.needs_input and not packed:
                    raise EOFError("xz data ends too early")
            piece = self._xz.decompress(packed, size)
            if piece:
                return piece


class _TarStream:
    """What ``tarfile`` reads from: forward only, counted, and with a bound on what one header may make it read.

    Without that bound a header that claims gigabytes of pax records is read into memory as a whole.
    """

    def __init__(self, source: Reader, meter: Meter) -> None:
        self._source = source
        self._meter = meter
        self._position = 0
        self._pushed = b""
        self._header_left: int | None = MAX_HEADER
        self.last_block = b""

    def begin_header(self) -> None:
        """What is read from now on belongs to a member's header."""
        self._header_left = MAX_HEADER

    def begin_content(self) -> None:
        """What is read from now on is a member's content, which others count."""
        self._header_left = None

    def unread(self, data: bytes) -> None:
        """Give back the first bytes, so that they are read again."""
        self._pushed = data
        self._position -= len(data)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise corrupt("a header claims a negative size")
        if self._header_left is not None:
            if size > self._header_left:
                raise corrupt("a header is larger than any honest one")
            self._header_left -= size
        data = self._take(size)
        if size == BLOCK:
            self.last_block = data
        return data

    def _take(self, size: int) -> bytes:
        if self._pushed:
            data, self._pushed = self._pushed[:size], self._pushed[size:]
        else:
            data = self._source.read(size)
            self._meter.streamed(len(data))
        self._position += len(data)
        return data

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self._position:
            raise corrupt("a header points backwards")
        while self._position < position and self._take(min(CHUNK, position - self._position)):
            pass
        return self._position

    def drain(self) -> None:
        """Read on to the end, where gzip, bzip2 and xz keep their checksums."""
        while self._take(CHUNK):
            pass


def zip_members(file: BinaryIO, meter: Meter) -> Iterator[Member]:
    """The members of a zip."""
    capped = _CappedFile(file, meter)
    with zipfile.ZipFile(capped) as archive:
        capped.opening = False
        for entry in archive.infolist():
            yield _zip_member(archive, entry)


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Member:
    if entry.flag_bits & _ENCRYPTED:
        raise refused(entry.filename, "is encrypted")
    if entry.compress_type not in _ZIP_METHODS:
        raise refused(entry.filename, f"uses compression method {entry.compress_type}, which is not supported")
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if entry.is_dir():
        return Member(entry.filename, MemberKind.FOLDER)
    if kind == stat.S_IFLNK:
        with archive.open(entry) as content:
            target = content.read(MAX_TARGET + 1)
        if len(target) > MAX_TARGET:
            raise refused(entry.filename, "is a link with a target that is too long")
        return Member(entry.filename, MemberKind.SYMLINK, target=target.decode("utf-8", "surrogateescape"))
    if kind not in (0, stat.S_IFREG):
        raise refused(entry.filename, "is neither file, folder nor link (devices and pipes are not unpacked)")
    return Member(entry.filename, MemberKind.FILE, mode or 0o644, open=lambda: archive.open(entry))


class _CappedFile:
    """A file of which nobody reads more at once than a large, honest zip needs.

    ``opening``: what is read is the table of contents. Its entries are counted before one of them is looked at.
    """

    def __init__(self, file: BinaryIO, meter: Meter) -> None:
        self._file = file
        self._meter = meter
        self.opening = True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, MAX_DIRECTORY + 1) if size >= 0 else MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY:
            raise corrupt("its table of contents is larger than any honest one")
        if self.opening:
            self._meter.announced(data.count(_ENTRY))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
