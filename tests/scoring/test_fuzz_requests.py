"""Whatever a request says, each of a batch gets an answer of its own: figures, or why there are none.

`CLICKPROMPT_FUZZ_EXAMPLES=5000 pytest tests/scoring/test_fuzz_requests.py` looks longer.
"""

import copy
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickprompt.scoring.answers import answers
from clickprompt.scoring.raw_rows import open_scorer
from tests.support.damaged import JUNK, changed, damaged, fuzz
from tests.support.every_kind import write_every_kind
from tests.support.finetuned import write_run

ROW = {
    "user": "red 3",
    "item": 4,
    "genres": "red|green",
    "title": "blue",
    "price": 2.5,
    "time": 1_000_000_700,
    "history": [4, 7],
    "history label": [1, 0],
    "history age": [3, 100],
    "history Title": ["blue", "red"],
}
VALUES = st.one_of(
    JUNK,
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.lists(JUNK, max_size=4),
    st.recursive(
        JUNK, lambda more: st.lists(more, max_size=2) | st.dictionaries(st.text(), more, max_size=2)
    ),
)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("requests"))
    write_run(f"{folder}/run", write_every_kind(folder), "with_plm")
    return open_scorer(f"{folder}/run")


def drawn(draw, columns) -> bytes:
    row = {name: value for name, value in ROW.items() if name in columns}
    body = {
        "rows": [copy.deepcopy(row) for _ in range(draw(st.integers(0, 3)))],
        "ignore_unknown": draw(st.booleans()),
    }
    for _ in range(draw(st.integers(0, 3))):
        rows = body.get("rows")
        if rows and isinstance(rows, list) and draw(st.booleans()):
            one = draw(st.sampled_from(rows))
            if isinstance(one, dict):
                one[draw(st.sampled_from(columns))] = draw(VALUES)
        elif body:
            changed(body, draw)
    content = json.dumps(body).encode()
    return damaged(content, draw) if draw(st.integers(0, 4)) == 0 else content


@fuzz(3)
@given(st.data())
def test_each_request_has_its_answer(scorer, data):
    columns = scorer.transform.columns
    good = json.dumps({"rows": [ROW], "ignore_unknown": True}).encode()
    bodies = [drawn(data.draw, columns) for _ in range(data.draw(st.integers(1, 3)))]
    found = answers(scorer, [*bodies, good])
    alone = answers(scorer, [good])
    assert found[-1][0] == alone[0][0] == 200
    assert found[-1][1]["predictions"][0]["logit"] == pytest.approx(
        alone[0][1]["predictions"][0]["logit"], abs=1e-5
    )
    for status, answer in found:
        json.dumps(answer, allow_nan=False).encode()
        if status == 200:
            assert all(math.isfinite(value) for one in answer["predictions"] for value in one.values())
        else:
            said = [answer["error"]] if status == 400 else [one["error"] for one in answer["errors"]]
            assert said
            assert not any("\n" in one for one in said)


def test_the_row_is_read(scorer):
    """The requests above are changes of one that is right."""
    row = {name: ROW[name] for name in scorer.transform.columns}
    [(status, answer)] = answers(scorer, [json.dumps({"rows": [row]}).encode()])
    assert status == 200, answer
