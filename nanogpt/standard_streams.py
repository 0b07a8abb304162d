"""Standard streams that can be written to, however a command was started: closed, in ASCII, or on a full disk."""

import atexit
import io
import os
import sys


def make_usable() -> None:
    """Call this first in a process.

    A stream that is closed (`>&-`) becomes the null device: else the next file that is opened would get its number,
    and whatever a child process prints would land in that file. What the encoding lacks is printed as `?`. What cannot
    be written at the exit ends the process with 1 and one line, instead of 120 and a traceback; a reader that has seen
    enough (`| head`) is no failure.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number, which is this
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        # Python 3.6, which only looks for a newer one, cannot reconfigure.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    atexit.register(_flush)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more
    except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
        print(f"error: cannot write to standard output: {error}", file=sys.stderr, flush=True)
        os._exit(1)
