"""Kill one of a server's models while requests are in flight: the fault `replica`."""

import http.client
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Any

from clickprompt.benchmark.faults.commands import Command
from clickprompt.benchmark.faults.plan import Fault
from clickprompt.benchmark.faults.runs import Runs
from clickprompt.benchmark.processes import Process, end, title
from clickprompt.benchmark.serve import bodies_for
from clickprompt.errors import RunError
from clickprompt.io import storage
from clickprompt.scoring.raw_rows import open_scorer

__all__ = ["Clients", "replaced", "strike_replica"]

_REPLICAS = 2
_CLIENTS = 8
_HELD_S = 0.5  # seconds without an answer after which a request is taken to be with the stopped model
_HOLD_S = 5.0  # seconds that the stopped model gets to be given half of the clients' requests
_PATIENCE_S = 120.0  # seconds until a client gives up
_AFTER = 50  # answers after the model was replaced


def strike_replica(runs: Runs, fault: Fault, folder: str) -> dict[str, Any]:
    """Ask without a pause for scores of the undisturbed run; stop a model's process, kill it once it holds
    requests, and go on until it has been replaced.

    Of the outcome, `lost` and `repeated` count rows that got no score or more than one, `loss_difference`
    compares probabilities with those from before, and `failed_first` counts requests whose first try ended
    with an error.

    Raises RunError if the model isn't replaced, or the server fails.
    """
    bodies = bodies_for(open_scorer(runs.run_of(fault.arm), str(runs.dataset.uri)), runs.dataset)
    strike = fault.strikes[0]
    with runs.serve(folder, fault.arm, _REPLICAS) as command:
        port = command.wait_for(lambda: _read(os.path.join(folder, "port.json")))
        command.wait_for(lambda: any(note["running"] == _REPLICAS for note in _running(folder)) or None)
        before = [_ask(port, body) for body in bodies]
        if failed := [answer for answer in before if isinstance(answer, str)]:
            raise RunError(f"the server failed before the fault ({failed[0]})")
        with Clients(port, bodies) as clients:
            command.wait_for(lambda: len(clients.answers) >= strike["after"] or None)
            models = _models(command)
            if len(models) < _REPLICAS:
                raise RunError(f"{len(models)} processes of a model are there, not {_REPLICAS}")
            model = models[strike["rank"] % len(models)]
            reached = len(clients.answers)
            os.kill(model[0], signal.SIGSTOP)
            until = time.monotonic() + _HOLD_S
            command.wait_for(lambda: clients.held() >= _CLIENTS // 2 or time.monotonic() > until or None)
            in_flight, struck = clients.held(), time.time()
            end([model])
            again = command.wait_for(lambda: replaced(folder, struck))
            wanted = len(clients.answers) + _AFTER
            command.wait_for(lambda: len(clients.answers) >= wanted or None)
        command.signal(signal.SIGTERM)
        command.ended()
    answers = clients.answers
    rows = [len(answer["predictions"]) for _, answer in answers]
    return {
        "lost": clients.unanswered + rows.count(0),
        "repeated": sum(max(number - 1, 0) for number in rows),
        "displaced": 0,
        "loss_difference": max(
            abs(_probability(answer) / _probability(before[body]) - 1) for body, answer in answers
        ),
        "reached": reached,
        "recovery_seconds": again - struck,
        "requests": len(answers) + clients.unanswered,
        "in_flight": in_flight,
        "failed_first": len(clients.failed),
        "failures": sorted(set(clients.failed))[:5],
        "longest_seconds": round(max(clients.seconds), 3),
    }


class Clients:
    """Clients that each ask again as soon as they were answered, until the end of the context; a request that
    fails is asked again after `again_s`, as docs/guide/serving.md says.
    """

    def __init__(self, port: int, bodies: list[bytes], again_s: float = 1.0):
        self.answers: list[tuple[int, dict[str, Any]]] = []
        """(index of the body, the answer)"""
        self.failed: list[str] = []
        """how each request's first try ended that was no answer"""
        self.seconds: list[float] = []
        """from each request's first try to its answer"""
        self.unanswered = 0
        self._port = port
        self._bodies = bodies
        self._again_s = again_s
        self._began = [time.monotonic()] * _CLIENTS
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(_CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def held(self) -> int:
        """Return how many requests have waited for longer than they would with all models at work."""
        now = time.monotonic()
        return sum(now - began > _HELD_S for began in self._began)

    def _run(self, client: int) -> None:
        number = client
        while not self._over.is_set():
            number = (number + _CLIENTS) % len(self._bodies)
            self._began[client] = began = time.monotonic()
            answer = _ask(self._port, self._bodies[number])
            if isinstance(answer, str):
                self.failed.append(answer)
            while isinstance(answer, str) and time.monotonic() - began < _PATIENCE_S:
                time.sleep(self._again_s)
                answer = _ask(self._port, self._bodies[number])
            if isinstance(answer, str):
                self.unanswered += 1
                continue
            self.answers.append((number, answer))
            self.seconds.append(time.monotonic() - began)


def _ask(port: int, body: bytes) -> dict[str, Any] | str:
    """Return the answer, or why there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", body, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def _probability(answer: Any) -> float:
    return answer["predictions"][0]["probability"]


def _models(command: Command) -> list[Process]:
    return [process for process in command.below() if "Model" in title(process)]


def _running(folder: str) -> list[dict[str, Any]]:
    """Read the victim's notes of how many models answer."""
    path = os.path.join(folder, "replicas.jsonl")
    if not os.path.exists(path):
        return []
    with open(path) as stream:
        return [json.loads(line) for line in stream]


def replaced(folder: str, struck: float) -> float | None:
    """Return when as many models answered again, after one was missed; None if not yet."""
    later = [note for note in _running(folder) if note["time"] > struck]
    fewer = next((place for place, note in enumerate(later) if note["running"] < _REPLICAS), len(later))
    return next((note["time"] for note in later[fewer:] if note["running"] >= _REPLICAS), None)


def _read(path: str) -> Any:
    return storage.read_json(path) if os.path.exists(path) else None
