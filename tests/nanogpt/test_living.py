"""Whether the process that a file names still lives, and not another with its number."""

import os
import subprocess
import sys

import psutil
import pytest

from nanogpt.living import born, lives

pytestmark = pytest.mark.fast


def test_a_process_is_known_by_its_number_and_its_birth():
    mine = born(os.getpid())
    assert mine is not None and mine > 0
    assert lives(os.getpid(), mine)
    assert not lives(os.getpid(), mine - 60), "another's number by now"
    assert lives(os.getpid(), None), "of a version that kept no birth"


def test_one_that_has_ended_lives_no_longer_though_nobody_has_asked_for_its_code():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert not lives(ended.pid, None)
    ended.wait()
    assert not lives(ended.pid, None)


@pytest.mark.parametrize("number", [-1, 10**12, 10**30])
def test_what_is_no_number_of_a_process_lives_not(number):
    assert not lives(number, None)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts a process's start from the machine's")
def test_a_clock_that_was_set_meanwhile_makes_no_other_process_of_it(monkeypatch):
    before, boot_time = born(os.getpid()), psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", None, raising=False)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time() + 3600)
    assert psutil.boot_time() > boot_time() + 3000
    assert lives(os.getpid(), before)
