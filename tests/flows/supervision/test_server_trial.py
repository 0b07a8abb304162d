"""The server that a run starts and talks to: what goes wrong with it is an error in one line, and nothing is left."""

import contextlib
import io
import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import requests
import safetensors.numpy

from flows.context.paths import CHECKOUT
from flows.supervision import server_trial
from flows.supervision.server_trial import serve_and_talk


def answer(*events: str) -> requests.Response:
    """A stream of server-sent events, as it comes from a socket."""
    found = requests.Response()
    found.status_code, found.raw = 200, io.BytesIO("".join(f"data: {event}\n\n" for event in events).encode())
    return found


def chunk(text: str) -> str:
    return json.dumps({"choices": [{"text": text}], "usage": None})


@pytest.mark.fast
def test_a_stream_is_read_to_its_end():
    found = list(server_trial._events(answer(chunk("Oh"), chunk(" é\n"), "[DONE]", chunk("never"))))
    assert [event["choices"][0]["text"] for event in found] == ["Oh", " é\n"]


@pytest.mark.fast
@pytest.mark.parametrize("events, words", [
    ([chunk("Oh")], "broke off"),
    ([chunk("Oh"), json.dumps({"error": {"message": "NaN"}}), "[DONE]"], "NaN"),
])  # fmt: skip
def test_a_stream_that_breaks_off_is_no_completion(events, words):
    with pytest.raises(RuntimeError, match=words):
        list(server_trial._events(answer(*events)))


@pytest.mark.slow
def test_a_server_that_cannot_start_is_named_with_its_own_words(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(RuntimeError, match=r"ended with code 2 before it answered; its last words: nanogpt: .*model"):
        serve_and_talk(tmp_path / "model", "Once", tmp_path / "server.log")


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(server_trial, "SECONDS_TO_START", 0.3)
    monkeypatch.setattr(server_trial, "_command", lambda model, port: ["sleep", "1000.5"])
    with pytest.raises(RuntimeError, match="no answer within"):
        serve_and_talk(tmp_path, "Once", tmp_path / "server.log")
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "1000.5"]]


@pytest.mark.slow
def test_the_server_ends_with_the_run_that_started_it(tmp_path):
    weights = safetensors.numpy.save({"a": np.zeros(3, np.float32)})
    for name in ("one", "another"):  # with a single one that cannot be opened it would end by itself
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    program = (
        "import sys, time; from pathlib import Path; from flows.supervision import server_trial as trial\n"
        "with open(sys.argv[2], 'w') as log, trial._started(Path(sys.argv[1]), trial._free_port(), log) as server:\n"
        "    print(server.pid, flush=True); time.sleep(60)"
    )
    log = tmp_path / "server.log"
    command = [sys.executable, "-c", program, str(tmp_path), str(log)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as run:
        server = psutil.Process(int(run.stdout.readline()))
        try:
            until = time.monotonic() + 30
            while "Ctrl-C ends it" not in log.read_text() and time.monotonic() < until:
                time.sleep(0.05)
            assert server.is_running() and "Ctrl-C ends it" in log.read_text()
            run.kill()
            psutil.wait_procs([server], timeout=20)
            assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
        finally:
            run.kill()
            with contextlib.suppress(psutil.NoSuchProcess):
                server.kill()
