"""What /metrics says is what the records say."""

from __future__ import annotations

import urllib3
from helpers.rig import wait_until
from prometheus_client.parser import text_string_to_metric_families

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


def test_they_are_served_without_credentials(localml: Localml) -> None:
    answer = urllib3.request("GET", f"{localml.url}/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
    assert b"localml_build_info" in answer.data
    answer.release_conn()
