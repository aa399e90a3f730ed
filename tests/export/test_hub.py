"""`export --push` against a Hub on loopback that speaks as much of its HTTP API as huggingface_hub needs."""

import base64
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clickprompt.cli.main import main
from tests.support.finetuned import write_run
from tests.support.tiny import write_both

TOKEN = "hf_planted99secret"


class Hub(BaseHTTPRequestHandler):
    """Its server has `asked`, the requests by path, `files`, those of commits, and `refuses`, a path."""

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else self._chunks()
        path = self.path.partition("?")[0]
        self.server.asked.append((path, self.headers.get("Authorization"), body))
        if self.server.refuses and self.server.refuses in path:
            return self._answer(403, {"error": f"no right for {self.headers.get('Authorization')}"})
        if path == "/api/repos/create":
            name = json.loads(body)["name"]
            return self._answer(200, {"url": f"{self.server.address}/someone/{name}"})
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            return self._answer(200, {"files": modes})
        if path.endswith("/commit/main"):
            for line in body.splitlines():
                found = json.loads(line)
                if found["key"] == "file":
                    value = found["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.address}/someone/ctr/commit/{'0' * 40}"
            return self._answer(200, {"commitOid": "0" * 40, "commitUrl": url})
        return self._answer(200, {"errors": [], "warnings": []})

    def do_GET(self):
        self._answer(404, {"error": "not found"})

    def _chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        server.asked, server.files, server.refuses = [], {}, None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_run(str(folder / "run"), write_both(str(folder)))
    return str(folder / "run")


def export(*words):
    with pytest.raises(SystemExit) as stopped:
        main(["export", *words])
    return stopped.value.code


@pytest.mark.parametrize("public", [False, True])
def test_the_folder_is_the_repository(run, hub, capsys, tmp_path, public):
    out = str(tmp_path / "out")
    words = ["--run", run, "--out", out, "--push", "ctr", *(["--public"] if public else []), "--json"]
    assert export(*words) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["hub"] == {"url": f"{hub.address}/someone/ctr", "commit": "0" * 40}
    [created] = [body for path, _, body in hub.asked if path == "/api/repos/create"]
    assert json.loads(created)["visibility"] == ("public" if public else "private")
    here = [path for path in Path(out).rglob("*") if path.is_file()]
    assert hub.files == {str(path.relative_to(out)): path.read_bytes() for path in here}
    assert hub.files["README.md"].startswith(b"---\n")
    assert {authorization for _, authorization, _ in hub.asked} == {f"Bearer {TOKEN}"}
    assert TOKEN not in said.out + said.err


@pytest.mark.parametrize("path", ["/api/repos/create", "/commit/"])
def test_what_the_hub_refuses_is_one_line_without_the_token(run, hub, capsys, tmp_path, path):
    hub.refuses, out = path, str(tmp_path / "out")
    assert export("--run", run, "--out", out, "--push", "someone/ctr") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--push someone/ctr: " in line
    assert f"hf upload someone/ctr {out} does the rest" in line
    assert TOKEN not in line
    assert os.path.exists(os.path.join(out, "export.json"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--push", "someone/ctr"], "no token for the Hugging Face Hub; set HF_TOKEN to one that may write"),
        (["--push", "some/one/ctr"], "not the name of a repository; give NAME or OWNER/NAME"),
        (["--push", "ctr", "--format", "embeddings"], "--format embeddings has no model card; leave it out"),
        (["--public"], "--public: nothing is pushed"),
    ],
)
def test_what_is_refused_before_anything_is_written(run, hub, capsys, monkeypatch, tmp_path, words, said):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    assert export("--run", run, "--out", str(tmp_path / "out"), *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not hub.asked
    assert not os.path.exists(tmp_path / "out")
