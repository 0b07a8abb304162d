"""Ctrl-C that was caught, and what CPython remembers of it."""

STOPPED = 130  # the exit code of what a person has stopped


def forget() -> None:
    """Whoever was interrupted has ended well, and the exit code is its own.

    CPython remembers a KeyboardInterrupt that arose while text was run (`exec` of a str, as in dataclass and
    namedtuple), also where it was caught, and ends `python -m` and scripts by SIGINT for it. Running other text makes
    it forget (`run_eval_code_obj` in Python/pythonrun.c).
    """
    exec("")
