"""What several tests share."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
# Before torch is imported: at the tests' shapes two threads wait for one another, on a busy machine 30 times longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test asks for two all the same, the one that waits sleeps: spinning, it took 15 s of processor time, not 4.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What runs behind `nohup` or `&` ignores these signals, and so would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
EXTRAS = [name for name in ("hypothesis", "transformers", "pyte") if importlib.util.find_spec(name) is None]

if "hypothesis" not in EXTRAS:
    from hypothesis import HealthCheck, settings

    # Timings live in bench/: a busy machine is no failure.
    settings.register_profile("suite", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    if sys.flags.optimize:
        raise pytest.UsageError("python -O and PYTHONOPTIMIZE remove the assertions that tests consist of: do without")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        use_own_cache(config)


def use_own_cache(config: pytest.Config) -> None:
    """Built and measured decoders go into a folder of this suite, and not into the person's own: one for all workers
    and the processes that they start, so that few of them compile."""
    folder, before = tempfile.mkdtemp(prefix="nanogpt-cache-"), os.environ.get("NANOGPT_CACHE")
    os.environ["NANOGPT_CACHE"] = folder

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("NANOGPT_CACHE")
        if before is not None:
            os.environ["NANOGPT_CACHE"] = before

    config.add_cleanup(restore)


def pytest_report_header() -> str | None:
    return f"left out: the tests that need {' or '.join(EXTRAS)} (not installed)" if EXTRAS else None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Phase 6 of a run executes the fast tests where only the runtime dependencies may be installed."""
    if not EXTRAS or not collection_path.name.startswith("test_") or collection_path.suffix != ".py":
        return None
    needs = re.compile(rf"^(from|import) ({'|'.join(EXTRAS)})\b", re.MULTILINE)
    return True if needs.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first where several processes share the suite: the short ones then fill up the end of all."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """0 for slow(first=True), which makes what others would wait for, 1 for what else is slow, 2 for the others."""
    slow = item.get_closest_marker("slow")
    return 2 if slow is None else 0 if slow.kwargs.get("first") else 1


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What ends in tests are processes, not power: fsync was a third of a short training. The processes that tests
    start have the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder with tinyshakespeare.txt and tiktoken/ (a data.mirror); tests that need it skip without it."""
    folder = Path(os.environ.get("NANOGPT_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    if not (folder / "tinyshakespeare.txt").is_file():
        pytest.skip(f"no sample data in {folder} (set NANOGPT_TEST_DATA)")
    return folder


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
