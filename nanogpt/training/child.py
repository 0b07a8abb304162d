"""A training as a process of its own: signals, the tie to its parent, and its ending as exit code and file."""

from __future__ import annotations

import faulthandler
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nanogpt import durable
from nanogpt.config import load_config
from nanogpt.device import choose
from nanogpt.faults import EXIT_CODES, CorruptFileError, FolderLostError, UserError, classify
from nanogpt.model.limits import require_memory
from nanogpt.records import to_json
from nanogpt.results.training import TrainingFailure, TrainingOutcome
from nanogpt.training import stopping
from nanogpt.training.job import TrainingJob
from nanogpt.training.record.model_folder import make_folder
from nanogpt.training.trainer import run

FINISHED, USER_ERROR, FAULT = 0, 2, 3


def run_child(
    config_path: Path | str,
    data: Path | str,
    folder: Path | str,
    *,
    overrides: Iterable[str],
    max_seconds: float | None,
    micro_batch: int | None,
    parent: int | None,
    meanwhile: AbstractContextManager[object],
    report: Callable[[TrainingOutcome], None],
) -> int:
    """Train in this process; its exit code: 0 finished, 143 stopped after saving, 2 a person's mistake, 3 a fault,
    or one of faults.EXIT_CODES.

    outcome.json in `folder` says the same with more words. SIGUSR1 prints every thread's stack to stderr. With
    `parent`, this process saves and ends when that one is gone. `meanwhile` is held while it trains, and `report` gets
    the outcome afterwards. Damaged data is a fault that a parent mends; without a parent it is a person's to mend.
    """
    faulthandler.enable()
    if hasattr(faulthandler, "register"):  # not on Windows
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    stop = stopping.StopRequest()
    stop.listen()
    stopping.end_with(parent)
    is_new = not Path(folder).exists()
    try:
        job = _checked_job(config_path, overrides, Path(data), Path(folder), max_seconds, micro_batch, parent)
        with alone_in(job.folder), meanwhile:
            outcome = run(job, stop)
    except UserError as error:
        print(f"nanogpt: {error}", file=sys.stderr)
        return USER_ERROR
    except Exception as error:
        _record_failure(Path(folder), error, is_new)
        return EXIT_CODES.get(classify(error), FAULT)
    _print_safely(lambda: report(outcome))
    return FINISHED if outcome.status == "finished" else stopping.STOPPED_AFTER_SAVING


def _checked_job(
    config_path: Path | str,
    overrides: Iterable[str],
    data: Path,
    folder: Path,
    max_seconds: float | None,
    micro_batch: int | None,
    parent: int | None,
) -> TrainingJob:
    """What a person mistook shows here, before anything is written."""
    config = load_config(config_path, overrides)
    chosen = choose(config.device.type)
    if chosen.warning:
        print(f"nanogpt: {chosen.warning}", file=sys.stderr)
    try:
        job = TrainingJob.checked(config, data, folder, max_seconds, micro_batch)
        has_moments = chosen.device == "cpu" and not config.training.lora_rank
        require_memory(job.config.model, 3 if has_moments else 1)
        return job
    except CorruptFileError as error:
        if parent is None:
            raise UserError(f"{error}; make the data again with nanogpt prepare") from error
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder` while training in it: an orphan of a killed run may still be saving there. Raises UserError."""
    make_folder(folder)
    try:
        durable.unblock(folder / ".lock", links=True)
        with FileLock(folder / ".lock", timeout=stopping.SECONDS_TO_SAVE + 5):
            yield
    except Timeout:
        raise UserError(
            f"{folder}: another process is training there; wait for its end, or find and end it: "
            f"pgrep -af {shlex.quote(folder.name)}"
        ) from None


def _record_failure(folder: Path, error: Exception, is_new: bool) -> None:
    failure = TrainingFailure(classify(error), f"{type(error).__name__}: {error}", getattr(error, "needed", None))
    try:
        if folder.is_dir() or (is_new and not isinstance(error, FolderLostError)):  # one that is gone stays gone
            durable.write_json(folder / "outcome.json", to_json(failure))
    except OSError as cause:  # the disk may be the fault itself
        message = f"{folder}/outcome.json could not be written: {cause}"
        _print_safely(lambda: print(message, file=sys.stderr))
    _print_safely(lambda: traceback.print_exception(error))


def _print_safely(show: Callable[[], object]) -> None:
    """Print, unless the log is on a disk that takes no more: no training fails for its words."""
    try:
        show()
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # else what is still buffered fails once more when Python ends
        os.dup2(nowhere, sys.stderr.fileno())
