"""The groups that the help shows commands in, and how it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from typer.core import TyperGroup

SERVER, JOBS, STUDIES, MODELS, TOOLS, DATA, MACHINE, PEOPLE, CARE = (
    "Server",
    "Jobs",
    "Studies",
    "Models and endpoints",
    "Notebooks and TensorBoards",
    "Data",
    "Machine",
    "People",
    "Care",
)
GROUPS: Mapping[str, str] = {
    SERVER: "localml up --detach",
    JOBS: "localml run --gpus 1 --follow -- python train.py",
    STUDIES: "localml tune sweep.toml --trials 50 --follow",
    MODELS: "localml serve model.onnx",
    TOOLS: "localml notebook start lab",
    DATA: "localml cp ./set fds://data/set",
    MACHINE: "localml gpus",
    PEOPLE: "localml users add ann",
    CARE: "localml doctor",
}
"""Titles in the order of the help, with an example each. A command says its own by ``rich_help_panel``."""


class Grouped(TyperGroup):
    """Shows its commands by their groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the groups; what is in none comes last."""
        shown: dict[str, list[tuple[str, Any]]] = {title: [] for title in GROUPS}
        for name in self.list_commands(ctx):
            one = self.get_command(ctx, name)
            if one is not None and not one.hidden:
                shown.setdefault(getattr(one, "rich_help_panel", None) or "Commands", []).append((name, one))
        longest = max((len(name) for rows in shown.values() for name, _ in rows), default=0)
        limit = formatter.width - 6 - longest
        for title, rows in shown.items():
            if not rows:
                continue
            with formatter.section(title):
                texts = [(name.ljust(longest), one.get_short_help_str(limit)) for name, one in rows]
                formatter.write_dl(texts)
                if title in GROUPS:
                    formatter.write_text(f"> {GROUPS[title]}")


def with_example(function: Callable[..., Any], example: str) -> str:
    """The help of a command that several groups have, with an example for one of them."""
    return f"{inspect.getdoc(function)}\n\nExample: {example}"
