"""Submitting over HTTP: beside F, with none and with ten thousand waiting, from eight clients, through each API.

All four GPUs are held by jobs that go on, and every job asks for one: so each submission waits, as it does wherever
there is a queue. "None waiting" is this: each job is asked to stop as soon as it was acknowledged (outside the measured
time), and the next one is submitted at once, without a pause in which the server could catch up; so the queue doesn't
grow, and whatever a submission leaves to be done is in the next one's way.
"""

from __future__ import annotations

import hashlib
import io
import statistics
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

from bench.client import Answer, Client
from bench.floor import SUBMIT, floor_server
from bench.rows import Row, folder, from_threads, ms, percentile, times
from bench.server import GPUS, IMAGE, Server, fill, serving

_WARM = 20
_LONG = 10_000


@dataclass
class Api:
    """One API's submission, and how it is undone. ``times`` are seconds; ``send`` is a request that goes before it and
    is part of it."""

    name: str
    server: Server
    submit: Callable[[str], bytes]
    undo: Callable[[str, Answer], None]
    times: list[float] = field(default_factory=list)
    send: Callable[[str], bytes] | None = None

    def one(self, client: Client, name: str) -> float:
        """Submit and undo once; seconds of the submission."""
        before = client.timed(self.send(name))[0] if self.send is not None else 0.0
        spent, answer = client.timed(self.submit(name))
        self.undo(name, answer)
        return before + spent


def http_submit(quick: bool) -> Iterator[Row]:
    """One client with none waiting, then with 10,000, then eight clients."""
    rounds, each = (40, 20) if quick else (300, 150)
    long = _LONG // 10 if quick else _LONG
    with folder() as path, floor_server() as floor_port:
        with _busy(path / "none", 0) as server:
            f, native = _beside_f(floor_port, server, rounds)
        yield _over_floor("submit over HTTP, one client, none waiting: p50", native, f)
        with _busy(path / "long", long) as server:
            f, slow = _beside_f(floor_port, server, rounds)
            yield _over_none(f"the same with {long:,} waiting: p50", slow, statistics.median(native), f)
            yield from _eight(floor_port, server, each, long)


@contextmanager
def _busy(data: Path, waiting: int) -> Iterator[Server]:
    """A server whose GPUs are all held, with so many jobs that wait for them."""
    fill(data, waiting=GPUS + waiting)
    with serving(data, "fake") as server:
        server.await_leases()
        yield server


def _over_floor(what: str, native: list[float], f: float) -> Row:
    p50 = statistics.median(native)
    return Row(what, f"{ms(p50)} ({times(p50 / f)})", "<= 3 F", f"{ms(f)} F; {_tail(native)}", p50 <= 3 * f)


def _over_none(what: str, native: list[float], none: float, f: float) -> Row:
    p50 = statistics.median(native)
    beside = f"{ms(none)} none waiting, {ms(f)} F; {_tail(native)}"
    return Row(what, f"{ms(p50)} ({times(p50 / none)})", "<= 1.3 of none", beside, p50 <= 1.3 * none)


def _tail(found: list[float]) -> str:
    """What a median hides: a server that is quick and stuck in turns."""
    return f"mean {ms(statistics.fmean(found))}, p99 {ms(percentile(found, 0.99))}"


def _beside_f(floor_port: int, server: Server, rounds: int) -> tuple[float, list[float]]:
    """The median of F, and the times of the native submission, in turns."""
    api = native_api(server)
    with closing(Client(floor_port)) as bare, closing(server.client()) as client:
        for n in range(_WARM):
            api.one(client, f"w{n}")
        pairs = [(bare.time(SUBMIT), api.one(client, f"x{n}")) for n in range(rounds)]
    return statistics.median(one for one, _ in pairs), [other for _, other in pairs]


def _eight(floor_port: int, server: Server, each: int, long: int) -> Iterator[Row]:
    bare = [Client(floor_port) for _ in range(8)]
    clients = [server.client() for _ in range(8)]
    api = native_api(server)
    _, floor_rate = from_threads(8, each, lambda k, _: bare[k].time(SUBMIT))
    found, rate = from_threads(8, each, lambda k, n: clients[k].time(api.submit(f"e{k}-{n}")))
    for one in (*bare, *clients):
        one.close()
    p50, p99 = statistics.median(found), percentile(found, 0.99)
    what = f"8 clients, {long:,} waiting"
    share = f"{rate:.0f}/s ({floor_rate / rate:.2f} times slower)"
    yield Row(f"{what}: rate", share, ">= F / 3, 500/s", f"{floor_rate:.0f}/s F", rate >= max(500, floor_rate / 3))
    kept = p99 <= min(10 * p50, 0.05)
    yield Row(f"{what}: p99", ms(p99), "<= 10 p50, 50 ms", f"p50 {ms(p50)}", kept)


def vendors(quick: bool) -> Iterator[Row]:
    """Each vendor's submission beside the native one, in turns, none waiting; WMLA's, which brings its model along,
    beside a native one that sends its code first."""
    with folder() as path, _busy(path / "data", 0) as server, closing(server.client()) as client:
        alone = [native_api(server), _cloudml(server), _openpai(server), _mlbench(server)]
        with_code = [_native_with_code(server), _wmla(server)]
        for n in range(_WARM + (30 if quick else 200)):
            for api in alone + with_code:
                api.times.append(api.one(client, f"{api.name.lower().replace(' ', '-')}-{n}"))
    for native, *others in (alone, with_code):
        yield from _beside(native, others)


def _beside(native: Api, others: list[Api]) -> Iterator[Row]:
    floor, beside = statistics.median(native.times[_WARM:]), native.name.lower()
    for api in others:
        p50 = statistics.median(api.times[_WARM:])
        measured = f"{ms(p50)} ({times(p50 / floor)})"
        yield Row(f"{api.name} submit: p50", measured, f"<= 1.5 {beside}", f"{ms(floor)} {beside}", p50 <= 1.5 * floor)


def native_api(server: Server) -> Api:
    """localml's own."""

    spec = {"roles": [{"command": ["true"], "resources": {"gpu": 1}}]}

    def submit(name: str) -> bytes:
        return server.native("POST", "/workloads", {"name": name, "spec": spec})

    return Api("Native", server, submit, lambda _, answer: server.ask("DELETE", f"/workloads/{answer.json['id']}"))


def _cloudml(server: Server) -> Api:
    def submit(name: str) -> bytes:
        image = {"docker_image": IMAGE, "docker_command": "true"}
        given = {"job_name": name, "module_name": "trainer.task", "trainer_uri": "fds://bucket/trainer.tar.gz"}
        return server.cloudml("POST", "/train", {**given, **image, "gpu_limit": "1"})

    def undo(name: str, _: Answer) -> None:
        server.control.send(server.cloudml("DELETE", f"/train/{name}?org_id=default"))

    return Api("Cloud-ML", server, submit, undo)


def _openpai(server: Server) -> Api:
    needs = {"taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 1}
    roles = [{"name": "main", "command": "true", **needs}]

    def undo(name: str, _: Answer) -> None:
        server.control.send(server.openpai("PUT", f"/jobs/{name}/executionType", {"value": "STOP"}))

    return Api("OpenPAI", server, lambda n: server.openpai("POST", "/jobs", {"jobName": n, "taskRoles": roles}), undo)


def _mlbench(server: Server) -> Api:
    """Only one run may be active at a time, so the end of each is waited for."""

    def submit(name: str) -> bytes:
        form = {
            "name": name,
            "num_workers": 1,
            "num_cpus": 0.5,
            "max_bandwidth": 1000,
            "image_name": "custom_image",
            "custom_image_name": IMAGE,
            "custom_image_command": "true",
            "run_all_nodes": "true",
            "gpu_enabled": "true",
            "light_target": "false",
        }
        return server.mlbench("POST", "/runs/", urlencode(form))

    def undo(_: str, answer: Answer) -> None:
        number = int(answer.json["id"])
        server.ask("POST", f"/workloads/{number}/stop")
        server.settled(number)

    return Api("MLBench", server, submit, undo)


def _native_with_code(server: Server) -> Api:
    """localml's own, after an archive of one small file, another one each time."""

    def code(name: str) -> tuple[str, bytes]:
        made, content = io.BytesIO(), f"# {name}".encode()
        with tarfile.open(fileobj=made, mode="w") as archive:
            member = tarfile.TarInfo("main.py")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        return f"sha256:{hashlib.sha256(made.getvalue()).hexdigest()}", made.getvalue()

    def send(name: str) -> bytes:
        digest, archive = code(name)
        return server.native("PUT", f"/code/{digest}", archive)

    def submit(name: str) -> bytes:
        roles = [{"command": ["python", "main.py"], "resources": {"gpu": 1}}]
        return server.native("POST", "/workloads", {"name": name, "spec": {"roles": roles, "code": code(name)[0]}})

    undo = native_api(server).undo
    return Api("Native with code", server, submit, undo, send=send)


def _wmla(server: Server) -> Api:
    """A model of one small file goes along, another one each time: it is on disk before the answer."""
    line = "between-parts"
    head = f'--{line}\r\nContent-Disposition: form-data; name="file"; filename="main.py"\r\n\r\n'

    def submit(name: str) -> bytes:
        args = quote("--exec-start PyTorch --model-main main.py --workerDeviceNum 1")
        body = f"{head}# {name}\r\n--{line}--\r\n".encode()
        return server.wmla("POST", f"/execs?args={args}", body, Content_Type=f"multipart/form-data; boundary={line}")

    def undo(_: str, answer: Answer) -> None:
        server.control.send(server.wmla("DELETE", f"/execs/{answer.json['id']}"))

    return Api("WMLA", server, submit, undo)
