"""Gang members find each other, single replicas cannot reach each other, and networks don't run out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path

import docker
import pytest
from helpers.docker_image import clean_engine, tiny_image
from helpers.engine_kits import wait_until
from hypothesis import given
from hypothesis import strategies as st

from localml.engines.base import EngineError, Phase, ReplicaPlan
from localml.engines.docker import DockerEngine
from localml.engines.docker.daemon import open_client
from localml.engines.docker.networks import POOLS, free_subnets, host_routes

SERVE = ("/bin/sh", "-c", "echo pong > /tmp/index.html; exec httpd -f -p 8000 -h /tmp")


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with clean_engine() as made:
        yield made


@pytest.fixture
def image(engine: DockerEngine) -> str:
    return engine.resolve_image(tiny_image())


networks = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(4, 32),
)


@given(st.lists(networks, max_size=20))
def test_subnets_overlap_nothing_that_is_in_use(taken: list[IPv4Network]) -> None:
    for subnet in islice(free_subnets(24, taken), 70):
        assert not any(subnet.overlaps(network) for network in taken)


def test_a_route_that_claims_a_whole_pool_moves_on_to_the_next() -> None:
    subnet = next(free_subnets(24, [IPv4Network("10.0.0.0/8")]))
    assert not subnet.overlaps(IPv4Network("10.0.0.0/8"))
    assert subnet.subnet_of(POOLS[1])


def test_when_everything_is_in_use_nothing_is_offered() -> None:
    assert list(free_subnets(24, [IPv4Network("128.0.0.0/1"), IPv4Network("0.0.0.0/1")])) == []


def test_the_machines_routes_are_read_without_the_default_route(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "tun0\t0000D40A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    assert host_routes(table) == [IPv4Network("10.212.0.0/16")]
    assert host_routes(tmp_path / "missing") == []


def fetch(engine: DockerEngine, name: str, host: str) -> int:
    return engine.exec(name, ("timeout", "2", "wget", "-q", "-O", "-", f"http://{host}:8000/index.html")).exit_code


@pytest.mark.docker
def test_members_of_a_gang_started_at_once_find_each_other_by_name(engine: DockerEngine, image: str) -> None:
    gang = f"{engine._install}-gang"
    plans = [
        ReplicaPlan(f"gang-{number}", image, SERVE, hostname=f"worker-{number}", network=gang) for number in range(3)
    ]
    with ThreadPoolExecutor(3) as pool:
        seen = list(pool.map(engine.start, plans))
    assert {one.phase for one in seen} == {Phase.RUNNING}
    assert len({one.address for one in seen}) == 3
    assert engine.networks() == {gang}
    wait_until(lambda: fetch(engine, "gang-0", "worker-2") == 0, "an answer by name")
    with pytest.raises(EngineError, match="in use"):
        engine.remove_network(gang)
    for plan in plans:
        engine.remove(plan.name)
    engine.remove_network(gang)
    engine.remove_network(gang)
    assert engine.networks() == set()


@pytest.mark.docker
@pytest.mark.parametrize("on_default_bridge", [True, False], ids=["default bridge", "own bridge"])
def test_single_replicas_cannot_reach_each_other(engine: DockerEngine, image: str, on_default_bridge: bool) -> None:
    if on_default_bridge and engine._networks.ensure(None) != "bridge":
        pytest.skip("this daemon lets containers on its default bridge talk to each other")
    engine._networks._default_separates = on_default_bridge
    try:
        served = engine.start(ReplicaPlan("single-0", image, SERVE))
        engine.start(ReplicaPlan("single-1", image, ("sleep", "600")))
        assert served.address is not None
        wait_until(lambda: fetch(engine, "single-0", "127.0.0.1") == 0, "the server")
        assert fetch(engine, "single-1", served.address) != 0
    finally:
        engine._networks.look_again()
        engine.remove("single-0")
        engine.remove("single-1")


@pytest.mark.docker
def test_a_network_that_somebody_pruned_is_made_again(engine: DockerEngine, image: str) -> None:
    gang = f"{engine._install}-pruned"
    plan = ReplicaPlan("pruned", image, ("true",), hostname="worker-0", network=gang)
    engine.start(plan)
    engine.remove("pruned")
    client = open_client()
    client.remove_network(gang)
    client.close()
    assert engine.start(plan).phase in (Phase.RUNNING, Phase.EXITED)
    engine.remove("pruned")
    engine.remove_network(gang)


@pytest.mark.docker
def test_what_others_have_put_on_a_gangs_network_does_not_keep_it(engine: DockerEngine, image: str) -> None:
    """Somebody has looked into a gang from a container of theirs."""
    gang = f"{engine._install}-visited"
    engine.start(ReplicaPlan("visited", image, ("sleep", "600"), network=gang))
    client = open_client()
    visitor = client.create_container(image, ["sleep 600"])["Id"]
    try:
        client.start(visitor)
        client.connect_container_to_network(visitor, gang)
        with pytest.raises(EngineError, match="in use"):
            engine.remove_network(gang)
        engine.remove("visited")
        engine.remove_network(gang)
        assert gang not in engine.networks()
        assert client.inspect_container(visitor)["State"]["Running"]
    finally:
        client.remove_container(visitor, force=True)
        client.close()


def _made(client: docker.APIClient, name: str, subnets: Iterator[IPv4Network]) -> str:
    """A network on the first subnet that nobody takes meanwhile; its id."""
    for subnet in islice(subnets, 64):
        pool = docker.types.IPAMPool(subnet=str(subnet))
        try:
            return str(client.create_network(name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))["Id"])
        except docker.errors.APIError as error:
            if "overlap" not in str(error):
                raise
    raise AssertionError("every subnet is taken")


@pytest.mark.docker
def test_a_network_of_somebody_else_is_neither_used_nor_removed(engine: DockerEngine, image: str) -> None:
    client = open_client()
    name = f"foreign-{engine._install}"
    made = _made(client, name, free_subnets(24, engine._networks._taken()))
    try:
        with pytest.raises(EngineError, match="did not make"):
            engine.start(ReplicaPlan("on-foreign", image, network=name))
        engine.remove_network(name)
        assert client.inspect_network(made)["Name"] == name
        assert name not in engine.networks()
    finally:
        client.remove_network(made)
        client.close()


@pytest.mark.docker
@pytest.mark.slow
def test_sixty_gangs_can_exist_at_once(engine: DockerEngine) -> None:
    names = {f"{engine._install}-many-{number}" for number in range(60)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(engine._networks.ensure, names))
    assert engine.networks() == names
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(engine.remove_network, names))
    assert engine.networks() == set()
