"""Trials of an API by :mod:`helpers.fuzz` and :mod:`helpers.fuzz_raw`, and what they found as a text to show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.fuzz import Fuzzer
from helpers.fuzz_apis import Api
from helpers.fuzz_raw import RawFuzzer
from helpers.fuzz_world import FuzzWorld

_SHOWN = 10


@contextmanager
def fuzzing(api: Api, data: Path) -> Iterator[Fuzzer]:
    """A fuzzer with a server of its own."""
    world = FuzzWorld(data)
    try:
        with world.log.listening():
            world.furnish()
            yield Fuzzer(api, world)
    finally:
        world.close()


def trial(api: Api, data: Path, config: pytest.Config, *, short: int, long: int) -> str:
    """Try about so many requests; what is wrong with their answers, nothing if all is well.

    The short form sends the same ones each time. The long form others, by a seed that is told, and that
    ``--hypothesis-seed`` sets.
    """
    given = config.getoption("--hypothesis-seed")
    seed = None
    if config.getoption("long_form"):
        seed = int.from_bytes(os.urandom(4), "big") if given is None else int(given)
        print(f"--hypothesis-seed={seed}")
    with fuzzing(api, data) as fuzzer:
        fuzzer.run(short if seed is None else long, seed)
    return shown(fuzzer)


def raw_trial(api: Api, data: Path, config: pytest.Config, *, short: int, long: int) -> str:
    """Try so many requests of each kind for each operation."""
    with fuzzing(api, data) as fuzzer:
        RawFuzzer(fuzzer, long if config.getoption("long_form") else short).run()
    return shown(fuzzer)


def shown(fuzzer: Fuzzer) -> str:
    """One example of each kind of wrong answer."""
    kinds: dict[str, str] = {}
    for one in fuzzer.found:
        kinds.setdefault(one.what[:60], str(one))
    return "\n".join([f"{len(fuzzer.found)} wrong answers", *list(kinds.values())[:_SHOWN]]) if kinds else ""
