"""Several downloads at once: how fast they come, how long they will take, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from nanogpt.sources.part import STANDSTILL_SECONDS, Unobtainable
from nanogpt.units import byte_size, duration

CONNECTIONS = 4  # at once, from one place
SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class Progress:
    """What has come of a download, in `seconds`. `done_bytes` counts what this process fetched, of `bytes`."""

    done_bytes: int
    bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float | None:
        """None before anything has come."""
        return self.done_bytes / self.seconds if self.done_bytes and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        rate = self.bytes_per_second
        return (self.bytes - self.done_bytes) / rate if rate else None

    def __str__(self) -> str:
        done = f"{byte_size(self.done_bytes)} of {byte_size(self.bytes)}"
        rate = self.bytes_per_second
        return f"{done}, {byte_size(rate)}/s, {duration(self.seconds_left)} left" if rate else done


Report = Callable[[Progress], None]


def no_report(progress: Progress) -> None:
    """For callers who only want the files."""


@dataclass(frozen=True)
class Transfer:
    """One of several downloads: `run` fetches about `bytes` and puts them where they belong."""

    bytes: int
    run: Callable[[], object]


def run_all(transfers: Sequence[Transfer], report: Report = no_report) -> None:
    """Run them in their order, CONNECTIONS at once. The first failure ends all; what has come stays.

    Raises what a transfer raises, and Unobtainable when none has ended for STANDSTILL_SECONDS.
    """
    if not transfers:
        return
    began = ended = time.monotonic()
    total, done = sum(transfer.bytes for transfer in transfers), 0
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="download")
    try:
        pending: dict[Future[object], int] = {pool.submit(transfer.run): transfer.bytes for transfer in transfers}
        while pending:
            finished, _ = wait(pending, SECONDS_BETWEEN_REPORTS, FIRST_EXCEPTION)
            now = time.monotonic()
            for future in finished:
                future.result()
                done += pending.pop(future)
                ended = now
            if now - ended > STANDSTILL_SECONDS:
                raise Unobtainable(f"nothing has come for {duration(now - ended)}")
            report(Progress(done, total, now - began))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
