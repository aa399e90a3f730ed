"""What requests are answered, by a real model without HTTP."""

import json

import numpy as np
import pyarrow as pa
import pytest

from clickprompt.scoring.answers import MOST_ROWS, answers
from clickprompt.scoring.raw_rows import open_scorer
from tests.support.finetuned import write_run
from tests.support.tiny import write_both


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    write_run(str(folder / "run"), write_both(str(folder / "both")))
    return open_scorer(str(folder / "run"))


def rows_of(scorer, count):
    return [dict.fromkeys(scorer.transform.columns, f"red {number}") for number in range(count)]


def body(rows, **options) -> bytes:
    return json.dumps({"rows": rows, **options}).encode()


def test_requests_are_scored_together_and_answered_apart(scorer):
    rows = rows_of(scorer, 5)
    rows[3]["gender"] = None
    table = pa.Table.from_pylist(rows).select(scorer.transform.columns)
    logits, _ = scorer.score(table, ("",))
    found = answers(scorer, [body(rows[:2]), b"{", body([]), body(rows[2:])])
    assert [status for status, _ in found] == [200, 400, 200, 200]
    scored = [one for _, answer in found for one in answer.get("predictions", ())]
    np.testing.assert_allclose([one["logit"] for one in scored], logits, atol=1e-6, rtol=0)
    assert [one["probability"] for one in scored] == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    assert "not JSON" in found[1][1]["error"]


def test_a_row_that_cannot_be_read_is_named_and_spares_the_other_requests(scorer):
    rows = rows_of(scorer, 3)
    wrong = [rows[0], rows[1] | {"gendre": "x"}, rows[2] | {"user_id": {"no": "value"}}]
    good, bad, lenient = answers(
        scorer, [body(rows), body(wrong), body([rows[0] | {"gendre": "x"}], ignore_unknown=True)]
    )
    assert good[0] == lenient[0] == 200
    assert len(good[1]["predictions"]) == 3
    assert bad[0] == 422
    assert [(error["row"], error["column"]) for error in bad[1]["errors"]] == [(1, "gendre"), (2, "user_id")]
    assert lenient[1]["predictions"][0]["logit"] == pytest.approx(
        good[1]["predictions"][0]["logit"], abs=1e-6
    )


def test_a_request_of_too_many_rows(scorer):
    [(status, answer)] = answers(scorer, [body(rows_of(scorer, 1) * (MOST_ROWS + 1))])
    assert (status, "at most 1024" in answer["error"]) == (400, True)
