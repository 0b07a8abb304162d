"""A word at the end of a run: sent when it is asked for, never holding the run, never showing a secret."""

import json
import os
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.cli import notification, session
from flows.cli.notification import Ending
from flows.context.options import NotifyConfig
from nanogpt.faults import UserError
from tests.flows.small_flow import Flow

SECRET = "T0PSECRET"
ENDING = Ending("default", "finished", "tiny_model: 2.2 bits per byte", "/reports/default/training_report.html")


class Webhook(ThreadingHTTPServer):
    """Answers `status`; hangs where that is 0."""

    daemon_threads = True

    def __init__(self, status: int = 204):
        received: list[dict] = []
        released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                if status == 0:
                    released.wait(60)
                    return
                self.send_response(status)
                self.send_header("location", f"http://127.0.0.1:1/{SECRET}")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.received, self.released = received, released
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/{SECRET}"


@pytest.fixture
def webhook():
    servers = []

    def make(status: int = 204) -> Webhook:
        servers.append(Webhook(status))
        return servers[-1]

    yield make
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


def run_file(folder: Path, **notify) -> list[str]:
    (folder / "run.yaml").write_text(f"milestones: false\nladder: [micro]\nnotify: {json.dumps(notify)}\n")
    return ["--workspace", str(folder / "workspace"), "--config", str(folder / "run.yaml"), "--budget", "10m",
            "--data", "embedded", "--no-ui"]  # fmt: skip


def test_nobody_hears_of_a_run_by_default(monkeypatch):
    monkeypatch.setattr(notification.threading, "Thread", None)  # none is made
    assert notification.notify(NotifyConfig(), ENDING, lambda line: pytest.fail(line)) == []


def test_a_run_that_ends_says_so_and_keeps_its_secrets(tmp_path, webhook, capfd):
    flow, server = Flow(tmp_path), webhook()
    heard = tmp_path / "heard"
    command = f"cat > {heard}; echo $NANOGPT_STATE {SECRET} >> {heard}; echo {SECRET}"
    arguments = run_file(tmp_path, webhook=server.url, command=command)
    assert session.main(arguments, flow.phases(), flow.do_phases) == 0
    (received,) = server.received
    assert received["run"] == "default" and received["state"] == "finished"
    assert received["text"] == received["content"] and received["text"].startswith("nanogpt run default finished")
    assert heard.read_text().startswith('{"run": "default", "state": "finished"')
    assert heard.read_text().endswith(f"finished {SECRET}\n")
    assert "notify.webhook: sent" in flow.log and "notify.command: sent" in flow.log
    out, errors = capfd.readouterr()
    written = [path.read_bytes() for path in flow.workspace.rglob("*") if path.is_file()]
    assert not [text for text in [out.encode(), errors.encode(), *written] if SECRET.encode() in text]


def test_a_failure_is_told_with_its_cause_even_where_only_failures_are(tmp_path, webhook):
    flow, server = Flow(tmp_path), webhook()
    arguments = run_file(tmp_path, webhook=server.url, when="failure")
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    assert session.main(arguments, flow.phases(), flow.do_phases) == 1
    flow.failing["training.micro"] = UserError("model.n_embd: is odd")
    assert session.main(arguments, flow.phases(), flow.do_phases) == 2
    flow.failing["training.micro"] = KeyboardInterrupt()  # whoever stops a run knows
    assert session.main(arguments, flow.phases(), flow.do_phases) == 130
    flow.failing.clear()
    assert session.main(arguments, flow.phases(), flow.do_phases) == 0
    headlines = [heard["headline"] for heard in server.received]
    assert headlines == ["5 Training failed: no remedy is left", "model.n_embd: is odd"]


def test_what_hangs_is_left_behind(webhook, monkeypatch):
    monkeypatch.setattr(notification, "SECONDS", 1.5)
    config, lines = NotifyConfig(webhook=webhook(0).url, command="sleep 60"), []
    began = time.monotonic()
    problems = notification.notify(config, ENDING, lines.append)
    assert time.monotonic() - began < 10
    assert problems[1] == "notify.command: the command took longer than 0.5 s and was ended"
    assert problems[0].startswith("notify.webhook: ") and SECRET not in "".join([*problems, *lines])


@pytest.mark.parametrize("status, problem", [(404, "127.0.0.1 answers 404"), (302, "127.0.0.1 answers 302")])
def test_an_answer_that_is_none_is_named_and_a_redirect_is_not_followed(webhook, status, problem):
    config = NotifyConfig(webhook=webhook(status).url, command="exit 3")
    problems = notification.notify(config, ENDING, lambda line: None)
    assert problems == [f"notify.webhook: {problem}", "notify.command: the command ended with code 3"]


def test_a_server_that_is_not_there_is_named_without_its_path():
    config = NotifyConfig(webhook=f"http://127.0.0.1:9/{SECRET}")
    (problem,) = notification.notify(config, ENDING, lambda line: None)
    assert problem == "notify.webhook: 127.0.0.1 cannot be reached (ConnectionError)"


@pytest.mark.parametrize("platform, program", [("linux", "notify-send"), ("darwin", "osascript")])
def test_the_desktop_shows_it_and_words_stay_words(tmp_path, monkeypatch, platform, program):
    fake = tmp_path / program
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/shown\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    monkeypatch.setattr(sys, "platform", platform)
    ending = Ending("default", "failed", '" & (do shell script "id") & "')
    assert notification.notify(NotifyConfig(desktop=True), ending, lambda line: None) == []
    shown = (tmp_path / "shown").read_text().splitlines()
    assert shown[-2:] == ["nanogpt run default failed", ending.headline]  # arguments, and no part of a script
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    (problem,) = notification.notify(NotifyConfig(desktop=True), ending, lambda line: None)
    assert problem == f"notify.desktop: there is no {program} here"


@pytest.mark.parametrize("setting, words", [
    (f"notify.webhook=https://hooks.example/{SECRET}", "may hold a secret, and command lines are kept in logs"),
    ("notify.command=mail me", "may hold a secret"),
    ("notify={desktop: true}", "may hold a secret"),
    ("notify.desktop=maybe", "found 'maybe', should be true or false"),
    ("notify.when=never", "found 'never', should be 'always' or 'failure'"),
])  # fmt: skip
def test_mistakes_in_a_setting_are_one_line(tmp_path, setting, words, capsys):
    flow = Flow(tmp_path)
    assert session.main(flow.arguments("--set", setting), flow.phases(), flow.do_phases) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and SECRET not in line


@pytest.mark.parametrize("notify", [
    f"https://host/{SECRET}", {"webhook": [f"https://host/{SECRET}"]}, {"command": ["mail", SECRET]},
    {"command": f"{SECRET}\0"},
])  # fmt: skip
def test_what_is_written_in_the_wrong_place_is_not_shown_either(tmp_path, notify, capsys):
    (tmp_path / "run.yaml").write_text(json.dumps({"notify": notify}))
    flow = Flow(tmp_path)
    assert session.main(flow.arguments("--config", str(tmp_path / "run.yaml")), flow.phases(), flow.do_phases) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.yaml: notify" in line and SECRET not in line


@pytest.mark.parametrize("webhook", [
    f"ftp://host/{SECRET}", f"host/{SECRET}", "https://", f"http://[::{SECRET}/", f"http://host:99999/{SECRET}",
])  # fmt: skip
def test_an_address_that_is_none_is_refused_without_being_shown(tmp_path, webhook, capsys):
    flow = Flow(tmp_path)
    assert session.main(run_file(tmp_path, webhook=webhook), flow.phases(), flow.do_phases) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "notify.webhook: should be an address that begins with https:// or http://" in line and SECRET not in line
