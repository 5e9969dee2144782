"""Where replicas find each other, and the ports that they are given."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.control.jobs.addresses import address_of, expanded, host_of
from localml.control.jobs.hostports import choose_ports, other_host_ports, taken_port
from localml.control.jobs.snapshot import AttemptRow
from localml.core.work.specs import Port, Role, WorkloadSpec
from localml.core.work.states import AttemptState

NAMES = st.text("aAbB.~_-0", min_size=1, max_size=64)


def attempt(role: str, index: int, **ports: tuple[int, int]) -> AttemptRow:
    values: dict[str, Any] = dict.fromkeys(AttemptRow.__slots__)
    known = {
        "id": 1,
        "workload_id": 1,
        "number": 1,
        "name": "x",
        "node": "local",
        "state": AttemptState.PLANNED,
        "message": "",
        "gpus": (),
    }
    return AttemptRow(**{**values, **known, "role": role, "index": index, "ports": ports})


def spec(**env: str) -> WorkloadSpec:
    ports = (Port(label="http"), Port(label="rpc"))
    return WorkloadSpec(roles=(Role(name="ps", count=2, ports=ports, env=env), Role(name="Worker", ports=ports)))


GANG = [
    attempt("Worker", 0, http=(5, 15), rpc=(6, 16)),
    attempt("ps", 1, http=(3, 13), rpc=(4, 14)),
    attempt("ps", 0, http=(1, 11), rpc=(2, 12)),
]
ASKED = {
    "ME": "%{index}/%{host}/%{port:rpc}",
    "PEER": "%{host:Worker:0}",
    "HOSTS": "%{hosts:ps}",
    "ALL": "a=%{addresses:ps:http};b=%{addresses:Worker:rpc}",
    "TOKEN": "http://me:%{token}@host",
    "PLAIN": "%%{index}",
}


def test_a_replica_of_a_gang_is_told_names_that_resolve_and_ports_inside() -> None:
    assert expanded(spec(**ASKED), GANG[1], GANG, names_resolve=True, token=lambda: "secret") == {
        "ME": "1/ps-1/4",
        "PEER": "worker-0",
        "HOSTS": "ps-0,ps-1",
        "ALL": "a=ps-0:1,ps-1:3;b=worker-0:6",
        "TOKEN": "http://me:secret@host",
        "PLAIN": "%{index}",
    }


def test_without_isolation_everybody_is_on_this_machine() -> None:
    found = expanded(spec(**ASKED), GANG[2], GANG, names_resolve=False)
    assert found["ME"] == "0/127.0.0.1/2"
    assert found["ALL"] == "a=127.0.0.1:1,127.0.0.1:3;b=127.0.0.1:6"


def test_a_single_replica_finds_itself_at_the_loopback_address() -> None:
    alone = WorkloadSpec(roles=(Role(name="ps"),))
    assert address_of(alone, "ps", 0, names_resolve=True) == "127.0.0.1"


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_host_names_differ_and_fit_dns(names: list[str]) -> None:
    some = WorkloadSpec(roles=tuple(Role(name=name, count=12) for name in names))
    hosts = [host_of(some, name, index) for name in names for index in range(12)]
    assert len(set(hosts)) == len(hosts)
    for host in hosts:
        assert len(host) <= 63
        assert host == host.lower().strip("-")
        assert all(char.isalnum() or char == "-" for char in host)


def test_other_ports_on_this_machine_leave_what_a_container_listens_on() -> None:
    role = Role(ports=(Port(label="a"), Port(label="b", container=80)))
    first = choose_ports(role, True, set())
    second = other_host_ports(role, first, mapped=True)
    assert {label: pair[0] for label, pair in second.items()} == {label: pair[0] for label, pair in first.items()}
    assert not {pair[1] for pair in second.values()} & {pair[1] for pair in first.values()}
    alone = other_host_ports(role, first, mapped=False)
    assert all(inside == outside for inside, outside in alone.values())


def test_a_port_of_ones_own_choice_is_seen_to_be_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = Port(label="a", host=held.getsockname()[1])
        assert taken_port(Role(ports=(Port(label="any"), port))) == port
    assert taken_port(Role(ports=(port,))) is None
    assert taken_port(Role()) is None


def test_a_port_without_a_number_is_the_same_inside_and_outside() -> None:
    ((inside, outside),) = choose_ports(Role(ports=(Port(label="a"),)), True, set()).values()
    assert inside == outside > 0


@pytest.mark.parametrize(
    ("outgoing", "lowest", "highest"),
    [
        ("32768 60999", 20_000, 32_767),
        ("20001 60999", 20_000, 65_535),
        ("1024 65535", 1024, 65_535),
        ("", 1024, 65_535),
    ],
)
def test_a_free_port_is_none_that_an_outgoing_connection_may_get_if_there_are_others(
    outgoing: str, lowest: int, highest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "range").write_text(outgoing)
    monkeypatch.setattr("localml.control.jobs.hostports._OUTGOING", tmp_path / "range")
    role, taken = Role(ports=(Port(label="a"), Port(label="b"))), set[int]()
    for _ in range(10):
        choose_ports(role, False, taken)
    assert len(taken) == 20
    assert min(taken) >= lowest
    assert max(taken) <= highest


@pytest.mark.parametrize("mapped", [True, False])
def test_ports_of_many_replicas_differ(mapped: bool) -> None:
    role, taken = Role(ports=(Port(label="a"), Port(label="b"))), set[int]()
    pairs = [pair for _ in range(50) for pair in choose_ports(role, mapped, taken).values()]
    assert len({outside for _, outside in pairs}) == 100
