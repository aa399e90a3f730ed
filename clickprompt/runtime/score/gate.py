"""The HTTP side of a server: routes, tokens, limits and metrics. The models are in other processes."""

import asyncio
import hmac
import os
import time
import urllib.request
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, WorkerCrashedError
from ray.serve.exceptions import RayServeException
from ray.util.metrics import Counter, Histogram
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from clickprompt.errors import InputError
from clickprompt.runtime import compat
from clickprompt.runtime.score.serve_options import TOKEN, ServeOptions

__all__ = ["SECONDS", "Gate", "read_token"]

_LARGEST_BODY = 16 << 20  # bytes
_LONGEST_S = 30.0  # seconds during which a request is retried on other Model processes
_SHORTEST_TOKEN = 16  # characters
_METRICS = ("ray_serve_", "ray_clickprompt_serve_")

SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
"""bucket boundaries of the histograms"""


@serve.deployment(
    max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0}, graceful_shutdown_wait_loop_s=0.1
)
class Gate:
    """The HTTP server: it checks paths, sizes and the token, and retries if a Model process dies."""

    def __init__(self, options: ServeOptions, model: Any):
        compat.keep_replica_on_loopback()
        self._token = read_token(options.token_file) if options.token == "required" else None  # noqa: S105
        self._model = model
        self._requests = Counter("clickprompt_serve_requests", "requests answered, by status", ("status",))
        self._again = Counter(
            "clickprompt_serve_retries", "requests given to another process because theirs ended"
        )
        self._seconds = Histogram(
            "clickprompt_serve_request_seconds", "time of a /predict request", boundaries=SECONDS
        )

    async def __call__(self, request: Request) -> Response:
        path, method = request.url.path.rstrip("/"), request.method
        if (path, method) == ("/ready", "GET"):
            return await self._ready()
        allowed = {"/predict": "POST", "/metrics": "GET", "/ready": "GET"}.get(path)
        if allowed is None:
            return _error(404, "nothing is here; POST /predict, GET /ready, GET /metrics")
        if method != allowed:
            return _error(405, f"{path} takes {allowed}", {"Allow": allowed})
        if self._token is not None and not _authorized(request.headers.get("authorization", ""), self._token):
            return _error(
                401,
                "the token is missing or wrong; send Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
        if path == "/metrics":
            return PlainTextResponse(await asyncio.get_running_loop().run_in_executor(None, _node_metrics))
        started = time.monotonic()
        response = await self._predict(request)
        self._seconds.observe(time.monotonic() - started)
        self._requests.inc(1, {"status": str(response.status_code)})
        return response

    async def _predict(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_BODY:
                return _error(413, f"more than {_LARGEST_BODY >> 20} MiB; send the rows in several requests")
        until, pause = time.monotonic() + _LONGEST_S, 0.02
        while True:
            try:
                status, found = await self._model.predict.remote(bytes(body))
                return _json(status, found)
            except (RayActorError, WorkerCrashedError):
                self._again.inc()
                if time.monotonic() > until:
                    return _error(503, "no model answers just now; try again", {"Retry-After": "1"})
                await asyncio.sleep(pause)
                pause = min(2 * pause, 1.0)
            except RayServeException:  # too many requests are waiting
                return _error(503, "no model answers just now; try again", {"Retry-After": "1"})

    async def _ready(self) -> Response:
        try:
            found = await asyncio.wait_for(_awaited(self._model.state.remote()), 5)
        except (RayActorError, RayServeException, TimeoutError):
            return _error(503, "no model answers yet", {"Retry-After": "1"})
        return _json(200, {"ready": True, "export": found["export"]})


async def _awaited(response: Any) -> Any:
    return await response


def _json(status: int, found: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(found, status, headers)


def _error(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return _json(status, {"error": why}, headers)


def _authorized(header: str, token: str) -> bool:
    kind, _, given = header.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def read_token(file: str | None) -> str:
    """Read the token from a file, or from the environment.

    Raises InputError if it is missing or too short; the error never shows it.
    """
    if file is not None:
        try:
            with open(file) as stream:
                token = stream.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file}: no token can be read there ({type(error).__name__}); write one into it"
            ) from error
        where = file
    else:
        token, where = os.environ.get(TOKEN, "").strip(), TOKEN
    if len(token) < _SHORTEST_TOKEN:
        what = "is too short" if token else "is missing"
        raise InputError(
            f"{where}: the token {what}; give one of at least {_SHORTEST_TOKEN} characters, in a file "
            f"(--token-file) or {TOKEN}"
        )
    return token


def _node_metrics() -> str:
    """Return the server's part of what this node's Ray serves to Prometheus."""
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    with urllib.request.urlopen(
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10
    ) as found:
        lines = found.read().decode().splitlines()
    return "".join(
        f"{line}\n"
        for line in lines
        if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(_METRICS)
    )
