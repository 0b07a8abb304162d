"""A training as a process of its own: signals, the tie to its parent, and its ending as exit code and file."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from nanogpt import durable
from nanogpt.config import load_config
from nanogpt.device import choose
from nanogpt.faults import EXIT_CODES, FolderLostError, UserError, classify
from nanogpt.training import stopping as lifeline
from nanogpt.training.record.model_folder import make_folder
from nanogpt.training.trainer import Outcome, Trainer

FINISHED, USER_ERROR, FAULT = 0, 2, 3


def run_child(
    config_path: Path | str,
    data: Path | str,
    folder: Path | str,
    *,
    overrides: Iterable[str] = (),
    max_seconds: float | None = None,
    micro_batch: int | None = None,
    parent: int | None = None,
    beside: AbstractContextManager = nullcontext(),  # noqa: B008  it holds no state
    tell: Callable[[Outcome], None] = print,
) -> int:
    """Train in this process; its exit code: 0 finished, 143 stopped after saving, 2 a person's mistake, 3 a fault,
    or one of faults.EXIT_CODES.

    outcome.json in `folder` tells the same with more words. SIGUSR1 prints every thread's stack to stderr. With
    `parent`, this process saves and ends when that one is gone. `beside` is held while it trains, and `tell` gets the
    outcome afterwards.
    """
    faulthandler.enable()
    if hasattr(faulthandler, "register"):  # not on Windows
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    stop = lifeline.StopRequest()
    stop.listen()
    lifeline.hold(parent)
    is_new = not Path(folder).exists()
    try:
        config = load_config(config_path, overrides)
        if warning := choose(config.device.type).warning:
            print(warning, file=sys.stderr)
        # What a person mistook shows here, before anything is written.
        trainer = Trainer(config, Path(data), Path(folder), max_seconds, micro_batch, stop)
        with alone_in(Path(folder)), beside:
            outcome = trainer.run()
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    except Exception as error:
        _record_failure(Path(folder), error, is_new)
        return EXIT_CODES.get(classify(error), FAULT)
    _say(lambda: tell(outcome))
    if outcome.status == "finished":
        return FINISHED
    return lifeline.STOPPED_AFTER_SAVING


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder` while training in it: an orphan of a killed run may still be saving there. Raises UserError."""
    make_folder(folder)
    try:
        durable.unblock(folder / ".lock")
        with FileLock(folder / ".lock", timeout=lifeline.SECONDS_TO_SAVE + 5):
            yield
    except Timeout:
        raise UserError(f"{folder}: another process is training there") from None


def _record_failure(folder: Path, error: Exception, is_new: bool) -> None:
    failure = {"status": "failed", "symptom": classify(error), "message": f"{type(error).__name__}: {error}",
               "needed": getattr(error, "needed", None)}  # fmt: skip
    try:
        if folder.is_dir() or (is_new and not isinstance(error, FolderLostError)):  # one that is gone stays gone
            durable.write_json(folder / "outcome.json", failure)
    except OSError as cause:  # the disk may be the fault that is being told
        told = f"{folder}/outcome.json could not be written: {cause}"
        _say(lambda: print(told, file=sys.stderr))
    _say(lambda: traceback.print_exception(error))


def _say(what: Callable[[], object]) -> None:
    """Print, unless the log is on a disk that takes no more: no training fails for its words."""
    try:
        what()
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # else what is still buffered fails once more when Python ends
        os.dup2(nowhere, sys.stderr.fileno())
