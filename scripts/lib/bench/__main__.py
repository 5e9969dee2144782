"""Measure what is asked for and print the table: ``scripts/bench [--quick] [--only NAME ...] [--json]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

import bench
from bench.answers import answers
from bench.core import durable_submit, samples, scheduler
from bench.jobs import containers, processes
from bench.life import idle, many_jobs, start_up
from bench.logs import followed, last_lines
from bench.models import gateway, onnx_server
from bench.pumps import pumped
from bench.rows import Row
from bench.searches import searches
from bench.siege import siege
from bench.studies import ask_and_tell, reopened, thousand_trials
from bench.submits import http_submit, vendors

MEASUREMENTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "submit": durable_submit,
    "http": http_submit,
    "vendors": vendors,
    "answers": answers,
    "follow": followed,
    "tail": last_lines,
    "pump": pumped,
    "processes": processes,
    "containers": containers,
    "many": many_jobs,
    "startup": start_up,
    "idle": idle,
    "scheduler": scheduler,
    "samples": samples,
    "asks": ask_and_tell,
    "reopen": reopened,
    "trials": thousand_trials,
    "onnx": onnx_server,
    "gateway": gateway,
    "searches": searches,
    "siege": siege,
}


def main() -> int:
    """0 whatever was measured: machines differ, and a budget that was missed is marked."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=bench.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller sizes")
    parser.add_argument("--only", type=_names, help=f"only these, parted by commas: {', '.join(MEASUREMENTS)}")
    given = parser.parse_args()
    for name in [one for one in os.environ if one.startswith("LOCALML_") and one != "LOCALML_CACHE"]:
        del os.environ[name]
    rows: list[Row] = []
    for name in given.only or MEASUREMENTS:
        for row in MEASUREMENTS[name](given.quick):
            rows.append(row)
            if not given.json:
                _show(row)
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif missed := [row.what for row in rows if not row.ok]:
        print(f"\nnot within budget: {'; '.join(missed)}")
    return 0


def _names(text: str) -> list[str]:
    names = [one.strip() for one in text.split(",") if one.strip()]
    for name in names:
        if name not in MEASUREMENTS:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(MEASUREMENTS)}")
    return names


def _show(row: Row) -> None:
    mark = " " if not row.budget else ("+" if row.ok else "!")
    print(f"{mark} {row.what:<62} {row.measured:>26}  {row.budget:<19} floor: {row.floor or '-'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
