"""What lies in a model's folder.

Either the folder holds one model (then its version is "1"), or folders named by whole numbers hold one version each. A
model is ``model.onnx`` or the only ``*.onnx`` file, or a Python kernel (``kernel.py``, or the module that ``--kernel``
names), or a ``model.json`` that names the kernel of a WMLA inference service. Other files beside it belong to it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from onnx_server.errors import LoadError
from onnx_server.kernel_names import DEFAULT_MODULE
from onnx_server.redhare import description

_IGNORED = {"__pycache__"}
_COPIES = "onnx-server-"


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
    """An ONNX model's files as they were when it was loaded, in a folder of its own.

    onnxruntime maps files of external data, and a worker that died is started again from the files: neither may see
    what is being written over them. Where nobody here can write, the files are used where they lie; kernels are, too,
    because they may know of what is beside their folder.

    Raises:
        LoadError: they cannot be copied.
    """

    def __init__(self, source: Source, kernel: str) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.folder = source.folder
        if what(source.folder, kernel)[0] != "onnx" or not os.access(source.folder, os.W_OK):
            return
        try:
            _remove_left_ones()
            self._temporary = tempfile.TemporaryDirectory(prefix=f"{_COPIES}{os.getpid()}-", ignore_cleanup_errors=True)
            self.folder = Path(self._temporary.name) / source.folder.resolve().name
            ignored = shutil.ignore_patterns(*_IGNORED)
            shutil.copytree(source.folder, self.folder, ignore=ignored, ignore_dangling_symlinks=True)
        except OSError as error:
            self.remove()
            raise LoadError(f"{source.folder} cannot be copied to {tempfile.gettempdir()}: {error}") from error

    def remove(self) -> None:
        """Remove it; nothing uses it any more."""
        if self._temporary is not None:
            self._temporary.cleanup()


def _remove_left_ones() -> None:
    """Remove the copies of servers that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_COPIES}*-*"):
        pid = path.name.removeprefix(_COPIES).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


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
