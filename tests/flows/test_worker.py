"""The worker: what library code does there, even die, never takes the autopilot with it."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from flows.machine.worker import Worker, WorkerDied

from nanogpt.faults import UserError

pytestmark = pytest.mark.slow  # starts real processes
HERE = __name__


# Run in the worker


def add(first: int, second: int) -> int:
    return first + second


def pid() -> int:
    return os.getpid()


def refuse() -> None:
    raise UserError("n_embd 100 is not divisible")


def time_out() -> None:
    raise TimeoutError("the server did not answer")


def killed_unless(file):
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave_without_a_word() -> None:
    os._exit(1)


def crash() -> None:
    print("Assertion failed: command buffer", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGABRT)


def speak(words: str) -> None:
    print(words, flush=True)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def interrupt_parent(seconds: float) -> None:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(seconds)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One worker for the calls that leave it alive."""
    worker = Worker(tmp_path_factory.mktemp("worker") / "logs" / "worker.log")
    yield worker
    worker.close(kill=True)


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path / "worker.log")
    yield worker
    worker.close(kill=True)


def gone(pid: int, seconds: float = 60.0) -> bool:
    """Whether a process ends within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_call_gives_what_the_function_gives_in_one_other_process(shared):
    assert shared.call(f"{HERE}:add", first=2, second=3) == 5
    assert shared.call(f"{HERE}:pid") == shared.call(f"{HERE}:pid") != os.getpid()


def test_what_the_function_raises_is_raised_here_and_the_worker_lives(shared):
    before = shared.call(f"{HERE}:pid")
    with pytest.raises(UserError, match="n_embd 100 is not divisible"):
        shared.call(f"{HERE}:refuse")
    with pytest.raises(TimeoutError, match="the server did not answer"):
        shared.call(f"{HERE}:time_out")
    with pytest.raises(AttributeError, match="no_such_function"):
        shared.call(f"{HERE}:no_such_function")
    with pytest.raises(ModuleNotFoundError):
        shared.call("no_such_module:function")
    assert shared.call(f"{HERE}:pid") == before


def test_its_output_goes_to_its_log(shared, capfd):
    shared.call(f"{HERE}:speak", words="loss 4.17")
    assert "loss 4.17" in shared._log.read_text()
    assert "loss 4.17" not in capfd.readouterr().out


def test_a_crash_is_told_with_its_last_words_and_the_next_call_has_a_new_worker(worker):
    before = worker.call(f"{HERE}:pid")
    with pytest.raises(WorkerDied, match="crash: its process died; last words: Assertion failed: command buffer"):
        worker.call(f"{HERE}:crash")
    assert worker.call(f"{HERE}:pid") != before
    with pytest.raises(WorkerDied, match="last words: none"):  # not those of the one before
        worker.call(f"{HERE}:leave_without_a_word")


def test_a_call_whose_process_is_killed_is_made_once_more_and_told(tmp_path):
    told = []
    worker = Worker(tmp_path / "worker.log", lambda evidence, seconds: told.append((evidence, seconds > 0)))
    try:
        assert worker.call(f"{HERE}:killed_unless", file=tmp_path / "killed") == "done"
        assert told == [(f"{HERE}:killed_unless: its process died; last words: none", True)]
        os.kill(worker.call(f"{HERE}:pid"), signal.SIGKILL)  # between two calls
        assert worker.call(f"{HERE}:add", first=1, second=1) == 2
        with pytest.raises(WorkerDied, match="killed: its process died"):
            worker.call(f"{HERE}:killed")
    finally:
        worker.close(kill=True)


def test_a_call_that_hangs_is_killed_in_time(worker):
    before = worker.call(f"{HERE}:pid")
    with pytest.raises(WorkerDied, match="sleep: no answer within 1 s"):
        worker.call(f"{HERE}:sleep", seconds=60, timeout=0.6)
    assert gone(before)
    assert worker.call(f"{HERE}:add", first=1, second=1) == 2


def test_close_frees_the_process_and_may_be_repeated(worker):
    before = worker.call(f"{HERE}:pid")
    worker.close()
    assert gone(before)
    worker.close()
    assert worker.call(f"{HERE}:pid") != before


def test_ctrl_c_is_not_held_up_by_what_the_worker_does(worker):
    before = worker.call(f"{HERE}:pid")
    with pytest.raises(KeyboardInterrupt):
        worker.call(f"{HERE}:interrupt_parent", seconds=600)
    assert gone(before)


def test_ctrl_c_before_the_call_is_handed_over_leaves_no_worker_behind(worker, monkeypatch):
    before = worker.call(f"{HERE}:pid")
    submit = worker._pool.submit

    def interrupted(*call):
        submit(*call)
        raise KeyboardInterrupt

    monkeypatch.setattr(worker._pool, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.call(f"{HERE}:sleep", seconds=60)
    assert gone(before)
    assert worker.call(f"{HERE}:add", first=1, second=1) == 2


def test_a_worker_does_not_outlive_its_parent_and_the_parent_stays_free_of_torch(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from flows.machine.worker import Worker

        if __name__ == "__main__":
            worker = Worker(Path({str(tmp_path / "log")!r}))
            print(worker.call("os:getpid"), worker.call("nanogpt.device:prove", asked="cpu")["device"],
                  "torch" in sys.modules, flush=True)
            worker.call("{HERE}:sleep", seconds=60)
    """)], stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        child, device, has_torch = parent.stdout.readline().split()
        assert (device, has_torch) == ("cpu", "False")
    finally:
        parent.kill()
        parent.communicate()
    assert gone(int(child))
