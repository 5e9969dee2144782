"""The life of a server: its start, its rest, and what is left of thousands of jobs."""

from __future__ import annotations

import re
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.jobs import drain
from bench.rows import Row, folder, ms, timed
from bench.server import Server, serving

_OVER_LIBRARIES = 0.2
_IDLE_BYTES, _IDLE_SHARE = 100e6, 0.003
_WAVE = 200
_IMPORTED = re.compile(r"^import time: +\d+ \| +\d+ \| +([\w.]+)$", re.MULTILINE)
_IMPORT = """
import importlib, sys
for name in sys.argv[1].split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass
"""
_FIXTURES = """
import sys, time
from pathlib import Path
begin = time.perf_counter()
from localml.testing import start
spent = []
for number in range(int(sys.argv[2])):
    server = start(Path(sys.argv[1]) / str(number))
    spent.append(time.perf_counter() - begin)
    server.close()
    begin = time.perf_counter()
print(*spent)
"""
_RESIDENT = """
import os, flask, sqlmodel
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


def start_up(quick: bool) -> Iterator[Row]:
    """``localml up`` beside importing its libraries, and the test fixture."""
    rounds = 5 if quick else 15
    with folder() as path:
        libraries = " ".join(_libraries(path / "data", path / "imports.txt"))
        pairs = [(_python(_IMPORT, libraries)[0], _up(path / "data")) for _ in range(rounds)]
        floor, up = (statistics.median(column) for column in zip(*pairs, strict=True))
        measured, over = f"{ms(up)} ({(up - floor) * 1000:+.0f} ms)", up - floor
        beside = f"{ms(floor)} importing {len(libraries.split())} modules of libraries"
        yield Row(
            "localml up until the first good answer", measured, "<= floor + 0.2 s", beside, over <= _OVER_LIBRARIES
        )
        first, *others = map(float, _python(_FIXTURES, str(path), str(rounds))[1].split())
    yield Row("test fixture ready, imports included", ms(first), "<= 0.5 s", "", first <= 0.5)
    following = statistics.median(others)
    yield Row("the next fixtures", ms(following), "<= 0.3 s", "", following <= 0.3)


def _up(data: Path) -> float:
    """Seconds until a server answers."""
    begin = time.perf_counter()
    with serving(data, "process"):
        return time.perf_counter() - begin


def _libraries(data: Path, told: Path) -> list[str]:
    """The third-party modules that a server has imported when it answers, in their order."""
    _up(data)  # the first start of all makes keys and tables
    with told.open("wb") as file, serving(data, "process", file.fileno(), PYTHONPROFILEIMPORTTIME="1"):
        pass
    names = _IMPORTED.findall(told.read_text())
    own = {"localml", "__main__", "sitecustomize", "usercustomize", *sys.stdlib_module_names}
    return [name for name in names if name.partition(".")[0] not in own and not name.startswith("__editable__")]


def _python(program: str, *arguments: str) -> tuple[float, str]:
    """Seconds that a Python program takes, and what it prints."""
    begin = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - begin, run.stdout


def idle(quick: bool) -> Iterator[Row]:
    """A server that has served every API once and does nothing now."""
    from localml.engines.docker import docker_available

    engine = "process" if docker_available() else "docker"
    with folder() as path:
        _up(path / "data")  # what idles for weeks is a later start
        with serving(path / "data", engine) as server:
            for raw in (
                server.native("GET", "/status"),
                server.cloudml("GET", "/quota"),
                server.openpai("GET", "/virtual-clusters"),
                server.mlbench("GET", "/pods/"),
            ):
                server.control.send(raw)
            yield from _rest(server, f"idle server ({engine}, all APIs served once)", quick)


def _rest(server: Server, what: str, quick: bool) -> Iterator[Row]:
    """Memory and processor time of a server that is left alone."""
    seconds = 5 if quick else 20
    time.sleep(3)
    before = server.cpu()
    time.sleep(seconds)
    share, memory = (server.cpu() - before) / seconds, server.resident()
    floor = int(_python(_RESIDENT)[1])
    beside = f"{floor / 1e6:.0f} MB flask and sqlmodel alone"
    yield Row(f"{what}: resident", f"{memory / 1e6:.0f} MB", "<= 100 MB", beside, memory <= _IDLE_BYTES)
    yield Row(f"{what}: CPU", f"{share:.2%} of a core", "<= 0.3 %", "", share <= _IDLE_SHARE)


@dataclass(frozen=True)
class Held:
    """What a server holds at one moment; memory and database in bytes."""

    memory: int
    threads: int
    files: int
    database: int

    @classmethod
    def of(cls, server: Server) -> Held:
        """Look at a server."""
        proc = Path(f"/proc/{server.pid}")
        with closing(sqlite3.connect(f"file:{server.data / 'localml.db'}?mode=ro", uri=True)) as file:
            pages = file.execute("PRAGMA page_count").fetchone()[0] * file.execute("PRAGMA page_size").fetchone()[0]
        return cls(server.resident(), len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir())), pages)


def many_jobs(quick: bool) -> Iterator[Row]:
    """Thousands of jobs through one server: what the second half adds to what the first one left."""
    count = 2_000 if quick else 20_000
    with folder() as path, serving(path / "data", "process") as server:
        _waves(server, _WAVE, "warm")
        begin = Held.of(server)
        _waves(server, count // 2, "first")
        half = Held.of(server)
        spent = timed(lambda: _waves(server, count // 2, "second"))
        end = Held.of(server)
        yield from _growth(count, begin, half, end, count / 2 / spent)
        yield from _rest(server, f"idle after {count:,} jobs", quick)


def _waves(server: Server, count: int, name: str) -> None:
    for wave in range(count // _WAVE):
        drain(server, _WAVE, f"{name}-{wave}")


def _growth(count: int, begin: Held, half: Held, end: Held, rate: float) -> Iterator[Row]:
    first, second = half.memory - begin.memory, end.memory - half.memory
    what, beside = f"{count:,} jobs", f"{first / 1e6:+.1f} MB by the first half; {rate:.0f} jobs/s"
    yield Row(f"{what}: memory", f"{second / 1e6:+.1f} MB", "<= +3 MB", beside, second <= 3e6)
    for name, before, after in (("threads", half.threads, end.threads), ("open files", half.files, end.files)):
        more, beside = after - before, f"{before} after the first half"
        yield Row(f"{what}: {name}", f"{more:+d}", "<= +4", beside, more <= 4)
    per_job = [(half.database - begin.database) / (count / 2), (end.database - half.database) / (count / 2)]
    yield Row(
        f"{what}: database, a job",
        f"{per_job[1]:.0f} bytes",
        "<= 1.1 of 1st half",
        f"{per_job[0]:.0f} bytes in the first half",
        per_job[1] <= 1.1 * per_job[0],
    )
