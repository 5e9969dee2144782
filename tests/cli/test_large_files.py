"""Files beyond what other requests may have: copied, registered and served; in the server's disk, not its memory."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.models import serving_server
from helpers.server_process import servers
from onnx import TensorProto, helper

from localml.client import Client
from localml.testing import Localml

Cli = Callable[..., Any]
MIB = 1 << 20
KERNEL = """
import pathlib
class Sizes:
    inputs = outputs = [("x", "INT64", [-1])]
    def load(self, path): self.size = (pathlib.Path(path) / "weights.bin").stat().st_size
    def predict(self, inputs): return {"x": inputs["x"] * 0 + self.size}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    with serving_server(tmp_path_factory.mktemp("large")) as running:
        yield running


@pytest.fixture
def call(command: Cli, served: Localml, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("LOCALML_DATA", str(served.platform.data))
    return command


def _sparse(path: Path, size: int) -> Path:
    """A file of zeros that takes no room, with another byte at its end."""
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size - 1)
        file.write(b"\1")
    return path


@pytest.mark.parametrize("size", [15 * MIB, 16 * MIB, 17 * MIB])
def test_a_file_is_copied_in_and_out(call: Cli, tmp_path: Path, size: int) -> None:
    path = _sparse(tmp_path / "f", size)
    done = call("cp", str(path), "fds://large/f")
    assert (done.code, f"1 file(s), {size} bytes" in done.err) == (0, True), done.err
    assert call("cp", "fds://large/f", str(tmp_path / "back")).code == 0
    assert _digest(tmp_path / "back") == _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _large_model(path: Path, last: float = 2) -> Path:
    """An ONNX file of 17 MiB, whose weights are needed for its answer: they are zeros but for the last."""
    count = 17 * MIB // 4
    weights = bytes(4 * count - 4) + struct.pack("<f", last)
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["weights"], ["sum"], keepdims=0), helper.make_node("Mul", ["x", "sum"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("weights", TensorProto.FLOAT, [count], weights, raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_of_17_mib_is_registered_and_served(call: Cli, tmp_path: Path) -> None:
    path = _large_model(tmp_path / "large.onnx")
    assert path.stat().st_size > 17 * MIB
    done = call("register", "large", str(path))
    assert (done.code, "error" in done.err) == (0, False), done.err
    done = call("serve", str(path), "--name", "big")
    assert (done.code, "error" in done.err) == (0, False), done.err
    assert call("predict", "big", "[3]").out == "y FP32[1]\n[6.0]\n"
    done = call("rollout", "big", str(_large_model(tmp_path / "larger.onnx", last=5)))
    assert (done.code, "error" in done.err) == (0, False), done.err
    assert call("predict", "big", "[3]").out == "y FP32[1]\n[15.0]\n"


class _Stream(io.RawIOBase):
    """What comes from elsewhere: it has no length."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(self.left, len(buffer))
        self.left -= size
        buffer[:size] = bytes(size)
        return size


@pytest.mark.parametrize("size", [15 * MIB, 17 * MIB])
@pytest.mark.parametrize("form", ["bytes", "file", "stream"])
def test_the_client_puts_and_fetches(served: Localml, tmp_path: Path, size: int, form: str) -> None:
    with _sparse(tmp_path / "f", size).open("rb") as file:
        sources = {"bytes": bytes(size), "file": file, "stream": io.BufferedReader(_Stream(size))}
        assert served.client.put("fds://put/f", sources[form]) == size
    assert sum(map(len, served.client.fetch("fds://put/f"))) == size


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_600_mib_are_served(call: Cli, tmp_path: Path, long_form: bool) -> None:
    """The folder is copied in and registered by this; the memory that copies take is measured below."""
    folder = tmp_path / "heavy"
    folder.mkdir()
    (folder / "kernel.py").write_text(KERNEL)
    path = _sparse(folder / "weights.bin", 600 * MIB)
    done = call("serve", str(folder))
    assert (done.code, "error" in done.err) == (0, False), done.err
    assert call("predict", "heavy", "[1]").out == f"x INT64[1]\n[{600 * MIB}]\n"
    if long_form:
        with path.open("ab") as file:
            file.truncate(600 * MIB + 1)
        done = call("rollout", "heavy", str(folder))
        assert (done.code, "error" in done.err) == (0, False), done.err
        assert call("predict", "heavy", "[1]").out == f"x INT64[1]\n[{600 * MIB + 1}]\n"


@pytest.mark.slow
def test_the_servers_memory_stays_flat(tmp_path: Path) -> None:
    """What is large is sent in one piece, by a client that does not hold it either."""
    path = _sparse(tmp_path / "weights.bin", 600 * MIB)
    with servers(tmp_path / "data") as found:
        pid = found.start().pid
        with Client.connect(tmp_path / "data") as client:
            client.put("fds://large/kernel/kernel.py", KERNEL.encode())
            before = _peak(pid)
            with path.open("rb") as file:
                assert client.put("fds://large/kernel/weights.bin", file) == 600 * MIB
            assert sum(map(len, client.fetch("fds://large/kernel/weights.bin"))) == 600 * MIB
            client.register("heavy", "fds://large/kernel/")
            assert _peak(pid) - before < 64 * MIB


@pytest.mark.slow
def test_the_commands_memory_stays_flat(served: Localml, tmp_path: Path) -> None:
    path = _sparse(tmp_path / "weights.bin", 600 * MIB)
    script = "import sys; from localml.cli.app import run; print(run(sys.argv[1:]), open('/proc/self/status').read())"
    for words in (("cp", str(path), "fds://flat/f"), ("cp", "fds://flat/f", str(tmp_path / "back"))):
        command = [sys.executable, "-c", script, *words, "--data", str(served.platform.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("0 "), done.stderr
        assert _peak_in(done.stdout) < 256 * MIB
    assert (tmp_path / "back").stat().st_size == 600 * MIB


def _peak(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    return _peak_in(Path(f"/proc/{pid}/status").read_text())


def _peak_in(status: str) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10
