"""What /metrics says is what the records say."""

from __future__ import annotations

import base64

import urllib3
from helpers.rig import wait_until
from prometheus_client.parser import text_string_to_metric_families

from localml.core.people.scopes import Scope
from localml.metrics import CONTENT_TYPE, render
from localml.testing import Localml


def values(localml: Localml) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """(name, labels) -> value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(render(localml.platform).decode())
        for sample in family.samples
    }


def labelled(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> list[float]:
    return [value for (one, have), value in found.items() if one == name and frozenset(labels.items()) <= have]


def test_workloads_queue_gpus_and_pools(localml_fresh: Localml) -> None:
    client = localml_fresh.client
    client.run(["true"], wait=True, timeout=60)
    holder = client.run(["sleep", "600"], gpus=2)
    wait_until(lambda: client.get(holder.id).state == "running")
    waiting = client.run(["true"], gpus=1, pool="team")
    client.set_limits("team", gpu=4)
    client.drain("1")
    found = values(localml_fresh)
    assert labelled(found, "localml_workloads", kind="job", state="succeeded") == [1]
    assert labelled(found, "localml_workloads", kind="job", state="queued") == [1]
    assert labelled(found, "localml_queue_length") == [1]
    assert labelled(found, "localml_queue_oldest_wait_seconds")[0] >= 0
    assert labelled(found, "localml_gpu_leased", index="0") == [1]
    assert labelled(found, "localml_gpu_usable", index="1") == [0]
    assert labelled(found, "localml_pool_used", pool="team", resource="gpu") == [1]
    assert labelled(found, "localml_pool_limit", pool="team", resource="gpu") == [4]
    assert labelled(found, "localml_pool_limit", pool="default") == []
    assert labelled(found, "localml_engine_up") == [1]
    assert labelled(found, "localml_database_bytes")[0] > 0
    assert labelled(found, "process_resident_memory_bytes")[0] > 1 << 20
    for one in (waiting, holder):
        client.delete(one.id)
        client.wait(one.id, timeout=60)
    after = values(localml_fresh)
    assert labelled(after, "localml_queue_length") == [0]
    assert labelled(after, "localml_gpu_leased", index="0") == [0]


def test_they_are_served_to_tokens_of_administrators_that_may_read_the_machine(localml: Localml) -> None:
    identity = localml.platform.identity
    admin, reading = identity.user("admin"), Scope.of(["machine:read"])
    scraper = identity.create_token(admin, name="prometheus", scope=reading)
    basic = base64.b64encode(f"admin:{scraper}".encode()).decode()
    for value in (f"Bearer {localml.platform.credentials.token}", f"Bearer {scraper}", f"Basic {basic}"):
        status, headers, text = metrics(localml, value)
        assert (status, headers["Content-Type"]) == (200, CONTENT_TYPE)
        assert b"localml_build_info" in text
    ann = identity.create_user("ann-of-metrics", "a password")
    others = [identity.create_token(ann), identity.create_token(ann, scope=reading)]
    others += [identity.create_token(admin, scope=Scope.of(["workload:read"]))]
    assert [metrics(localml, f"Bearer {token}")[0] for token in others] == [403, 403, 403]
    for wrong in (None, "Bearer guessed", "Basic !", "Digest x"):
        status, headers, text = metrics(localml, wrong)
        assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="localml"')
        assert b"localml_" not in text
    identity.remove_user("ann-of-metrics")


def metrics(localml: Localml, authorization: str | None) -> tuple[int, urllib3.HTTPHeaderDict, bytes]:
    """What is answered to who sends this header."""
    sent = {} if authorization is None else {"Authorization": authorization}
    answer = urllib3.request("GET", f"{localml.url}/metrics", headers=sent)
    return answer.status, answer.headers, answer.data
