"""A search whose server is killed while somebody looks on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.ports import free_port
from helpers.server_process import servers

from localml.client import Client, Trial

TRIALS = 8


@pytest.mark.slow
def test_who_follows_a_search_hears_of_all_its_trials_though_the_server_is_killed(tmp_path: Path) -> None:
    port, kills = free_port(), 0
    with servers(tmp_path / "data", gpus="none", port=port, gateway_port=0) as found:
        server = found.start()
        token = json.loads((found.data / "credentials.json").read_text())["token"]
        ended: dict[int, Trial] = {}
        with Client(f"http://127.0.0.1:{port}", token) as client:
            made = client.studies.create(
                ["sh", "-c", "sleep 0.2; echo loss={x}"],
                space={"x": "0.0..1.0"},
                minimize="loss",
                algorithm="random",
                trials=TRIALS,
                parallel=2,
                seed=4,
            )
            for item in client.studies.follow(made.id):
                if isinstance(item, Trial) and item.ended:
                    ended[item.number] = item
                if len(ended) > kills * 3 and kills < 2:
                    server.end()
                    server, kills = found.start(), kills + 1
                    count("kills of processes")
            last = client.studies.get(made.id)
        assert (last.state, last.complete, kills) == ("complete", TRIALS, 2)
        assert sorted(ended) == list(range(1, TRIALS + 1))
        assert {one.state for one in ended.values()} == {"complete"}
        assert last.best_value == min(one.value for one in ended.values() if one.value is not None)
