"""OpenSSH's own programs against a job, with nothing but what the server's answers say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 60


class OpenSsh:
    """``ssh``, ``scp`` and ``sftp`` with one key to one address. The user's own configuration is left out."""

    def __init__(self, folder: Path, host: str, port: int | str, key: bytes | str) -> None:
        if shutil.which("ssh") is None:
            pytest.skip("OpenSSH's client is not installed (scripts/test does it)")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.host, self.port = folder, host, str(port)
        file = folder / "key"
        file.write_bytes(key if isinstance(key, bytes) else key.encode())
        file.chmod(0o600)
        options = {
            "IdentityFile": file,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": folder / "known_hosts",
            "LogLevel": "ERROR",
        }
        self.options = ["-F", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())]
        self.target = f"root@{host}"

    def arguments(self, *words: str) -> list[str]:
        """The command line of ``ssh``; options may come first among the words."""
        options = [word for word in words if word.startswith("-")]
        rest = [word for word in words if not word.startswith("-")]
        return ["ssh", *self.options, *options, "-p", self.port, self.target, *rest]

    def __call__(self, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command line, or a shell without one; ``given`` is its input."""
        return subprocess.run(self.arguments(*words), input=given, capture_output=True, timeout=TIMEOUT_S, check=False)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start it, and leave it running."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.arguments(*words), stdin=pipe, stdout=pipe, stderr=pipe)

    def scp(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Copy; ``:path`` is on the other side."""
        given = [f"{self.target}{word}" if word.startswith(":") else word for word in words]
        command = ["scp", *self.options, "-P", self.port, *given]
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)

    def sftp(self, *lines: str) -> subprocess.CompletedProcess[bytes]:
        """Run a batch, which ends at the first failure."""
        command = ["sftp", *self.options, "-P", self.port, "-b", "-", self.target]
        text = "".join(f"{line}\n" for line in lines).encode()
        return subprocess.run(command, input=text, capture_output=True, timeout=TIMEOUT_S, check=False)


def ok(done: subprocess.CompletedProcess[bytes]) -> bytes:
    """The output of what must have succeeded."""
    assert done.returncode == 0, f"{done.returncode}: {done.stdout!r} {done.stderr!r}"
    return done.stdout


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Exit code and output of a program that must end by itself."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out, err


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    """Wait for it."""
    assert process.stdout is not None
    return bytes(process.stdout.readline())


def doors(access: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``role/index`` -> door."""
    return {f"{door['role']}/{door['index']}": door for door in access["doors"]}
