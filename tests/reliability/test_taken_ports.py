"""Somebody else listens where ours should: that something answers at a port does not make it ours."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from helpers.ports import free_port
from helpers.rig import wait_until

from localml.cli.doctor import examine
from localml.client import Client
from localml.config import Config
from localml.control.own_ports import settled
from localml.control.serving.gateway_process import GatewaySupervisor, find, listens_at, stop
from localml.core.errors import Code, LocalmlError
from localml.core.serving.gateway_stats import GatewayAddress, write_address
from localml.platform import Platform
from localml.server import Server

pytestmark = pytest.mark.timeout(180)
LOCALML = [sys.executable, "-m", "localml.cli"]


class _Agreeable(BaseHTTPRequestHandler):
    """Answers 200 to everything, as many a program does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def stranger(port: int = 0) -> Iterator[HTTPServer]:
    """Somebody who is there already."""
    server = HTTPServer(("127.0.0.1", port), _Agreeable)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def gateway_of(data: Path, port: int, *, asked: bool) -> Iterator[tuple[GatewaySupervisor, list[str]]]:
    """Who looks after a gateway, and what it told."""
    told: list[str] = []
    watch = GatewaySupervisor(data, "127.0.0.1", port, tell=lambda _, words, __: told.append(words), asked=asked)
    watch.ensure()
    try:
        yield watch, told
    finally:
        watch.close()
        stop(data, timeout=2)


def test_a_gateway_whose_port_is_somebody_elses_is_not_up(tmp_path: Path) -> None:
    port = free_port()
    with stranger(port) as other, gateway_of(tmp_path, port, asked=True) as (watch, told):
        wait_until(lambda: told, 30)
        assert not watch.listening
        assert watch.url is None, "nobody is sent to a stranger"
        assert f"port {port}" in watch.trouble
        assert f"process {os.getpid()}" in watch.trouble
        assert told[0].startswith(watch.trouble)
        other.shutdown()
        other.server_close()
        wait_until(lambda: watch.listening, 60)
        assert (watch.url, watch.trouble) == (f"http://127.0.0.1:{port}", "")
    assert sum("is tried again" in words for words in told) == 1, "said once, however often it was tried"


def test_it_takes_the_next_port_where_none_was_asked_for(tmp_path: Path) -> None:
    port = free_port()
    with stranger(port), gateway_of(tmp_path, port, asked=False) as (watch, told):
        wait_until(lambda: watch.listening, 60)
        assert watch.url is not None
        assert port < int(watch.url.rsplit(":", 1)[1]) <= port + 50
        assert f"port {port}" in told[0]


def test_a_remembered_port_that_is_somebody_elses_by_now_is_given_up(tmp_path: Path) -> None:
    port = free_port()
    write_address(tmp_path, GatewayAddress(pid=os.getpid(), host="127.0.0.1", port=port, format=1))
    with stranger(port), gateway_of(tmp_path, 0, asked=False) as (watch, _):
        assert not watch.listening, "the number of a process that lives says nothing"
        wait_until(lambda: watch.listening, 60)
        assert watch.url != f"http://127.0.0.1:{port}"


def test_one_that_was_asked_for_is_refused_at_the_start(tmp_path: Path) -> None:
    with stranger() as other:
        for name in ("port", "gateway_port"):
            option = f"--{name.replace('_', '-')}"
            free = ["--port", "0", "--gateway-port", "0", "--engine", "process", "--gpus", "none"]
            run = subprocess.run(
                [*LOCALML, "up", *free, option, str(other.server_port), "--data", str(tmp_path / name)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert run.returncode == 1
            assert run.stderr.startswith(f"error: {option}: {other.server_port} on 127.0.0.1 is in use by process ")
            assert f"process {os.getpid()}" in run.stderr
            assert "Traceback" not in run.stderr


def test_one_that_was_not_asked_for_gives_way(tmp_path: Path) -> None:
    with stranger() as one, stranger() as two:
        config = Config(tmp_path, port=one.server_port, gateway_port=two.server_port)
        found, moved = settled(config)
        assert {found.port, found.gateway_port}.isdisjoint({one.server_port, two.server_port, 0})
        assert found.port != found.gateway_port
        assert len(moved) == 2
        for asked in ("port", "gateway_port"):
            with pytest.raises(LocalmlError, match=f"{asked}: .* in use by process {os.getpid()}") as refused:
                settled(Config(tmp_path, port=one.server_port, gateway_port=two.server_port, asked=(asked,)))
            assert refused.value.code is Code.CONFLICT


def test_server_and_gateway_never_want_one_port(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(LocalmlError, match=f"gateway_port: {port} is the server's own port.*--gateway-port"):
        settled(Config(tmp_path, port=port, gateway_port=port, asked=("port", "gateway_port")))
    for asked in ((), ("port",), ("gateway_port",)):
        found, moved = settled(Config(tmp_path, port=port, gateway_port=port, asked=asked))
        stays, gives_way = (
            (found.gateway_port, found.port) if asked == ("gateway_port",) else (found.port, found.gateway_port)
        )
        assert (stays, port < gives_way <= port + 50, len(moved)) == (port, True, 1)
    any_port = Config(tmp_path, port=0, gateway_port=0, asked=("port", "gateway_port"))
    assert settled(any_port) == (any_port, [])


def test_our_own_gateway_that_went_on_is_no_stranger(tmp_path: Path) -> None:
    port = free_port()
    with gateway_of(tmp_path, port, asked=True) as (watch, _):
        wait_until(lambda: watch.listening, 60)
        for asked in ((), ("gateway_port",)):
            found, moved = settled(Config(tmp_path, port=0, gateway_port=port, asked=asked))
            assert (found.gateway_port, moved) == (port, [])
        any_port = Config(tmp_path, port=0, gateway_port=0, asked=("gateway_port",))
        assert settled(any_port) == (any_port, []), "which adopts what listens, wherever that is"
        with pytest.raises(LocalmlError, match="another localml's gateway"):
            settled(Config(tmp_path / "other", port=0, gateway_port=port, asked=("gateway_port",)))


def test_status_doctor_and_predict_tell_a_stranger_from_ours(tmp_path: Path) -> None:
    port = free_port()
    config = Config(
        tmp_path / "data",
        port=0,
        gateway_port=port,
        asked=("gateway_port",),
        engine="fake",
        gpus="none",
        cache=tmp_path,
    )
    with stranger(port):
        server = Server(Platform(config))
        server.start()
        client = Client(server.url, server.platform.credentials.token)
        try:
            client.serve(name="own", image="their/server:1", public=True)
            wait_until(lambda: client.status()["gateway_trouble"], 60)
            assert not client.status()["gateway_up"]
            assert client.status()["gateway_url"] is None
            assert client.endpoint("own").infer_url is None
            with pytest.raises(Exception, match=f"port {port}.*gateway.*in use by process {os.getpid()}"):
                client.predict("own", {"inputs": []})
            assert any(one.name == "gateway" and "does not listen" in one.message for one in examine(config.data))
        finally:
            client.close()
            server.close()
            stop(config.data, timeout=2)


def test_the_note_of_an_old_process_is_no_proof_that_the_new_one_listens(tmp_path: Path) -> None:
    """After a restart of a container, process numbers come again."""
    port = free_port()
    with gateway_of(tmp_path, port, asked=True) as (watch, _):
        wait_until(lambda: watch.listening, 60)
        ours = find(tmp_path)
        assert ours is not None
        address = GatewayAddress(pid=ours.pid + 1, host="127.0.0.1", port=port, format=1)
        write_address(tmp_path, address)
        assert listens_at(tmp_path) is None
