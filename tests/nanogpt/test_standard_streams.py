"""However a command's streams are: no traceback, no exit code 120, and no file takes a closed stream's number."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
NANOGPT = "-c 'import sys; from nanogpt.cli import main; sys.exit(main())'"
FULL_RUN = "-m flows.full_run --no-bootstrap"
COMMANDS = {
    f"{NANOGPT} plan configs/micro.yaml": 0,
    f"{NANOGPT} train --help": 0,
    f"{NANOGPT} nonsense": 2,
    f"{FULL_RUN} --help": 0,
    f"{FULL_RUN} --version": 0,
    f"{FULL_RUN} --status": 0,
    f"{FULL_RUN} --budgt": 2,
}


def shell(command: str) -> subprocess.CompletedProcess:
    """`command` as a person types it; @python is this interpreter, which buffers what it prints."""
    script = "unset PYTHONUNBUFFERED; " + command.replace("@python", sys.executable)
    return subprocess.run(["sh", "-c", script], cwd=CHECKOUT, capture_output=True, timeout=120)


# Every command with all of them closed; each alone with one of either program, which have them made usable alike.
CLOSED = [(command, "<&- >&- 2>&-") for command in COMMANDS]
CLOSED += [(command, streams) for command in (f"{NANOGPT} train --help", f"{FULL_RUN} --status")
           for streams in (">&-", "<&-", "2>&-", "| head -c1")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command, streams", CLOSED)
def test_closed_streams_change_nothing_but_what_is_seen(command, streams):
    done = shell(f"@python {command} {streams}")
    assert done.returncode == (0 if "|" in streams else COMMANDS[command])
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command, code", COMMANDS.items())
def test_no_docstrings_and_plain_ascii_are_enough(command, code):
    done = shell(f"LC_ALL=C PYTHONIOENCODING=ascii @python -OO {command}")
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
    assert done.stdout.isascii()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("command", [command for command, code in COMMANDS.items() if code == 0])
def test_a_full_disk_is_a_failure_in_plain_words(command):
    done = shell(f"@python {command} > /dev/full")
    assert done.returncode in (1, 2)
    assert done.stderr.count(b"No space left on device") == done.stderr.count(b"\n") <= 2, "nothing but the message"


OPENS_A_FILE = """
import subprocess, sys
from nanogpt import standard_streams
standard_streams.make_usable()
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2
    subprocess.run(["sh", "-c", "echo words; echo more >&2"])
"""


@pytest.mark.fast
def test_what_a_child_prints_never_lands_in_a_file(tmp_path):
    done = shell(f"@python -c '{OPENS_A_FILE}' '{tmp_path / 'precious'}' <&- >&- 2>&-")
    assert (done.returncode, (tmp_path / "precious").read_text()) == (0, "")


@pytest.mark.fast
def test_the_tests_refuse_to_run_without_their_assertions():
    done = shell("@python -O -m pytest tests/test_suite.py")
    assert done.returncode != 0 and b"remove the assertions" in done.stderr + done.stdout
