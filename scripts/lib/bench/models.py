"""Serving models: the gateway and onnx-server, measured by programs of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.rows import Row, ms, skipped

_PROGRAM = Path(__file__).parents[1] / "bench_onnx.py"


def gateway(quick: bool) -> Iterator[Row]:
    """What the gateway adds to a request."""
    from bench_gateway import BUDGET, measure

    found = measure(500 if quick else 3000)
    beside = f"{ms(found.direct_p50)} direct; {found.rate:,.0f}/s of {found.direct_rate:,.0f}/s with 8 clients"
    kept = found.added_p50 <= BUDGET
    yield Row("gateway in front of a replica: p50 added", ms(found.added_p50), f"<= {BUDGET * 1000:g} ms", beside, kept)


def onnx_server(quick: bool) -> Iterator[Row]:
    """onnx-server beside raw onnxruntime, and MLServer where there is one."""
    command = [sys.executable, _PROGRAM, "--json", "--seconds", "1" if quick else "4"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        yield skipped("onnx-server over raw onnxruntime", (run.stderr.strip().splitlines() or ["it failed"])[-1])
        return
    yield from _rows(json.loads(run.stdout)["measured"])


def _rows(found: dict[str, Any]) -> Iterator[Row]:
    floor = f"{found['floor_p50_ms']:.3f} ms raw onnxruntime"
    for what, key, most in (("p50", "added_p50_ms", 0.5), ("p99", "added_p99_ms", 3.0)):
        name, measured = f"onnx-server, one client: {what} added", f"{found[key]:.2f} ms"
        yield Row(name, measured, f"<= {most:g} ms", floor, found[key] <= most)
    for what, key, least in (("one client", "one_client_per_s", 2000), ("8 clients", "eight_clients_per_s", 4000)):
        yield Row(f"onnx-server, {what}: rate", f"{found[key]:,.0f}/s", f">= {least:,}/s", "", found[key] >= least)
    if "mlserver_added_p50_ms" not in found:
        yield skipped("MLServer, the same model", "no 'mlserver' on the PATH")
        return
    beside = f"{found['mlserver_one_client_per_s']:,.0f}/s, {found['mlserver_eight_clients_per_s']:,.0f}/s with 8"
    added = f"{found['mlserver_added_p50_ms']:.2f} ms, p99 {found['mlserver_added_p99_ms']:.2f} ms"
    yield Row("MLServer, one client: p50 added", added, "", f"{floor}; {beside}", True)
