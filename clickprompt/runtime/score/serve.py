"""Serve a finetuned model over HTTP on Ray Serve: `clickprompt serve`, and the same application for KubeRay
(`app`).

    POST /predict   rows of raw columns as JSON → logits and probabilities (scoring/answers.py); several
                    requests are scored at a time
    GET  /ready     200 and the export, once a model answers; 503 before
    GET  /metrics   this node's metrics of Ray Serve and of the models, for Prometheus

There are two deployments: `Gate` speaks HTTP and checks the token, `Model` scores. A request whose Model
process dies is given to another one. Every Model checks the export's checksum every few seconds and loads a
new export beside the old one; no request waits or is refused meanwhile.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import torch
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.util.metrics import Counter, Gauge, Histogram

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ClickPromptError, InputError, RunError
from clickprompt.export.format import INFO, export_of
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime import compat
from clickprompt.runtime.cluster.connect import connect
from clickprompt.runtime.score.gate import SECONDS, Gate, read_token
from clickprompt.runtime.score.serve_options import TOKEN, ServeOptions
from clickprompt.scoring.answers import Answer, answers
from clickprompt.scoring.raw_rows import SERVED_ROWS, RawRowScorer, open_scorer

__all__ = ["app", "serve_run"]

_APP = "clickprompt"
_BATCH_REQUESTS, _BATCH_WAIT_S = 64, 0.002
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def app(args: Mapping[str, Any]) -> Any:
    """Build the application; `args` has the fields of ServeOptions.

    On KubeRay: `import_path: clickprompt.runtime.score.serve:app`.
    """
    options = ServeOptions.of(args)
    actor = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    model = Model.options(num_replicas=options.replicas, ray_actor_options=actor).bind(options)
    return Gate.bind(options, model)


@serve.deployment(
    max_ongoing_requests=4 * _BATCH_REQUESTS,
    health_check_period_s=2,
    health_check_timeout_s=30,
    graceful_shutdown_wait_loop_s=0.1,
)
class Model:
    """One process with the model; it keeps the old model until a new one is completely loaded."""

    def __init__(self, options: ServeOptions):
        compat.keep_replica_on_loopback()
        torch.set_num_threads(max(int(options.cpus), 1))
        torch.set_flush_denormal(True)
        self._options = options
        self._work = ThreadPoolExecutor(1)  # one batch at a time
        self._load = ThreadPoolExecutor(1)
        self._swaps = Counter("clickprompt_serve_swaps", "exports loaded beside a running one", ("outcome",))
        self._rows = Counter("clickprompt_serve_rows", "rows scored or refused", ("status",))
        self._batch = Histogram(
            "clickprompt_serve_batch_requests",
            "requests scored at a time",
            boundaries=[1, 2, 4, 8, 16, 32, 64],
        )
        self._seconds = Histogram(
            "clickprompt_serve_batch_seconds", "time of reading and scoring a batch", boundaries=SECONDS
        )
        self._loaded_at = Gauge(
            "clickprompt_serve_loaded_at_seconds", "when the export that answers was loaded, since 1970"
        )
        self._refused = ""
        self._scorer, self._export = self._open()
        self._loaded_at.set(time.time())
        self._watching: asyncio.Task[None] | None = None

    def _open(self) -> tuple[RawRowScorer, str]:
        checksum = _checksum(self._options.run)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        scorer = open_scorer(_real(self._options.run), self._options.data, device, SERVED_ROWS)
        if _checksum(self._options.run) != checksum:
            raise RunError(f"{self._options.run}: changed while it was read")
        return scorer, checksum

    async def predict(self, body: bytes) -> Answer:
        self._watch()
        return await self._answer(body)

    async def state(self) -> dict[str, Any]:
        self._watch()
        return {
            "export": self._export,
            "run": self._options.run,
            "pid": os.getpid(),
            "refused": self._refused,
        }

    @serve.batch(max_batch_size=_BATCH_REQUESTS, batch_wait_timeout_s=_BATCH_WAIT_S)
    async def _answer(self, bodies: list[bytes]) -> list[Answer]:
        started = time.monotonic()
        # Read once: the model may be replaced while this batch is scored
        scorer, export = self._scorer, self._export
        made = await asyncio.get_running_loop().run_in_executor(self._work, answers, scorer, bodies)
        self._batch.observe(len(bodies))
        self._seconds.observe(time.monotonic() - started)
        for status, found in made:
            self._rows.inc(
                max(len(found.get("predictions", found.get("errors", [0]))), 1), {"status": str(status)}
            )
        return [(status, found | {"export": export} if status == 200 else found) for status, found in made]

    def _watch(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._follow())

    async def check_health(self) -> None:
        self._watch()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._options.watch_s)
            found = None
            try:
                found = await loop.run_in_executor(self._load, _checksum, self._options.run)
                if found == self._export:
                    continue
                self._scorer, self._export = await loop.run_in_executor(self._load, self._open)
            # The present model goes on answering. An export that can't be loaded may be half-copied, so it is
            # tried again
            except Exception as error:
                if found is not None and found == self._refused:  # already logged
                    continue
                self._refused = found or ""
                self._swaps.inc(1, {"outcome": "refused"})
                logging.getLogger("ray.serve").warning(
                    "%s: not loaded: %s", self._options.run, " ".join(str(error).split())
                )
                continue
            self._refused = ""
            self._loaded_at.set(time.time())
            self._swaps.inc(1, {"outcome": "loaded"})


def _real(run: str) -> str:
    """Return where a link points now, so that all files are read from one export."""
    return os.path.realpath(run) if storage.is_local(run) else run


def _checksum(run: str) -> str:
    return hashlib.sha256(storage.read_bytes(storage.join(export_of(_real(run)), INFO))).hexdigest()[:16]


def serve_run(
    options: ServeOptions, *, host: str, port: int, runtime: RuntimeConfig, listening: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that have arrived by then are answered.

    listening: called with the URL once the server answers.

    Raises InputError, before anything starts, for a port in use, an address that isn't loopback without a
    token, or an export that can't be loaded.
    """
    if host not in _LOOPBACK and options.token == "none":  # noqa: S105
        raise InputError(
            f"--host {host}: whoever reaches it could ask; give a token with --token-file or {TOKEN}, or "
            "listen on 127.0.0.1"
        )
    if options.token == "required":  # noqa: S105
        read_token(options.token_file)
    _check_port(host, port)
    # Opened here first, so that a mistake shows at once and not in a replica
    scorer = open_scorer(_real(options.run), options.data)
    say(f"{options.run}: columns {', '.join(scorer.transform.columns)}")
    del scorer
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    results = sys.stdout  # `connect` redirects stdout to stderr
    with connect(runtime), _stopping() as stop:
        _start(options, host, port)
        with contextlib.redirect_stdout(results):
            listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        while not stop.wait(1):
            pass
        serve.shutdown()


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and Ctrl-C set.

    Enter it within a connection, because Ray takes over SIGTERM when it starts.
    """
    stop = threading.Event()

    def note(number: int, frame: Any) -> None:
        say(f"{signal.Signals(number).name}: answering what has come, then stopping")
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(options: ServeOptions, host: str, port: int) -> None:
    logs = {"log_level": "WARNING", "enable_access_log": False}
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=logs)
        serve.run(app(vars(options)), name=_APP, logging_config=logs)
    except (RuntimeError, RayServeException) as error:
        if isinstance(error, ClickPromptError):
            raise
        raise RunError(
            f"{options.run}: the server didn't start ({' '.join(str(error).split())[:300]})"
        ) from error


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--host {host} --port {port}: can't listen there ({error.strerror}); choose another"
            ) from error
