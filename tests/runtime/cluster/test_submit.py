"""Submitting to a job server that isn't ready, or isn't one: a small server answers as Ray 2.60 does."""

import http.server
import json
import threading

import pytest
import ray

from clickprompt.errors import InputError, RunError
from clickprompt.runtime.cluster import submit
from clickprompt.runtime.cluster.submit import Submission, submit_job

NO_AGENT = "No available agent to submit job, please try again later."


@pytest.fixture
def job_server():
    """Starts a server that answers submissions with these (status, text) one after the other, the last one
    again and again; yields its address and the submissions.
    """
    servers = []

    def start(*answers, version=200):
        taken = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format, *arguments):
                pass

            def answer(self, status, text):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def do_GET(self):
                known = json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": "x"})
                self.answer(version if self.path == "/api/version" else 404, known)

            def do_PUT(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200, "{}")

            def do_POST(self):
                taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(*answers[min(len(taken), len(answers)) - 1])

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", taken

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_head_that_has_just_started_is_asked_again(job_server, capsys):
    submitted = json.dumps({"job_id": "first", "submission_id": "first"})
    address, taken = job_server((500, NO_AGENT), (500, NO_AGENT), (200, submitted))
    found = submit_job("pretrain", address, ["--run", "r"], Submission(job_id="first"), wait=False)
    assert (found["job_id"], found["status"]) == ("first", "SUBMITTED")
    assert len(taken) == 3
    assert taken[0] == taken[1] == taken[2]
    waited, said = capsys.readouterr().err.splitlines()
    assert waited == f"{address}: no agent for jobs is up yet; asking again for 120 s"
    assert said.startswith("submitted first: ")


def test_a_head_that_stays_without_an_agent(job_server, capsys, monkeypatch):
    monkeypatch.setattr(submit, "_AGENT_S", 1.5)
    address, taken = job_server((500, NO_AGENT))
    with pytest.raises(RunError, match="still no agent for jobs after 2 s; try again when"):
        submit_job("pretrain", address, [], wait=False)
    assert 2 <= len(taken) <= 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_another_error_is_not_tried_again(job_server, capsys):
    address, taken = job_server((500, "Traceback"))
    with pytest.raises(InputError, match="status code 500"):
        submit_job("pretrain", address, [], wait=False)
    assert len(taken) == 1
    assert capsys.readouterr().err == ""


def test_a_server_that_is_no_job_server(job_server):
    address, _ = job_server(version=502)
    with pytest.raises(InputError, match=r"no job server lets us in \(502 .*check address and token"):
        submit_job("pretrain", address, [], wait=False)
