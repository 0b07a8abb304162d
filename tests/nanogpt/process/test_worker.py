"""The worker: what library code does there, even die, never takes its caller with it."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from nanogpt.faults import DISK_FULL, OUT_OF_MEMORY, READ_ONLY, FolderLostError, UserError, classify
from nanogpt.process import worker as module
from nanogpt.process.endings import ABORTED, CRASHED, KILLED, STALL
from nanogpt.process.worker import Worker, WorkerDied
from nanogpt.weights.reserve import NoRoomError

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


def die(deaths: Path, number: int, times: int, device: str = "cpu") -> str:
    """Dies by a signal in the first `times` calls, counted in a file."""
    before = deaths.read_text() if deaths.exists() else ""
    if len(before) < times:
        deaths.write_text(before + "x")
        os.kill(os.getpid(), number)
        time.sleep(60)
    return "done"


def fill_the_disk(error: str) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/model.safetensors")
    if error == "a checkpoint's":
        raise NoRoomError(Path("/"), 1 << 60)
    if error == "a library's":
        raise RuntimeError("file write failed") from full
    raise full


LOCKS: list = []


def make_a_lock() -> None:
    LOCKS.append(multiprocessing.RLock())


def lose_the_folder() -> None:
    raise FolderLostError("/somewhere")


def run_out_of_memory() -> None:
    raise Unsendable("allocator", "no 3 GiB") from MemoryError("3 GiB")


def refuse_a_file() -> None:
    raise UserError("n_embd.yaml cannot be read") from PermissionError(errno.EACCES, "Permission denied")


class Unsendable(RuntimeError):
    """An exception that cannot be made anew from its message, as pickle wants it."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} {second}")


def raise_unsendable() -> None:
    raise Unsendable("what", "went wrong")


def panic() -> None:
    """As a library in Rust does, whose class no other process can import."""
    raise type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})("no threads")


def leave_without_a_word() -> None:
    os._exit(1)


def crash() -> None:
    print("Assertion failed: command buffer", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGABRT)


def speak(words: str) -> None:
    print(words, flush=True)


def sleep_and_say(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


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
    assert "loss 4.17" in shared.said()
    assert "loss 4.17" not in capfd.readouterr().out


@pytest.mark.parametrize("error", ["a checkpoint's", "a library's", "the system's"])
def test_a_full_disk_is_a_full_disk_on_this_side_too(shared, error):
    before = shared.call(f"{HERE}:pid")
    with pytest.raises(OSError) as raised:
        shared.call(f"{HERE}:fill_the_disk", error=error)
    assert classify(raised.value) == DISK_FULL
    if error == "a checkpoint's":  # how much to wait for, and where
        assert (raised.value.needed, raised.value.filename) == (1 << 60, "/")
    else:
        assert raised.value.filename == "/somewhere/model.safetensors"
    assert shared.call(f"{HERE}:pid") == before


def test_other_errors_keep_their_meaning_on_the_way_too(shared):
    before = shared.call(f"{HERE}:pid")
    with pytest.raises(FolderLostError) as lost:
        shared.call(f"{HERE}:lose_the_folder")
    assert classify(lost.value) == READ_ONLY and lost.value.filename == "/somewhere"
    with pytest.raises(MemoryError, match="3 GiB") as short:
        shared.call(f"{HERE}:run_out_of_memory")
    assert classify(short.value) == OUT_OF_MEMORY
    with pytest.raises(UserError, match="cannot be read"):
        shared.call(f"{HERE}:refuse_a_file")
    with pytest.raises(RuntimeError, match="Unsendable: what went wrong"):
        shared.call(f"{HERE}:raise_unsendable")
    with pytest.raises(RuntimeError, match="PanicException: no threads") as panicked:
        shared.call(f"{HERE}:panic")
    assert "In the worker" in panicked.value.__notes__[0] and "in panic" in panicked.value.__notes__[0]
    assert shared.call(f"{HERE}:pid") == before


def test_a_crash_has_its_last_words_and_the_next_call_a_new_worker(worker, monkeypatch):
    monkeypatch.setattr(module, "ONCE_MORE", 0)
    before = worker.call(f"{HERE}:pid")
    with pytest.raises(WorkerDied, match="crash: ended by SIGABRT; Assertion failed: command buffer") as died:
        worker.call(f"{HERE}:crash")
    assert died.value.symptom == ABORTED
    assert worker.call(f"{HERE}:pid") != before
    with pytest.raises(WorkerDied, match="code 1; it printed nothing") as died:  # not those of the one before
        worker.call(f"{HERE}:leave_without_a_word")
    assert died.value.symptom == CRASHED


SIGNALS = [(signal.SIGKILL, KILLED), (signal.SIGTERM, KILLED), (signal.SIGSEGV, ABORTED), (signal.SIGBUS, ABORTED)]


@pytest.mark.parametrize("number, symptom", SIGNALS)
def test_a_call_whose_process_dies_is_made_again_twice_and_each_death_is_reported(tmp_path, number, symptom):
    deaths = []
    worker = Worker(tmp_path / "worker.log", lambda death, seconds: deaths.append((death, seconds > 0)))
    try:
        assert worker.call(f"{HERE}:die", deaths=tmp_path / "deaths", number=number, times=2) == "done"
        assert [(death.symptom, took_time) for death, took_time in deaths] == [(symptom, True)] * 2
        assert deaths[0][0].evidence == f"{HERE}:die: ended by {number.name}; it printed nothing"
    finally:
        worker.close(kill=True)


def test_what_dies_three_times_is_given_up(worker, tmp_path):
    with pytest.raises(WorkerDied, match="die: ended by SIGTERM") as died:
        worker.call(f"{HERE}:die", deaths=tmp_path / "deaths", number=signal.SIGTERM, times=9)
    assert died.value.symptom == KILLED and len((tmp_path / "deaths").read_text()) == 3


def test_a_process_that_was_killed_between_two_calls_costs_nothing(worker):
    os.kill(worker.call(f"{HERE}:pid"), signal.SIGKILL)
    assert worker.call(f"{HERE}:add", first=1, second=1) == 2


def test_a_kill_while_memory_runs_out_is_no_accident(worker, tmp_path, monkeypatch):
    monkeypatch.setattr("nanogpt.process.memory_pressure.share_left", lambda: 0.01)
    with pytest.raises(WorkerDied, match="1 % of memory left") as died:
        worker.call(f"{HERE}:die", deaths=tmp_path / "deaths", number=signal.SIGKILL, times=9)
    assert died.value.symptom == OUT_OF_MEMORY and len((tmp_path / "deaths").read_text()) == 1


def test_an_abort_on_an_accelerator_is_the_accelerators(worker, tmp_path):
    with pytest.raises(WorkerDied) as died:
        worker.call(f"{HERE}:die", deaths=tmp_path / "deaths", number=signal.SIGABRT, times=9, device="mps")
    assert died.value.symptom == "device" and len((tmp_path / "deaths").read_text()) == 1


def test_whoever_waits_is_called_meanwhile(tmp_path):
    moments = []
    worker = Worker(tmp_path / "worker.log", on_wait=lambda: moments.append(time.monotonic()))
    try:
        worker.call(f"{HERE}:sleep", seconds=1.0)
    finally:
        worker.close(kill=True)
    assert len(moments) >= 4


def test_whoever_closes_it_waits_for_the_call_of_another_thread(worker):
    worker.call(f"{HERE}:pid")
    answers = []
    calling = threading.Thread(target=lambda: answers.append(worker.call(f"{HERE}:sleep_and_say", seconds=1.0)))
    calling.start()
    time.sleep(0.3)
    worker.close()
    calling.join(60)
    assert answers == ["slept"]


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next_calls(tmp_path):
    """What the caller does meanwhile may fail, with an error of the system too, which is no death of the worker."""
    troubles = [OSError("no space for the note"), ValueError("a fault"), None]

    def meanwhile():
        if trouble := troubles[0]:
            raise trouble

    worker = Worker(tmp_path / "worker.log", on_wait=meanwhile)
    try:
        for trouble in troubles[:-1]:
            with pytest.raises(type(trouble), match=str(trouble)):
                worker.call(f"{HERE}:sleep", seconds=0.6)
            troubles.pop(0)
        assert worker.call(f"{HERE}:pid") not in (None, os.getpid())
    finally:
        worker.close(kill=True)


def test_the_log_is_a_plain_file_that_nobody_else_may_write(tmp_path):
    log, other = tmp_path / "worker.log", tmp_path / "other"
    other.write_text("precious")
    log.symlink_to(other)
    mask = os.umask(0)
    worker = Worker(log)
    try:
        worker.call(f"{HERE}:speak", words="loss 4.17")
    finally:
        worker.close(kill=True)
        os.umask(mask)
    assert log.read_text() == "loss 4.17\n" and log.stat().st_mode & 0o777 == 0o644
    assert other.read_text() == "precious"


def test_a_call_that_hangs_is_killed_in_time(worker):
    before = worker.call(f"{HERE}:pid")
    with pytest.raises(WorkerDied, match="sleep: no answer within 1 s") as died:
        worker.call(f"{HERE}:sleep", seconds=60, timeout=0.6)
    assert died.value.symptom == STALL
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
    send = worker._pipe.send

    def interrupted(call):
        send(call)
        raise KeyboardInterrupt

    monkeypatch.setattr(worker._pipe, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.call(f"{HERE}:sleep", seconds=60)
    assert gone(before)
    assert worker.call(f"{HERE}:add", first=1, second=1) == 2


def test_a_worker_does_not_outlive_its_parent_and_the_parent_stays_free_of_torch(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from nanogpt.process.worker import Worker

        if __name__ == "__main__":
            worker = Worker(Path({str(tmp_path / "log")!r}))
            print(worker.call("os:getpid"), worker.call("nanogpt.device:prove", asked="cpu").device,
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


def test_its_process_is_started_early_and_leaves_the_main_module_alone(tmp_path):
    """To import flows.full_run takes 0.6 s, and a script without a guard would run again."""
    script = tmp_path / "caller.py"
    script.write_text(
        textwrap.dedent(
            f"""\
            import os
            from pathlib import Path
            from nanogpt.process.worker import Worker

            print("main", flush=True)
            worker = Worker(Path({str(tmp_path / "worker.log")!r}))
            worker.start("json.tool")
            early = worker._process.pid
            print(worker.call("os:getpid") == early)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr, (tmp_path / "worker.log").read_text()) == ("main\nTrue\n", "", "")


def test_what_a_killed_worker_leaves_of_a_library_is_no_line_on_the_terminal(tmp_path):
    """A lock between processes, as tqdm makes one below torch.compile."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(f"""
        import os
        from pathlib import Path
        from nanogpt.process.worker import Worker

        if __name__ == "__main__":
            worker = Worker(Path({str(tmp_path / "log")!r}))
            worker.call("{HERE}:make_a_lock")
            worker.close(kill=True)
            print(os.environ.get("PYTHONWARNINGS"))
    """)], capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "default"})  # fmt: skip
    assert (done.stdout, done.stderr) == ("default\n", "")


def test_a_process_that_cannot_be_started_is_started_by_a_later_call(worker, monkeypatch):
    def refused(process):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as crowded:
        crowded.setattr("multiprocessing.context.SpawnProcess.start", refused)
        with pytest.raises(BlockingIOError):
            worker.call(f"{HERE}:pid")
    assert worker.call(f"{HERE}:add", first=1, second=1) == 2
