"""The file of settings of one data directory, ``localml.toml``, and what is remembered of its last start.

The file is its user's: a change touches one line of it and leaves comments and order as they are. That is done here,
for a file of a dozen lines, and every change is held against what the TOML parser makes of it before it is written.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.home import expanded

VARIABLE = "LOCALML_CONFIG"
"""Names another file than the data directory's own."""
NAME = "localml.toml"
REMEMBERED = "remembered.json"
_HEADER = re.compile(r"\s*\[")
_IMAGES = re.compile(r"\s*\[\s*images\s*\]")


def place(data: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the file of a data directory is, or would be."""
    given = environment.get(VARIABLE)
    return expanded(given, VARIABLE).absolute() if given else data / NAME


def text_of(data: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The file as it is; empty without one.

    Raises:
        LocalmlError: ``INVALID`` when it cannot be read, or one that is named does not exist.
    """
    path = place(data, environment)
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        if environment.get(VARIABLE):
            raise invalid(VARIABLE, f"{path} does not exist") from None
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("config", f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def values_of(data: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What the file says, by names with underscores.

    Raises:
        LocalmlError: ``INVALID`` when it cannot be read, or is no TOML.
    """
    text = text_of(data, environment)
    return _parsed(text, str(place(data, environment))) if text else {}


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise invalid("config", f"{where} is no TOML: {error}") from error
    return {name.replace("-", "_"): value for name, value in found.items()}


def change(data: Path, name: str, value: Any, environment: Mapping[str, str] = os.environ) -> Path:
    """Write one setting, or remove it (None); ``images.PATTERN`` is one of the table of images. Returns the file.

    Raises:
        LocalmlError: ``INVALID`` when the file is written in a way that only its user can change, ``STORAGE``.
    """
    path = place(data, environment)
    before = path.read_text("utf-8") if path.exists() else ""
    after = changed(before, name, value)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(after, "utf-8")
        if path.exists():
            part.chmod(path.stat().st_mode & 0o777)
        part.replace(path.resolve())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LocalmlError(Code.STORAGE, f"{path} cannot be written: {error.strerror}") from error
    return path


def changed(text: str, name: str, value: Any) -> str:
    """The text of a file with one setting changed, or removed (None)."""
    table, _, key = name.partition(".") if name.startswith("images.") else ("", "", name)
    lines = text.splitlines()
    begin, end = _section(lines, table)
    at = next((number for number in range(begin, end) if key in _keys(lines[number])), None)
    new = [] if value is None else [f"{_key(key)} = {_value(value)}"]
    if at is not None:
        until = _end_of(lines, at)
        comment = _comment(lines[at]) if until == at + 1 else ""
        lines[at:until] = [f"{one}  {comment}".rstrip() for one in new]
    elif new:
        while end > begin and not lines[end - 1].strip():
            end -= 1
        heading = ["", f"[{table}]"] if table and begin > len(lines) else []
        lines[end:end] = [*(heading if lines else heading[1:]), *new]
        if not table and end < len(lines) - 1 and _HEADER.match(lines[end + 1]):
            lines.insert(end + 1, "")
    after = "\n".join(lines) + "\n" if lines else ""
    _check(text, after, table, key, value)
    return after


def _section(lines: list[str], table: str) -> tuple[int, int]:
    """The lines of a table; of one that there is none of, those behind the last line."""
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    if not table:
        return 0, headers[0] if headers else len(lines)
    for number in headers:
        if _IMAGES.match(lines[number]):
            return number + 1, next((one for one in headers if one > number), len(lines))
    return len(lines) + 1, len(lines) + 1


def _keys(line: str) -> set[str]:
    """The name that a line gives a value, however it is written."""
    name, sign, _ = line.partition("=")
    if not sign or line.lstrip().startswith("#"):
        return set()
    quoted = re.match(r"\s*(\"(?:[^\"\\]|\\.)*\"|'[^']*')\s*=", line)
    with suppress(tomllib.TOMLDecodeError):
        found = tomllib.loads(f"{quoted[1] if quoted else name.strip()} = 0")
        return {one for key in found for one in (key, key.replace("-", "_"))}
    return set()


def _end_of(lines: list[str], at: int) -> int:
    """Where the value that begins in a line has ended: a list may have several lines."""
    for end in range(at + 1, len(lines) + 1):
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads("\n".join(lines[at:end]))
            return end
    return at + 1


def _comment(line: str) -> str:
    for found in re.finditer("#", line):
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads(line[: found.start()])
            return line[found.start() :]
    return ""


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: str | bool) -> str:
    """As TOML writes it, which is as JSON does but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool | str):
        return _text(value)
    return str(value)


def _check(before: str, after: str, table: str, key: str, value: Any) -> None:
    wanted = _parsed(before, "the file")
    inside = wanted.setdefault(table, {}) if table else wanted
    inside.pop(key, None)
    if value is not None:
        inside[key] = list(value) if isinstance(value, tuple) else value
    found = _parsed(after, "the file, changed,")
    if {name: one for name, one in wanted.items() if one != {}} != {k: one for k, one in found.items() if one != {}}:
        raise invalid("config", f"{key} is written in a way that only you can change: see 'localml config path'")


def remembered(data: Path) -> dict[str, Any]:
    """What the last start on a data directory used: ``port``, ``gateway_port``, ``gpus``, as far as it was chosen."""
    try:
        found = json.loads((data / REMEMBERED).read_text())
    except (OSError, ValueError):
        return {}
    kinds = {"port": int, "gateway_port": int, "gpus": str}
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name, kind in kinds.items() if type(found.get(name)) is kind}


def remember(data: Path, values: Mapping[str, Any]) -> None:
    """Keep it for the next start. That it cannot be kept stops nobody."""
    with suppress(OSError):
        if dict(values) == remembered(data):
            return
        part = data / f".{REMEMBERED}.part"
        part.write_text(json.dumps(dict(values)) + "\n")
        part.replace(data / REMEMBERED)
