"""Pieces on a Dask cluster: one of this machine, to try it, or one that is there, whose workers share the folder."""

from __future__ import annotations

import logging
import platform
import secrets
import unicodedata
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nanogpt import __version__, durable
from nanogpt.faults import UserError

try:
    from distributed import Client, KilledWorker, LocalCluster
except ImportError:
    raise UserError("--on: needs Dask; pip install 'nanogpt-autopilot[dask]'") from None

DASK = "dask"
SECONDS_TO_CONNECT = 10
THAT_MAKE_THE_BYTES = ("numpy", "pyarrow", "tiktoken", "tokenizers", "rensa", "ftfy", "charset-normalizer")


def check(address: str, folder: Path) -> None:
    """Raise UserError unless each worker has the versions of here, by which bytes are made, and sees `folder`."""
    if address == DASK:
        return
    here, sign, words = versions(), folder.absolute() / f".seen-{secrets.token_hex(4)}", secrets.token_hex(16)
    with connected(address) as client:
        for worker, there in client.run(versions).items():
            if other := [f"{name} {there[name]} (here {here[name]})" for name in here if there[name] != here[name]]:
                raise UserError(f"--on {address}: {worker} has {', '.join(other)}; the bytes could differ")
        durable.write_text(sign, words)
        try:
            if blind := [worker for worker, seen in client.run(_read, str(sign)).items() if seen != words]:
                raise UserError(f"--on {address}: {blind[0]} does not see {folder}; all workers have to share it")
        finally:
            durable.remove(sign)


@contextmanager
def pool(address: str, count: int) -> Iterator[tuple[Executor, int]]:
    """The cluster as an executor, and its threads. What a lost worker had not handed in, Dask gives to others."""
    with connected(address, count) as client:
        try:
            yield client.get_executor(pure=False), sum(client.nthreads().values())
        except KilledWorker:
            raise UserError(f"--on {address}: a piece has ended one worker after another; their logs say why") from None
        except CancelledError:
            raise UserError(
                f"--on {address}: the scheduler is gone; the same command goes on from what is done"
            ) from None


@contextmanager
def connected(address: str, count: int = 1) -> Iterator[Client]:
    """A client of the cluster, which has at least one worker. Raises UserError."""
    for name in logging.root.manager.loggerDict:
        if name.split(".")[0] == "distributed":  # each has a level of its own; what fails reaches us as an exception
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        place: LocalCluster | str = address
        if address == DASK:
            quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
            place = stack.enter_context(LocalCluster(n_workers=count, threads_per_worker=1, **quiet))
        try:
            client = stack.enter_context(Client(place, timeout=SECONDS_TO_CONNECT))
        except (OSError, ValueError) as error:
            raise UserError(f"--on {address}: no scheduler of Dask answers there ({error})") from None
        if not client.scheduler_info()["workers"]:
            raise UserError(f"--on {address}: the scheduler there has no workers")
        yield client


def versions() -> dict[str, str]:
    """Of all that decides which bytes are made."""
    found = {"nanogpt": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}
    found["Unicode"] = unicodedata.unidata_version
    for package in THAT_MAKE_THE_BYTES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return None
