"""docs/serving.md: its commands are run, its limits are the server's, its links lead somewhere."""

import re
import shlex
import shutil
import subprocess

import pytest

from nanogpt import cli
from nanogpt.serving.settings import Limits
from tests.nanogpt.serving.serving_case import SECONDS, make_export, serving
from tests.sources import CHECKOUT

pytestmark = pytest.mark.slow
TEXT = (CHECKOUT / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
URL = "http://127.0.0.1:8484"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(make_export(tmp_path_factory.mktemp("models") / "default" / "best")) as running:
        yield running


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("nanogpt ")])
def test_the_commands_are_understood(command):
    assert cli.make_parser().parse_args(shlex.split(command)[1:]).run


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("curl ")])
def test_the_requests_are_answered(server, command):
    command = [word.replace(URL, server.url) for word in shlex.split(command)]
    asked = subprocess.run([*command, "--fail-with-body"], capture_output=True, text=True, timeout=SECONDS)
    assert asked.returncode == 0 and asked.stdout, asked.stdout


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_the_code_runs(server, code, capsys):
    exec(code.replace(URL, server.url), {})
    assert len(capsys.readouterr().out) > 40


def test_the_limits_are_the_servers():
    limits = Limits()
    for words in (f"body | {limits.body >> 20} MiB", f"headers | {limits.headers >> 10} KiB",
                  f"{limits.prompt:,} characters", f"`max_tokens` | {limits.max_tokens:,}",
                  f"prompts / `n` | {limits.prompts} / {limits.copies}",
                  f"`stop` | {limits.stops} of {limits.stop_length} characters",
                  f"{limits.alternatives} / {limits.biased_tokens} tokens", f"{limits.batch} (`--max-batch`)",
                  f"{limits.queue} (`--max-queue`)", f"{limits.loaded} (`--max-loaded`)",
                  f"connections | {limits.connections}", f"{limits.read_seconds:.0f} s each",
                  f"stops reading | {limits.send_seconds:.0f} s", f"whole request | {limits.request_seconds:.0f} s",
                  f"`max_tokens` is {limits.default_tokens}", f"up to {limits.drain_seconds:.0f} s"):  # fmt: skip
        assert words in re.sub(r"\s+", " ", TEXT), words
