"""What the campaign is made of: a witness in a command's own process, clients that ask again, what is found
in notes and figures.
"""

import http.server
import json
import os
import threading
import time
from types import SimpleNamespace

import pytest

from clickprompt.benchmark.faults.audit import audit, read_attempts
from clickprompt.benchmark.faults.commands import losses
from clickprompt.benchmark.faults.replica import Clients, replaced
from clickprompt.benchmark.faults.soak import growth
from clickprompt.benchmark.faults.strikes import Strike, Witness
from clickprompt.benchmark.faults.summary import summary
from clickprompt.config import replaced as changed
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from tests.support.tiny import tiny_config, write_both


def test_the_witness_in_a_commands_own_process(tmp_path):
    """It notes the rows, tells of its strike and waits; if nothing is killed, training goes on."""
    dataset, plm = write_both(str(tmp_path))
    config = tiny_config(dataset.uri, plm, finetune__with_plm=False, finetune__max_steps=12)
    config = changed(config, {"runtime.use_ray": "never"})
    (tmp_path / "strikes").mkdir()
    mark = tmp_path / "strikes" / "0.json"
    seen = []

    def strike():
        while not mark.exists():
            time.sleep(0.01)
        seen.append(json.loads(mark.read_text()))
        (tmp_path / "strikes" / "0.done").write_text("")

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    run = str(tmp_path / "run")
    witness = Witness(str(tmp_path), os.path.join(run, "checkpoints"), (Strike("save", 1, rank=5),))
    run_training(config, "finetune", run, around=witness)
    thread.join()
    assert [(one["pid"], one["rank"], one["node"]) for one in seen] == [(os.getpid(), 0, "")]
    assert 0 < seen[0]["reached"] < 12
    assert len(losses(run)) == 12
    order = check_training(config, "finetune", run, again=True).order
    [attempt] = read_attempts(str(tmp_path / "consumed"))
    assert (attempt.num_workers, attempt.nodes) == (1, [""])
    assert audit([attempt], dataset, order).clean


@pytest.fixture
def flaky():
    """(port, what it does with requests in turn: answer, fail or drop; after these it answers)"""
    todo = ["answer", "fail", "fail", "drop"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            what = todo.pop(0) if todo else "answer"
            if what == "drop":
                return
            self.send_response(200 if what == "answer" else 503)
            self.end_headers()
            self.wfile.write(b'{"predictions": [{"probability": 0.5}]}' if what == "answer" else b"{}")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_clients_ask_again_and_count_what_failed_at_the_first_try(flaky):
    with Clients(flaky, [b"{}"] * 3, again_s=0.01) as clients:
        while len(clients.answers) < 20 or len(clients.failed) < 1:
            time.sleep(0.01)
    assert clients.unanswered == 0
    assert set(clients.failed) <= {"status 503", "RemoteDisconnected"}
    assert 1 <= len(clients.failed) <= 3
    assert len(clients.seconds) == len(clients.answers)
    assert {number for number, _ in clients.answers} <= {0, 1, 2}


def test_a_model_is_replaced_once_one_was_missed(tmp_path):
    def write(*notes):
        lines = [json.dumps({"running": running, "time": at}) + "\n" for running, at in notes]
        (tmp_path / "replicas.jsonl").write_text("".join(lines))

    folder = str(tmp_path)
    assert replaced(folder, 0.0) is None
    write((1, 1.0), (2, 2.0))
    assert replaced(folder, 3.0) is None
    write((1, 1.0), (2, 2.0), (1, 4.0))
    assert replaced(folder, 3.0) is None
    write((1, 1.0), (2, 2.0), (1, 4.0), (2, 7.5))
    assert replaced(folder, 3.0) == 7.5


def test_growth_compares_the_ends():
    assert growth([100, 101, 99, 120, 90, 100, 110, 110, 110]) == pytest.approx(0.1)
    assert growth([5]) == 0


def test_seconds_and_intervals_by_kind_and_by_the_engine_that_recovers():
    def outcome(kind, engines, seconds, **more):
        own = {"arm": "a", "kind": kind, "engines": engines, "recovery_seconds": seconds, "survived": True}
        return {**own, "lost": 0, "repeated": 0, "loss_difference": 1e-8, **more}

    asked = {"requests": 900, "in_flight": 3, "failed_first": 2, "longest_seconds": 1.5}
    outcomes = [
        outcome("driver", ["ray", "ray"], 30.0),
        outcome("driver", ["local", "local"], 10.0),
        outcome("driver", ["local", "ray"], 40.0),
        outcome("storage", ["local"], None),
        outcome("replica", ["ray"], 17.0, **asked),
        {"arm": "a", "kind": "worker", "engines": ["ray"], "survived": False, "error": "no end"},
    ]
    runs = SimpleNamespace(interval=lambda arm: 2.0, folder="runs/faults", other_seed=False)
    figures, notes = summary(outcomes, runs)
    medians = {name: values["median"] for name, values in figures.items()}
    assert (medians["faults"], medians["survived"], medians["local"]) == (6, 5, 3)
    assert (medians["recovery"], medians["recovery_intervals"]) == (30, 15)
    assert (medians["recovery_driver"], medians["recovery_driver_intervals"]) == (35, 17.5)
    assert (medians["recovery_driver_local"], medians["recovery_driver_local_intervals"]) == (10, 5)
    assert medians["recovery_replica"] == 17
    assert "recovery_replica_intervals" not in medians
    assert (medians["replica_failed_first"], medians["replica_requests"]) == (2, 900)
    assert notes == [
        "worker: 0 of 1 survived",
        "driver: 3 of 3 survived, 2 of them with the local engine, recovered in 35.0 s (17.5 checkpoint "
        "intervals), recovered on the local engine in 10.0 s (5.0 checkpoint intervals)",
        "storage: 1 of 1 survived, 1 of them with the local engine",
        "replica: 1 of 1 survived, recovered in 17.0 s",
        "every fault's outcome: runs/faults/*/outcome.json",
    ]
