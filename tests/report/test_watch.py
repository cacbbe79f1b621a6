"""The served page: of one run, for this machine, renewed while the run goes on."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tilth.core.errors import DataError
from tilth.report.watch import Watch


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    (path / "recipe.yaml").write_text("name: <b>watched\nmodel: {use: decoder, layers: 3}\n")
    (path / "status.json").write_text(json.dumps({"status": "running"}))
    (path / "secret.txt").write_text("not for the page")
    return path


@pytest.fixture
def server(run: Path) -> Iterator[Watch]:
    with Watch(run) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def ask(server: Watch, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.headers), answer.read().decode()
    connection.close()
    return found


def test_the_page_is_made_anew_and_asked_for_again_while_the_run_goes_on(server: Watch, run: Path) -> None:
    status, headers, body = ask(server)
    assert (status, headers["Refresh"], headers["Cache-Control"]) == (200, "5", "no-store")
    assert "layers" in body and "<b>watched" not in body and "Content-Security-Policy" in body
    row = {"stage": "train", "step": 1, "global_step": 1, "loss": 4.25, "grad_norm": 1.0, "lr": 0.1, "tokens": 32}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert "4.25" in ask(server)[2]
    (run / "status.json").write_text(json.dumps({"status": "done"}))
    assert "Refresh" not in ask(server)[1]
    assert not (run / "report.html").exists()  # looking writes nothing


@pytest.mark.parametrize("path", ["/secret.txt", "/../secret.txt", "/?x", "/%2e%2e/", "http://example.org/"])
def test_there_is_nothing_else(server: Watch, path: str) -> None:
    status, _, body = ask(server, path)
    assert status in (403, 404) and "secret" not in body


def test_other_hosts_and_methods_are_refused(server: Watch) -> None:
    assert ask(server, Host="evil.example")[0] == 403
    assert ask(server, Host=f"localhost:{server.server_address[1]}")[0] == 200
    assert ask(server, method="POST")[0] == 501


def test_a_run_that_went_away_is_said(server: Watch, run: Path) -> None:
    for path in run.iterdir():
        path.unlink()
    status, headers, body = ask(server)
    assert status == 503 and "no run directory" in body and "Refresh" in headers


def test_what_is_no_run_and_a_port_that_is_taken_are_sentences(server: Watch, run: Path, tmp_path: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(DataError, match="no run directory"):
        Watch(tmp_path)
    for port in (server.server_address[1], 70_000):
        with pytest.raises(DataError, match="cannot be served"):
            Watch(run, port)
