"""`clickprompt serve` in a process of its own, and a client of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

from clickprompt.benchmark.processes import below, title


class Server:
    """`clickprompt serve` in a process of its own."""

    def __init__(self, run: str, folder: str, *options: str, **environment: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.err = os.path.join(folder, "err")
        program = [
            sys.executable,
            "-c",
            "from clickprompt.cli.main import main; main()",
            "serve",
            "--run",
            run,
            "--port",
            str(self.port),
        ]
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in ("RAY_ADDRESS", "CLICKPROMPT_SERVE_TOKEN")
        }
        with open(self.err, "w") as err:
            self.process = subprocess.Popen(
                [*program, "--json", *options],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                env=clean | environment,
            )

    def __enter__(self) -> "Server":
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        if not self.said:
            self.process.wait()
            raise AssertionError(open(self.err).read())
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def ask(self, path: str, body: bytes | dict | None = None, **headers: str) -> tuple[int, dict | str]:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                status, text = found.status, found.read().decode()
        except urllib.error.HTTPError as found:
            status, text = found.code, found.read().decode()
        return status, json.loads(text) if text.startswith("{") else text

    def models(self) -> list[int]:
        return [process[0] for process in below(self.process.pid) if "Model" in title(process)]
