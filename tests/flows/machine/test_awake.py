"""What keeps a machine awake during a run, and why nothing does: with stand-ins for the system's programs on PATH."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows.context.paths import CHECKOUT
from flows.machine.awake import Awake

INHIBITOR = """#!/bin/sh
while [ "$1" != cat ]; do shift; done
echo "$$" > "{folder}/pid"
"$@"
touch "{folder}/ended"
"""


def put_on_path(folder, monkeypatch, script: str, name: str = "systemd-inhibit") -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_machine_is_kept_awake_until_it_is_let_go(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, INHIBITOR.format(folder=tmp_path))
    hold = Awake()
    assert hold.hold() == "the machine stays awake during the run (systemd-inhibit)"
    assert not (tmp_path / "ended").exists()
    hold.release()
    assert (tmp_path / "ended").exists()
    hold.release()


def test_why_nothing_keeps_it_awake_is_said_and_nothing_more(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, "#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    assert Awake().hold().endswith("systemd-inhibit: Failed to connect to bus")
    put_on_path(tmp_path, monkeypatch, "\0not a program")
    assert "nothing here keeps the machine awake" in Awake().hold()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "no caffeinate, no systemd-inhibit" in Awake().hold()


@pytest.mark.slow
def test_nothing_that_keeps_awake_outlives_a_killed_run(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, INHIBITOR.format(folder=tmp_path), "caffeinate")
    script = (
        "import time; from flows.machine.awake import Awake; a = Awake(); print(a.hold(), flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert "(caffeinate)" in holder.stdout.readline()
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    until = time.monotonic() + 10
    while psutil.pid_exists(int((tmp_path / "pid").read_text())) and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / "ended").exists()
