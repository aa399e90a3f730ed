"""`clickprompt benchmark serve`: 64 connections from another process, beside the same model called in a loop
in one process.

After that, no request may fail while a model's process is killed (SIGKILL) and while the export is swapped
under load. The finetuned run is `finetune.init`; rows are made from its vocabularies.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.processes import below, end, gone_within, title
from clickprompt.config import Config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError, RunError
from clickprompt.export.format import dataset_of, export_of, read_info
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.io.progress import say
from clickprompt.scoring.answers import answers
from clickprompt.scoring.raw_rows import SERVED_ROWS, RawRowScorer, open_scorer

__all__ = ["bodies_for", "load", "measure_serve"]

_CONNECTIONS = 64
_ROUNDS, _SECONDS = 3, 10.0
_ROWS = 1  # rows of a request
_START_S = 180.0


def measure_serve(config: Config) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Raises ConfigError without a finetuned run in finetune.init, RunError if a
    request failed.
    """
    run = config.finetune.init
    if run is None:
        raise ConfigError(
            "finetune.init is not set: benchmark serve needs a finetuned run; give one with --set "
            "finetune.init=RUN"
        )
    with tempfile.TemporaryDirectory(prefix="clickprompt-serve-") as folder:
        exports = [os.path.join(folder, name) for name in ("one", "two")]
        for export in exports:
            export_for_serving(run, export, data=config.data.path)
        # The same weights under another checksum, which tells the swapped export apart
        _rewrite(os.path.join(exports[1], "export.json"))
        scorer = open_scorer(exports[0], most_rows=SERVED_ROWS)
        bodies = bodies_for(scorer, dataset_of(read_info(export_of(run)).config, config.data.path))
        link = os.path.join(folder, "now")
        os.symlink(exports[0], link)
        rates: dict[str, list[float]] = {"server": [], "loop": [], "loop_64": []}
        latencies: list[float] = []
        with _Serving(link, folder) as port_and_process:
            port, process = port_and_process
            _load_apart(port, bodies, 3.0, folder)  # warm-up
            for turn in range(_ROUNDS):
                say(f"serve: round {turn + 1} of {_ROUNDS}, {_CONNECTIONS} connections for {_SECONDS:.0f} s")
                found = _load_apart(port, bodies, _SECONDS, folder)
                _none_failed(found, "without a fault")
                rates["server"].append(len(found["seconds"]) / _SECONDS)
                latencies += found["seconds"]
                rates["loop"].append(_loop(scorer, bodies, 1))
                rates["loop_64"].append(_loop(scorer, bodies, _CONNECTIONS))
            killed = _under_load(port, bodies, folder, lambda: _kill(process.pid), None)
            swapped = _under_load(port, bodies, folder, lambda: _swap(exports[1], link), 2)
    p50, p99 = (1000 * float(np.quantile(latencies, share)) for share in (0.5, 0.99))
    figures = {
        "requests_per_second": figure(rates["server"], "requests/s"),
        "p50": figure([p50], "ms"),
        "p99": figure([p99], "ms"),
        "loop_requests_per_second": figure(rates["loop"], "requests/s, one at a time, in process"),
        "loop_64_requests_per_second": figure(rates["loop_64"], "requests/s, 64 at a time, in process"),
        "failed_while_killed": figure(
            [float(len(killed["failed"]))], f"of {len(killed['seconds'])} requests"
        ),
        "failed_while_swapped": figure(
            [float(len(swapped["failed"]))], f"of {len(swapped['seconds'])} requests"
        ),
    }
    return figures, [
        f"{_CONNECTIONS} connections, {_ROWS} row a request, {len(latencies):,} requests timed; 2 "
        "model processes"
    ]


def _rewrite(path: str) -> None:
    with open(path) as stream:
        found = json.load(stream)
    with open(path, "w") as stream:
        json.dump(found, stream, indent=1)


def bodies_for(scorer: RawRowScorer, dataset: Dataset) -> list[bytes]:
    """Make requests from values of the vocabularies, under the columns of fields that are read as text; other
    columns are missing.
    """
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [{} for _ in range(256)]
    for number, rule in enumerate(scorer.transform.rules):
        if rule.table is None and rule.schema.kind == "categorical" and rule.schema.values is None:
            values = dataset.vocabulary(number).column("value")
            for row, place in zip(rows, rng.integers(1, len(values), len(rows)), strict=True):
                row[rule.column] = values[int(place)].as_py()
    return [json.dumps({"rows": [row] * _ROWS}).encode() for row in rows]


def _loop(scorer: RawRowScorer, bodies: list[bytes], at_once: int) -> float:
    """Return requests per second of the same model and the same reading of JSON, without HTTP and Ray."""
    done, started = 0, time.monotonic()
    while time.monotonic() - started < _SECONDS / 2:
        some = [bodies[(done + place) % len(bodies)] for place in range(at_once)]
        assert all(status == 200 for status, _ in answers(scorer, some))
        done += at_once
    return done / (time.monotonic() - started)


class _Serving:
    """`clickprompt serve` in a process of its own."""

    def __init__(self, run: str, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        program = [
            sys.executable,
            "-c",
            "from clickprompt.cli.main import main; main()",
            "serve",
            "--run",
            run,
            "--watch",
            "1",
        ]
        self._log = open(os.path.join(folder, "server.log"), "w+")  # noqa: SIM115 - closed at the end
        environment = {name: value for name, value in os.environ.items() if name != "CLICKPROMPT_SERVE_TOKEN"}
        self._process = subprocess.Popen(  # noqa: S603 - ours
            [*program, "--port", str(self._port), "--json"],
            stdout=self._log,
            stderr=self._log,
            env=environment,
        )

    def __enter__(self) -> tuple[int, subprocess.Popen[bytes]]:
        until = time.monotonic() + _START_S
        while '{"url"' not in self._said():
            if self._process.poll() is not None or time.monotonic() > until:
                said = self._said()[-300:]
                self.__exit__()
                raise RunError(f"the server didn't start ({' '.join(said.split())})")
            time.sleep(0.2)
        return self._port, self._process

    def __exit__(self, *error: object) -> None:
        started = below(self._process.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end(gone_within(started, 10))
        self._log.close()

    def _said(self) -> str:
        with open(self._log.name) as stream:
            return stream.read()


def _start_load(port: int, bodies: list[bytes], seconds: float, folder: str) -> subprocess.Popen[bytes]:
    path = os.path.join(folder, "load.json")
    with open(path, "w") as stream:
        json.dump(
            {
                "port": port,
                "bodies": [body.decode() for body in bodies],
                "seconds": seconds,
                "out": f"{path}.out",
            },
            stream,
        )
    program = f"from clickprompt.benchmark.serve import load; load({path!r})"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)  # noqa: S603 - ours


def _ended(process: subprocess.Popen[bytes], seconds: float, folder: str) -> dict[str, Any]:
    try:
        if process.wait(seconds + 120):
            raise RunError(f"the process that asks the server ended with status {process.returncode}")
    finally:
        process.kill()
    with open(os.path.join(folder, "load.json.out")) as stream:
        return json.load(stream)


def _load_apart(port: int, bodies: list[bytes], seconds: float, folder: str) -> dict[str, Any]:
    return _ended(_start_load(port, bodies, seconds, folder), seconds, folder)


def _under_load(
    port: int, bodies: list[bytes], folder: str, strike: Any, exports: int | None
) -> dict[str, Any]:
    seconds = 20.0
    process = _start_load(port, bodies, seconds, folder)
    assert process.stdout is not None
    process.stdout.readline()  # as many answers as connections; nothing if the process has ended
    what = strike()
    found = _ended(process, seconds, folder)
    _none_failed(found, what)
    if exports is not None and len(found["exports"]) != exports:
        raise RunError(
            f"{what}: {len(found['exports'])} exports answered, not {exports}; the machine may be too busy"
        )
    return found


def _none_failed(found: dict[str, Any], when: str) -> None:
    if found["failed"]:
        raise RunError(f"{len(found['failed'])} requests failed {when}, first: {found['failed'][0]}")


def _kill(pid: int) -> str:
    models = [process for process in below(pid) if "Model" in title(process)]
    if not models:
        raise RunError("no process of a model was found to kill")
    end(models[:1])
    return "while a model's process was killed"


def _swap(export: str, link: str) -> str:
    os.symlink(export, f"{link}.next")
    os.replace(f"{link}.next", link)
    return "while the export was swapped"


def load(path: str) -> None:
    """Run in a process of its own: `_CONNECTIONS` connections, each asking again as soon as it was answered.
    Print a line after as many answers.
    """
    with open(path) as stream:
        spec = json.load(stream)
    found = asyncio.run(_ask(spec["port"], [body.encode() for body in spec["bodies"]], spec["seconds"]))
    with open(spec["out"], "w") as stream:
        json.dump(found, stream)


async def _ask(port: int, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    import aiohttp  # comes with ray[default]

    times: list[float] = []
    failed: list[str] = []
    exports: set[str] = set()
    until = time.monotonic() + seconds

    async def connection(session: aiohttp.ClientSession, number: int) -> None:
        while (started := time.monotonic()) < until:
            body = bodies[(number := number + 1) % len(bodies)]
            try:
                async with session.post(f"http://127.0.0.1:{port}/predict", data=body) as response:
                    answer = await response.json()
                    if response.status == 200:
                        exports.add(answer["export"])
                    else:
                        failed.append(f"{response.status} {str(answer)[:200]}")
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                failed.append(f"{type(error).__name__}: {error}"[:200])
            times.append(time.monotonic() - started)
            if len(times) == _CONNECTIONS:
                print("answered", flush=True)

    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        await asyncio.gather(*(connection(session, 17 * number) for number in range(_CONNECTIONS)))
    return {"seconds": times, "failed": failed, "exports": sorted(exports)}
