"""What a process prints, and what its death by a signal means: one table for trainers and workers."""

import os
import signal

import pytest

from nanogpt.process.endings import WRONG_NUMBERS, ProcessLog, death_by_signal
from nanogpt.process.memory_pressure import MemoryPressure
from tests.not_a_file import KINDS

pytestmark = pytest.mark.fast
BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"


class Pressure(MemoryPressure):
    """A watch that found `words`."""

    def __init__(self, words: str = ""):
        self.words = words

    def evidence(self) -> str:
        return self.words


@pytest.mark.parametrize("number, memory, words, device, symptom", [
    (signal.SIGKILL, "", "", "cpu", "killed"),
    (signal.SIGKILL, "", BAD_ALLOC, "cpu", "killed"),
    (signal.SIGKILL, "the kernel has killed", "", "cpu", "out_of_memory"),
    (signal.SIGTERM, "the kernel has killed", "", "cpu", "killed"),
    (signal.SIGTERM, "", "", "mps", "killed"),
    (signal.SIGABRT, "", BAD_ALLOC, "cpu", "out_of_memory"),
    (signal.SIGABRT, "", BAD_ALLOC, "mps", "out_of_memory"),
    (signal.SIGABRT, "", "the play says: std::bad_alloc\n", "cpu", "aborted"),
    (signal.SIGSEGV, "", "", "cpu", "aborted"),
    (signal.SIGBUS, "the kernel has killed", "", "cpu", "aborted"),
    (signal.SIGABRT, "", "failed assertion `commit an already committed command buffer'\n", "mps", "device"),
])  # fmt: skip
def test_a_signal_means_what_memory_last_words_and_device_say(tmp_path, number, memory, words, device, symptom):
    log = ProcessLog(tmp_path / "log")
    log.path.write_text(words)
    death = death_by_signal(number, Pressure(memory), log, device)
    assert death.symptom == symptom
    assert (memory if symptom == "out_of_memory" and memory else number.name) in death.evidence


def test_a_signal_without_a_name_is_an_ending_too(tmp_path):
    death = death_by_signal(40, Pressure(), ProcessLog(tmp_path / "log"), "cpu")  # of real time, on Linux
    assert (death.symptom, death.evidence) == ("aborted", "ended by signal 40; it printed nothing")


@pytest.mark.parametrize("blocked", ["a folder", "a link to itself", "a link to a file"])
def test_a_log_that_cannot_be_opened_or_is_a_link_makes_way(tmp_path, blocked):
    path, other = tmp_path / "tiny.log", tmp_path / "other"
    other.write_text("precious")
    if blocked == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path.name if blocked == "a link to itself" else other)
    log = ProcessLog(path)
    path.write_text("step 1\n")
    assert log.text() == "step 1\n" and other.read_text() == "precious"


def test_nobody_else_may_write_or_execute_a_log_whatever_the_umask(tmp_path):
    mask = os.umask(0)
    try:
        ProcessLog(tmp_path / "tiny.log")
    finally:
        os.umask(mask)
    assert (tmp_path / "tiny.log").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("put", [None, *KINDS.values()], ids=["nothing", *KINDS])
def test_a_log_that_is_removed_or_replaced_stops_nothing(tmp_path, put):
    log = ProcessLog(tmp_path / "tiny.log")
    log.path.unlink()
    if put:
        put(log.path)
    assert log.line_like(WRONG_NUMBERS) == log.text() == "" and log.last_words() == "it printed nothing"


def test_only_what_comes_after_the_beginning_is_this_processs_own(tmp_path):
    (tmp_path / "tiny.log").write_text("of the one before\n")
    log = ProcessLog(tmp_path / "tiny.log")
    assert log.last_words() == "it printed nothing"
    with open(log.path, "a") as file:
        file.write("step 1\n")
    assert log.last_words() == "step 1"
