"""Every way to ask for output, of jobs in every state: an answer or a refusal, never a failure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from urllib.parse import urlencode

import pytest
from helpers.counts import count
from helpers.fuzz_world import NATIVE, Asked, FuzzWorld

CHOICES: dict[str, tuple[str | None, ...]] = {
    "offset": (None, "0", "3", "0,0", "99999999999999999999"),
    "tail": (None, "0", "1", "1000000"),
    "role": (None, "main", "another"),
    "index": (None, "0", "2", "9"),
    "attempt": (None, "all", "1", "999999999"),
    "stream": (None, "stderr"),
    "limit": (None, "1"),
    "prefix": (None, "false"),
    "follow": (None, "true"),
}
SAMPLES = {"offset": "0", "tail": "0"}
"""What once was answered by 500."""
VENDORS = ("lines=0", "lines=1", "lines=-1", "lines=x", "follow=true", "follow=true&lines=0", "lines=9999999999")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzWorld]:
    made = FuzzWorld(tmp_path_factory.mktemp("data"))
    with made.log.listening():
        made.furnish()
        yield made
        made.close()


JOBS = ("done", "failed", "gang", "running", "speaking", "queued", "never", "pruned")


def ask(world: FuzzWorld, target: str, dialect: str = "native", accept: str = "*/*") -> int:
    """The status of the answer, which is none of the server's failures."""
    headers = world.headers_of(world.alice, dialect, target, b"") | {"Accept": accept}
    said = world.exchange(Asked("GET", target, headers, endless=True))
    count("requests tried")
    trouble = world.log.take()
    assert (said.status < 500, trouble) == (True, []), (target, said.status, said.data)
    return said.status


@pytest.mark.parametrize("job", JOBS)
def test_output_from_the_beginning_and_no_lines_of_it(job: str, world: FuzzWorld) -> None:
    for stream in ({}, {"stream": "stdout"}):
        assert ask(world, f"{NATIVE}/workloads/{world.jobs[job]}/logs?{urlencode(SAMPLES | stream)}") in (200, 400)


@pytest.mark.parametrize("job", JOBS)
def test_no_combination_of_parameters_is_a_failure(job: str, world: FuzzWorld, long_form: bool) -> None:
    """All values with one other, and of all combinations every 293rd (every 7th in the long form), but for those that
    follow what goes on."""
    goes_on = job in ("running", "speaking", "queued")
    for number, chosen in enumerate(product(*CHOICES.values())):
        query = {name: value for name, value in zip(CHOICES, chosen, strict=True) if value is not None}
        chosen_too = number % (7 if long_form else 293) == 0  # neither divides the number of anything here
        if ("follow" in query and goes_on) or (len(query) > 2 and not chosen_too):
            continue
        ask(world, f"{NATIVE}/workloads/{world.jobs[job]}/logs?{urlencode(query)}")


@pytest.mark.parametrize("job", JOBS)
def test_what_follows_ends_or_goes_on(job: str, world: FuzzWorld) -> None:
    for query, accept in product(("follow=true", "follow=true&offset=0&tail=0"), ("*/*", "text/event-stream")):
        assert ask(world, f"{NATIVE}/workloads/{world.jobs[job]}/logs?{query}", accept=accept) == 200


@pytest.mark.parametrize("query", VENDORS)
def test_the_vendors_logs_are_no_failure_either(query: str, world: FuzzWorld) -> None:
    for target in (f"train/{world.names['train']}", f"model/{world.names['service']}/1"):
        ask(world, f"/cloud_ml/v1/{target}/logs?{query}", "cloudml")
