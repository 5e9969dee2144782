"""What lies in a model's folder.

Either the folder holds one model (then its version is "1"), or folders named by whole numbers hold one version each. A
model is ``model.onnx`` or the only ``*.onnx`` file, or a Python kernel (``kernel.py``, or the module that ``--kernel``
names), or a ``model.json`` that names the kernel of a WMLA inference service. Other files beside it belong to it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from onnx_server.errors import LoadError
from onnx_server.kernel_names import DEFAULT_MODULE
from onnx_server.redhare import DESCRIPTION_FILE, description, leads_out

_IGNORED = {"__pycache__"}
_COPIES = "onnx-server-copy-"
_NOT_LOCKED_YET = 60.0
"""Seconds for which the copy of another server may not have its lock yet."""


@dataclass(frozen=True, slots=True)
class Source:
    """One version as it lies on disk.

    Attributes:
        version: a whole number as text.
        folder: where it lies.
        fingerprint: names, sizes and times of its files; differs when any of them is touched.
        newest: when a file was last changed, in seconds since 1970.
    """

    version: str
    folder: Path
    fingerprint: frozenset[tuple[str, int, int, int]]
    newest: float


def scan(folder: Path) -> dict[str, Source]:
    """The versions in a model's folder, newest first. Empty where there is none, or no folder."""
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_dir() and entry.name.isdecimal()]
    except OSError:
        return {}
    folders = {str(int(entry.name)): Path(entry.path) for entry in entries}
    if not folders:
        folders = {"1": folder}
    found = [_source(version, folders[version]) for version in sorted(folders, key=int, reverse=True)]
    return {source.version: source for source in found if source.fingerprint}


def _source(version: str, folder: Path) -> Source:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _IGNORED]
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except OSError:  # gone meanwhile
                continue
            files.append((os.path.relpath(path, folder), status.st_size, status.st_mtime_ns, status.st_ino))
    newest = max((time for _, _, time, _ in files), default=0) / 1e9
    return Source(version, folder, frozenset(files), newest)


class Copy:
    """A version's files as they were when it was loaded, in a folder of its own in the temporary folder.

    onnxruntime maps files of external data, a kernel may open its files at any time, and a worker that died is started
    again from the files: none may see what is being written over them. And what a kernel writes beside itself lands in
    its copy, so that the model's folder stays as it is and is not taken for a new model. A folder where nobody here can
    write is copied all the same: what a container is given read-only may well change outside.

    The files are used where they lie, and ``note`` says so, where they cannot be copied, where the copy would take more
    than half of what the temporary folder (``TMPDIR``) has left, and where a WMLA kernel's description leads out of
    the folder (``../weights``). Other code that knows of what is beside its folder has to be told where that is.

    Args:
        source: what to copy.
        kernel: ``module:Class`` where the user said that it is a Python kernel.
        frozen: nobody ever changes the files, so that those of an ONNX model need no copy.

    Raises:
        LoadError: there is no model in it.
    """

    def __init__(self, source: Source, kernel: str, *, frozen: bool = False) -> None:
        kind, _ = what(source.folder, kernel)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._lock: int | None = None
        self._source = source.folder
        self.folder = source.folder
        self.note = ""
        if frozen and kind == "onnx":
            return
        try:
            if kind == "redhare" and leads_out(source.folder):
                raise OSError(f"{DESCRIPTION_FILE} leads out of the folder")
            self._make()
        except OSError as error:
            self.remove()
            self.folder = source.folder
            # What copytree could not copy comes as a list of all that failed.
            why = error.args[0][0][2] if isinstance(error, shutil.Error) else error
            self.note = f"its files are used where they lie, so changes reach the running model: {why}"

    def _make(self) -> None:
        _remove_left_ones()
        scratch = tempfile.gettempdir()
        wanted, room = _size(self._source), shutil.disk_usage(scratch).free // 2
        if wanted > room:
            raise OSError(f"a copy of {wanted} bytes is more than half of what {scratch} has left")
        self._temporary = tempfile.TemporaryDirectory(prefix=_COPIES, ignore_cleanup_errors=True)
        self._lock = _locked(self._temporary.name)
        self.folder = Path(self._temporary.name).resolve() / (self._source.resolve().name or "model")
        shutil.copytree(self._source, self.folder, ignore=_left_out)

    def in_users_words(self, text: str) -> str:
        """A message with the folder that the user knows in place of the copy."""
        return text.replace(str(self.folder), str(self._source))

    def remove(self) -> None:
        """Remove it; nothing uses it any more."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _left_out(parent: str, names: list[str]) -> set[str]:
    """What a copy of a folder does without: what Python makes anew, what is no file, and links that lead back up."""
    here = os.path.realpath(parent)
    left = set(_IGNORED.intersection(names))
    for name in names:
        path = os.path.join(parent, name)
        if os.path.isdir(path):
            if os.path.islink(path) and Path(here).is_relative_to(os.path.realpath(path)):
                left.add(name)
        elif not os.path.isfile(path):
            left.add(name)
    return left


def _size(folder: Path) -> int:
    """Bytes of a copy of a folder."""
    total = 0
    for parent, folders, names in os.walk(folder, followlinks=True):
        left = _left_out(parent, folders + names)
        folders[:] = [name for name in folders if name not in left]
        total += sum(os.stat(os.path.join(parent, name)).st_size for name in names if name not in left)
    return total


def _locked(folder: str) -> int | None:
    """A file descriptor that holds the lock on a folder; None where another server holds it.

    The lock tells servers that share a temporary folder whose copies are in use, whatever process ids they see, and
    keeps systemd-tmpfiles from removing old files.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_left_ones() -> None:
    """Remove the copies of servers that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_COPIES}*"):
        try:
            if time.time() - path.stat().st_mtime < _NOT_LOCKED_YET or (lock := _locked(str(path))) is None:
                continue
        except OSError:  # another user's, or gone meanwhile
            continue
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def what(folder: Path, kernel: str) -> tuple[str, Path]:
    """Kind of a version's model (``onnx``, ``python`` or ``redhare``), and the path that its worker gets.

    Args:
        kernel: ``module:Class`` where the user said that it is a Python kernel.

    Raises:
        LoadError: there is no model, or it is not clear which file is it.
    """
    module = (kernel.partition(":")[0] or DEFAULT_MODULE).replace(".", "/")
    if kernel:
        return "python", folder
    if description(folder) is not None:
        return "redhare", folder
    if (folder / "model.onnx").is_file():
        return "onnx", folder / "model.onnx"
    models = sorted(folder.glob("*.onnx"))
    if len(models) == 1:
        return "onnx", models[0]
    if models:
        names = ", ".join(path.name for path in models)
        raise LoadError(f"{folder} has several models ({names}); name the one to serve model.onnx")
    if (folder / f"{module}.py").is_file():
        return "python", folder
    raise LoadError(f"{folder} has no model: a file *.onnx, kernel.py, or a model.json with 'kernel_path'")
