"""A terminal that is closed under a run: with a real pseudo-terminal, whose other end is closed in the middle."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import textwrap
import time

import pytest

from flows.cli import hangup
from flows.context.paths import CHECKOUT
from nanogpt import durable

# A run of one phase, in a terminal of its own, with a child as the steps that run examples and tests have.
RUN = """
import fcntl, os, signal, subprocess, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
from pathlib import Path
from flows.cli import session
from tests.flows.parts import one_step

def work(run):
    child = subprocess.Popen(["sleep", "600"])
    Path("begun").touch()
    while not Path("closed").exists():
        run.journal.message("still here")
        time.sleep(0.02)
    for _ in range(20):  # also with nobody to read it
        run.journal.message("on my own")
        time.sleep(0.02)
    print("to the terminal itself", file=sys.stderr)
    Path("child").write_text(str(child.poll()))
    child.kill()

TRAINING = one_step("training", work, "training.micro")
code = session.main(["--workspace", str(Path.cwd()), "--data", "embedded", "--no-ui", "--only", "training",
                     *sys.argv[1:]], [TRAINING], lambda run: run.run_phase(TRAINING))
Path("code").write_text(str(code))
sys.exit(code)
"""


class Terminal:
    """A run in a pseudo-terminal."""

    def __init__(self, folder, *arguments: str, kind: str = "xterm", before: str = ""):
        self.folder = folder
        script = folder / "run.py"
        script.write_text(before + RUN)
        self.end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, b"\x18\0\x50\0\0\0\0\0")
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": kind}
        self.process = subprocess.Popen([sys.executable, str(script), *arguments], cwd=folder, env=environment,
                                        stdin=other, stdout=other, stderr=other, start_new_session=True)  # fmt: skip
        os.close(other)

    def close_in_the_middle(self) -> int:
        """Close the terminal while a step works; the exit code.

        The kernel signals the session's leader, here the run, and a shell its jobs: the run and its children.
        """
        os.set_blocking(self.end, False)
        until = time.monotonic() + 120
        while not (self.folder / "begun").exists():
            assert time.monotonic() < until and self.process.poll() is None
            self._read()
            time.sleep(0.02)
        self._read()
        os.close(self.end)
        os.killpg(self.process.pid, signal.SIGHUP)
        time.sleep(0.3)
        (self.folder / "closed").touch()
        return self.process.wait(120)

    def _read(self) -> None:
        try:
            os.read(self.end, 65536)
        except (BlockingIOError, OSError):
            return

    @property
    def log(self) -> str:
        return (self.folder / "logs/default/automation_log.txt").read_text()

    @property
    def session(self) -> dict:
        return durable.read_json(self.folder / "state/default/session.json")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xterm", "dumb"])  # a live table, and lines
def test_a_run_continues_without_its_terminal(tmp_path, kind):
    terminal = Terminal(tmp_path, kind=kind)
    assert terminal.close_in_the_middle() == 0
    assert terminal.log.count("on my own") == 20
    assert terminal.log.count("hangup: the terminal was closed (SIGHUP) -> continued without it") == 1
    assert (tmp_path / "child").read_text() == "None"  # it still ran
    [remedy] = durable.read_json(tmp_path / "state/default/markers/training.micro.json")["remedies"]
    assert (remedy["symptom"], remedy["step"]) == ("hangup", "training")


@pytest.mark.slow
def test_a_run_that_is_to_save_stops_as_with_ctrl_c_and_once(tmp_path):
    terminal = Terminal(tmp_path, "--on-hangup", "save")
    assert terminal.close_in_the_middle() == 130
    assert (tmp_path / "code").read_text() == "130"  # it came to its own end
    assert terminal.session["state"] == "stopped"
    assert "on my own" not in terminal.log


@pytest.mark.slow
def test_nohup_outlives_even_what_is_to_save(tmp_path):
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    terminal = Terminal(tmp_path, "--on-hangup", "save", before=nohup)
    assert terminal.close_in_the_middle() == 0


def test_a_second_hangup_does_not_disturb_the_saving():
    script = textwrap.dedent("""
        import os, signal, time
        from flows.cli import hangup
        with hangup.handle_hangup("save", lambda: None):
            try:
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(5)
            except KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(0.05)
                print("saved")
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "saved\n")


def test_hangups_are_reported_once_and_heard_as_before_afterwards():
    reported, before = [], signal.signal(signal.SIGHUP, lambda number, frame: reported.append("as before"))
    try:
        with hangup.handle_hangup("continue", lambda: reported.append("hung up")):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(0.05)
        assert reported == ["hung up"]
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
        assert reported == ["hung up", "as before"]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_that_nobody_reads_is_lost_and_another_failure_is_not_for_good(tmp_path):
    readers, writers = os.pipe()
    os.close(readers)
    with open(writers, "w", buffering=1) as pipe:
        assert hangup.LastingOutput(pipe).write("lost\n") == 5
        hangup.LastingOutput(pipe).flush()
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w", buffering=1) as full:
            hangup.LastingOutput(full).write("no room\n")
            # Once there is room again, it is written to.
            assert os.readlink(f"/proc/self/fd/{full.fileno()}") == "/dev/full"
            os.dup2(os.open(tmp_path / "room", os.O_WRONLY | os.O_CREAT), full.fileno())
            hangup.LastingOutput(full).write("room\n")
        assert (tmp_path / "room").read_text().endswith("room\n")
