"""`python3 -m tests [pytest's arguments]`: sets everything up, then runs the suite; exits as pytest does."""

import os
import sys

if __name__ == "__main__":  # before any other import, and not again in the processes that tests start
    # Else hundreds of processes would each compile what they import of the project again: 0.3 s for all of it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    from flows.bootstrap import ensure
    from nanogpt import standard_streams

    standard_streams.make_usable()
    ensure("tests", sys.argv[1:], extras=("test",))

import pytest

WORKERS = 3
LONGEST_TEST = 1800  # seconds, with what it makes first for others: minutes, and on a busy machine many


def main(argv):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers with two threads each fight for two cores
    return pytest.main([*workers(argv), f"--timeout={LONGEST_TEST}", *argv])


def workers(argv):
    """WORKERS processes unless the person chose, or wants to stand in one with a debugger."""
    chosen = ("-n", "--numprocesses", "--pdb", "--trace")
    if any(argument.startswith(chosen) for argument in argv):
        return []
    return ["-n", str(WORKERS), "--dist", "loadgroup"]


if __name__ == "__main__":
    sys.exit(main([argument for argument in sys.argv[1:] if argument != "--no-bootstrap"]))
