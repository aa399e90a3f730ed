"""The figures of a run's steps, in pieces."""

import json

from clickprompt.io import storage
from clickprompt.training.metrics_log import cut_metrics, metrics_files, read_metrics, write_metrics


def lines(first: int, last: int) -> list[str]:
    return [json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(first, last + 1)]


def steps(run: str) -> list[int]:
    return [line["step"] for line in read_metrics(run)]


def test_pieces_are_read_in_order_and_cut_where_a_run_continues(place):
    run = storage.join(place, "run")
    assert read_metrics(run) == []
    for first, last in ((1, 5), (6, 90), (91, 100)):
        write_metrics(run, last, lines(first, last))
    assert steps(run) == [*range(1, 101)]
    assert [uri.removeprefix(run) for uri in metrics_files(run)] == [
        "/metrics/step-00000005.jsonl",
        "/metrics/step-00000090.jsonl",
        "/metrics/step-00000100.jsonl",
    ]
    cut_metrics(run, 90)
    assert steps(run) == [*range(1, 91)]
    write_metrics(run, 97, lines(91, 97))
    assert steps(run) == [*range(1, 98)]
    cut_metrics(run, 0)
    assert steps(run) == []


def test_one_file_of_an_earlier_version_comes_first(place):
    run = storage.join(place, "run")
    whole = storage.join(run, "metrics.jsonl")
    storage.write_bytes(whole, "".join(lines(1, 12)).encode())
    assert steps(run) == [*range(1, 13)]
    cut_metrics(run, 10)
    assert storage.read_bytes(whole).decode() == "".join(lines(1, 10))
    write_metrics(run, 20, lines(11, 20))
    assert steps(run) == [*range(1, 21)]


def test_what_a_killed_worker_was_writing_is_no_piece(tmp_path):
    run = str(tmp_path)
    write_metrics(run, 5, lines(1, 5))
    half = tmp_path / "metrics" / "step-00000010.jsonl.tmp-0123abcd"
    half.write_text('{"step": 6, "lo')
    assert steps(run) == [*range(1, 6)]
    cut_metrics(run, 5)
    assert not half.exists()
