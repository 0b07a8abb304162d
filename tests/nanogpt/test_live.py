"""What a person sees while a model trains: on a terminal, in a pipe, at the end, after Ctrl-C."""

import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nanogpt import cli
from nanogpt.records import to_json
from nanogpt.results.training import Heartbeat
from nanogpt.training.record import live_view as live
from tests.conftest import CHECKOUT
from tests.nanogpt.training_case import events, saved_case

HEARTBEAT = Heartbeat(
    step=1230,
    expected_steps=2000,
    activity="training",
    loss=1.5234,
    val_loss=1.48712,
    tokens_per_second=41230.4,
    eta_seconds=84.4,
    memory_bytes=2**30,
)
PATIENCE = 120.0
NANOGPT = [sys.executable, "-m", "nanogpt.cli"]


@pytest.mark.fast
def test_the_line_says_step_losses_speed_time_and_memory():
    output = "step 1,230/2,000  loss 1.523  val 1.4871  41,230 tokens/s  1:24 left  1.0 GiB"
    assert live.describe(HEARTBEAT) == output
    assert live.describe(replace(HEARTBEAT, activity="evaluating")) == f"{output}  evaluating"
    assert live.describe(Heartbeat(0, 5, "loading")) == "step 0/5  loading"
    assert live.describe(Heartbeat(0, 0, "loading")) == "step 0  loading"
    assert live.describe(replace(HEARTBEAT, is_estimate=True)).startswith("step 1,230 of about 2,000  loss")


@pytest.mark.fast
@pytest.mark.parametrize("width", [20, 80, 100, 200])
def test_on_a_terminal_it_is_one_line_however_narrow(width):
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=True, highlight=False)
    with live.Line(console, "micro") as view:
        view.show(HEARTBEAT)
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).strip("\r\n")
    assert "\n" not in shown and len(shown) <= width
    assert shown.startswith("micro")
    assert ("GiB" in shown) == (width >= 100)
    assert ("━" in shown) == (width >= 100)


@pytest.mark.fast
def test_in_a_pipe_it_is_a_line_now_and_then(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    with live.Lines() as view:
        view.show(Heartbeat(0, 9, "loading"))  # no loss yet
        for step in range(50):
            view.show(replace(HEARTBEAT, step=step))
            now += 1.0
    steps = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert steps == [f"{step}/2,000" for step in range(0, 50, 10)]


@pytest.mark.fast
@pytest.mark.parametrize("clock_was_set_by", [-1e6, 0.0, 1e6])
def test_an_earlier_sessions_signs_of_life_are_not_shown(tmp_path, clock_was_set_by):
    def write(now: float, event: str) -> None:
        (tmp_path / "heartbeat").write_text(json.dumps(to_json(replace(HEARTBEAT, time=now))))
        os.utime(tmp_path / "heartbeat", (now, now))
        with open(tmp_path / "events.jsonl", "a") as file:
            file.write(json.dumps({"event": event, "step": 1, "time": now, "message": ""}) + "\n")

    write(2e9, "old")
    watched = live.Watched(tmp_path, live.Past.of(tmp_path))
    assert watched.heartbeat() is None and watched.news() == []
    write(2e9 + clock_was_set_by + 0.1, "new")
    assert watched.heartbeat().step == 1230
    assert [event.event for event in watched.news()] == ["new"] and watched.news() == []


@pytest.mark.fast
def test_after_ctrl_c_it_says_that_it_is_stopping(tmp_path):
    watched = live.Watched(tmp_path, live.Past.of(tmp_path))
    (tmp_path / "heartbeat").write_text(json.dumps(to_json(HEARTBEAT)))
    watched.asked_to_stop(signal.SIGINT, None)
    assert live.describe(watched.heartbeat()).endswith(live.STOPPING)


@pytest.mark.slow
def test_next_to_the_trainer_it_outlives_ctrl_c_and_its_reader_and_ends_with_a_plot(tmp_path):
    viewer = subprocess.Popen(
        [sys.executable, "-m", "nanogpt.training.record.live_view", str(tmp_path), "0", "0"], cwd=CHECKOUT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 2.0}\n')

    def happens(name: str) -> None:
        with open(tmp_path / "events.jsonl", "a") as file:
            file.write(json.dumps({"event": name, "step": 1, "time": 0.0, "message": "now"}) + "\n")

    happens("first")
    assert viewer.stdout.readline() == b"step 1  first: now\n"
    viewer.send_signal(signal.SIGINT)
    happens("second")
    assert viewer.stdout.readline() == b"step 1  second: now\n"
    viewer.stdout.close()
    happens("third")
    time.sleep(2 * live.LOOK_SECONDS)
    assert viewer.poll() is None
    viewer.stdin.close()
    assert (viewer.wait(PATIENCE), viewer.stderr.read()) == (0, b"")
    assert (tmp_path / "loss.svg").exists()


@pytest.mark.fast
def test_where_no_process_can_be_started_the_training_goes_on(tmp_path, monkeypatch, capsys):
    def refused(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(live.subprocess, "Popen", refused)
    with live.shown(tmp_path):
        trained = True
    assert trained and "not shown" in capsys.readouterr().err


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> tuple[Path, Path]:
    return saved_case(tmp_path_factory.mktemp("case"), max_iters=60)


def train(case, folder: Path, *more: str) -> subprocess.CompletedProcess:
    command = [*NANOGPT, "train", str(case[0]), "--data", str(case[1]), "--folder", str(folder), *more]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.slow
def test_at_the_end_it_says_what_came_out_and_how_to_use_it(case, tmp_path):
    done = train(case, tmp_path / "my model")
    assert (done.returncode, done.stderr) == (0, "")
    outcome = json.loads((tmp_path / "my model" / "outcome.json").read_text())
    loss = f"best validation loss {outcome['best_val_loss']:.4f}"
    assert f"finished after 60 steps (all its steps were done): {loss}" in done.stdout
    assert "bits per byte" in done.stdout and "perplexity" in done.stdout
    commands = [line.strip() for line in done.stdout.split("Use it with")[1].strip().splitlines()]
    for command in commands:
        if command.startswith("nanogpt "):
            named = vars(cli.make_parser().parse_args(shlex.split(command)[1:]))
            assert str(tmp_path / "my model") in [str(named.get("folder")), *named.get("folders", [])]
    assert len(commands) == 3
    assert (tmp_path / "my model" / "loss.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_ctrl_c_saves_and_prints_the_command_that_goes_on(case, tmp_path):
    folder = tmp_path / "m"
    words = ["train", str(case[0]), "--data", str(case[1]), "--folder", str(folder), "--micro-batch", "2"]
    process, screen = os_terminal([*words, "--set", "training.max_iters=3000"])
    while b"loss" not in (seen := screen.read()):
        assert process.poll() is None, seen
        time.sleep(0.05)
    os.write(screen.descriptor, b"\x03")
    assert process.wait(PATIENCE) == 143
    output = screen.read().decode().replace("\r\n", "\n")
    assert "stopped after" in output and "(saved)" in output
    command = shlex.split(output.split("Continue with")[1])
    assert command == ["nanogpt", *words[:-2], "--set", "training.max_iters=3000", "--micro-batch", "2"]


@pytest.mark.slow
def test_a_closed_terminal_is_a_stop_that_saves(case, tmp_path):
    words = ["train", str(case[0]), "--data", str(case[1]), "--folder", str(tmp_path)]
    process, screen = os_terminal([*words, "--set", "training.max_iters=3000"])
    while b"loss" not in (seen := screen.read()):
        assert process.poll() is None, seen
        time.sleep(0.05)
    os.close(screen.descriptor)
    process.wait(PATIENCE)
    assert len(events(tmp_path, "stopped")) == 1


class Screen:
    def __init__(self, descriptor: int):
        self.descriptor, self.seen = descriptor, b""
        os.set_blocking(descriptor, False)

    def read(self) -> bytes:
        """All that was written so far."""
        try:
            while part := os.read(self.descriptor, 65536):
                self.seen += part
        except OSError:  # nothing more now, or the other side is closed
            pass
        return self.seen


def os_terminal(arguments: list[str]) -> tuple[subprocess.Popen, Screen]:
    """`nanogpt` with a terminal of its own, so that Ctrl-C reaches all its processes, as it does a person's."""
    ours, theirs = pty.openpty()
    own_terminal = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    code = f"{own_terminal}; from nanogpt import cli; sys.exit(cli.main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=CHECKOUT, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "300"},
    )  # fmt: skip
    os.close(theirs)
    return process, Screen(ours)
