"""Who answers at a replica's port is the replica, or is not taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from helpers.ports import free_port
from helpers.rig import wait_until

from localml.control.own_ports import listening
from localml.control.serving.peers import stranger
from localml.control.serving.probes import Answer, Page, Prober
from localml.core.serving.specs import TOKEN_VARIABLE

_SERVER = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), type('H', "
_SERVER += "(http.server.BaseHTTPRequestHandler,), {'do_GET': lambda s: (s.send_response(200), s.end_headers()), "
_SERVER += "'log_message': lambda *_: None})).serve_forever()"
_TOKEN = "the word"
OWN = {"LOCALML_WORKLOAD": "7", TOKEN_VARIABLE: _TOKEN}


@contextmanager
def server(said: dict[str, str], *before: str) -> Iterator[int]:
    """The port of a program with this environment, started by the command ``before``, that answers 200 to all."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOCALML_")}
    command = [*before, sys.executable, "-c", _SERVER, str(port)]
    process = subprocess.Popen(command, env={**clean, **said})
    try:
        wait_until(lambda: listening(port) is not None, 60)
        yield port
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()


@pytest.mark.parametrize(
    ("said", "own"),
    [
        (OWN, True),
        ({"LOCALML_WORKLOAD": "7"}, True),  # of an older version
        ({}, False),
        ({"LOCALML_WORKLOAD": "8"}, False),
        ({**OWN, TOKEN_VARIABLE: "another installation's"}, False),
        ({**OWN, "LOCALML_WORKLOAD": "8"}, False),
    ],
)
def test_a_program_is_told_by_its_environment(said: dict[str, str], own: bool) -> None:
    with server(said) as port:
        found = stranger(port, 7, _TOKEN)
        assert (found == "") is own
        assert own or found.startswith(f"process {listening(port)} (")


@pytest.mark.parametrize(("said", "own"), [(OWN, True), ({}, False)])
def test_one_that_says_nothing_is_whose_child_it_is(said: dict[str, str], own: bool) -> None:
    with server(said, "sh", "-c", 'env -i PATH="$PATH" "$@"; :', "sh") as port:
        assert (stranger(port, 7, _TOKEN) == "") is own


def test_where_nobody_listens_nobody_is_accused() -> None:
    assert stranger(free_port(), 7, _TOKEN) == ""


def test_a_replica_is_not_ready_while_somebody_else_answers_for_it() -> None:
    prober = Prober(lambda: None)
    try:
        with server({}) as port:
            prober.watch({"a": Page(f"http://127.0.0.1:{port}/v2/health/ready", _TOKEN, 7)})
            wait_until(lambda: prober.answer("a") is not None, 60)
            answer = prober.answer("a")
            assert answer is not None
            assert not answer.ready
            assert f"process {listening(port)}" in answer.why
            assert f"listens at its port {port}" in answer.why
            prober.watch({"a": Page(f"http://127.0.0.1:{port}/v2/health/ready", _TOKEN)})  # ports that nobody else gets
            wait_until(lambda: prober.answer("a") == Answer(True), 60)
        with server(OWN) as port:
            prober.watch({"b": Page(f"http://127.0.0.1:{port}/v2/health/ready", _TOKEN, 7)})
            wait_until(lambda: prober.answer("b") == Answer(True), 60)
    finally:
        prober.close()
