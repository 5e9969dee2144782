"""Metrics in a program's output: which lines have any, and what they say.

Read are pairs (``epoch=3 loss=0.2``, ``loss: 0.2 - acc: 0.91`` as Keras writes it), and lines that are or end in a JSON
object or a Python dict (as Hugging Face's trainer prints them, and loggers behind a prefix). Progress bars end their
lines with a carriage return, which ends a line here, too.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_LINE = 8 << 10
"""Bytes of a line; in longer ones nothing is looked for."""
MOST_IN_A_LINE = 100
MOST_NAME = 100
_LEVELS = 4

STEPS = ("global_step", "step", "iteration", "iter", "epoch")
"""What counts steps, the finest first: the others' values of the line are of that step."""
IGNORED = frozenset(
    {
        *("ts", "time", "timestamp", "asctime", "created", "msecs", "unixtime", "date"),
        *("lineno", "line", "pid", "process", "thread", "levelno", "port", "uid", "gid", "v_num"),
    }
)
"""What loggers say of themselves."""

_END = re.compile(rb"[\r\n]")
_HINT = re.compile(rb"""[\w\]"'] ?[=:] ?(?:[-+.\dniNI\x1b]|["'][-+.\d]|tensor\()""")
_COLOURS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_NAME = re.compile(r"[A-Za-z_][\w./@:-]*", re.ASCII)
_PAIR = re.compile(
    rb"(?:^|(?<=[\s,;|(\[{\]:]))([A-Za-z_][A-Za-z0-9_./@-]*)( ?= ?|: ?)(?:tensor\()?"
    rb"([-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?))%?"
    rb"(?=\.?(?:$|[\s;|)\]}]|,(?!\d)))",  # "loss=0,25" is not 0
    re.IGNORECASE,
)
_OBJECT = re.compile(rb"""\{ ?["']""")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
_MOST_NUMBER = 40
_KNOWN = re.compile(
    r"loss|acc|auc|f1|lr$|learning_rate|r?mse|mae|err|precision|recall|score|perplexity|ppl|reward|return|bleu|rouge"
    r"|iou|grad|norm",
    re.IGNORECASE,
)
_PHRASE = re.compile(rb"\b(step|iter(?:ation)?|epoch)s?[ \t:#\[]*(\d{1,15})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a metric.

    Attributes:
        value: NaN and infinities are values, too: that a loss became one is what matters then.
        step: which one the line says that it is of; None when it says nothing.
    """

    name: str
    value: float
    step: int | None = None


def candidates(block: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of those lines of a block that may have metrics; the others cost next to nothing."""
    start = 0  # of what has not been looked at
    while (hint := _HINT.search(block, start)) is not None:
        begin = max(block.rfind(b"\n", start, hint.start()), block.rfind(b"\r", start, hint.start())) + 1
        begin = max(begin, start)
        end = _END.search(block, hint.end() - 1)
        stop = len(block) if end is None else end.start()
        if stop - begin <= MOST_LINE:
            yield begin, block[begin:stop]
        start = stop + 1


def readings(line: bytes) -> list[Reading]:
    """What a line says; nothing of one that is no metric line."""
    if len(line) > MOST_LINE:
        return []
    if b"\x1b" in line:
        line = _COLOURS.sub(b"", line)
    line = line.strip()
    found = (_of_object(line) if line[-1:] == b"}" else {}) or _of_pairs(line)
    step = _step(found)
    if step is None and found:
        step = _phrase(line)
    return [Reading(name, value, step) for name, value in found.items() if name.lower() not in IGNORED]


def _of_pairs(line: bytes) -> dict[str, float]:
    found: dict[str, float] = {}
    doubtful = []  # "port: 8080" may be anything
    for name, sign, number in _PAIR.findall(line):
        text = name.decode("ascii")
        if len(text) > MOST_NAME or len(found) >= MOST_IN_A_LINE:
            continue
        found[text] = float(number)
        if b":" in sign and _KNOWN.search(text) is None:
            doubtful.append(text)
    if len(found) == 1 and doubtful and _PHRASE.search(line) is None:
        return {}
    return found


def _of_object(line: bytes) -> dict[str, float]:
    """What the object says that a line ends in; nothing where it ends in none."""
    begin = _OBJECT.search(line)
    found: dict[str, float] = {}
    if begin is not None:
        text = line[begin.start() :]
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = _python(text)
        if isinstance(given, dict):
            _flatten(given, "", found, _LEVELS)
    return found


def _python(text: bytes) -> Any:
    """A dict as Python prints it."""
    if not text.startswith(b"{'"):
        return None
    try:
        return _meant(ast.parse(text.decode(), mode="eval").body)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _meant(node: ast.expr) -> Any:
    """Dicts and numbers as they are printed, ``nan``, ``np.float64(0.5)`` and ``tensor(0.25)`` among them; None for
    anything else."""
    match node:
        case ast.Constant(value=int() | float() | str()):
            return node.value
        case ast.Dict():
            keys = [_meant(key) if key is not None else None for key in node.keys]
            return dict(zip(keys, (_meant(value) for value in node.values), strict=True))
        case ast.UnaryOp(op=ast.USub()):
            value = _meant(node.operand)
            return -value if isinstance(value, int | float) else None
        case ast.Name(id="nan" | "inf"):
            return float(node.id)
        case ast.Call(func=ast.Name() | ast.Attribute(), args=[one, *_]):
            return _meant(one)
    return None


def _flatten(given: dict[Any, Any], prefix: str, into: dict[str, float], levels: int) -> None:
    for key, value in given.items():
        name = f"{prefix}{key}"
        if len(into) >= MOST_IN_A_LINE or len(name) > MOST_NAME or not _NAME.fullmatch(name):
            continue
        if isinstance(value, str):
            value = _number(key, value)
        if isinstance(value, dict) and levels > 1:
            _flatten(value, f"{name}/", into, levels - 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            into[name] = _float(value)


def _number(name: Any, text: str) -> float | None:
    """A number that is written as a text, where the name sounds like one: Hugging Face's trainer rounds so."""
    known = str(name).lower() in STEPS or _KNOWN.search(str(name)) is not None
    return float(text) if known and len(text) <= _MOST_NUMBER and _NUMBER.fullmatch(text) else None


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _step(found: dict[str, float]) -> int | None:
    names = {name.lower(): value for name, value in found.items()}
    values = (names[name] for name in STEPS if name in names)
    return next((int(value) for value in values if value.is_integer() and 0 <= value < 1 << 53), None)


def _phrase(line: bytes) -> int | None:
    """``Epoch 3/10``, ``[step 120]``."""
    said = {word.lower().decode(): int(number) for word, number in _PHRASE.findall(line)}
    return next((said[name] for name in STEPS if name in said), None)
