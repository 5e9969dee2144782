"""What of a program's output is a metric."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.core.metrics.lines import MOST_IN_A_LINE, MOST_LINE, candidates, readings

HUGGING = {"loss": 4.235, "grad_norm": 1.2e-3, "epoch": 2.0}
LINES: list[tuple[str, dict[str, float], int | None]] = [
    ("epoch=3 loss=0.2 acc=0.91", {"epoch": 3, "loss": 0.2, "acc": 0.91}, 3),
    ("Epoch 3/10 - loss: 0.2000 - accuracy: 0.9100", {"loss": 0.2, "accuracy": 0.91}, 3),
    ("100/100 - 2s 20ms/step - loss: 0.3 - val_loss: 0.4", {"loss": 0.3, "val_loss": 0.4}, None),
    ("2026-01-02 03:04:05,678 INFO trainer: loss=1e-3", {"loss": 0.001}, None),
    ("[step 120] train/loss=.5, lr=1E-05;", {"train/loss": 0.5, "lr": 1e-05}, 120),
    ("global_step = 7 epoch = 1 reward = -3.25", {"global_step": 7, "epoch": 1, "reward": -3.25}, 7),
    ("loss=nan", {"loss": math.nan}, None),
    ("loss=-inf acc=91%", {"loss": -math.inf, "acc": 91}, None),
    ("\x1b[32mloss\x1b[0m=\x1b[1m0.5\x1b[0m", {"loss": 0.5}, None),
    ("Epoch 1:  45%|####| 45/100 [00:10<00:12, 4.32it/s, loss=0.234]", {"loss": 0.234}, 1),
    (
        '{"step": 5, "loss": 0.1, "eval": {"acc": 0.9}, "ok": true, "who": "x"}',
        {"step": 5, "loss": 0.1, "eval/acc": 0.9},
        5,
    ),
    ("{'loss': 0.5, 'learning_rate': 1e-05, 'epoch': 0.5}", {"loss": 0.5, "learning_rate": 1e-05, "epoch": 0.5}, None),
    ('{"ts": 1690000000.5, "level": "info", "loss": NaN}', {"loss": math.nan}, None),
    ("acc: 0.5", {"acc": 0.5}, None),
    ("INFO:root:loss=0.25 acc=0.9", {"loss": 0.25, "acc": 0.9}, None),  # as Python's own logging writes it
    ("Epoch 3: loss=0.2, acc=0.91.", {"loss": 0.2, "acc": 0.91}, 3),
    ('INFO:root:{"step": 5, "loss": 0.1}', {"step": 5, "loss": 0.1}, 5),
    ("[2026-01-02 03:04:05][INFO] - {'loss': 0.5, 'epoch': 2}", {"loss": 0.5, "epoch": 2}, 2),
    ("{'eval_loss': nan, 'gap': -inf, 'epoch': 1.0}", {"eval_loss": math.nan, "gap": -math.inf, "epoch": 1}, 1),
    ("{'loss': np.float64(0.5), 'acc': tensor(0.25, device='cuda:0')}", {"loss": 0.5, "acc": 0.25}, None),
    ("{'loss': '4.235', 'grad_norm': '1.2e-3', 'epoch': '2', 'run': '7'}", HUGGING, 2),
    ('{"val_loss": "0.25", "step": "10", "host": "3"}', {"val_loss": 0.25, "step": 10}, 10),
    ("loss=tensor(0.2500, grad_fn=<MseLossBackward0>)", {"loss": 0.25}, None),
    ("Epoch 0: 12%| 115/938 [00:02<00:17, 47.18it/s, v_num=4, train_loss=0.5]", {"train_loss": 0.5}, 0),
    ("{loss=0.5}", {"loss": 0.5}, None),
    ("loss=0,25 tokens=1,234,567 shape=3,224", {}, None),  # rather nothing than 0, 1 and 3
    ("acc=1,loss=2", {"acc": 1, "loss": 2}, None),
    ("{'loss': 1, {}: 2}", {}, None),
    ("{'loss': f(1)(2), 'acc': [1], 'x': open('y')}", {}, None),
    ("Serving on port: 8080", {}, None),
    ("listening: 3", {}, None),
    ("at http://localhost:8000/?a=1&b=2", {}, None),
    ("took time=12ms", {}, None),
    ("version=1.2.3", {}, None),
    ("12:30:45", {}, None),
    ("x" * MOST_LINE + " loss=1", {}, None),
    ("{" * 5000 + "}" * 1000, {}, None),
    ('{"a": ' * 1000 + "1" + "}" * 1000, {}, None),
    ("{'a': " * 600 + "1" + "}" * 600, {}, None),
    ('{"loss": ' + "9" * 5000 + "}", {}, None),
    ("", {}, None),
]


@pytest.mark.parametrize(("line", "values", "step"), LINES, ids=[one[0][:30] for one in LINES])
def test_a_line_says_what_is_in_it(line: str, values: dict[str, float], step: int | None) -> None:
    found = readings(line.encode())
    assert [one.name for one in found] == list(values)
    assert not values or [one for _, one in candidates(line.encode())] == [line.encode()], "it is looked at"
    for one in found:
        assert one.value == values[one.name] or (math.isnan(one.value) and math.isnan(values[one.name]))
        assert one.step == step


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_./]{0,20}", fullmatch=True).filter(
    lambda name: name.lower() not in ("ts", "time", "date", "line", "pid", "port", "uid", "gid", "nan", "inf")
)
VALUES = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=20))
def test_what_was_written_as_pairs_or_as_json_is_read_as_it_was(values: dict[str, float]) -> None:
    kept = {name: value for name, value in values.items() if name.lower() not in ("timestamp", "asctime")}
    pairs = " ".join(f"{name}={value!r}" for name, value in kept.items())
    assert {one.name: one.value for one in readings(pairs.encode())} == kept
    assert {one.name: one.value for one in readings(json.dumps(kept).encode())} == kept


@given(st.binary(max_size=2000))
def test_nothing_is_too_strange(line: bytes) -> None:
    found = readings(line)
    assert len(found) <= MOST_IN_A_LINE
    assert all(re.fullmatch(r"[\w./@:-]{1,100}", one.name) for one in found)


WORDS = ["{'", "'", '"', ": ", ", ", "}", "{", "loss", "nan", "-", "1.5", "np.float64(", ")", "(", "[", "**", "\\"]


@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_no_text_that_looks_like_a_dict_is_too_strange(words: list[str]) -> None:
    for text in ("".join(words), "{'a': 1, " + "".join(words) + "}"):
        assert all(isinstance(one.value, float) for one in readings(text.encode()))


@given(
    st.lists(st.sampled_from([b"loss=1", b"nothing here", b"", b'{"a": 1}', b"a: 1 b: 2", b"=", b"x" * 9000 + b"=1"]))
)
def test_no_line_with_metrics_is_passed_over(lines: list[bytes]) -> None:
    for end in (b"\n", b"\r", b"\r\n"):
        block = end.join(lines)
        found = [(at, line) for at, line in candidates(block)]
        assert all(block[at : at + len(line)] == line for at, line in found)
        wanted = [line for line in lines if readings(line)]
        assert [line for _, line in found if readings(line)] == wanted


@given(st.binary(max_size=3000))
def test_candidates_are_lines_of_the_block_in_their_order(block: bytes) -> None:
    whole = re.split(rb"[\r\n]", block)
    found = [line for _, line in candidates(block)]
    rest = iter(whole)
    assert all(line in rest for line in found)


@pytest.mark.parametrize("unit", [b"a=1", b"a", b"=", b"{", b"'a': ", b"a=1\r", b"step ", b"[1", b"a:"])
def test_no_block_takes_long(unit: bytes) -> None:
    """A hundred times what an ordinary one of this size takes would still be taken."""
    block = unit * ((256 << 10) // len(unit))
    began = time.thread_time()
    for _, line in candidates(block):
        readings(line)
    assert time.thread_time() - began < 5
