"""The watch over the trainer: every way a child can end, with real processes and real signals."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress

import psutil
import pytest

from flows.context import stop_signal
from flows.supervision import supervisor
from flows.supervision.model_files import ModelFiles
from nanogpt import durable
from nanogpt.process import memory_pressure
from nanogpt.records import to_json
from nanogpt.results.training import Heartbeat
from tests.flows.parts import outcome

pytestmark = pytest.mark.slow

FINISHED = outcome("finished")
# What a stand-in for the trainer begins with: its folder, how it shows that it lives, and its good end.
PREAMBLE = f"""
import json, os, signal, sys, time
FINISHED = {to_json(FINISHED)!r}
"""
PREAMBLE += """
from pathlib import Path
folder = Path(sys.argv[1])

def write(name, value):
    (folder / "part").write_text(json.dumps(value))
    os.replace(folder / "part", folder / name)

def beat(step):
    write("heartbeat", {"step": step, "max_iters": 9, "activity": "training", "time": time.time()})

def finish():
    write("outcome.json", FINISHED)

def forever():
    while True:
        time.sleep(0.01)
"""


class Watch:
    """A model's folder, a stand-in for the trainer in it, and what the supervisor made of it."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.log = folder / "model", folder / "logs" / "model.log"
        self.folder.mkdir()
        self.files = ModelFiles(self.folder)
        self.beats: list[Heartbeat] = []
        self.monkeypatch = monkeypatch

    def over(self, script: str, on_progress=None, **options) -> supervisor.Ending:
        file = self.folder.parent / "trainer.py"
        file.write_text(PREAMBLE + textwrap.dedent(script))
        command = [sys.executable, str(file), str(self.folder)]
        self.monkeypatch.setattr(supervisor, "trainer_command", lambda arguments: command)
        return supervisor.train([], self.files, self.log, on_progress or self.beats.append, **options)

    @property
    def trainer_is_gone(self) -> bool:
        pid = int((self.folder / "pid").read_text())
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def watch(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 1.0)
    return Watch(tmp_path, monkeypatch)


@pytest.fixture
def no_stacks_will_come(monkeypatch):
    """Then it is no use to wait 5 s for them."""
    monkeypatch.setattr(supervisor, "DUMP_SECONDS", 0.5)


def test_a_trainer_that_finishes_gives_its_outcome(watch):
    ending = watch.over("""
        for step in range(4):
            beat(step)
            time.sleep(0.1)
        finish()
    """)
    assert (ending.symptom, ending.outcome) == ("", FINISHED)
    assert [beat.step for beat in watch.beats] == [0, 1, 2, 3]  # each once, in order


def test_the_end_of_a_trainer_and_ctrl_c_wait_for_no_look(watch, monkeypatch):
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 300.0)
    began = time.monotonic()
    assert watch.over("finish()").outcome == FINISHED
    threading.Timer(1.0, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        watch.over(SAVES)
    assert time.monotonic() - began < 60 and watch.trainer_is_gone


def test_an_earlier_attempts_files_are_believed_no_more(watch):
    durable.write_json(watch.folder / "outcome.json", to_json(FINISHED))
    durable.write_json(watch.folder / "heartbeat", to_json(Heartbeat(99, 100, "training")))
    ending = watch.over("time.sleep(0.2)")
    assert ending.symptom == "crashed" and ending.outcome is None
    assert watch.beats == []


def test_code_zero_without_an_outcome_is_no_success(watch):
    assert watch.over("print('bye')").symptom == "crashed"
    assert watch.over("(folder / 'outcome.json').write_text('{half')").symptom == "crashed"


@pytest.mark.parametrize("blocked", ["a folder", "a link to itself", "a FIFO"])
def test_what_stands_in_the_outcomes_place_makes_way(watch, blocked):
    place = watch.folder / "outcome.json"
    if blocked == "a folder":
        place.mkdir()
    elif blocked == "a FIFO":
        os.mkfifo(place)
    else:
        place.symlink_to(place.name)
    assert watch.over("finish()").outcome == FINISHED


@pytest.mark.parametrize("script, symptom, evidence", [
    ("write('outcome.json', {'status': 'failed', 'symptom': 'non_finite', 'message': 'NaN at 7'}); sys.exit(3)",
     "non_finite", "NaN at 7"),
    ("write('outcome.json', {'status': 'failed', 'symptom': 'out_of_memory', 'message': '3 GiB'}); sys.exit(3)",
     "out_of_memory", "3 GiB"),
    ("sys.exit(4)", "disk_full", "exit code 4"),
    ("print('model.n_embd: bad'); sys.exit(2)", "user_error", "model.n_embd: bad"),
    ("sys.exit(143)", "stopped", "asked the trainer to stop"),
    ("print('fine so far'); raise RuntimeError('odd')", "crashed", "exit code 1; RuntimeError: odd"),
    ("sys.exit(7)", "crashed", "exit code 7; it printed nothing"),
    ("print('half way', flush=True); os.kill(os.getpid(), signal.SIGSEGV)", "aborted", "SIGSEGV; half way"),
    ("os.kill(os.getpid(), signal.SIGKILL)", "killed", "SIGKILL; it printed nothing"),
])  # fmt: skip
def test_each_ending_has_its_symptom_and_its_evidence(watch, script, symptom, evidence):
    ending = watch.over(script)
    assert ending.symptom == symptom and evidence in ending.evidence


def test_how_much_room_there_was_not_is_in_the_outcome(watch):
    failed = {"status": "failed", "symptom": "disk_full", "message": "no space", "needed": 10**9}
    ending = watch.over(f"write('outcome.json', {failed}); sys.exit(4)")
    assert (ending.symptom, ending.disk_needed) == ("disk_full", 10**9)


def test_the_last_words_are_this_attempts_own(watch):
    assert "first" in watch.over("print('first'); sys.exit(1)").evidence
    assert "it printed nothing" in watch.over("sys.exit(1)").evidence
    assert watch.log.read_text() == "first\n"


def test_a_kill_while_memory_runs_out_is_the_kernels(watch, monkeypatch):
    monkeypatch.setattr(memory_pressure, "share_left", lambda: 0.01)
    ending = watch.over("beat(1); time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)")
    assert ending.symptom == "out_of_memory" and "1 % of memory left" in ending.evidence


@pytest.mark.parametrize("device, script, symptom", [
    ("cpu", "os.write(2, b'what():  std::bad_alloc\\n'); os.abort()", "out_of_memory"),
    ("cpu", "os.write(2, b'the play says: std::bad_alloc\\n'); os.abort()", "aborted"),
    ("mps", "os.write(2, b'failed assertion `commit an already committed command buffer\\n'); os.abort()", "device"),
    ("cpu", "print('MemoryError'); sys.exit(1)", "out_of_memory"),
    ("cpu", "os.kill(os.getpid(), signal.SIGTERM)", "stopped"),
])  # fmt: skip
def test_what_could_not_be_raised_is_known_by_the_last_words_and_the_device(watch, device, script, symptom):
    assert watch.over(script, device=device).symptom == symptom


COMPLAINS = """
signal.signal(signal.SIGTERM, lambda *_: write("saved", {}))
(folder / "pid").write_text(str(os.getpid()))
beat(1)
os.write(2, b"Error: command buffer ")
time.sleep(0.1)
os.write(2, b"exited with error status.\\n")
forever()
"""


def test_wrong_numbers_that_are_only_on_stderr_end_the_child_before_it_saves_them(watch):
    ending = watch.over(COMPLAINS, device="mps")
    assert (ending.symptom, ending.evidence) == ("device", "Error: command buffer exited with error status.")
    assert ending.trusted == watch.files.checkpoints()
    assert watch.trainer_is_gone and not (watch.folder / "saved").exists()


def test_only_checkpoints_from_before_the_complaint_are_trusted(watch):
    before = watch.folder / "checkpoints/step-00000020"
    durable.write_json(before / "manifest.json", {})
    durable.write_json(watch.folder / "best/manifest.json", {})
    ending = watch.over("""
        beat(1)
        time.sleep(0.3)
        os.write(2, b"Error: command buffer exited with error status.\\n")
        later = folder / "checkpoints/step-00000040"
        later.mkdir()
        (later / "manifest.json").write_text("{}")
        (folder / "part").write_text("{}")
        os.replace(folder / "part", folder / "best/manifest.json")
        os.utime(later / "manifest.json", (0, 0))  # whatever the clock says
        forever()
    """, device="mps")  # fmt: skip
    watch.files.set_aside_all_but(ending.trusted)
    left = sorted(path.relative_to(watch.folder).as_posix() for path in watch.folder.rglob("manifest.json"))
    assert left in (
        ["best.bad/manifest.json", "checkpoints/step-00000020/manifest.json",
         "checkpoints/step-00000040.bad/manifest.json"],
        ["best/manifest.json", "checkpoints/step-00000020/manifest.json"],  # it was ended before it could write
    )  # fmt: skip


def test_a_talkative_child_still_shows_where_it_stood(watch):
    ending = watch.over("""
        import faulthandler
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        print("word " * 20_000, flush=True)
        beat(5)
        forever()
    """, stall_seconds=0.7)  # fmt: skip
    assert "in forever" in ending.evidence


def test_the_same_words_mean_nothing_on_the_cpu_or_within_a_sentence(watch):
    ending = watch.over("""
        print("I read: command buffer exited with error status", flush=True)
        time.sleep(0.2)
        finish()
    """, device="mps")  # fmt: skip
    assert ending.symptom == ""
    assert watch.over("""
        print("command buffer exited with error status", flush=True)
        time.sleep(0.2)
        finish()
    """).symptom == ""  # fmt: skip


def test_slow_steps_are_no_stall(watch):
    ending = watch.over("""
        for step in range(3):
            beat(step)
            time.sleep(0.5)
        time.sleep(1.0)
        finish()
    """, stall_seconds=0.9)  # fmt: skip
    assert ending.symptom == ""


def test_a_persons_mistake_is_named_by_the_real_trainer(tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("model: {n_layr: 2}")
    arguments = [str(config), "--data", str(tmp_path), "--folder", str(tmp_path / "model")]
    ending = supervisor.train(arguments, ModelFiles(tmp_path / "model"), tmp_path / "log", lambda heartbeat: None)
    assert ending.symptom == "user_error"
    assert ending.evidence == f'{config}: model.n_layr: unknown key (did you mean "n_layer"?)'


# A trainer that makes no progress -----------------------------------------------------------------------------------


def test_a_trainer_without_a_heartbeat_is_asked_for_its_stacks_and_stopped(watch):
    ending = watch.over("""
        import faulthandler
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        (folder / "pid").write_text(str(os.getpid()))
        beat(5)
        forever()
    """, stall_seconds=0.7)  # fmt: skip
    assert ending.symptom == "stall" and "at step 5; in forever (trainer.py:" in ending.evidence
    assert str(watch.log) in ending.evidence and "in forever" in watch.log.read_text()
    assert watch.trainer_is_gone


DEAF = """
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
(folder / "pid").write_text(str(os.getpid()))
while True:
    time.sleep(0.01)
"""


def test_a_trainer_that_hears_no_signal_is_killed(watch, no_stacks_will_come):
    ending = watch.over(DEAF, stall_seconds=0.7)
    assert ending.symptom == "stall"
    assert watch.trainer_is_gone


def test_a_trainer_that_the_kernel_keeps_is_no_wait_for_ever(watch, no_stacks_will_come, monkeypatch):
    """A process inside a driver that does not answer cannot be killed: here, as if SIGKILL did nothing."""
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda child: None)
        with pytest.raises(RuntimeError, match=r"process \d+, which trains, was killed .*restart the machine"):
            watch.over(DEAF, stall_seconds=0.7)
        with pytest.raises(KeyboardInterrupt):
            watch.over(DEAF + "    beat(1)\n", on_progress=interrupt)
    for child in psutil.Process().children():
        if str(watch.folder) in child.cmdline():
            child.kill()


def test_a_frozen_trainer_is_a_stall_too(watch, no_stacks_will_come):
    ending = watch.over("""
        (folder / "pid").write_text(str(os.getpid()))
        beat(1)
        os.kill(os.getpid(), signal.SIGSTOP)
    """, stall_seconds=0.7)  # fmt: skip
    assert ending.symptom == "stall"
    assert watch.trainer_is_gone


# A person who stops the run --------------------------------------------------------------------------------------

SAVES = """
def save(number, frame):
    (folder / "saved").write_text("whole")
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
(folder / "pid").write_text(str(os.getpid()))
beat(1)
forever()
"""


def interrupt(heartbeat):
    raise KeyboardInterrupt


def swallow(heartbeat):
    with suppress(KeyboardInterrupt):  # as a library does that C code calls back
        stop_signal.interrupt(signal.SIGINT, None)


@pytest.mark.parametrize("come", [interrupt, swallow])
def test_ctrl_c_lets_the_trainer_save_and_is_raised_again(watch, come):
    with pytest.raises(KeyboardInterrupt):
        watch.over(SAVES, on_progress=come)
    assert (watch.folder / "saved").read_text() == "whole"
    assert watch.trainer_is_gone


def test_any_failure_of_the_watcher_stops_the_trainer(watch):
    def stumble(heartbeat):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        watch.over(SAVES, on_progress=stumble)
    assert watch.trainer_is_gone


def test_ctrl_c_ends_within_the_grace_whatever_the_trainer_does(watch):
    with pytest.raises(KeyboardInterrupt):
        watch.over("""
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (folder / "pid").write_text(str(os.getpid()))
            beat(1)
            forever()
        """, on_progress=interrupt)  # fmt: skip
    assert watch.trainer_is_gone


def test_a_second_ctrl_c_does_not_wait_for_the_save(watch, monkeypatch):
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 60.0)

    def twice(heartbeat):
        signal.setitimer(signal.ITIMER_REAL, 0.3)  # while the first is being handled
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            watch.over("""
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                (folder / "pid").write_text(str(os.getpid()))
                beat(1)
                forever()
            """, on_progress=twice)  # fmt: skip
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    deadline = time.monotonic() + 5
    while not watch.trainer_is_gone and time.monotonic() < deadline:
        time.sleep(0.02)
    assert watch.trainer_is_gone


def test_ctrl_c_at_the_keyboard_reaches_the_trainer_once(watch):
    """A terminal sends SIGINT to the whole foreground group: the trainer is in a session of its own."""
    file = watch.folder.parent / "trainer.py"
    file.write_text(PREAMBLE + "signal.signal(signal.SIGINT, lambda *_: write('interrupted', 1))" + SAVES)
    watcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from flows.supervision import supervisor
        from flows.supervision.model_files import ModelFiles
        supervisor.trainer_command = lambda arguments: [sys.executable, {str(file)!r}, {str(watch.folder)!r}]
        supervisor.train([], ModelFiles(Path({str(watch.folder)!r})), Path({str(watch.log)!r}),
                         lambda heartbeat: print("beat", flush=True))
    """)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    assert watcher.stdout.readline() == b"beat\n"
    os.killpg(watcher.pid, signal.SIGINT)
    watcher.communicate(timeout=15)
    assert (watch.folder / "saved").exists() and not (watch.folder / "interrupted").exists()
    assert watch.trainer_is_gone


@pytest.mark.parametrize("asked, symptom", [("reason_to_pause", "paused"), ("reason_to_give_up", "given_up")])
def test_a_reason_to_pause_or_to_give_up_lets_the_trainer_save(watch, asked, symptom):
    ending = watch.over(SAVES, **{asked: lambda: "battery 3 %" if watch.beats else ""})
    assert (ending.symptom, ending.evidence) == (symptom, "battery 3 %")
    assert (watch.folder / "saved").exists()


def test_its_log_is_never_written_through_a_link(watch):
    precious = watch.folder / "precious"
    precious.write_text("precious")
    watch.log.parent.mkdir()
    watch.log.symlink_to(precious)
    watch.over("print('words', flush=True); finish()")
    assert watch.log.read_text() == "words\n" and precious.read_text() == "precious"
