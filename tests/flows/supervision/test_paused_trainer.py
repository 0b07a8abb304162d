"""A trainer that was paused when its run was killed: it is continued, and nobody else is."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows.supervision import paused_trainer

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be paused")]

HOLDS = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[-1]):
    print("held", flush=True)
    time.sleep(600)
"""
NOBODY = 2**22 + 1  # Linux gives no such number


@pytest.fixture
def paused(tmp_path):
    """Starts a stand-in for a trainer of the folder that holds its lock, and pauses it."""
    started = []

    def start(parent: int, folder=tmp_path) -> psutil.Process:
        words = ["train", "--folder", str(folder), "--parent", str(parent), str(tmp_path / ".lock")]
        child = subprocess.Popen([sys.executable, "-c", HOLDS, *words], stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout.readline() == "held\n"
        child.send_signal(signal.SIGSTOP)
        wait_until(child.pid, psutil.STATUS_STOPPED)
        return psutil.Process(child.pid)

    yield start
    for child in started:
        child.kill()
        child.communicate()


def wait_until(pid: int, status: str) -> None:
    ends = time.monotonic() + 30
    while psutil.Process(pid).status() != status:
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_one_whose_run_is_gone_goes_on(tmp_path, paused):
    process = paused(NOBODY)
    assert paused_trainer.let_go_on(tmp_path) == [process.pid]
    wait_until(process.pid, psutil.STATUS_SLEEPING)
    assert paused_trainer.let_go_on(tmp_path) == []


def test_one_whose_run_lives_stays_paused(tmp_path, paused):
    process = paused(os.getpid())
    assert paused_trainer.let_go_on(tmp_path) == []
    assert process.status() == psutil.STATUS_STOPPED


def test_one_of_another_folder_stays_paused(tmp_path, paused):
    process = paused(NOBODY, tmp_path / "another")
    assert paused_trainer.let_go_on(tmp_path) == []
    assert process.status() == psutil.STATUS_STOPPED


def test_where_nobody_holds_the_folder_no_process_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "process_iter", lambda: pytest.fail("looked"))
    assert paused_trainer.let_go_on(tmp_path) == []
    (tmp_path / ".lock").touch()
    assert paused_trainer.let_go_on(tmp_path) == []
