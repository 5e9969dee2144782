"""Metrics of a job whose server is killed while it prints: each line is there once, whenever that was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count
from helpers.engine_kits import wait_until
from helpers.server_process import servers

STEPS = 400
SCRIPT = f"for n in $(seq 1 {STEPS}); do echo step=$n loss=$n; [ $((n % 4)) = 0 ] && sleep 0.02; done; exit 0"


def _points(api: Any, number: int) -> list[list[float]]:
    (series,) = api.get(f"/workloads/{number}/points", name="loss")["series"]
    found: list[list[float]] = series["points"]
    return found


@pytest.mark.slow
def test_no_step_is_lost_and_none_is_there_twice(tmp_path: Path, long_form: bool) -> None:
    with servers(tmp_path / "data", gpus="none") as found:
        server = found.start()
        number = server.api.submit("prints", {"roles": [{"command": ["sh", "-c", SCRIPT]}]})
        for part in range(1, 9 if long_form else 4):
            wait_until(lambda part=part, server=server: _has(server.api, number, 30 * part), "some steps")
            server.end()
            count("kills of processes")
            server = found.start()
        assert server.api.wait_over(number)["state"] == "succeeded"
        points = _points(server.api, number)
        lost = set(range(1, STEPS + 1)) - {step for _, step, _ in points}
        count("metrics lost", len(lost))
        count("metrics doubled", len(points) - len({step for _, step, _ in points}))
        assert [(step, value) for _, step, value in points] == [(n, float(n)) for n in range(1, STEPS + 1)]
        assert [at for at, _, _ in points] == sorted(at for at, _, _ in points)


def _has(api: Any, number: int, steps: int) -> bool:
    series = api.get(f"/workloads/{number}/points", name="loss")["series"]
    return bool(series) and len(series[0]["points"]) >= steps


def test_what_floods_has_its_last_value_all_the_same(tmp_path: Path) -> None:
    """Two hundred thousand lines of metrics, of which a chart needs a few."""
    script = "seq 1 200000 | sed 's/.*/step=& loss=&/'"
    with servers(tmp_path / "data", gpus="none") as found:
        api = found.start().api
        number = api.submit("floods", {"roles": [{"command": ["sh", "-c", script]}]})
        assert api.wait_over(number)["state"] == "succeeded"
        wait_until(lambda: api.get(f"/workloads/{number}/metrics")["complete"], "the end of its output")
        by_name = {one["name"]: one for one in api.get(f"/workloads/{number}/metrics")["metrics"]}
        loss = by_name["loss"]
        count("bytes of output", len(api.log(number, stream="stdout")))
        assert (loss["last"], loss["step"], loss["min"]) == (200_000, 200_000, 1)
        assert loss["count"] < 3_000
