"""One holder of a run at a time."""

import os
import signal
import subprocess
import sys

import pytest

from flows.cli.lock import exclusive
from flows.context.paths import CHECKOUT, Paths
from nanogpt import durable
from nanogpt.faults import UserError

HOLDER = """
import subprocess, sys
from pathlib import Path
from flows.cli.lock import exclusive
from flows.context.paths import Paths
with exclusive(Paths(Path(sys.argv[1]), "default"), "default"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_start_learns_who_holds_the_run_until_that_one_is_dead(tmp_path):
    ours, another = Paths(tmp_path, "default"), Paths(tmp_path, "another")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=CHECKOUT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    child = int(holder.stdout.readline())
    try:
        message = rf"'default' is already running: process {holder.pid}, started"
        with pytest.raises(UserError, match=message), exclusive(ours, "default"):
            pytest.fail("two held it")
        with exclusive(another, "another"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        note = durable.read_json(ours.state / "holder.json")
        durable.write_json(ours.state / "holder.json", {**note, "pid": child})  # its number is another program's by now
        with exclusive(ours, "default"):  # though its child lives on
            os.kill(child, 0)
            held_by = durable.read_json(ours.state / "holder.json")["pid"]
        assert held_by == os.getpid()
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)
        holder.communicate()


@pytest.mark.fast
def test_the_lock_is_free_again_after_a_failure(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), exclusive(Paths(tmp_path, "default"), "default"):
            raise RuntimeError
