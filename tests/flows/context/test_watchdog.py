"""A run that makes no progress says where it stands, once for each silence."""

import threading
import time

import pytest

from flows.context.watchdog import Watchdog

pytestmark = pytest.mark.fast


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_silence_is_logged_once_with_the_stack_of_the_one_that_hangs():
    said: list[tuple[str, str]] = []
    lock = threading.Lock()

    def waits_forever():
        with lock:
            pass

    lock.acquire()
    hanging = threading.Thread(target=waits_forever, name="hanging", daemon=True)
    hanging.start()
    watchdog = Watchdog(lambda message, level: said.append((message, level)), patience=0.1)
    watchdog.start()
    try:
        wait_until(lambda: said)
        time.sleep(0.3)
        [(message, level)] = said
        assert level == "error" and "no progress for" in message
        assert "thread hanging" in message and "in waits_forever" in message
        watchdog.beat()
        wait_until(lambda: len(said) == 2)
    finally:
        watchdog.close()
        lock.release()


def test_progress_keeps_it_silent():
    said: list[str] = []
    watchdog = Watchdog(lambda message, level: said.append(message), patience=5.0)
    watchdog.start()
    for _ in range(50):
        watchdog.beat()
        time.sleep(0.002)
    watchdog.close()
    assert said == []
