"""The audit of the fault campaign on made-up notes: it must see what a wrong resume would do."""

import json

import pytest

from clickprompt.benchmark.faults.audit import Attempt, audit, read_attempts
from clickprompt.data.prepared.order import Order, read_local_batches
from tests.support.synthetic import write_dataset

STEPS = 34  # two epochs, the last batch of each is short


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("audit")))


@pytest.fixture(scope="module")
def order(dataset):
    return Order.of(dataset, global_batch_size=24, chunk_batches=4, seed=0, epochs=2, max_steps=None)


@pytest.fixture(scope="module")
def planned(dataset, order):
    rows = {
        step: columns["row_id"][columns["weight"] > 0].tolist()
        for step, columns in read_local_batches(dataset, order)
    }
    assert list(rows) == list(range(STEPS))
    return rows


def attempt(planned, held: int, steps: range) -> Attempt:
    return Attempt(held, 2, {step: list(planned[step]) for step in steps})


def test_what_was_trained_again_counts_once(dataset, order, planned):
    """Killed at step 13, and again before it had a checkpoint of its own; the checkpoint of step 10 was what
    both went on from.
    """
    attempts = [
        attempt(planned, 0, range(13)),
        attempt(planned, 10, range(10, 12)),
        attempt(planned, 10, range(10, STEPS)),
    ]
    assert audit(attempts, dataset, order).clean


def test_an_older_checkpoint_than_the_newest(dataset, order, planned):
    """The one of step 20 was damaged: nothing of what the second attempt did is in the model."""
    attempts = [
        attempt(planned, 0, range(13)),
        attempt(planned, 10, range(10, 25)),
        attempt(planned, 5, range(5, STEPS)),
    ]
    assert audit(attempts, dataset, order).clean


@pytest.mark.parametrize(("first", "lost", "repeated"), [(11, 24, 0), (9, 0, 24)])
def test_a_resume_that_is_off_by_one(dataset, order, planned, first, lost, repeated):
    found = audit([attempt(planned, 0, range(13)), attempt(planned, 10, range(first, STEPS))], dataset, order)
    assert (found.lost, found.repeated, found.displaced) == (lost, repeated, 1)


def test_a_row_in_the_place_of_another(dataset, order, planned):
    whole = attempt(planned, 0, range(STEPS))
    whole.rows[3][0] = whole.rows[4][0]
    found = audit([whole], dataset, order)
    assert (found.lost, found.repeated, found.displaced) == (1, 1, 1)


def test_every_row_once_but_not_in_its_step(dataset, order, planned):
    whole = attempt(planned, 0, range(STEPS))
    whole.rows[3], whole.rows[4] = whole.rows[4], whole.rows[3]
    found = audit([whole], dataset, order)
    assert (found.lost, found.repeated, found.displaced) == (0, 0, 2)


def test_rows_that_are_nobodys_and_steps_after_the_end(dataset, order, planned):
    whole = attempt(planned, 0, range(STEPS))
    whole.rows[3].append(10**6)
    assert audit([whole], dataset, order).repeated == 1
    whole = attempt(planned, 0, range(STEPS))
    whole.rows.pop(STEPS - 1)
    assert audit([whole], dataset, order).lost == len(planned[STEPS - 1])


def test_the_notes_of_an_attempts_workers_are_put_together(tmp_path):
    def write(name, *lines):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    write("0002-0.jsonl", {"from": 1, "workers": 1, "node": "a"}, {"step": 1, "rows": [5], "time": 4.0})
    write("0001-1.jsonl", {"from": 0, "workers": 2, "node": "b"}, {"step": 0, "rows": [2], "time": 2.0})
    write(
        "0001-0.jsonl",
        {"from": 0, "workers": 2, "node": "a"},
        {"step": 0, "rows": [1], "time": 1.0},
        {"step": 1, "rows": [3], "time": 3.0},
    )
    (tmp_path / "0003-0.jsonl").write_text("")  # killed before it had begun
    first, second = read_attempts(str(tmp_path))
    assert (first.start, first.num_workers, dict(first.rows), first.passed(0), first.passed(1)) == (
        0,
        2,
        {0: [1, 2], 1: [3]},
        2.0,
        None,
    )
    assert (second.start, second.num_workers, dict(second.rows)) == (1, 1, {1: [5]})
    assert (second.began, first.nodes, second.nodes) == (2e-9, ["a", "b"], ["a"])
    assert read_attempts(str(tmp_path / "nowhere")) == []
