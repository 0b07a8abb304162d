"""The command as a process: what it says, how it ends, and the one line for a person's mistake."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from nanogpt import cli
from nanogpt.commands import arguments as shared
from tests.nanogpt.serving.serving_case import SECONDS, make_export, make_real_export
from tests.sources import CHECKOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_real_export(tmp_path_factory.mktemp("workspace") / "exports" / "run" / "best")


class Process:
    """A server as people start it; `lines` of its stderr."""

    def __init__(self, *arguments):
        environment = {name: value for name, value in os.environ.items() if name != "NANOGPT_TOKEN"}
        command = [sys.executable, "-X", "importtime", "-m", "nanogpt.cli", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.imported: set[str] = set()

    def line(self, pattern: str) -> re.Match:
        """The next line like that."""
        watch = threading.Timer(60, self.process.kill)
        watch.start()
        try:
            for line in self.process.stderr:
                self._keep(line)
                if found := re.search(pattern, line):
                    return found
        finally:
            watch.cancel()
        pytest.fail(f"no line with {pattern}: {self.lines}")

    def end(self) -> int:
        try:
            code = self.process.wait(SECONDS)
        finally:
            self.process.kill()
        for line in self.process.stderr:
            self._keep(line)
        return code

    def _keep(self, line: str) -> None:
        if line.startswith("import time:"):
            self.imported.add(line.rpartition("|")[2].strip())
        else:
            self.lines.append(line)


def test_it_says_where_and_what_and_finishes_what_it_has_begun(export):
    server = Process(export.parent.parent.parent, "--port", "0")
    server.line("serving run/best$")
    url = server.line(r"(http://127\.0\.0\.1:\d+) ")[1]
    backend = server.line("run/best is loaded: (.+)")[1]
    assert "fastapi" in server.imported and ("torch" in server.imported) == ("torch" in backend)  # it takes 1.5 s
    body = {"prompt": "secret words", "max_tokens": 2_000, "stream": True, "n": 8}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=SECONDS) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 16_000
    assert server.end() == 0
    assert any("POST /v1/completions 200" in line for line in server.lines)
    assert "secret" not in "".join(server.lines) and "Traceback" not in "".join(server.lines)


def test_a_port_that_is_taken_names_one_that_is_free(export):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = Process(export, "--port", port)
        assert server.end() == 2
    (line,) = server.lines
    assert re.fullmatch(rf"nanogpt: --port {port}: is taken on 127\.0\.0\.1; (\d+) is free: --port \1\n", line)


def test_damaged_weights_are_reported_and_end_a_server_of_that_model_alone(tmp_path):
    export = make_export(tmp_path / "run" / "broken")  # no tokenizer, no weights
    server = Process(export, "--port", "0")
    assert server.end() == 2
    assert server.lines[-1].startswith("nanogpt: ") and str(export) in server.lines[-1]
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.parametrize("arguments, words", [
    (["--host", "0.0.0.0"], "so a token is needed"),
    (["--host", "no.such.host.invalid", "--token-file", "TOKEN"], "no such address"),
    (["--host", "203.0.113.7", "--token-file", "TOKEN"], "--host 203.0.113.7"),
    (["--token-file", "nowhere"], "nowhere"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_code_2(export, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.delenv("NANOGPT_TOKEN", raising=False)
    (tmp_path / "TOKEN").write_text("0123456789abcdef")
    arguments = [str(tmp_path / word) if word == "TOKEN" else word for word in arguments]
    assert cli.main(["serve", str(export), "--port", "0", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_without_a_model_says_what_makes_one(tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path)]) == 2
    assert "nanogpt train" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "a", "8484.0", "８"])
def test_a_port_is_a_number(port, capsys):
    with pytest.raises(SystemExit):
        cli.make_parser().parse_args(["serve", ".", "--port", port])
    assert "should be 0 to 65535" in capsys.readouterr().err


def test_the_backends_are_those_that_there_are():
    opening = pytest.importorskip("nanogpt.decoders.opening")
    assert shared.BACKENDS == opening.BACKENDS
